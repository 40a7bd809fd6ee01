"""The fast way into rows computes what the plain way computes."""

import asyncio
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipeline import packs
from pipeline.batches import Batch, Pack, Recent
from pipeline.directory import Directory, Unknown
from pipeline.packs import Message
from pipeline.readings import US, Limits

NOW = 1_764_000_000 * US
LIMITS = Limits(future_us=300 * US, past_us=30 * 86_400 * US, metrics=64)
PARTITIONS = 2


class NoDatabase:
    """Answers the directory's statements as an empty, boundless database would."""

    def __init__(self) -> None:
        self.devices: dict[str, tuple[int, str]] = {}
        self.metrics: dict[str, int] = {}

    async def execute(self, statement: str, values: Any) -> "Rows":
        if statement.startswith("\nINSERT INTO devices"):
            for name, site in zip(values["names"], values["sites"], strict=True):
                self.devices.setdefault(name, (len(self.devices) + 1, site))
        if statement.startswith("\nSELECT d.name"):
            return Rows([(name, *self.devices[name], None) for name in values["names"]])
        if statement.startswith("SELECT name, id"):
            return Rows([(name, self.metrics.setdefault(name, len(self.metrics) + 1)) for name in values[0]])
        return Rows([])


class Rows(list[tuple[Any, ...]]):
    async def __aiter__(self) -> Any:  # type: ignore[override]
        for row in list.__iter__(self):
            yield row


def batch_of(messages: list[Message], *, plainly: bool) -> Batch:
    database = NoDatabase()
    directory = Directory(
        partitions=PARTITIONS,
        metrics_per_device=64,
        metric_names=1000,
        devices_per_site=1000,
        past_limit=None,
        site_time_zone="UTC",
    )
    poisoned: dict[tuple[int, int], dict[int, str]] = {(0, 0): {}} if plainly else {}
    batch = Batch(directory, LIMITS, 5 * US, Recent(), poisoned=poisoned)
    pack = Pack(0, 0, packs.encode(messages), NOW)
    while isinstance(unknown := batch.add(pack), Unknown):
        asyncio.run(directory.learn(database, unknown))  # type: ignore[arg-type]
    return batch


def outcome(batch: Batch) -> dict[str, Any]:
    ids = {key: layout.device_id for key, layout in batch.directory.layouts.items()}
    count = [(ids[counted >> 20], counted & 0xFFFFF) for counted in batch.tally]
    return {
        "rows": sorted(batch.rows),
        "tally": sorted(count),
        "repeats": len(batch.repeats),
        "late": len(batch.late),
        "marks": {p: pairs for p, pairs in batch.marks.items() if pairs},
        "letters": [(x.refusal.reason, x.refusal.element, x.payload, x.position) for x in batch.dead_letters],
        "points": batch.points,
    }


def same_both_ways(messages: list[Message]) -> Batch:
    fast, plain = batch_of(messages, plainly=False), batch_of(messages, plainly=True)
    assert outcome(fast) == outcome(plain)
    return fast


DEVICES = [name for name in (f"d{i}" for i in range(20)) if packs.partition_of(name, PARTITIONS) == 0][:3]


def message(payload: bytes, device: str = DEVICES[0], received_us: int = NOW) -> Message:
    return Message(f"brigade/v1/s/{device}/readings", received_us, payload)


_value = st.one_of(
    st.integers(-(10**6), 10**6),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.sampled_from([None, "x", [], {}, 10**400, [{}], "},{"]),
)
_ts = st.one_of(
    st.none(),
    st.integers(1_763_990_000, 1_764_000_400),
    st.integers(1_763_999_990_000, 1_764_000_000_000),
    st.floats(1_763_999_000, 1_764_000_100),
    st.sampled_from(["2025-11-24T15:59:00Z", "2025-11-24T16:00:00.123456+00:00", "no", True, 10**20, "},{"]),
)
_reading = st.fixed_dictionaries(
    {}, optional={"ts": _ts, "seq": st.one_of(st.integers(), st.floats(0, 9)), "a": _value, "b_c": _value, "B": _value}
)
_payload = st.one_of(
    _reading.map(lambda r: json.dumps(r).encode()),
    st.lists(_reading, max_size=3).map(lambda r: json.dumps(r).encode()),
    st.sampled_from([b"", b"{", b"}", b'{"a":1},{"b":"}', b'{"}', b'{"a":[{}', b"{}]}", b'{"a":1},{"a":2}']),
)


@given(st.lists(st.tuples(_payload, st.sampled_from(DEVICES)), max_size=8))
def test_both_ways_are_one(sent: list[tuple[bytes, str]]) -> None:
    same_both_ways([message(payload, device, NOW + i * 8) for i, (payload, device) in enumerate(sent)])


@given(
    st.lists(st.sampled_from([b'{"a":1},{"b":1,"c":[{}', b"{}]}", b'{"a":1},{"ts":"}', b'{"}', b'{"a":1}']), max_size=5)
)
def test_payloads_that_are_valid_only_together_are_refused(payloads: list[bytes]) -> None:
    batch = same_both_ways([message(payload) for payload in payloads])
    assert len(batch.dead_letters) == sum(payload != b'{"a":1}' for payload in payloads)


def test_clean_packs_go_the_fast_way() -> None:
    batch = same_both_ways([message(b'{"ts":%d,"a":1.5}' % (1_764_000_000 - i)) for i in range(5)])
    assert batch.plain_packs == 0
    assert len(batch.rows) == 5


def test_an_exact_repeat_costs_no_row() -> None:
    batch = same_both_ways([message(b'{"ts":1764000000,"a":1}'), message(b'{"a":1,"ts":1764000000}')])
    assert (len(batch.rows), len(batch.repeats)) == (1, 1)


def test_a_repeat_is_known_however_late_it_comes() -> None:
    times = [*range(1_764_000_000, 1_764_000_050), *range(1_764_000_000, 1_764_000_050)]
    batch = same_both_ways([message(b'{"ts":%d,"a":1}' % ts) for ts in times])
    assert (len(batch.rows), len(batch.repeats)) == (50, 50)


def test_a_pack_taken_back_leaves_nothing_behind() -> None:
    """A pack that must learn names first is read again from its beginning, and is not its own repeat."""
    batch = same_both_ways([message(b'{"ts":1764000000,"a":1}'), message(b'{"ts":1764000000,"b":1}', DEVICES[1])])
    assert (len(batch.rows), len(batch.repeats)) == (2, 0)


def test_a_device_of_another_partition_is_refused() -> None:
    stranger = next(n for n in (f"x{i}" for i in range(20)) if packs.partition_of(n, PARTITIONS) == 1)
    batch = same_both_ways([message(b'{"a":1}', stranger)])
    assert [str(letter.refusal.reason) for letter in batch.dead_letters] == ["wrong_partition"]


def test_a_status_is_no_reading() -> None:
    batch = batch_of([Message(f"brigade/v1/s/{DEVICES[0]}/status", NOW, b'{"a":1}')], plainly=False)
    assert not batch.rows
    assert [str(letter.refusal.reason) for letter in batch.dead_letters] == ["status_invalid"]


def test_a_record_that_is_no_pack_is_one_dead_letter() -> None:
    batch = batch_of([], plainly=False)
    batch.add(Pack(0, 1, b"\xc1 not msgpack", NOW))
    batch.add(Pack(0, 2, None, NOW))
    assert [str(letter.refusal.reason) for letter in batch.dead_letters] == ["undecodable_record"] * 2

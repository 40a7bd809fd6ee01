"""Whatever comes, in whatever batches, by either way into the table: rows and ledger are what a plain model says."""

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.batches import Pack
from pipeline.ledger import fold
from pipeline.packs import Message
from pipeline.patience import Connection
from pipeline.readings import HOUR_US, MINUTE_US, US, Limits, Refusal, decode
from pipeline.settings import WorkerSettings
from tests.pipeline.sinks import NOW, PARTITIONS, Log, Tables, devices_of, message, sink, tables

LIMITS = Limits(future_us=300 * US, past_us=30 * 86_400 * US, metrics=64)
DEVICES = [*devices_of(0, 2), *devices_of(1, 1)]
TS = NOW // US
STAGED = 10**6


@pytest.fixture
def there(database: str) -> Iterator[Tables]:
    with tables(database) as opened:
        yield opened


@dataclass
class Model:
    """One message after the other; of each reading, one point after the other."""

    values: dict[tuple[str, str, int], float] = field(default_factory=dict)
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    ledger: dict[tuple[str, int], list[int]] = field(default_factory=lambda: defaultdict(lambda: [0] * 6))
    letters: Counter[tuple[str, str, bytes]] = field(default_factory=Counter)

    def batch(self, messages: list[Message]) -> None:
        conflicting = set()  # an exact repeat within a batch is a duplicate, whatever became of the first
        for entry in messages:
            device = entry.topic.split("/")[3]
            for result in decode(entry, LIMITS):
                counts = self.ledger[(device, entry.received_us // HOUR_US)]
                counts[0] += 1
                if isinstance(result, Refusal):
                    counts[3] += 1
                    self.letters[(device, str(result.reason), result.raw or entry.payload)] += 1
                    continue
                keys = {(device, metric, result.ts_us): value for metric, value in result.values.items()}
                exactly = tuple(keys.items())
                if exactly in conflicting:
                    counts[2] += 1
                elif any(self.values.get(key, value) != value for key, value in keys.items()):
                    conflicting.add(exactly)
                    counts[3] += 1
                    self.letters[(device, "conflicts_with_stored", result.raw or entry.payload)] += 1
                elif new := {key: value for key, value in keys.items() if key not in self.values}:
                    self.values.update(new)
                    self.rows += [(*key, entry.received_us, result.seq, value) for key, value in new.items()]
                    counts[1] += 1
                    counts[5] += len(new)
                    counts[4] += entry.received_us >= (result.ts_us // MINUTE_US + 1) * MINUTE_US + 5 * US
                else:
                    counts[2] += 1


values = st.sampled_from([0, 1, 1.0, True, 2.5, 2**53 + 1, 2**53, -0.0])
bad_values = st.sampled_from(["warm", [1], 10**400, {}])
times = st.sampled_from([TS, TS, TS, TS - 1, TS - 61, TS - 7200, (TS - 90) * 1000 + 1, TS + 0.5, TS + 301, "soon"])
readings = st.fixed_dictionaries(
    {"ts": times},
    optional={"a": values, "b": values, "c": st.none() | values, "seq": st.sampled_from([1, 2, None])},
)
bad_readings = st.fixed_dictionaries(
    {"ts": times}, optional={"a": values, "b": bad_values, "B": values, "seq": st.just("x")}
)
payloads = st.one_of(
    readings.map(json.dumps),
    readings.map(json.dumps),
    bad_readings.map(json.dumps),
    st.lists(st.one_of(readings, readings, bad_readings, st.just(7)), max_size=4).map(json.dumps),
    st.sampled_from(["", "{", "nonsense", "[]", "[{]", '{"a":1},{"b":2}']),
).map(str.encode)
messages = st.tuples(st.sampled_from(DEVICES), payloads, st.sampled_from([0, 0, 1, 3600]))
batches = st.lists(st.lists(messages, min_size=1, max_size=6), min_size=1, max_size=3)
stories = st.lists(st.tuples(batches, st.booleans()), min_size=1, max_size=4)
Story = list[tuple[list[list[tuple[str, bytes, int]]], bool]]
"""Batches of packs of messages (device, payload, seconds later); and whether all memory is lost before the batch."""


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(stories)
def test_rows_and_ledger_are_what_a_plain_model_says(database: str, there: Tables, story: Story) -> None:
    model = Model()
    found = []
    for staged_for in (0, STAGED):
        there.clear()
        asyncio.run(_write(database, story, staged_for, model if staged_for == 0 else Model()))
        there.check_sums()
        before = there.ledger(), there.rows(), _letters(there)
        asyncio.run(_fold(database))
        assert there.ledger() == before[0]
        assert there.one("SELECT count(*) FROM ledger_pending") == 0
        found.append(before)
    assert found[0] == found[1]
    ledger, rows, letters = found[0]
    assert ledger == {key: tuple(counts) for key, counts in model.ledger.items()}
    assert rows == sorted(model.rows, key=lambda row: row[:3])
    assert letters == model.letters


async def _write(database: str, story: Story, staged_for: int, model: Model) -> None:
    log = Log()
    ordinal = 0
    async with sink(database, log) as it:
        for batch, forgotten in story:
            packs: list[Pack] = []
            by_partition: dict[int, list[Message]] = {p: [] for p in range(PARTITIONS)}
            for pack in batch:
                entries = []
                for device, payload, later in pack:
                    ordinal += 8
                    entries.append(message(payload, device, received_us=NOW + later * US + ordinal))
                    by_partition[0 if device in DEVICES[:2] else 1].append(entries[-1])
                packs += log.put(*entries)
            packs.sort(key=lambda pack: pack.partition)
            if forgotten:
                it.forget()
            it.rows.staged_for = max(it.rows.staged_for, staged_for)
            await it.write(packs)
            model.batch([entry for entries in by_partition.values() for entry in entries])


async def _fold(database: str) -> None:
    async with Connection(WorkerSettings(database_url=database), "test") as connection:
        await fold(connection)


def _letters(there: Tables) -> Counter[tuple[str, str, bytes]]:
    return Counter((letter.device, letter.reason, letter.payload) for letter in there.letters())

"""Each message once, and accounted for, whatever happens: the sink on a real database."""

import asyncio
import base64
import contextlib
import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Self
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from prometheus_client import REGISTRY
from psycopg import errors

from pipeline import packs
from pipeline.ledger import fold
from pipeline.patience import Connection
from pipeline.readings import HOUR_US, US
from pipeline.settings import WorkerSettings
from pipeline.sink import TIMED_READINGS, DeliveryHoleError, Sink, TopicRecreatedError
from tests.pipeline.sinks import (
    DEAD,
    HOUR,
    NOW,
    OTHER,
    PARTITIONS,
    A,
    B,
    Log,
    Tables,
    message,
    reading,
    sink,
    tables,
)


@pytest.fixture
def there(database: str) -> Iterator[Tables]:
    with tables(database) as opened:
        yield opened
        opened.check_sums()


async def folded(database: str) -> None:
    async with Connection(WorkerSettings(database_url=database), "test") as connection:
        await fold(connection)


# Once -----------------------------------------------------------------------------------------------------------


async def test_write_twice_is_once(database: str, there: Tables) -> None:
    log = Log()
    batch = log.put(reading(0), reading(1), reading(0, OTHER))
    async with sink(database, log) as it:
        await it.write(batch)
        before = there.rows(), there.ledger(), there.offsets()
        await it.write(batch)
    assert (there.rows(), there.ledger(), there.offsets()) == before
    assert there.ledger_of() == (2, 2, 0, 0)


async def test_a_batch_delivered_again_after_everything_was_forgotten_is_once(database: str, there: Tables) -> None:
    log = Log()
    batch = log.put(reading(0), reading(0, temperature_c=9), message(b"nonsense"))
    async with sink(database, log) as it:
        await it.write(batch)
        it.forget()
        await it.write(batch)
    async with sink(database, log) as another:
        await another.write(batch)
    assert there.ledger_of() == (3, 1, 0, 2)
    assert len(there.letters()) == 2


async def test_a_fenced_batch_changes_nothing_and_then_the_rest_is_written(database: str, there: Tables) -> None:
    """Another worker took over, wrote the first pack, and we had not heard of it."""
    log = Log()
    (first,), (second,), (third,) = log.put(reading(0)), log.put(reading(1)), log.put(reading(2))
    async with sink(database, log) as it, sink(database, log) as other:
        await it.write([first])
        await other.write([second])
        await it.write([second, third])
    assert there.ledger_of() == (3, 3, 0, 0)
    assert there.offsets()[0] == 3


async def test_a_fenced_batch_is_rolled_back_as_a_whole(database: str, there: Tables) -> None:
    """It holds packs of a partition that is still ours; they are written with the next attempt, once."""
    log = Log()
    async with sink(database, log) as it, sink(database, log) as other:
        await it.write(log.put(reading(0), reading(0, OTHER)))
        lost = log.put(reading(1))
        await other.write(lost)
        ours = log.put(reading(1, OTHER))
        await it.write([*lost, *ours])
    assert len(there.rows()) == 4
    assert (there.ledger_of(), there.ledger_of(OTHER)) == ((2, 2, 0, 0), (2, 2, 0, 0))


async def test_a_batch_that_partly_overlaps_is_written_where_it_is_new(database: str, there: Tables) -> None:
    log = Log()
    batch = [*log.put(reading(0)), *log.put(reading(1)), *log.put(reading(2))]
    async with sink(database, log) as it:
        await it.write(batch[:2])
        await it.write(batch[1:])
    assert there.ledger_of() == (3, 3, 0, 0)


async def test_packs_of_other_partitions_are_left_out(database: str, there: Tables) -> None:
    log = Log()
    async with sink(database, log, partitions=[1]) as it:
        await it.write(log.put(reading(0), reading(0, OTHER)))
    assert [device for device, *_ in there.rows()] == [OTHER]


async def test_a_partition_that_is_taken_during_a_batch_is_left_out(database: str, there: Tables) -> None:
    log = Log()
    batch = log.put(reading(0), reading(0, OTHER))
    async with sink(database, log) as it:
        with psycopg.connect(database) as blocker:
            blocker.execute("LOCK TABLE ledger_pending IN EXCLUSIVE MODE")
            writing = asyncio.create_task(it.write(batch))
            await waits_for_a_lock(there)
            it.assign([1])
        await writing
        assert set(it.positions) == {1}
        await it.write(log.put(reading(1), reading(1, OTHER)))
    assert [device for device, *_ in there.rows()].count(OTHER) == 2


async def test_twelve_writers_at_once_write_once(database: str, there: Tables) -> None:
    """Nobody knows whose the partitions are: the offsets decide, packs of every size come in everywhere."""
    log = Log()
    batch = [pack for n in range(30) for pack in log.put(reading(n), reading(n, B), reading(n, OTHER))]
    async with contextlib.AsyncExitStack() as stack:
        sinks = [await stack.enter_async_context(sink(database, log)) for _ in range(4)]
        await asyncio.gather(*(_write_in_parts(it, batch, n + 1) for n, it in enumerate(sinks)))
    assert len(there.rows()) == 90
    assert there.ledger_of(OTHER) == (30, 30, 0, 0)


async def _write_in_parts(it: Sink, batch: list[packs.Message], size: int) -> None:
    for begin in range(0, len(batch), size * 2):
        await it.write(batch[begin : begin + size * 2])


# Gaps and topics ------------------------------------------------------------------------------------------------


async def test_records_that_kafka_dropped_are_counted_and_gone_on_from(database: str, there: Tables) -> None:
    log = Log()
    async with sink(database, log) as it:
        await it.write(log.put(reading(0)))
        log.put(reading(1)), log.put(reading(2))
        log.begin[0] = 3
        with counted("pipeline_sink_offsets_skipped_total", 2):
            await it.write(log.put(reading(3)))
    assert there.ledger_of() == (2, 2, 0, 0)
    assert there.offsets()[0] == 4


async def test_a_gap_that_kafka_does_not_have_is_an_error(database: str, there: Tables) -> None:
    log = Log()
    async with sink(database, log) as it:
        await it.write(log.put(reading(0)))
        missed, late = log.put(reading(1)), log.put(reading(2))
        with pytest.raises(DeliveryHoleError):
            await it.write(late)
        assert there.ledger_of() == (1, 1, 0, 0)
        await it.write([*missed, *late])
    assert there.ledger_of() == (3, 3, 0, 0)


async def test_the_first_pack_may_begin_where_kafka_begins(database: str, there: Tables) -> None:
    log = Log()
    log.end[0] = log.begin[0] = 7
    async with sink(database, log) as it:
        await it.write(log.put(reading(0)))
    assert there.offsets()[0] == 8


async def test_a_first_pack_after_the_beginning_is_an_error(database: str, there: Tables) -> None:
    log = Log()
    log.end[0] = 7
    async with sink(database, log) as it:
        with pytest.raises(DeliveryHoleError):
            await it.write(log.put(reading(0)))
    assert there.rows() == []


async def test_a_topic_made_again_is_told(database: str, there: Tables) -> None:
    log = Log()
    async with sink(database, log) as it:
        await it.write(log.put(reading(0)))
    again = Log(topic_id="second")
    async with sink(database, again) as it:
        with pytest.raises(TopicRecreatedError, match="brigade offsets"):
            await it.next_offsets([0])
        with pytest.raises(TopicRecreatedError, match="brigade offsets"):
            await it.write(again.put(reading(1)))
    assert len(there.rows()) == 1


async def test_a_topic_made_again_under_a_running_worker_is_not_taken_for_stored_packs(
    database: str, there: Tables
) -> None:
    log = Log()
    async with sink(database, log) as it:
        await it.write(log.put(reading(0)))
        log.topic_id, log.end[0] = "second", 0
        with pytest.raises(TopicRecreatedError, match="brigade offsets"):
            await it.write(log.put(reading(1)))


async def test_next_offsets_are_the_tables(database: str, there: Tables) -> None:
    log = Log()
    async with sink(database, log) as it:
        assert await it.next_offsets(range(PARTITIONS)) == {0: 0, 1: 0, 2: 0}
        await it.write(log.put(reading(0)))
        it.forget()
        assert await it.next_offsets([0]) == {0: 1}
        it.assign([])
        assert await it.next_offsets([1, 0]) == {0: 1, 1: 0}, "a rebalance at that moment changes nothing"


# Two ways into the table ----------------------------------------------------------------------------------------


async def test_a_repeat_the_memory_knows_costs_no_row_and_is_a_duplicate(database: str, there: Tables) -> None:
    log = Log()
    async with sink(database, log) as it:
        await it.write(log.put(reading(0), reading(0)))
        await it.write(log.put(reading(0)))
    assert there.ledger_of() == (3, 1, 2, 0)


async def test_a_repeat_the_memory_forgot_is_a_duplicate(database: str, there: Tables) -> None:
    log = Log()
    async with sink(database, log) as it:
        await it.write(log.put(reading(0)))
        it.forget()
        await it.write(log.put(reading(0), reading(1)))
    assert there.ledger_of() == (3, 2, 1, 0)


async def test_a_reading_with_one_new_point_is_stored(database: str, there: Tables) -> None:
    """Zigbee and ESPHome send several messages with one ts and different metrics."""
    log = Log()
    async with sink(database, log) as it:
        await it.write(log.put(reading(0, temperature_c=3), reading(0, humidity_pct=60)))
        await it.write(log.put(reading(0, temperature_c=3, door_open=True)))
    assert there.ledger()[(A, HOUR)] == (3, 3, 0, 0, 0, 3)


async def test_another_value_for_the_same_key_is_refused_and_the_stored_one_stays(database: str, there: Tables) -> None:
    log = Log()
    newcomer = message(b'{"ts": %d,  "humidity_pct": 5, "temperature_c": 9}' % (NOW // 1000))
    async with sink(database, log) as it:
        await it.write(log.put(reading(0, temperature_c=3)))
        await it.write(log.put(reading(60), newcomer))
    assert there.values() == [(A, 3), (A, 3.5)]
    assert there.values("humidity_pct") == [], "one bad value refuses the whole reading"
    (letter,) = there.letters()
    assert (letter.reason, letter.payload, letter.element) == ("conflicts_with_stored", newcomer.payload, None)
    assert (letter.kafka_partition, letter.kafka_offset, letter.position, letter.device) == (0, 1, 1, A)
    assert there.ledger_of() == (3, 2, 0, 1)


async def test_a_refused_newcomer_that_comes_again_is_refused_again(database: str, there: Tables) -> None:
    """The memory of recent readings is of stored ones."""
    log = Log()
    async with sink(database, log) as it:
        for _ in range(3):
            await it.write(log.put(reading(0, a=1)))
            await it.write(log.put(reading(0, a=2)))
    assert there.ledger_of() == (6, 1, 2, 3)


async def test_a_conflicting_element_is_refused_with_its_own_bytes(database: str, there: Tables) -> None:
    log = Log()
    ts = NOW // 1000
    array = message(b'[{"ts":%d,"a":1}, {"ts":%d,"a" : 2},{"ts":%d,"a":3}]' % (ts, ts, ts + 1))
    async with sink(database, log) as it:
        await it.write(log.put(array))
    (letter,) = there.letters()
    assert (letter.reason, letter.payload, letter.element) == ("conflicts_with_stored", b'{"ts":%d,"a" : 2}' % ts, 1)
    assert there.values("a") == [(A, 1), (A, 3)]
    assert there.ledger_of() == (3, 2, 0, 1)


async def test_a_refused_newcomer_does_not_refuse_others(database: str, there: Tables) -> None:
    """Whether the three come in one batch or in three: what was refused is not what the next one is compared with."""
    log = Log()
    async with sink(database, log) as it:
        await it.write(log.put(reading(0, a=1), reading(0, a=2, b=5), reading(0, b=6)))
    assert (there.values("a"), there.values("b")) == ([(A, 1)], [(A, 6)])
    assert there.ledger_of() == (3, 2, 0, 1)


async def test_many_conflicts_at_once_are_quick(database: str, there: Tables) -> None:
    """A device whose clock stands still says something new with the same ts, over and over."""
    log = Log()
    batch = [pack for n in range(50) for pack in log.put(*(reading(0, a=n * 40 + m) for m in range(40)))]
    async with sink(database, log) as it:
        async with asyncio.timeout(5):
            await it.write(batch)
    assert there.ledger_of() == (2000, 1, 0, 1999)


async def test_too_many_shapes_of_one_device_do_not_hang(database: str, there: Tables) -> None:
    """Nulls are left out, so a device with ten metrics may send a thousand different sets of names."""
    log = Log()
    ts = NOW // 1000
    array = [{"ts": ts + n, **{f"m{bit}": 1 for bit in range(10) if n >> bit & 1}} for n in range(1, 700)]
    async with sink(database, log) as it:
        async with asyncio.timeout(20):
            await it.write(log.put(message(array)))
            await it.write(log.put(*(message(dict(fields, ts=fields["ts"] + 10_000)) for fields in array)))
    assert there.ledger_of() == (1398, 1398, 0, 0)


# What cannot be stored --------------------------------------------------------------------------------------------


async def test_a_bad_element_is_refused_alone(database: str, there: Tables) -> None:
    log = Log()
    ts = NOW // 1000
    array = message(b'[{"ts":%d,"a":1},{"ts":%d,"a":"warm"},{"a":3},7]' % (ts, ts + 1))
    async with sink(database, log) as it:
        await it.write(log.put(array))
    assert [(x.reason, x.payload, x.element) for x in there.letters()] == [
        ("value_not_a_number", b'{"ts":%d,"a":"warm"}' % (ts + 1), 1),
        ("ts_missing_in_array", b'{"a":3}', 2),
        ("not_an_object", b"7", 3),
    ]
    assert there.ledger_of() == (4, 1, 0, 3)
    assert there.refusals()[(A, HOUR, "value_not_a_number")] == 1


async def test_a_dead_letter_goes_into_its_table_and_the_outbox(database: str, there: Tables) -> None:
    log = Log()
    payload = b'{"ts": "yester\xc3\xa4day", "a": 1}'
    async with sink(database, log) as it:
        await it.write(log.put(reading(0), message(payload), reading(1)))
    (letter,) = there.letters()
    (document,) = there.documents()
    assert (letter.reason, letter.payload, letter.position, letter.received_us) == ("ts_invalid", payload, 1, NOW)
    assert document["id"] == letter.id
    assert (document["reason"], document["device"], document["mqtt_topic"]) == ("ts_invalid", A, letter.mqtt_topic)
    assert base64.b64decode(document["payload_base64"]) == payload
    assert (document["kafka_partition"], document["kafka_offset"], document["position"]) == (0, 0, 1)
    assert there.all("SELECT DISTINCT partition, topic, key FROM outbox") == [(0, DEAD, A)]


async def test_what_the_bridge_cut_keeps_its_size_and_hash(database: str, there: Tables) -> None:
    log = Log()
    digest = hashlib.sha256(b"whatever").hexdigest()
    cut = message(b"{" * 65536, extra={"size": 300_000, "sha256": digest})
    async with sink(database, log) as it:
        await it.write(log.put(cut))
    (letter,) = there.letters()
    assert (letter.reason, letter.payload_size, letter.payload_sha256) == ("oversized", 300_000, digest)
    assert len(base64.b64decode(there.documents()[0]["payload_base64"])) == 65536


async def test_a_misplaced_topic_is_refused_without_a_device(database: str, there: Tables) -> None:
    log = Log()
    topic = "brigade/v1/kitchen\x01/\x00"
    async with sink(database, log) as it:
        await it.write(log.put(packs.Message(topic, NOW, b'{"a":1}')))
    (letter,) = there.letters()
    assert (letter.reason, letter.device, letter.payload) == ("misplaced_topic", "", b'{"a":1}')
    assert there.ledger_of("") == (1, 0, 0, 1)


RECORDS = {
    "no value": None,
    "empty": b"",
    "not msgpack": b"\xc1",
    "json": b'{"ts":1}',
    "not a list": packs.encode([])[:0] + b"\x81\xa1a\x01",
    "too few fields": b"\x91\x92\xa1a\x01",
    "topic not UTF-8": b"\x91\x93\xa2\xff\xfe\x01\xc4\x01x",
    "received before 1970": packs.encode([("brigade/v1/s/d/readings", -1, b"{}")]),
    "received beyond any calendar": packs.encode([("brigade/v1/s/d/readings", 2**63, b'{"a":1}')]),
    "received in the year 3000": packs.encode([("brigade/v1/s/d/readings", 32_503_680_000 * US, b'{"a":1}')]),
    "a dead letter that is no number": packs.encode([("brigade/v1/s/d/readings", NOW, b"{}", {"dead_letter": "x"})]),
    "a size that is no number": packs.encode([("brigade/v1/s/d/readings", NOW, b"{}", {"sha256": "x", "size": "y"})]),
    "a hash that is no text": packs.encode([("brigade/v1/s/d/readings", NOW, b"{}", {"sha256": 5, "size": 5})]),
}


@pytest.mark.parametrize("value", RECORDS.values(), ids=RECORDS)
async def test_a_record_that_is_no_pack_is_a_dead_letter_and_its_neighbours_are_stored(
    database: str, there: Tables, value: bytes | None
) -> None:
    log = Log()
    before, record, after = log.put(reading(0)), log.put_record(0, value), log.put(reading(1))
    async with sink(database, log) as it:
        await it.write([*before, record, *after])
    (letter,) = there.letters()
    assert (letter.reason, letter.payload) == ("undecodable_record", value or b"")
    assert (there.ledger_of(), there.ledger_of("")) == ((2, 2, 0, 0), (1, 0, 0, 1))


async def test_how_old_readings_are_when_committed_is_told_of_new_ones_alone(database: str, there: Tables) -> None:
    """Straight into the table and through the staging one; repeats, replays, what a device kept: they say nothing."""
    log = Log()
    now_s = time.time()
    young = message({"ts": now_s - 1, "a": 1}, received_us=round(now_s * US))
    old = message({"ts": now_s - 7200, "a": 1}, received_us=round(now_s * US))
    refused = message({"ts": now_s - 30, "a": "x"}, received_us=round(now_s * US))
    name = "pipeline_sink_event_delay_seconds"
    async with sink(database, log) as it:
        with (
            counted(f"{name}_count", 2),
            counted(f"{name}_bucket", 1, le="60.0"),
            counted(f"{name}_bucket", 1, le="3600.0"),
        ):
            await it.write(log.put(young, old, refused))
        with counted(f"{name}_count", 0):
            await it.write(log.put(young))
        with counted(f"{name}_count", 0):
            kept = [{"ts": now_s - 500, "a": 1}, {"ts": now_s - 400, "a": 1}]
            await it.write(log.put(message(kept, received_us=round(now_s * US))))
        it.forget()
        younger = message({"ts": now_s - 0.5, "a": 1}, received_us=round(now_s * US))
        with counted(f"{name}_count", 1):
            await it.write(log.put(young, younger))  # the key finds the repeat
        assert len(there.rows()) == 5
        (letter,) = there.letters()
        mended = json.dumps({"ts": now_s - 30, "a": 1}).encode()
        with counted(f"{name}_count", 0):
            await it.write(log.put(replay(letter, payload=mended)))


async def test_every_n_th_reading_of_a_large_batch_stands_for_the_others(database: str, there: Tables) -> None:
    log = Log()
    now_s = time.time()
    many = [
        message({"ts": now_s - 5 - n / 1000, "a": 1}, received_us=round(now_s * US)) for n in range(3 * TIMED_READINGS)
    ]
    name = "pipeline_sink_event_delay_seconds"
    async with sink(database, log) as it:
        before = REGISTRY.get_sample_value(f"{name}_count")
        await it.write(log.put(*many))
    assert abs(REGISTRY.get_sample_value(f"{name}_count") - before - len(many)) <= 4


async def test_late_readings_are_counted(database: str, there: Tables) -> None:
    """Late: its minute ended, and 5 s more. Both ways into the table count the same."""
    log = Log()
    minute = (NOW // (60 * US) - 1) * 60  # the minute before NOW's, which is at second 0.12 of its own
    batch = [
        message({"ts": minute + 59, "a": 1}, received_us=(minute + 64) * US),
        message({"ts": minute + 58, "a": 1}, received_us=(minute + 65) * US),
        message({"ts": minute - 7200, "a": 1}, received_us=(minute + 64) * US),
    ]
    async with sink(database, log) as it:
        await it.write(log.put(*batch))
        assert sum(counts[4] for counts in there.ledger().values()) == 2
        it.forget()
        await it.write(log.put(*batch, *(replace_ts(m, 3) for m in batch)))
    assert sum(counts[4] for counts in there.ledger().values()) == 4
    assert sum(counts[2] for counts in there.ledger().values()) == 3


def replace_ts(old: packs.Message, seconds: int) -> packs.Message:
    fields = json.loads(old.payload)
    return packs.Message(old.topic, old.received_us, json.dumps({**fields, "ts": fields["ts"] - seconds}).encode())


async def test_the_hour_of_receipt_counts(database: str, there: Tables) -> None:
    log = Log()
    last, first = (HOUR + 1) * HOUR_US - 1, (HOUR + 1) * HOUR_US
    async with sink(database, log) as it:
        await it.write(log.put(reading(0, received_us=last), reading(1, received_us=first)))
    assert (there.ledger_of(hour=HOUR), there.ledger_of(hour=HOUR + 1)) == ((1, 1, 0, 0), (1, 1, 0, 0))


# Status -----------------------------------------------------------------------------------------------------------


def status(payload: bytes, seconds: int, device: str = A) -> packs.Message:
    return message(payload, device, kind="status", received_us=NOW + seconds * US)


STATUS = """
SELECT d.name, s.online, ((extract(epoch FROM s.received_at) * 1000000)::bigint - %s) / 1000000
FROM device_status s JOIN devices d ON d.id = s.device_id ORDER BY 1"""


async def test_a_status_is_kept_and_is_no_reading(database: str, there: Tables) -> None:
    log = Log()
    async with sink(database, log) as it:
        await it.write(log.put(status(b"online", 1), status(b"offline", 2, B), reading(0)))
        assert there.all(STATUS, NOW) == sorted([(A, True, 1), (B, False, 2)])
        await it.write(log.put(status(b"offline", 3), status(b"", 4, B), status(b"gone", 5, B)))
    assert there.all(STATUS, NOW) == sorted([(A, False, 3), (B, False, 2)])
    assert there.reasons() == ["status_invalid"]
    assert (there.ledger_of(), there.ledger_of(B)) == ((1, 1, 0, 0), (0, 0, 0, 0))


async def test_an_unchanged_status_keeps_its_time(database: str, there: Tables) -> None:
    """The broker repeats a retained "offline" at every subscription: readings since then still count."""
    log = Log()
    async with sink(database, log) as it:
        await it.write(log.put(status(b"offline", 1)))
        await it.write(log.put(status(b"offline", 60), status(b"offline", 61)))
        assert there.all(STATUS, NOW) == [(A, False, 1)]
        await it.write(log.put(status(b"online", 62), status(b"online", 63)))
    assert there.all(STATUS, NOW) == [(A, True, 62)]


async def test_an_older_status_does_not_undo_a_newer_one(database: str, there: Tables) -> None:
    log = Log()
    async with sink(database, log) as it:
        await it.write(log.put(status(b"offline", 10)))
        await it.write(log.put(status(b"online", 5)))
    assert there.all(STATUS, NOW) == [(A, False, 10)]


async def test_a_status_that_went_to_and_fro_in_one_batch_has_its_last_time(database: str, there: Tables) -> None:
    """Catching up after an outage: it was online in between, readings came, and now it is offline since then."""
    log = Log()
    async with sink(database, log) as it:
        await it.write(log.put(status(b"offline", 1)))
        await it.write(log.put(status(b"online", 60), status(b"offline", 120)))
    assert there.all(STATUS, NOW) == [(A, False, 120)]


# Replays ----------------------------------------------------------------------------------------------------------


def replay(letter: object, **changes: object) -> packs.Message:
    """What the outbox publishes for a dead letter; `changes` is what has become possible meanwhile."""
    payload = letter.payload if letter.element is None else b"[" + letter.payload + b"]"
    entry = packs.Message(letter.mqtt_topic, letter.received_us, payload, {"dead_letter": letter.id})
    return packs.Message(**{f: changes.get(f, getattr(entry, f)) for f in entry.__struct_fields__})


OLD = NOW - 3 * HOUR_US
"""A dead letter of an earlier hour: that hour's ledger moves."""


async def test_a_replay_that_is_stored_moves_one_from_refused_to_stored_in_its_old_hour(
    database: str, there: Tables
) -> None:
    log = Log()
    async with sink(database, log, metrics_per_device=1) as it:
        await it.write(log.put(message({"a": 1}, received_us=OLD), message({"b": 1}, received_us=OLD + 1)))
    assert there.ledger_of(hour=HOUR - 3) == (2, 1, 0, 1)
    (letter,) = there.letters()
    async with sink(database, log, metrics_per_device=2) as it:
        await it.write(log.put(replay(letter)))
    assert there.ledger() == {(A, HOUR - 3): (2, 2, 0, 0, 0, 2)}
    assert there.refusals() == {}
    (letter,) = there.letters()
    assert (letter.outcome, letter.resolved) == ("stored", True)
    assert there.rows()[-1][3] == OLD + 1, "it keeps its first receive time"
    await folded(database)
    assert there.ledger() == {(A, HOUR - 3): (2, 2, 0, 0, 0, 2)}


async def test_a_replay_that_is_found_stored_moves_one_from_refused_to_duplicate(database: str, there: Tables) -> None:
    log = Log()
    ts = NOW // 1000
    async with sink(database, log) as it:
        await it.write(log.put(reading(0, a=1), reading(0, a=2)))
    (letter,) = there.letters()
    there.do("UPDATE readings SET value = 2")  # someone corrected it
    async with sink(database, log) as it:
        await it.write(log.put(replay(letter)))
    assert there.ledger_of() == (2, 1, 1, 0)
    assert (there.letters()[0].outcome, there.letters()[0].resolved) == ("duplicate", True)
    assert ts


async def test_a_replay_that_fails_again_changes_only_its_outcome(database: str, there: Tables) -> None:
    log = Log()
    async with sink(database, log) as it:
        await it.write(log.put(message(b"{", received_us=OLD), reading(0, a=1), reading(0, a=2)))
        before = there.ledger(), there.refusals(), there.documents()
        await it.write(log.put(*(replay(letter) for letter in there.letters())))
    assert (there.ledger(), there.refusals(), there.documents()) == before
    assert [(x.outcome, x.resolved) for x in there.letters()] == [
        ("malformed_json", False),
        ("conflicts_with_stored", False),
    ]


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "in two"])
async def test_a_replay_that_arrives_twice_counts_once(database: str, there: Tables, together: bool) -> None:  # noqa: FBT001
    """The outbox publishes at least once."""
    log = Log()
    async with sink(database, log, metrics_per_device=1) as it:
        await it.write(log.put(message({"a": 1}), message({"b": 1}), message({"c": 1})))
    copies = [replay(letter) for letter in there.letters()]
    async with sink(database, log) as it:
        if together:
            await it.write(log.put(*copies, reading(5), *copies))
        else:
            await it.write(log.put(*copies, reading(5)))
            it.forget()
            await it.write(log.put(*copies))
    assert there.ledger_of() == (4, 4, 0, 0)
    assert [x.outcome for x in there.letters()] == ["stored", "stored"]


async def test_a_replay_of_an_element_moves_one(database: str, there: Tables) -> None:
    log = Log()
    ts = NOW // 1000
    array = [{"ts": ts, "a": 1}, {"ts": ts + 1, "b": 1}, {"ts": ts + 2, "a": 2}]
    async with sink(database, log, metrics_per_device=1) as it:
        await it.write(log.put(message(array)))
    (letter,) = there.letters()
    async with sink(database, log) as it:
        await it.write(log.put(replay(letter)))
    assert there.ledger_of() == (3, 3, 0, 0)


async def test_a_replay_of_a_letter_without_a_device_moves_it_to_the_device(database: str, there: Tables) -> None:
    """And a whole array that could not be read counted as one; now it is the readings that are in it."""
    log = Log()
    ts = NOW // 1000
    array = [{"ts": ts, "a": 1}, {"ts": ts + 1, "a": 2}, {"ts": ts + 1, "a": 2}]
    async with sink(database, log, devices_per_site=1) as it:
        await it.write(log.put(reading(0, B)))
        await it.write(log.put(message(array)))
    assert (there.ledger_of(""), there.ledger_of(A)) == ((1, 0, 0, 1), (0, 0, 0, 0))
    (letter,) = there.letters()
    assert letter.reason == "too_many_devices"
    async with sink(database, log) as it:
        await it.write(log.put(replay(letter)))
    assert (there.ledger_of(""), there.ledger_of(A)) == ((0, 0, 0, 0), (3, 2, 1, 0))


async def test_a_replay_of_an_array_succeeds_whole_or_changes_nothing(database: str, there: Tables) -> None:
    log = Log()
    ts = NOW // 1000
    async with sink(database, log, devices_per_site=1) as it:
        await it.write(log.put(reading(0, B)))
        await it.write(log.put(message([{"ts": ts, "a": 1}, {"ts": ts + 1, "a": "x"}])))
        await it.write(log.put(message([{"ts": ts, "a": 1}, {"ts": ts, "a": 2}])))
        await it.write(log.put(message([{"ts": ts, "a": 1}, {"ts": ts, "b": 2, "c": 3}])))
    before = there.ledger()
    async with sink(database, log, metrics_per_device=2) as it:
        await it.write(log.put(*(replay(letter) for letter in there.letters())))
    assert there.ledger() == before
    assert there.values("a") == []
    assert [x.outcome for x in there.letters()] == ["value_not_a_number", "conflicts_with_stored", "too_many_metrics"]


async def test_a_replay_of_an_unknown_letter_is_a_reading_of_its_own(database: str, there: Tables) -> None:
    """The database was restored from before the dead letter, and Kafka still has the replay."""
    log = Log()
    async with sink(database, log) as it:
        await it.write(log.put(message({"a": 1}, extra={"dead_letter": 4711})))
    assert there.ledger_of() == (1, 1, 0, 0)


async def test_a_replay_of_an_unknown_letter_that_fails_is_a_dead_letter_of_its_own(
    database: str, there: Tables
) -> None:
    log = Log()
    async with sink(database, log) as it:
        await it.write(log.put(message(b"{", extra={"dead_letter": 4711})))
    assert there.reasons() == ["malformed_json"]
    assert there.ledger_of() == (1, 0, 0, 1)


async def test_a_replay_does_not_resolve_another_letter_with_its_number(database: str, there: Tables) -> None:
    """After a restore the same numbers are given again, to other dead letters."""
    log = Log()
    async with sink(database, log) as it:
        await it.write(log.put(message(b"{")))
        (letter,) = there.letters()
        await it.write(log.put(message({"a": 1}, B, extra={"dead_letter": letter.id})))
    assert (there.ledger_of(), there.ledger_of(B)) == ((1, 0, 0, 1), (1, 1, 0, 0))
    assert not there.letters()[0].resolved


# Poison -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_thirteen(there: Tables) -> None:
    there.do("ALTER TABLE readings ADD CONSTRAINT no_thirteen CHECK (value <> 13)")


@pytest.mark.usefixtures("no_thirteen")
@pytest.mark.parametrize("bad", [1, 30], ids=["one message", "thirty messages of one pack"])
async def test_a_message_the_database_refuses_is_a_dead_letter_and_its_neighbours_are_stored(
    database: str, there: Tables, bad: int
) -> None:
    log = Log()
    poison = [reading(100 + n, a=13) for n in range(bad)]
    batch = [
        *log.put(reading(0), reading(0, OTHER)),
        *log.put(reading(1), *poison, reading(2)),
        *log.put(reading(3), reading(1, OTHER)),
    ]
    async with sink(database, log) as it:
        await it.write(batch)
        await it.write(log.put(reading(4)))
    assert there.reasons() == ["database_refused"] * bad
    letter = there.letters()[0]
    assert (letter.payload, letter.kafka_offset, letter.position, letter.device) == (poison[0].payload, 1, 1, A)
    assert "no_thirteen" in letter.detail
    assert there.ledger_of() == (5 + bad, 5, 0, bad)
    assert there.ledger_of(OTHER) == (2, 2, 0, 0)


@pytest.mark.usefixtures("no_thirteen")
async def test_a_pack_stored_by_another_worker_does_not_hide_the_poison(database: str, there: Tables) -> None:
    log = Log()
    stored, bad = log.put(reading(0)), log.put(reading(1), reading(2, a=13))
    async with sink(database, log) as other:
        await other.write(stored)
    async with sink(database, log) as it:
        await it.write([*stored, *bad])
    assert there.ledger_of() == (3, 2, 0, 1)


@pytest.mark.usefixtures("no_thirteen")
async def test_a_poisonous_replay_fails(database: str, there: Tables) -> None:
    log = Log()
    async with sink(database, log, metrics_per_device=1) as it:
        await it.write(log.put(reading(0, a=1), reading(0, b=13)))
    before = there.ledger()
    async with sink(database, log) as it:
        await it.write(log.put(reading(1, a=1), replay(there.letters()[0])))
    assert there.letters()[0].outcome == "database_refused"
    assert there.ledger() == {(A, HOUR): tuple(map(sum, zip(before[(A, HOUR)], (1, 1, 0, 0, 0, 1), strict=True)))}


async def test_every_message_failing_is_raised(database: str, there: Tables) -> None:
    there.do("ALTER TABLE readings ADD CONSTRAINT nothing CHECK (value IS NULL)")
    log = Log()
    async with sink(database, log) as it:
        with pytest.raises(errors.CheckViolation):
            await it.write([*log.put(*(reading(n) for n in range(10))), *log.put(reading(20))])
    assert there.letters() == there.rows() == []


@pytest.mark.usefixtures("no_thirteen")
async def test_a_message_that_cannot_even_be_a_dead_letter_is_raised(database: str, there: Tables) -> None:
    there.do("ALTER TABLE dead_letters ADD CONSTRAINT nor_here CHECK (reason <> 'database_refused')")
    log = Log()
    async with sink(database, log) as it:
        with pytest.raises(errors.CheckViolation, match="nor_here"):
            await it.write(log.put(reading(0), reading(1, a=13)))
    assert there.rows() == []


async def test_every_pack_of_one_message_failing_is_raised(database: str, there: Tables) -> None:
    there.do("ALTER TABLE readings ADD CONSTRAINT nothing CHECK (value IS NULL)")
    log = Log()
    batch = [pack for n in range(40) for pack in log.put(reading(n))]
    async with sink(database, log) as it:
        with pytest.raises(errors.CheckViolation):
            await it.write(batch)
    assert len(there.letters()) <= 20


async def test_a_missing_table_is_raised(database: str, there: Tables) -> None:
    log = Log()
    there.do("ALTER TABLE marks RENAME TO elsewhere")
    async with sink(database, log) as it:
        with pytest.raises(errors.UndefinedTable):
            await it.write(log.put(reading(0)))
    there.do("ALTER TABLE elsewhere RENAME TO marks")
    assert there.rows() == []


SLOW = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_sleep(60) FROM added WHERE received[1] > 40; RETURN NULL; END $$;
CREATE TRIGGER slow AFTER INSERT ON ledger_pending REFERENCING NEW TABLE AS added
FOR EACH STATEMENT EXECUTE FUNCTION slow()"""


async def test_a_batch_that_takes_too_long_is_written_in_parts(database: str, there: Tables) -> None:
    there.do(SLOW)
    log = Log()
    batch = [pack for n in range(8) for pack in log.put(*(reading(n * 10 + m) for m in range(10)))]
    async with sink(database, log, statement_timeout_seconds=1) as it:
        async with asyncio.timeout(60):
            await it.write(batch)
    assert there.ledger_of() == (80, 80, 0, 0)


# Connections that die ---------------------------------------------------------------------------------------------


async def waits_for_a_lock(there: Tables) -> int:
    """Return the process of the sink's session once it waits."""
    query = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'brigade-worker'"
    async with asyncio.timeout(50):
        while not (found := there.all(f"{query} AND datname = current_database()")):  # noqa: ASYNC110, no event tells
            await asyncio.sleep(0.01)
    return int(found[0][0])


@pytest.mark.parametrize("table", ["ingest_offsets", "readings", "marks", "dead_letters", "ledger_pending", "outbox"])
async def test_a_connection_killed_in_the_middle_is_once(database: str, there: Tables, table: str) -> None:
    log = Log()
    async with sink(database, log) as it:
        await it.write(log.put(reading(0)))
        batch = log.put(reading(60), reading(0), message(b"{"), reading(60, OTHER))
        with psycopg.connect(database) as blocker:
            blocker.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
            writing = asyncio.create_task(it.write(batch))
            there.do("SELECT pg_terminate_backend(%s)", await waits_for_a_lock(there))
        await writing
    assert there.ledger_of() == (4, 2, 1, 1)
    assert there.ledger_of(OTHER) == (1, 1, 0, 0)


AT_COMMIT = """
CREATE SEQUENCE once;
CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('once') <= 2 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER die AFTER INSERT ON ledger_pending DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION die()"""


async def test_a_connection_killed_at_the_commit_is_once(database: str, there: Tables) -> None:
    there.do(AT_COMMIT)
    log = Log()
    async with sink(database, log) as it:
        await it.write(log.put(reading(0), reading(1), message(b"{")))
    assert there.one("SELECT last_value FROM once") > 2
    assert there.ledger_of() == (3, 2, 0, 1)


async def test_a_commit_whose_outcome_is_unknown_is_once(database: str, there: Tables) -> None:
    """The server commits, and the connection is gone before it can say so."""
    log = Log()
    with Unlucky(database) as proxy:
        async with sink(proxy.url, log) as it:
            await it.write(log.put(reading(0), message(b"{"), reading(0, OTHER)))
            assert proxy.cut == 1
            assert there.ledger_of() == (2, 1, 0, 1)
            await it.write(log.put(reading(1)))
    assert there.ledger_of() == (3, 2, 0, 1)


class Unlucky:
    """A proxy to PostgreSQL that closes a connection after its first COMMIT has been done and not been answered."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        user, _, _ = parts.netloc.rpartition("@")
        self.url = urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{self._listener.getsockname()[1]}"))
        self.url += "?sslmode=disable&gssencmode=disable"
        self.cut = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                for run in (self._to_server, self._to_client):
                    threading.Thread(target=run, args=(client, server), daemon=True).start()

    def _to_server(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError), server:
            while data := client.recv(65536):
                if b"COMMIT" in data and not self.cut:
                    self.cut = 1
                server.sendall(data)

    def _to_client(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            while data := server.recv(65536):
                if self.cut == 1 and b"COMMIT" in data:
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(data)


@pytest.mark.parametrize("how", ["an assignment", "an error"])
async def test_the_devices_number_is_forgotten(database: str, there: Tables, how: str) -> None:
    """The database was restored to before the device was known, and it gets another number."""
    log = Log()
    async with sink(database, log) as it:
        await it.write(log.put(reading(0)))
        there.do("DELETE FROM devices")
        there.do("DELETE FROM readings")
        there.do("DELETE FROM ledger_pending")
        if how == "an assignment":
            it.assign(range(PARTITIONS))
        else:
            there.do(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                " AND application_name = 'brigade-worker'"
            )
        await it.write(log.put(reading(0)))
    assert there.values() == [(A, 3.5)]
    assert there.ledger_of() == (1, 1, 0, 0)


async def test_marks_another_one_cleared_are_set_again(database: str, there: Tables) -> None:
    log = Log()
    async with sink(database, log) as it:
        await it.write(log.put(reading(0)))
        there.do("DELETE FROM marks")
        there.do("UPDATE ingest_offsets SET closings = closings + 1")
        await it.write(log.put(reading(1)))
        assert there.one("SELECT count(*) FROM marks") == 1
        there.do("DELETE FROM marks")
        it.assign(range(PARTITIONS))
        await it.write(log.put(reading(2)))
    assert there.one("SELECT count(*) FROM marks") == 1


# ------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def counted(name: str, expected: float, **labels: str) -> Iterator[None]:
    before = REGISTRY.get_sample_value(name, labels) or 0
    yield
    assert (REGISTRY.get_sample_value(name, labels) or 0) - before == expected

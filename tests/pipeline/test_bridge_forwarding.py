"""What the bridge does with messages, packs and acknowledgements, by values: no server."""

import asyncio

import mqtt5
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import packs
from pipeline.bridge.forwarding import (
    BUSY,
    REMEMBERED_TOPIC_LENGTH,
    REMEMBERED_TOPICS,
    Forwarder,
    Partitions,
    receive_time,
    split,
)
from pipeline.bridge.windows import Flush, Window
from pipeline.mqtt import Cut
from pipeline.settings import BridgeSettings

LONG_LINGER = 60.0


class FakeMqtt:
    def __init__(self):
        self.acknowledged, self.said = [], []

    def acknowledge(self, packet_ids):
        self.acknowledged.append(packet_ids)

    def pause(self):
        self.said.append("pause")

    def resume(self):
        self.said.append("resume")


class FakeKafka:
    def __init__(self):
        self.records = []

    def send(self, partition, value, headers, flush):
        self.records.append((partition, packs.decode(value), headers, flush))

    def flushes(self):
        return [flush for *_, flush in self.records]


@pytest.fixture
async def kafka():
    return FakeKafka()


@pytest.fixture
async def forwarder(kafka):
    return Forwarder(settings(), kafka.send)


def settings(**chosen):
    return BridgeSettings(**{"bridge_linger_seconds": LONG_LINGER, "partitions": 3, **chosen})


def message(packet_id, topic="brigade/v1/s/d/readings", payload=b"{}"):
    qos = mqtt5.QoS.AT_LEAST_ONCE if packet_id else mqtt5.QoS.AT_MOST_ONCE
    return mqtt5.PublishPacket(topic, payload, qos=qos, packet_id=packet_id)


async def test_a_flush_is_acknowledged_when_kafka_has_all_its_records(forwarder, kafka):
    mqtt = FakeMqtt()
    forwarder.join(mqtt)
    topics = [f"brigade/v1/s/device-{i}/readings" for i in range(20)]
    forwarder.forward([message(i + 1, topic) for i, topic in enumerate(topics)])
    forwarder.flush()
    assert {partition for partition, *_ in kafka.records} == {0, 1, 2}
    *first, last = kafka.flushes()
    forwarder.arrived(first)
    assert mqtt.acknowledged == []
    assert forwarder.in_flight == 20
    forwarder.arrived([last])
    assert mqtt.acknowledged == [list(range(1, 21))]
    assert (forwarder.in_flight, forwarder.held) == (0, 0)


async def test_flushes_are_acknowledged_in_order_whatever_kafka_took_first(forwarder, kafka):
    mqtt = FakeMqtt()
    forwarder.join(mqtt)
    for packet_id in (7, 8, 9):
        forwarder.forward([message(packet_id)])
        forwarder.flush()
    one, two, three = kafka.flushes()
    forwarder.arrived([three])
    forwarder.arrived([two])
    assert mqtt.acknowledged == []
    forwarder.arrived([one])
    assert mqtt.acknowledged == [[7, 8, 9]]


async def test_packet_ids_used_again_do_not_acknowledge_what_an_older_connection_brought(forwarder, kafka):
    before, after = FakeMqtt(), FakeMqtt()
    forwarder.join(before)
    forwarder.forward([message(1), message(2)])
    forwarder.flush()
    forwarder.forward([message(3)])  # open when the connection goes
    forwarder.part()
    forwarder.join(after)
    forwarder.forward([message(1), message(2)])
    forwarder.flush()
    *old, new = kafka.flushes()
    forwarder.arrived(old)
    assert (before.acknowledged, after.acknowledged) == ([], [])
    assert forwarder.in_flight == 2
    forwarder.arrived([new])
    assert (before.acknowledged, after.acknowledged) == ([], [[1, 2]])
    assert (forwarder.in_flight, forwarder.held) == (0, 0)


async def test_qos_0_is_forwarded_and_not_acknowledged(forwarder, kafka):
    mqtt = FakeMqtt()
    forwarder.join(mqtt)
    forwarder.forward([message(None), message(5), message(None)])
    forwarder.flush()
    assert [len(pack) for _, pack, *_ in kafka.records] == [3]
    forwarder.arrived(kafka.flushes())
    assert mqtt.acknowledged == [[5]]


async def test_what_comes_after_the_stop_is_left_to_the_session(forwarder, kafka):
    mqtt = FakeMqtt()
    forwarder.join(mqtt)
    forwarder.forward([message(1)])
    forwarder.stop_taking()
    forwarder.forward([message(2)])
    assert len(kafka.records) == 1
    forwarder.arrived(kafka.flushes())
    await asyncio.wait_for(forwarder.empty(), 1)
    assert mqtt.acknowledged == [[1]]


async def test_reading_pauses_above_what_may_be_held_and_resumes_below(kafka):
    forwarder = Forwarder(settings(bridge_held_bytes=10_000), kafka.send)
    mqtt = FakeMqtt()
    forwarder.join(mqtt)
    forwarder.forward([message(1, payload=b"x" * 9_000)])
    assert mqtt.said == []
    forwarder.forward([message(2, payload=b"x" * 9_000)])
    assert mqtt.said == ["pause"]
    forwarder.flush()
    with pytest.raises(TimeoutError):  # no new connection either: each would bring more
        await asyncio.wait_for(forwarder.room(), 0.01)
    forwarder.arrived(kafka.flushes())
    assert mqtt.said == ["pause", "resume"]
    await asyncio.wait_for(forwarder.room(), 1)


async def test_a_flush_waits_for_the_linger_or_for_enough(kafka):
    sent = asyncio.Event()
    forwarder = Forwarder(settings(bridge_linger_seconds=0.02), lambda *_: sent.set())
    forwarder.join(FakeMqtt())
    forwarder.forward([message(1)])
    assert not sent.is_set()
    await asyncio.wait_for(sent.wait(), 5)
    forwarder = Forwarder(settings(), kafka.send)
    forwarder.join(FakeMqtt())
    forwarder.forward([message(i % 65_535 + 1) for i in range(packs.MAX_MESSAGES + 1)])
    assert [len(pack) for _, pack, *_ in kafka.records] == [packs.MAX_MESSAGES, 1]
    forwarder.forward([message(i + 1, payload=b"x" * 250_000) for i in range(4)])
    assert [len(pack) for _, pack, *_ in kafka.records[2:]] == [3, 1]


async def test_a_flush_waits_twice_as_long_while_many_messages_come(kafka, monkeypatch):
    waits = []
    monkeypatch.setattr(
        asyncio.get_running_loop(), "call_later", lambda seconds, _: waits.append(seconds) or FakeTimer()
    )
    forwarder = Forwarder(settings(bridge_linger_seconds=0.02), kafka.send)
    forwarder.join(FakeMqtt())
    for count in (1, BUSY + 1, 1, 1):
        forwarder.forward([message(i + 1) for i in range(count)])
        forwarder.flush()
    assert waits == [0.02, 0.02, 0.04, 0.02]


class FakeTimer:
    def cancel(self):
        pass


async def test_a_cut_payload_is_marked_in_its_place(forwarder, kafka):
    mqtt = FakeMqtt()
    forwarder.join(mqtt)
    cut = Cut("brigade/v1/s/d/readings", b"beginning", 2, 300_000, "abc")
    forwarder.forward([message(1), cut, message(3)])
    forwarder.flush()
    [(_, pack, headers, flush)] = kafka.records
    assert [m.extra for m in pack] == [None, {"size": 300_000, "sha256": "abc"}, None]
    assert dict(headers)["count"] == b"3"
    forwarder.arrived([flush])
    assert mqtt.acknowledged == [[1, 2, 3]]


@given(st.lists(st.integers(-(10**6), 10**6), min_size=1), st.integers(0, 7), st.integers(10**15, 2 * 10**15))
def test_receive_times_increase_strictly_and_tell_the_ordinal(steps, ordinal, now_us):
    """Whatever the machine's clock does."""
    last_us = 0
    for step in steps:
        now_us += step
        received_us = receive_time(last_us, now_us, ordinal)
        assert received_us > last_us
        assert received_us % 8 == ordinal
        assert received_us - max(now_us, last_us) <= 8
        last_us = received_us


async def test_every_message_has_a_time_of_its_own(kafka):
    forwarder = Forwarder(settings(bridge_ordinal=5), kafka.send)
    forwarder.join(FakeMqtt())
    for begin in range(1, 3_000, 100):
        forwarder.forward([message(begin + i) for i in range(100)])
    forwarder.flush()
    times = [m.received_us for _, pack, *_ in kafka.records for m in pack]
    assert times == sorted(set(times))
    assert {received_us % 8 for received_us in times} == {5}


@given(st.lists(st.integers(0, 300_000), max_size=30))
def test_split_keeps_every_entry_in_order_and_every_record_within_kafkas_limit(sizes):
    entries = [("t", i, b"x" * size) for i, size in enumerate(sizes)]
    lists = list(split(entries))
    assert [entry for some in lists for entry in some] == entries
    assert all(len(packs.encode(some)) < 1_000_000 for some in lists)
    assert all(lists)


def test_partitions_are_those_of_the_device_and_not_remembered_without_end():
    partitions = Partitions(12)
    topics = [f"brigade/v1/s/{i}/readings" for i in range(REMEMBERED_TOPICS + 10)]
    for topic in topics:
        assert partitions.find(topic) == packs.partition_of(topic.split("/")[3], 12)
    assert len(partitions.known) <= REMEMBERED_TOPICS
    long = f"brigade/v1/s/{'d' * REMEMBERED_TOPIC_LENGTH}/readings"
    partitions.find(long)
    assert long not in partitions.known


def test_a_window_forgets_its_flushes_with_its_connection():
    acknowledged = []
    window = Window(acknowledged.append)
    window.add(Flush([1, 2]))
    window.close()
    window.settle()
    assert acknowledged == []

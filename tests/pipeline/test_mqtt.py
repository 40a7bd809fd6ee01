"""The MQTT client: its reader by values, its manners on a broker that misbehaves, its speed on the real one."""

import asyncio
import contextlib
import hashlib

import mqtt5
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.mqtt import (
    CUT_BYTES,
    WHOLE_BYTES,
    Client,
    Cut,
    MalformedError,
    OutageError,
    Publish,
    Reader,
    RefusedError,
    TakenOverError,
)
from tests.pipeline.mqtt_broker import FakeBroker

QOS_1 = mqtt5.QoS.AT_LEAST_ONCE


panics = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""mqtt5 panics on a topic that is not UTF-8, and leaves the interpreter's error behind."""


def publish(topic="brigade/v1/s/d/readings", payload=b"", packet_id=1, **properties):
    qos = QOS_1 if packet_id else mqtt5.QoS.AT_MOST_ONCE
    return mqtt5.PublishPacket(topic, payload, qos=qos, packet_id=packet_id, **properties)


def read(data, sizes=()):
    """What a reader makes of the data, cut into pieces of these sizes."""
    reader, messages, others = Reader(), [], []
    for size in (*sizes, len(data)):
        piece, data = data[:size], data[size:]
        if piece:
            more_messages, more_others = reader.feed(piece)
            messages += more_messages
            others += more_others
    return messages, others


def facts(message):
    if isinstance(message, Cut):
        return message
    return message.topic, message.payload, message.packet_id


@settings(deadline=None)
@given(
    st.lists(st.binary(max_size=200), max_size=20),
    st.lists(st.integers(1, 300), max_size=60),
    st.booleans(),
)
def test_packets_are_the_same_however_the_bytes_come(payloads, sizes, acknowledged):
    packets = [
        publish(payload=payload, packet_id=i + 1 if acknowledged else None) for i, payload in enumerate(payloads)
    ]
    data = b"".join(packet.write() + mqtt5.PingRespPacket().write() for packet in packets)
    messages, others = read(data, sizes)
    assert [facts(message) for message in messages] == [facts(packet) for packet in packets]
    assert len(others) == len(packets)


@pytest.mark.parametrize("piece", [1_000, 65_543, 200_000, 10**7])
@pytest.mark.parametrize(
    ("size", "properties"),
    [
        (WHOLE_BYTES - 100, {}),
        (WHOLE_BYTES, {}),
        (WHOLE_BYTES + 1, {}),
        (3_000_000, {"user_properties": [("a", "b")]}),
        (100, {"user_properties": [("name", "v" * 60_000)] * 12}),  # 720 kB of properties
        (WHOLE_BYTES + 1, {"user_properties": [("name", "v" * 60_000)] * 2}),
    ],
)
def test_large_payloads_are_cut_and_their_neighbours_kept(piece, size, properties):
    payload = bytes(i * i % 251 for i in range(1_000)) * (size // 1_000 + 1)
    payload = payload[:size]
    before, large, behind = (
        publish(payload=b"1"),
        publish(payload=payload, packet_id=2, **properties),
        publish(packet_id=3),
    )
    data = b"".join(packet.write() for packet in (before, large, behind))
    messages, _ = read(data, [piece] * (len(data) // piece))
    assert [message.packet_id for message in messages] == [1, 2, 3]
    if size > WHOLE_BYTES:
        digest = hashlib.sha256(payload).hexdigest()
        assert messages[1] == Cut(large.topic, payload[:CUT_BYTES], 2, size, digest)
    else:
        assert facts(messages[1]) == facts(large)
        assert isinstance(messages[1], Publish)


def test_a_message_of_any_length_is_read_in_little_memory():
    reader = Reader()
    size = 200 << 20
    head = publish(payload=b"").write()[2:]
    length = len(head) + size
    reader.feed(b"\x32" + bytes([length & 127 | 128, length >> 7 & 127 | 128, length >> 14 & 127 | 128, length >> 21]))
    reader.feed(head)
    piece = bytes(1 << 20)
    for _ in range(199):
        assert reader.feed(piece) == ([], [])
    [message], [pong] = reader.feed(piece + mqtt5.PingRespPacket().write())
    assert (message.size, len(message.payload)) == (size, CUT_BYTES)
    assert isinstance(pong, mqtt5.PingRespPacket)


@panics
@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x00",  # no such type
        b"\x36\x05\x00\x01a\x00\x01",  # QoS 3
        b"\x32\x05\x00\x01a\x00\x01",  # no properties
        b"\x32\x06\x00\x02\xff\xfe\x00\x01",  # a topic that is not UTF-8: mqtt5 panics
        b"\x32\x04\x00\x70ab",  # a topic longer than its packet
        b"\x32\xff\xff\xff\xff\x01",  # a length of five bytes
        b"\x20\xff\xff\xff\x7f",  # a CONNACK of 256 MB
        b"\x32\x80\x80\x40" + b"\xff" * 70_000,  # a large message with such a topic
    ],
)
def test_nonsense_is_malformed(data):
    with pytest.raises(MalformedError):
        read(data + b"\x00" * 10)


@given(st.binary(max_size=100))
def test_noise_is_read_or_malformed_and_nothing_else(data):
    with contextlib.suppress(MalformedError):
        read(data)


CONNACK = mqtt5.ConnAckPacket().write()


def client(broker, **options):
    return Client("127.0.0.1", broker.port, "test", **{"connect_seconds": 5, **options})


async def test_connect_tells_the_broker_what_it_needs_to_know():
    async with FakeBroker(mqtt5.ConnAckPacket(session_present=True).write()) as broker:
        options = {"user": "bridge", "password": "pässword", "session_expiry_seconds": 9, "receive_maximum": 5}
        async with client(broker, **options) as mqtt:
            assert mqtt.session_present
        [connect] = broker.packets
        assert (connect.username, connect.password) == ("bridge", "pässword".encode())
        assert (connect.session_expiry_interval, connect.receive_max, connect.clean_start) == (9, 5, False)
        assert connect.max_packet_size is None


@pytest.mark.parametrize(
    ("code", "error"),
    [("BAD_USER_NAME_OR_PASSWORD", RefusedError), ("NOT_AUTHORIZED", RefusedError), ("SERVER_BUSY", OutageError)],
)
async def test_a_refused_connection_says_whether_to_try_again(code, error):
    answer = mqtt5.ConnAckPacket(reason_code=getattr(mqtt5.ConnAckReasonCode, code))
    async with FakeBroker(answer.write()) as broker:
        with pytest.raises(error, match=code):
            await client(broker).__aenter__()


async def test_nobody_there_is_an_outage():
    async with FakeBroker(CONNACK) as broker:
        pass
    with pytest.raises(OutageError, match="cannot be reached"):
        await client(broker).__aenter__()


async def test_a_broker_that_never_answers_is_an_outage():
    async with FakeBroker(b"") as broker:
        with pytest.raises(OutageError, match="no answer"):
            await client(broker, connect_seconds=0.05).__aenter__()


async def test_a_silent_broker_is_noticed():
    async with FakeBroker(CONNACK) as broker, client(broker, keepalive_seconds=1) as mqtt:
        with pytest.raises(OutageError, match="has said nothing"):
            await asyncio.wait_for(mqtt.ended(), 10)


async def test_while_reading_is_paused_silence_means_nothing():
    async with FakeBroker(CONNACK) as broker, client(broker, keepalive_seconds=1) as mqtt:
        mqtt.pause()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(mqtt.ended(), 2.5)
        assert sum(isinstance(packet, mqtt5.PingReqPacket) for packet in broker.packets) >= 3


async def test_a_twin_is_told_from_an_outage():
    taken = mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.SESSION_TAKEN_OVER)
    async with FakeBroker(CONNACK + taken.write()) as broker, client(broker) as mqtt:
        with pytest.raises(TakenOverError, match="SESSION_TAKEN_OVER") as caught:
            await mqtt.ended()
        assert caught.value.reason == 142


@panics
@pytest.mark.parametrize("nonsense", [b"\x00\x00", b"\x32\x06\x00\x02\xff\xfe\x00\x01", CONNACK, b"\x40\x02\x00\x09"])
async def test_nonsense_ends_the_connection_not_the_process(nonsense):
    async with FakeBroker(CONNACK, lambda _: nonsense) as broker, client(broker) as mqtt:
        with pytest.raises(OutageError, match="nonsense"):
            await mqtt.ping()
        with pytest.raises(OutageError, match="nonsense"):
            await mqtt.ended()
        with pytest.raises(OutageError, match="nonsense"):
            await mqtt.publish([("a", b"")])
        mqtt.acknowledge([1])  # nobody to tell


async def test_an_error_of_the_receiver_is_raised():
    def receive(messages):
        raise ZeroDivisionError

    answer = publish().write()
    async with FakeBroker(CONNACK, lambda _: answer) as broker, client(broker, receive=receive) as mqtt:
        with pytest.raises(ZeroDivisionError):
            await mqtt.ping()


async def test_a_subscription_at_another_qos_is_refused():
    def answer(packet):
        return mqtt5.SubAckPacket(packet.packet_id, [mqtt5.SubAckReasonCode.GRANTED_QOS_AT_MOST_ONCE]).write()

    async with FakeBroker(CONNACK, answer) as broker, client(broker) as mqtt:
        with pytest.raises(RefusedError, match="does not grant a/b at QoS 1"):
            await mqtt.subscribe("a/b")


async def test_messages_in_the_same_breath_as_the_connack_are_received():
    received = []
    async with (
        FakeBroker(CONNACK + publish(payload=b"early").write()) as broker,
        client(broker, receive=received.extend),
    ):
        pass
    assert [message.payload for message in received] == [b"early"]


async def test_publish_keeps_to_the_brokers_window_and_counts_what_it_took():
    unanswered = []

    def answer(packet):
        unanswered.append(packet.packet_id)
        if len(unanswered) < 5 and packet.payload != b"last":
            return b""
        ids, unanswered[:] = unanswered[:], []
        refused = mqtt5.PubAckReasonCode.NOT_AUTHORIZED
        packets = [mqtt5.PubAckPacket(ids[0], reason_code=refused), *map(mqtt5.PubAckPacket, ids[1:])]
        return b"".join(packet.write() for packet in packets)

    async with FakeBroker(mqtt5.ConnAckPacket(receive_max=5).write(), answer) as broker, client(broker) as mqtt:
        payloads = [b"x"] * 99 + [b"last"]
        assert await mqtt.publish(("t", payload) for payload in payloads) == 80
        assert (mqtt.acknowledged, mqtt.refused) == (80, 20)


async def test_a_fast_publisher_and_a_subscriber_on_a_real_broker(mqtt, unique):
    host, port, user, password = mqtt
    topic, received, complete = f"test/{unique}", [], asyncio.Event()

    def receive(messages):
        received.extend(messages)
        subscriber.acknowledge([message.packet_id for message in messages])
        if len(received) >= 20_000:
            complete.set()

    options = {"user": user, "password": password, "clean_start": True}
    subscriber = Client(host, port, f"subscriber-{unique}", receive=receive, gather_seconds=0.005, **options)
    publisher = Client(host, port, f"publisher-{unique}", **options)
    async with subscriber, publisher:
        await subscriber.subscribe(topic)
        messages = [(topic, b"%d" % i) for i in range(20_000)]
        halves = [publisher.publish(messages[:10_000]), publisher.publish(messages[10_000:])]
        assert await asyncio.gather(*halves) == [10_000, 10_000]
        await asyncio.wait_for(complete.wait(), 30)
        await subscriber.ping()
        await subscriber.unsubscribe(topic)
        await subscriber.disconnect(end_session=True)
        await subscriber.ended()
    assert sorted(int(message.payload) for message in received) == list(range(20_000))

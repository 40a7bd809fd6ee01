"""The bridge between a real broker and a real Kafka, which come and go."""

import asyncio
import hashlib
import random
import signal
import threading
import time
from collections import Counter, defaultdict

import aiomqtt
import mqtt5
import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from pipeline import packs
from pipeline.mqtt import OutageError
from tests.pipeline.bridge_run import Run
from tests.pipeline.bridge_servers import OwnServers
from tests.pipeline.mqtt_broker import FakeBroker

MEMORY_BYTES = 128 << 20


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    own = OwnServers(tmp_path_factory.mktemp("servers"))
    try:
        own.start()
        yield own
    finally:
        own.end()


@pytest.fixture
def run(servers, unique, tmp_path):
    servers.start()
    run = Run(servers, unique, tmp_path)
    run.create_topics()
    yield run
    servers.start()
    run.end()


def test_every_message_comes_once_in_its_devices_partition_and_order(run):
    run.bridge(bridge_ordinal=3).ready()
    messages = run.messages(5_000, devices=50)
    assert run.publish(messages) == 5_000
    assert run.wait_for(5_000) == list(range(5_000))
    by_device = defaultdict(list)
    for partition, message in run.stored():
        assert partition == packs.partition_of(message.topic.split("/")[3], 3)
        assert message.extra is None
        by_device[message.topic].append(message)
    for stored in by_device.values():
        assert [int(message.payload) for message in stored] == sorted(int(m.payload) for m in stored)
        assert [m.received_us for m in stored] == sorted(m.received_us for m in stored)
    times = [message.received_us for _, message in run.stored()]
    assert len(set(times)) == 5_000
    assert {received_us % 8 for received_us in times} == {3}
    assert all(abs(received_us / 1e6 - time.time()) < 60 for received_us in times)


def test_two_bridges_share_the_messages(run):
    bridges = [run.bridge(bridge_ordinal=ordinal).ready() for ordinal in (0, 1)]
    assert run.publish(run.messages(5_000)) == 5_000
    assert run.wait_for(5_000) == list(range(5_000))
    assert all(bridge.metric("messages_received_total") > 1_000 for bridge in bridges)
    assert len({message.received_us for _, message in run.stored()}) == 5_000


def test_payloads_travel_untouched_whatever_the_topic_and_qos(run):
    bridge = run.bridge().ready()
    odd = {
        f"brigade/v1/seoul/{run.device()}/readings": b"",
        f"brigade/v1/{run.unique}": b"\xff\x00 not json",
        f"brigade/v1/seoul/{run.device()}/readings/deeper": b"1",
        f"brigade/v1///{run.unique}": b"2",
        f"brigade/v1/seoul/kühl-{run.unique}/readings": b"3",
        f"brigade/v1/{'long' * 1000}/{run.unique}/readings": b"4",
    }

    async def publish():
        account = run.servers.account
        client = aiomqtt.Client(
            "127.0.0.1",
            run.servers.mqtt_port,
            username=account["user"],
            password=account["password"],
            protocol=aiomqtt.ProtocolVersion.V5,
        )
        async with client as mqtt:
            for qos in (0, 1, 2):
                for topic, payload in odd.items():
                    await mqtt.publish(topic, payload, qos=qos)

    asyncio.run(publish())
    bridge.wait(lambda bridge: bridge.metric("messages_acknowledged_total") == 18)
    stored = run.stored()
    assert Counter(message.topic for _, message in stored) == dict.fromkeys(odd, 3)
    for partition, message in stored:
        assert message.payload == odd[message.topic]
        assert partition == packs.partition_of(packs.partition_key(message.topic), 3)
    assert bridge.metric("messages_in_flight") == 0
    assert bridge.metric("held_bytes") == 0


def test_retained_status_comes_through_ordinal_0_alone(run):
    topic = f"brigade/v1/seoul/{run.device()}/status"
    run.publish([(topic, b"online")], retain=True)
    run.bridge(bridge_ordinal=1).ready().terminate()
    assert run.stored() == []
    bridge = run.bridge(bridge_ordinal=0).ready()
    bridge.wait(lambda bridge: bridge.metric("messages_acknowledged_total") == 1)
    assert [(message.topic, message.payload) for _, message in run.stored()] == [(topic, b"online")]
    run.publish([(topic, b"")], retain=True)


@pytest.mark.parametrize("retain", [False, True])
def test_a_status_published_now_comes_once(run, retain):
    bridge = run.bridge(bridge_ordinal=0).ready()
    topic = f"brigade/v1/seoul/{run.device()}/status"
    run.publish([(topic, b"online")], retain=retain)
    run.publish(run.messages(10))
    bridge.wait(lambda bridge: bridge.metric("messages_acknowledged_total") == 11)
    assert [message.payload for _, message in run.stored() if message.topic == topic] == [b"online"]
    run.publish([(topic, b"")], retain=True)


def test_a_payload_over_256_kb_is_cut_and_marked(run):
    bridge = run.bridge().ready()
    payload = bytes(range(256)) * 1_200  # 300 kB
    fits = b"y" * (256 << 10)
    topic = f"brigade/v1/seoul/{run.device()}/readings"
    assert run.publish([(topic, b"before"), (topic, payload), (topic, fits), (topic, b"behind")]) == 4
    bridge.wait(lambda bridge: bridge.metric("messages_acknowledged_total") == 4)
    before, cut, whole, behind = [message for _, message in run.stored()]
    assert (before.payload, behind.payload) == (b"before", b"behind")
    assert (whole.payload, whole.extra) == (fits, None)
    assert cut.payload == payload[: 64 << 10]
    assert cut.extra == {"size": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
    assert bridge.metric("messages_oversized_total") == 1


def test_the_broker_refuses_packets_over_1_mb_and_the_others_pass(run):
    bridge = run.bridge().ready()
    topic = f"brigade/v1/seoul/{run.device()}/readings"
    with pytest.raises(OutageError):
        run.publish([(topic, b"z" * (10 << 20))])
    assert run.publish([(topic, b"0 " + b"z" * 1_040_000), (topic, b"1")]) == 2
    bridge.wait(lambda bridge: bridge.metric("messages_acknowledged_total") == 2)
    assert run.numbers() == [0, 1]


def test_nothing_is_acknowledged_that_kafka_does_not_have(run):
    bridge = run.bridge().ready()
    run.servers.kafka.end()
    run.publish(run.messages(300))
    bridge.wait(lambda bridge: bridge.metric("messages_received_total") == 300)
    assert bridge.metric("messages_acknowledged_total") == 0
    bridge.kill()
    run.servers.kafka.start()
    run.bridge().ready()
    assert run.wait_for(300) == list(range(300))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_kafka_away_is_waited_out_and_nothing_comes_twice(run, number):
    bridge = run.bridge(bridge_receive_maximum=500).ready()
    run.publish(run.messages(100))
    run.servers.kafka.end(number)
    run.publish(run.messages(1_400, begin=100))
    bridge.wait(lambda bridge: bridge.metric("kafka_up") == 0)
    assert not bridge.is_ready()
    bridge.wait(lambda bridge: bridge.metric("messages_in_flight") == 500)  # no more than the receive maximum
    cpu, began = sum(bridge.psutil.cpu_times()[:2]), time.monotonic()
    time.sleep(8)  # a quiet wait is what is tested
    assert sum(bridge.psutil.cpu_times()[:2]) - cpu < 0.1 * (time.monotonic() - began)
    run.servers.kafka.start()
    assert run.wait_for(1_500) == list(range(1_500))
    bridge.wait(lambda bridge: bridge.metric("messages_acknowledged_total") == 1_500)
    bridge.wait(lambda bridge: bridge.is_ready())
    assert bridge.events() == ["started", "session_begun", "subscribed", "kafka_away", "kafka_back"]
    assert bridge.metric("kafka_outages_total") == 1


@pytest.mark.slow
def test_memory_is_bounded_while_kafka_is_away(run):
    bridge = run.bridge().ready()
    run.servers.kafka.end()
    assert run.publish(run.messages(500, size=200 << 10)) == 500  # 100 MB
    bridge.wait(lambda bridge: bridge.metric("reading_paused") == 1)
    with Peak(bridge.psutil) as most:
        run.servers.kafka.start()
        run.wait_for(500)
        bridge.wait(lambda bridge: bridge.metric("held_bytes") == 0)
        assert bridge.metric("reading_paused") == 0
    assert most.rss < MEMORY_BYTES


class Peak:
    """The most memory a process had, in bytes."""

    def __init__(self, process):
        self._process, self.rss, self._done = process, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()

    def _watch(self):
        while not self._done.wait(0.02):
            self.rss = max(self.rss, self._process.memory_info().rss)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_restarted_broker_is_found_again_and_nothing_it_accepted_is_lost(run, number):
    bridge = run.bridge().ready()
    run.servers.kafka.send(signal.SIGSTOP)  # so that messages are in flight when the broker goes
    run.publish(run.messages(200))
    bridge.wait(lambda bridge: bridge.metric("messages_in_flight") == 200)
    run.servers.mosquitto.end(number)
    bridge.wait(lambda bridge: bridge.metric("broker_up") == 0)
    run.servers.kafka.send(signal.SIGCONT)
    run.servers.mosquitto.start()
    bridge.wait(lambda bridge: bridge.metric("broker_up") == 1)
    run.publish(run.messages(200, begin=200))
    assert set(run.wait_for(400)) == set(range(400))  # some twice: their acknowledgement was lost with the connection
    bridge.wait(lambda bridge: bridge.metric("messages_in_flight") == 0)
    assert bridge.metric("messages_received_total") == 600
    assert [event for event in bridge.events() if "kafka" not in event] == [
        *("started", "session_begun", "subscribed"),
        *("broker_away", "subscribed"),
    ]
    assert bridge.metric("sessions_lost_total") == 0


def test_sigterm_under_load_leaves_the_session_and_loses_nothing(run):
    bridge = run.bridge().ready()
    with Publishing(run) as publishing:
        bridge.wait(lambda bridge: bridge.metric("messages_received_total") > 1_000)
        code, seconds = bridge.terminate()
    assert (code, seconds < 5) == (0, True)
    assert bridge.events()[-1] == "stopped"
    assert len(run.numbers()) < publishing.count
    run.bridge().ready()
    # what Kafka had was acknowledged: nothing twice
    assert run.wait_for(publishing.count) == list(range(publishing.count))


class Publishing:
    """From a thread, 5,000 messages after 5,000, and 5,000 more at the end: there are always some on their way."""

    def __init__(self, run):
        self.count, self._run, self._done = 0, run, threading.Event()
        self._thread = threading.Thread(target=self._publish)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()

    def _publish(self):
        last = False
        while not last:
            last = self._done.is_set()
            self.count += self._run.publish(self._run.messages(5_000, begin=self.count))


def test_sigterm_while_kafka_is_away_takes_less_than_5_seconds(run):
    bridge = run.bridge().ready()
    run.servers.kafka.end()
    run.publish(run.messages(100))
    bridge.wait(lambda bridge: bridge.metric("messages_received_total") == 100)
    code, seconds = bridge.terminate()
    assert (code, seconds < 5) == (0, True)
    assert bridge.events()[-2:] == ["stopped_without_kafka", "stopped"]
    run.servers.kafka.start()
    run.bridge().ready()
    assert run.wait_for(100) == list(range(100))


def test_sigterm_before_either_server_is_there_is_obeyed(run):
    run.servers.kafka.end()
    bridge = run.bridge()
    bridge.wait(lambda bridge: "kafka_away" in bridge.events())
    code, seconds = bridge.terminate()
    assert (code, seconds < 5) == (0, True)


def test_leave_forwards_what_the_session_holds_and_ends_it(run):
    run.bridge(bridge_ordinal=1).ready().terminate()
    run.publish(run.messages(15_000))  # more than the receive maximum: they wait in the session
    leaving = run.bridge("--leave", bridge_ordinal=1)
    assert leaving.exit_code() == 0
    assert leaving.events() == ["started", "left"]
    assert run.numbers() == list(range(15_000))

    async def session_present():
        async with run.client("bridge") as mqtt:
            return mqtt.session_present

    run.unique, unique = f"{run.unique}-1", run.unique  # the client id of ordinal 1
    assert not asyncio.run(session_present())
    run.unique = unique
    assert run.bridge("--leave", bridge_ordinal=1).exit_code() == 0  # nothing to leave: nothing to do


def test_a_forgotten_session_is_an_error_where_one_must_have_been(run):
    bridge = run.bridge().ready()
    assert bridge.events() == ["started", "session_begun", "subscribed"]
    run.publish(run.messages(1))
    run.wait_for(1)
    bridge.terminate()

    async def forget():
        async with run.client("bridge", clean_start=True) as mqtt:
            await mqtt.disconnect(end_session=True)

    run.unique, unique = f"{run.unique}-0", run.unique
    asyncio.run(forget())
    run.unique = unique
    bridge = run.bridge().ready()
    assert bridge.events() == ["started", "session_lost", "subscribed"]
    assert bridge.metric("sessions_lost_total") == 1


def test_a_twin_ends_the_first_with_a_clear_error(run):
    first = run.bridge().ready()
    run.bridge().ready()
    assert first.exit_code() == 1
    assert "SESSION_TAKEN_OVER" in first.said()
    assert "Traceback" not in first.said()


async def test_wrong_credentials_are_told_with_what_to_check(run):
    refusal = mqtt5.ConnAckPacket(reason_code=mqtt5.ConnAckReasonCode.NOT_AUTHORIZED)
    async with FakeBroker(refusal.write()) as broker:
        bridge = run.bridge(mqtt_port=broker.port)
        assert await asyncio.to_thread(bridge.exit_code) == 1
    assert "BRIGADE_MQTT_PASSWORD" in bridge.said()


def test_records_that_kafka_refuses_for_good_end_the_bridge_unacknowledged(run):
    limit(run, 500)
    bridge = run.bridge().ready()
    run.publish([(topic, payload + random.randbytes(1_000)) for topic, payload in run.messages(20)])
    assert bridge.exit_code() == 1
    assert bridge.events()[-1] == "bridge_failed"
    assert "MSG_SIZE_TOO_LARGE" in bridge.said()
    limit(run, 2 << 20)
    run.bridge().ready()
    assert run.wait_for(20) == list(range(20))


def limit(run, size):
    admin = AdminClient({"bootstrap.servers": run.servers.kafka_address, "log_level": 0})
    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, run.topic, incremental_configs=[entry])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result()


def test_another_number_of_partitions_is_refused(run):
    bridge = run.bridge(partitions=4)
    assert bridge.exit_code() == 1
    assert "has 3 partitions, BRIGADE_PARTITIONS says 4" in bridge.said()


def test_a_missing_topic_is_named_with_what_to_do(run):
    bridge = run.bridge(topic_prefix="missing-")
    assert bridge.exit_code() == 1
    assert "topic missing-readings.raw does not exist: `brigade topics create`" in bridge.said()

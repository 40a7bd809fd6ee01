"""The bench's own parts: what it sends is what devices send, and it counts right."""

import os
import time
from pathlib import Path

import mqtt5
import pytest

from deploy.bench import load, observed, probes, queries
from deploy.bench.chain import Run
from deploy.bench.measure import Snapshot, outer_pids
from pipeline import packs
from pipeline.packs import Message
from pipeline.readings import US, Limits, Reading, decode

LIMITS = Limits(future_us=300 * US, past_us=30 * 86_400 * US, metrics=64)


class Written(load.Connection):
    """A connection that keeps what would have been sent."""

    def __init__(self) -> None:
        super().__init__("test")
        self.data = b""

    def write(self, data: bytes, count: int) -> None:
        self.sent += count
        self.data += data


def packets(data: bytes) -> list[mqtt5.PublishPacket]:
    found, view = [], memoryview(mqtt311_as_5(data))
    while view:
        packet, size = mqtt5.read(view)
        found.append(packet)
        view = view[size:]
    return found


def mqtt311_as_5(data: bytes) -> bytes:
    """PUBLISH packets of 3.1.1, short ones, with the empty properties of 5."""
    out, at = b"", 0
    while at < len(data):
        length, size = data[at + 1] & 127 | data[at + 2] << 7, 2
        begin = at + 1 + size
        body = data[begin : begin + length]
        head = 2 + int.from_bytes(body[:2], "big") + 2
        body = body[:head] + b"\x00" + body[head:]
        out += bytes((data[at], len(body) & 127 | 128, len(body) >> 7)) + body
        at = begin + length
    return out


def test_what_is_published_are_readings_and_no_two_of_a_device_bear_one_ts() -> None:
    connection = Written()
    devices = load.Devices(connection, "bench", range(7))
    for count in (7, 20, 3, 1):
        devices.send(count)
    sent = packets(connection.data)
    assert len(sent) == connection.sent == 31
    assert len({packet.packet_id for packet in sent}) == 31
    seen = set()
    for packet in sent:
        (reading,) = decode(Message(packet.topic, time.time_ns() // 1000, packet.payload), LIMITS)
        assert isinstance(reading, Reading)
        assert list(reading.values) == ["temperature_c", "humidity_pct", "door_open"]
        seen.add((packet.topic, reading.ts_us))
    assert len(seen) == 31


def test_answers_are_counted_whole_however_they_arrive() -> None:
    connection = load.Connection("test")
    for part in (b"\x20\x02", b"\x00\x00\x40\x02\x00", b"\x01\x40\x02\x00\x02", b"\x40\x02\x00\x03"):
        connection.data_received(part)
    assert connection.connected.is_set()
    assert connection.acknowledged == 3


def test_a_refused_connection_is_told() -> None:
    with pytest.raises(ConnectionError, match="refuses"):
        load.Connection("test").data_received(b"\x20\x02\x00\x05")


def test_a_probe_in_every_partition() -> None:
    partitions = [packs.partition_of(name, probes.PARTITIONS) for name in probes.names("bench")]
    assert sorted(partitions) == list(range(probes.PARTITIONS))


@pytest.mark.parametrize(("q", "value"), [(0.5, 50), (0.99, 99), (1, 100), (0, 1)])
def test_quantile_is_the_value_that_a_share_does_not_exceed(q: float, value: float) -> None:
    assert probes.quantile([float(i) for i in range(100, 0, -1)], q) == value


def test_cpu_of_a_process_grows_with_its_work() -> None:
    before = Snapshot.take()
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    after = Snapshot.take()
    me = {os.getpid()}
    assert 0.05 < after.seconds(me) - before.seconds(me) < 2
    assert after.family(os.getpid()) >= me
    assert os.getpid() in outer_pids(me).values()


def test_plans_are_read_out_of_the_servers_log(tmp_path: Path) -> None:
    log = tmp_path / "postgres.log"
    log.write_text(
        "before\n2026 [7] a@b LOG:  duration: 1.5 ms  plan:\n"
        '\t{\n\t  "Query Text": "SELECT 1",\n\t  "Plan": {"Node Type": "Result"}\n\t}\n2026 [7] LOG:  else\n'
        '2026 [7] a@b LOG:  duration: 2 ms  plan:\n\t{"Query Text": "SELECT 2"}\n'
    )
    assert [plan["Query Text"] for plan in queries.logged(log, 7)] == ["SELECT 1", "SELECT 2"]


def test_traced_messages_bear_a_trace_each_and_are_their_share() -> None:
    plain, traced = Written(), Written()
    groups = [load.Devices(plain, "bench", range(7))]
    sending = load.Load(groups, load.TracedDevices(traced, "bench", range(7, 9)), 0.1)
    for _ in range(10):
        sending.send(35)
    assert (plain.sent, traced.sent) == (315, 35)
    found, view = [], memoryview(traced.data)
    while view:
        packet, size = mqtt5.read(view)
        found.append(packet)
        view = view[size:]
    parents = [dict(packet.user_properties)["traceparent"] for packet in found]
    assert len(set(parents)) == len(found) == 35
    assert all(len(parent) == 55 and parent.endswith("-01") for parent in parents)


def test_the_cost_is_the_difference_of_the_means() -> None:
    off, on = ([run(1.0), run(3.0)], [run(2.0), run(4.0)])
    found = observed.cost(10, off, on, traced=0.01)
    assert (found.off["bridge"], found.on["bridge"], found.ours, found.whole) == (2.0, 3.0, (2.0, 3.0), (2.0, 3.0))
    assert "+50.0%" in observed.table(found)


def run(bridge: float) -> Run:
    latency = probes.Latency(1, 0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    return Run(
        rate=10, seconds=1, sent=10, acknowledged=10, received=10, stored=10, rows=30, behind_seconds=0,
        late_seconds=0, drain_seconds=0, latency=latency, cpu={"bridge": bridge, "publisher": 9.0}, closed=0, busy=0,
        others=0,
    )  # fmt: skip

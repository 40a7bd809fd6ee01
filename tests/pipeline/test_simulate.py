"""The simulator: things behave, messages mean what their ledger says, and no outcome is told wrong."""

import asyncio
import contextlib
import itertools
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, Self

import aiomqtt
import mqtt5
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from pipeline.packs import Message
from pipeline.readings import InvalidReadingError, Limits, Reading, Refusal, decode, parse_topic
from pipeline.simulate import app
from pipeline.simulate.command import Plan, run, sensors
from pipeline.simulate.connection import Broker
from pipeline.simulate.ledger import LedgerFile
from pipeline.simulate.messages import (
    MALFORMED,
    NO_FAULTS,
    STAMPS,
    US,
    Faults,
    Kind,
    Malformed,
    Outcome,
    Publish,
    array_of,
)
from pipeline.simulate.restaurant import KINDS, Hours, Values
from tests.conftest import Mqtt

NIGHT = 1_795_046_400.0  # 2026-11-19, midnight UTC
NOW_US = int(NIGHT) * US + 123_456
LIMITS = Limits(future_us=300 * US, past_us=30 * 86_400 * US, metrics=64)


# Things ----------------------------------------------------------------------------------------------------


def day_of(kind: str, seed: int, every: float = 30, hours: float = 24) -> list[Values]:
    thing = KINDS[kind](Random(seed), Hours())
    return [thing.step(NIGHT + i * every) for i in range(int(hours * 3600 / every))]


RANGES = {
    "fridge": {"temperature_c": (0, 20), "humidity_pct": (20, 100)},
    "freezer": {"temperature_c": (-30, 0), "power_w": (0, 500)},
    "oven": {"temperature_c": (15, 275), "setpoint_c": (0, 250)},
    "door": {"openings_count": (0, 2000)},
    "table": {"guests_count": (0, 8)},
    "room": {"temperature_c": (15, 30), "humidity_pct": (20, 80), "co2_ppm": (350, 1500)},
}


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 2**32), every=st.sampled_from([0.1, 1.0, 30.0, 600.0, 90_000.0]))
def test_a_thing_stays_in_its_range_and_a_seed_is_the_same_thing(kind: str, seed: int, every: float) -> None:
    steps = day_of(kind, seed, every, every * 60 / 3600)
    assert steps == day_of(kind, seed, every, every * 60 / 3600)
    for values in steps:
        for name, (low, high) in RANGES[kind].items():
            assert low <= values[name] <= high


def test_a_fridge_cycles_and_an_open_door_warms_it() -> None:
    steps = day_of("fridge", 1)
    temperatures = [float(values["temperature_c"]) for values in steps]
    swings = [b - a for a, b in pairwise(temperatures[::20])]
    turns = sum((a < 0) != (b < 0) for a, b in pairwise(swings))
    assert turns > 20
    assert any(values["door_open"] for values in steps)
    assert sum(temperatures) / len(temperatures) == pytest.approx(4, abs=1.5)


def test_a_freezer_defrosts_and_is_cold_again() -> None:
    steps = day_of("freezer", 1, hours=36)
    defrosting = [float(values["temperature_c"]) for values in steps if values["defrost_active"]]
    assert 0 < len(defrosting) < len(steps) / 5
    assert max(defrosting) > -16
    assert float(steps[-1]["temperature_c"]) < -14


def test_an_oven_is_hot_in_service_and_cold_at_night() -> None:
    temperatures = [float(values["temperature_c"]) for values in day_of("oven", 1)]
    assert max(temperatures) > 140
    assert max(temperatures[: 4 * 120]) < 30


def test_guests_come_when_it_is_open() -> None:
    guests = [int(values["guests_count"]) for values in day_of("table", 1)]
    assert max(guests[: 9 * 120]) == 0
    assert max(guests) > 0


# Messages --------------------------------------------------------------------------------------------------


def made(plan: Plan, messages: int = 300) -> list[Publish]:
    step = round(plan.every * US)
    return [
        p for sensor, _ in sensors(plan, Hours()) for i in range(messages) for p in sensor.measure(NOW_US + i * step)
    ]


@pytest.mark.parametrize("malformed", MALFORMED, ids=lambda m: f"{m.reason}-{MALFORMED.index(m)}")
def test_a_malformed_message_has_its_reason(malformed: Malformed) -> None:
    for seed in range(20):
        fields = {"ts": NOW_US // US, "seq": 7, "temperature_c": 3.4, "door_open": False}
        payload = malformed.make(fields, Random(seed))
        assert reason_of(f"brigade/v1/s/d/{malformed.suffix}", payload) == malformed.reason


def reason_of(topic: str, payload: bytes) -> str:
    try:
        parse_topic(topic)
    except InvalidReadingError as error:
        return error.reason
    extra = {"sha256": "", "size": len(payload)} if len(payload) > 256_000 else None
    (refusal,) = decode(Message(topic, NOW_US, payload, extra), LIMITS)
    assert isinstance(refusal, Refusal)
    return refusal.reason


def test_a_message_means_what_its_ledger_line_says() -> None:
    plan = Plan(devices=60, every=2.5, faults=Faults(malformed=0.02, duplicates=0.05, late=0.05))
    kinds = Counter[str]()
    for publish in made(plan):
        kinds[publish.kind] += 1
        if publish.kind is Kind.MALFORMED:
            assert publish.readings == []
            continue
        results = list(decode(Message(publish.topic, NOW_US + 600 * US, publish.payload), LIMITS))
        good = [(r.ts_us, dict(r.values)) for r in results if isinstance(r, Reading)]
        assert good == [(ts_us, {name: float(v) for name, v in values.items()}) for ts_us, values in publish.readings]
        assert tuple(r.raw for r in results if isinstance(r, Refusal)) == publish.refused
    assert set(kinds) == set(Kind)


@given(st.integers(1_600_000_000 * US, 2_500_000_000 * US), st.sampled_from(STAMPS))
def test_a_time_is_read_as_it_was_written(ts_us: int, stamp: Any) -> None:
    ts_us = ts_us // stamp.resolution_us * stamp.resolution_us
    payload = orjson.dumps({"ts": stamp.write(ts_us), "a": 1})
    (result,) = decode(Message("brigade/v1/s/d/readings", ts_us, payload), LIMITS)
    assert isinstance(result, Reading)
    assert result.ts_us == ts_us


@pytest.mark.parametrize("every", [0.001, 0.1, 5.0])
def test_no_two_readings_of_a_device_have_one_time(every: float) -> None:
    keys = [
        (publish.device, ts_us)
        for publish in made(Plan(devices=30, every=every, faults=Faults(malformed=0, duplicates=0, late=0.1)))
        for ts_us, _ in publish.readings
    ]
    assert len(keys) == len(set(keys))


def test_a_duplicate_is_the_message_before_it_again() -> None:
    sent = made(Plan(devices=10, faults=Faults(malformed=0, duplicates=0.2, late=0)))
    pairs = [(a, b) for a, b in itertools.pairwise(sent) if b.kind is Kind.DUPLICATE]
    assert len(pairs) > 100
    assert all(a.payload == b.payload and a.readings == b.readings for a, b in pairs)


def test_the_same_seed_sends_the_same_and_another_something_else() -> None:
    first, second, other = (made(Plan(seed=seed), 50) for seed in (1, 1, 2))
    assert [p.payload for p in first] == [p.payload for p in second]
    assert [p.payload for p in first] != [p.payload for p in other]


def test_without_faults_every_message_is_a_reading_of_now() -> None:
    plan = Plan(devices=30, faults=NO_FAULTS)
    for publish in made(plan, 20):
        ((ts_us, _),) = publish.readings
        assert (publish.kind, abs(ts_us - NOW_US) < 101 * US) == (Kind.READING, True)


def test_an_array_holds_what_waited() -> None:
    waited = made(Plan(devices=1, faults=NO_FAULTS), 30)
    together = array_of(waited)
    results = list(decode(Message(together.topic, NOW_US + 200 * US, together.payload), LIMITS))
    assert [r.ts_us for r in results if isinstance(r, Reading)] == [ts for p in waited for ts, _ in p.readings]


def test_devices_are_named_by_their_site() -> None:
    names = [sensor.device for sensor, _ in sensors(Plan(sites=("a", "b"), devices=40), Hours())]
    assert len(set(names)) == 40
    assert {"a.fridge-1", "b.fridge-1", "a.table-8"} <= set(names)


# On a broker -----------------------------------------------------------------------------------------------


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110, any effect can be waited for
            await asyncio.sleep(0.01)


def address(mqtt: Mqtt) -> Broker:
    return Broker(host=mqtt.host, port=mqtt.port, user=mqtt.user, password=mqtt.password)


class Proxy:
    """Between the simulator and the broker: can go away, and can keep the broker's answers to itself."""

    def __init__(self, broker: Mqtt) -> None:
        self._broker = broker
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.silent = False

    @property
    def address(self) -> Broker:
        return replace(address(self._broker), port=self.port)

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def go_away(self) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_broker, to_broker = await asyncio.open_connection(self._broker.host, self._broker.port)
        self._writers |= {writer, to_broker}
        for part in (self._pipe(reader, to_broker, up=True), self._pipe(from_broker, writer, up=False)):
            self._tasks.add(asyncio.create_task(part))

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if up or not self.silent:
                    writer.write(data)
        writer.close()


@pytest.fixture
async def proxy(mqtt: Mqtt) -> AsyncIterator[Proxy]:
    proxy = Proxy(mqtt)
    await proxy.listen()
    yield proxy
    await proxy.go_away()


class Heard:
    """Every message of a site, by a subscriber of its own."""

    def __init__(self, mqtt: Mqtt, site: str) -> None:
        self._mqtt, self._site = mqtt, site
        self.messages = Counter[tuple[str, bytes]]()
        self.statuses: dict[str, list[bytes]] = {}

    async def __aenter__(self) -> Self:
        host, port, user, password = self._mqtt
        self._client = aiomqtt.Client(host, port, username=user, password=password, protocol=aiomqtt.ProtocolVersion.V5)
        await self._client.__aenter__()
        await self._client.subscribe(f"brigade/v1/{self._site}/#", qos=1)
        self._task = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._client.__aexit__(None, None, None)

    async def _listen(self) -> None:
        async for message in self._client.messages:
            topic, payload = str(message.topic), bytes(message.payload or b"")
            if topic.endswith("/status"):
                self.statuses.setdefault(topic.split("/")[3], []).append(payload)
            else:
                self.messages[topic, payload] += 1

    def all_offline(self) -> bool:
        return {statuses[-1] for statuses in self.statuses.values()} == {b"offline"}

    async def until(self, wanted: Counter[tuple[str, bytes]]) -> None:
        await eventually(lambda: not wanted - self.messages)


def sent_by(settled: list[Publish], outcome: Outcome) -> Counter[tuple[str, bytes]]:
    return Counter((p.topic, p.payload) for p in settled if p.outcome is outcome)


def lines(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


async def test_every_acknowledged_publish_was_received(mqtt: Mqtt, unique: str, tmp_path: Path) -> None:
    faults = Faults(malformed=0.1, duplicates=0.1, late=0.1, offline=0.3)
    settled: list[Publish] = []
    plan = Plan(sites=(unique,), devices=20, every=0.02, messages=800, gap=0.1, faults=faults)
    file = tmp_path / "ledger.jsonl"
    async with Heard(mqtt, unique) as heard:
        async with LedgerFile(file) as ledger:
            await run(plan, address(mqtt), lambda p: (ledger.write(p), settled.append(p)))
        await heard.until(sent_by(settled, Outcome.ACKNOWLEDGED))
        await eventually(heard.all_offline)
        assert set(heard.messages) <= {(p.topic, p.payload) for p in settled}
    assert {p.outcome for p in settled} <= {Outcome.ACKNOWLEDGED, Outcome.FAILED}
    assert sum(p.outcome is Outcome.ACKNOWLEDGED for p in settled) > 200
    assert Counter(line["outcome"] for line in lines(file)) == Counter(str(p.outcome) for p in settled)
    assert all(line["acked_us"] >= line["sent_us"] for line in lines(file) if line["outcome"] == "acknowledged")
    assert any(p.kind is Kind.ARRAY and len(p.readings) > 1 for p in settled)
    assert sum(statuses.count(b"online") for statuses in heard.statuses.values()) > 20


async def test_when_the_broker_comes_back_everything_is_sent(proxy: Proxy, mqtt: Mqtt, unique: str) -> None:
    settled: list[Publish] = []
    plan = Plan(sites=(unique,), devices=5, every=0.01, duration=4, faults=NO_FAULTS)
    async with Heard(mqtt, unique) as heard:
        living = asyncio.create_task(run(plan, proxy.address, settled.append))
        await eventually(lambda: len(settled) >= 100)
        proxy.silent = True  # the broker has messages whose PUBACK never arrives
        before = heard.messages.total()
        await eventually(lambda: heard.messages.total() >= before + 20)
        await proxy.go_away()
        await asyncio.sleep(0.3)
        proxy.silent = False
        await proxy.listen()
        restaurant = await living
        await heard.until(sent_by(settled, Outcome.ACKNOWLEDGED))
    assert set(sent_by(settled, Outcome.ACKNOWLEDGED)) == {(p.topic, p.payload) for p in settled}
    assert max(heard.messages.values()) == 2, "sent again, the same bytes"
    assert sum(len(p.readings) for p in settled) == restaurant.measured
    assert any(p.kind is Kind.ARRAY for p in settled)


async def test_what_was_acknowledged_just_before_the_connection_broke_is_sent_again_and_settled_once(
    proxy: Proxy, mqtt: Mqtt, unique: str
) -> None:
    """A broker that is killed may have acknowledged what it had not on disk yet."""
    settled: list[Publish] = []
    plan = Plan(sites=(unique,), devices=5, every=0.01, duration=4, faults=NO_FAULTS)
    async with Heard(mqtt, unique) as heard:
        living = asyncio.create_task(run(plan, proxy.address, settled.append))
        await eventually(lambda: len(settled) >= 100)
        await proxy.go_away()
        doubted = {(p.topic, p.payload) for p in settled if p.acked_us and p.acked_us > settled[-1].acked_us - 500_000}
        await proxy.listen()
        await eventually(lambda: all(heard.messages[message] == 2 for message in doubted))
        restaurant = await living
    assert len(doubted) > 20
    assert len({id(publish) for publish in settled}) == len(settled)
    assert restaurant.outcomes[Outcome.ACKNOWLEDGED] == len(settled)


async def test_what_the_broker_never_answered_is_unknown_and_what_never_left_has_failed(
    proxy: Proxy, mqtt: Mqtt, unique: str
) -> None:
    settled: list[Publish] = []
    plan = Plan(sites=(unique,), devices=1, every=0.005, duration=2, goodbye=0.1, faults=NO_FAULTS)
    async with Heard(mqtt, unique) as heard:
        living = asyncio.create_task(run(plan, proxy.address, settled.append))
        await eventually(lambda: len(settled) >= 20)
        proxy.silent = True
        await living
        await heard.until(sent_by(settled, Outcome.UNKNOWN))
    outcomes = Counter(p.outcome for p in settled)
    assert 1 <= outcomes[Outcome.UNKNOWN] <= 20
    assert outcomes[Outcome.FAILED] > 10
    assert all(p.acked_us is None and p.sent_us for p in settled if p.outcome is Outcome.UNKNOWN)
    assert all((p.sent_us, p.error) == (None, "never sent") for p in settled if p.outcome is Outcome.FAILED)


class Refusing:
    """A broker that lets devices in, or does not, and refuses each publish."""

    def __init__(self, connack: mqtt5.ConnAckReasonCode) -> None:
        self._connack = connack

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(mqtt5.ConnAckPacket(reason_code=self._connack).write())
        unread = b""
        while data := await reader.read(4096):
            unread += data
            while unread:
                packet, length = mqtt5.read(memoryview(unread))
                unread = unread[length:]
                if isinstance(packet, mqtt5.PublishPacket) and packet.packet_id:
                    refusal = mqtt5.PubAckReasonCode.NOT_AUTHORIZED
                    writer.write(mqtt5.PubAckPacket(packet.packet_id, reason_code=refusal).write())
        writer.close()


@pytest.mark.parametrize(
    ("connack", "error"),
    [
        (mqtt5.ConnAckReasonCode.SUCCESS, "not_authorized"),
        (mqtt5.ConnAckReasonCode.BAD_USER_NAME_OR_PASSWORD, "never sent"),
    ],
)
async def test_what_the_broker_refused_has_failed(connack: mqtt5.ConnAckReasonCode, error: str) -> None:
    server = await asyncio.start_server(Refusing(connack).serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settled: list[Publish] = []
    plan = Plan(devices=2, every=0.01, messages=20, goodbye=0.5, faults=NO_FAULTS)
    restaurant = await run(plan, Broker(host="127.0.0.1", port=port), settled.append)
    server.close()
    assert {(p.outcome, p.error) for p in settled} == {(Outcome.FAILED, error)}
    if error == "never sent":
        assert restaurant.trouble == "the broker refuses: bad user name or password"


async def test_a_device_that_vanishes_leaves_its_will(proxy: Proxy, mqtt: Mqtt, unique: str) -> None:
    settled: list[Publish] = []
    plan = Plan(sites=(unique,), devices=1, every=0.05, duration=3, goodbye=0, faults=NO_FAULTS)
    async with Heard(mqtt, unique) as heard:
        living = asyncio.create_task(run(plan, proxy.address, settled.append))
        await eventually(lambda: bool(heard.messages))
        await proxy.go_away()
        await eventually(lambda: [b"online", b"offline"] in heard.statuses.values())
        await living


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_with_a_complete_ledger(
    mqtt: Mqtt, unique: str, tmp_path: Path, number: signal.Signals
) -> None:
    file = tmp_path / "ledger.jsonl"
    command = ["--site", unique, "--devices", "5", "--rate", "100", "--ledger", str(file), "--offline", "0"]
    async with Heard(mqtt, unique) as heard:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "pipeline.simulate", *command, "--host", mqtt.host, "--port", str(mqtt.port),
            "--user", mqtt.user, "--password", mqtt.password,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        await eventually(lambda: heard.messages.total() >= 50)
        process.send_signal(number)
        async with asyncio.timeout(60):
            _, errors = await process.communicate()
        assert process.returncode == 0
        assert errors.count(b"\n") == 1, errors
        assert all(line["outcome"] == "acknowledged" for line in lines(file))
        await eventually(lambda: heard.messages.total() >= len(lines(file)))
        await eventually(heard.all_offline)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--devices", "0"],
        ["--devices", "5001"],
        ["--site", "a/b"],
        ["--site", ""],
        ["--rate", "-1"],
        ["--malformed", "1.1"],
        ["--malformed", "0.6", "--late", "0.6"],
        ["--ledger", "/no/such/folder/ledger.jsonl"],
        ["--port", "70000"],
    ],
)
def test_wrong_use_is_told(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, "Traceback" in result.output) == (2, False)


def test_a_broker_that_is_not_there_is_told() -> None:
    result = CliRunner().invoke(app, ["--port", "1", "--duration", "0.5", "--goodbye", "0", "--devices", "2"])
    assert result.exit_code == 1
    assert "No device ever reached the broker at 127.0.0.1:1" in result.output


def test_the_names_are_those_of_the_sensors():
    result = CliRunner().invoke(app, ["--names", "--devices", "30", "--site", "a", "--site", "b", "--port", "1"])
    assert result.exit_code == 0
    assert result.output.split() == [
        sensor.device for sensor, _ in sensors(Plan(sites=("a", "b"), devices=30), Hours())
    ]

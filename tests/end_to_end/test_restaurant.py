"""The whole chain as the people of a restaurant see it: MQTT in, HTTP out, the command beside it."""

import json
import socket
import time
import urllib.request
from datetime import UTC, datetime, timedelta

import aiomqtt
import httpx
import psycopg
import pytest

from deploy.local.layout import OWNER, Passwords
from deploy.local.ready import wait_until
from pipeline.directory import REFUSALS_KEPT_SECONDS
from tests.end_to_end.load import eventually

SECONDS = 60
"""For what will come; what must come soon says how soon."""
PORTS = ("bridge-0", "worker-1", "worker-2", "lag", "maintain", "users-metrics", "gateway-metrics")


@pytest.fixture
def api(stack, unique):
    """The owner's, of the two sites that a test may use."""
    with httpx.Client(base_url=f"http://127.0.0.1:{stack.ports['gateway']}", timeout=SECONDS) as client:
        log_in(client, stack)
        for site in (f"site-{unique}", f"new-{unique}"):
            client.post("/api/v1/sites", json={"site": site, "name": site, "time_zone": "UTC"}).raise_for_status()
        log_in(client, stack)  # a token names the sites it is for
        yield client


def log_in(client: httpx.Client, stack) -> None:
    who = {"email": OWNER, "password": Passwords.of(stack.instance).owner}
    got = client.post("/api/v1/auth/login", json=who).raise_for_status().json()
    client.headers["Authorization"] = f"Bearer {got['access_token']}"


class Sensor:
    def __init__(self, stack, unique: str, *, site: str = "") -> None:
        self.broker = {"hostname": "127.0.0.1", "port": stack.ports["mqtt"], **stack.mqtt_login}
        self.site, self.device = site or f"site-{unique}", f"fridge-{unique}"

    def topic(self, kind: str) -> str:
        return f"brigade/v1/{self.site}/{self.device}/{kind}"

    async def send(self, *payloads: dict | list | bytes, kind: str = "readings", retain: bool = False) -> None:
        async with aiomqtt.Client(**self.broker) as client:
            for payload in payloads:
                raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
                await client.publish(self.topic(kind), raw, qos=1, retain=retain)


@pytest.fixture
def sensor(stack, unique) -> Sensor:
    return Sensor(stack, unique)


def iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def answer(api: httpx.Client, path: str, **query: str) -> dict:
    got = api.get(f"/api/v1{path}", params=query)
    return got.json() if got.status_code == 200 else {}


async def test_a_reading_is_seen_through_the_api_within_seconds(sensor, api):
    now = datetime.now(UTC).replace(microsecond=123_000)
    await sensor.send({"ts": iso(now), "seq": 7, "temperature_c": 3.4, "door_open": False})
    sent = time.monotonic()
    eventually(
        lambda: bool(answer(api, f"/devices/{sensor.device}/latest").get("values")), SECONDS, "the reading in the API"
    )
    assert time.monotonic() - sent < 5
    values = {value["metric"]: value for value in answer(api, f"/devices/{sensor.device}/latest")["values"]}
    assert (values["temperature_c"]["value"], values["temperature_c"]["unit"]) == (3.4, "°C")
    assert (values["door_open"]["value"], values["door_open"]["seq"]) == (0.0, 7)
    assert datetime.fromisoformat(values["door_open"]["ts"]) == now
    (known,) = [d for d in answer(api, "/devices", site=sensor.site)["devices"] if d["name"] == sensor.device]
    assert known["online"]


async def test_what_a_device_kept_while_it_was_offline_arrives_as_an_array(sensor, api):
    begin = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=3)
    kept = [{"ts": iso(begin + timedelta(seconds=i)), "seq": i, "temperature_c": i / 10} for i in range(100)]
    await sensor.send(kept, kept)
    eventually(lambda: totals(api, sensor).get("received") == 200, SECONDS, "both arrays in the ledger")
    assert {name: totals(api, sensor)[name] for name in ("stored", "duplicate", "refused", "points")} == {
        "stored": 100,
        "duplicate": 100,
        "refused": 0,
        "points": 100,
    }


def totals(api: httpx.Client, sensor: Sensor) -> dict:
    return answer(api, f"/devices/{sensor.device}/ledger").get("totals", {})


async def test_a_device_that_vanishes_is_shown_offline_by_its_last_will(sensor, api):
    will = aiomqtt.Will(sensor.topic("status"), b"offline", qos=1, retain=True)
    client = aiomqtt.Client(**sensor.broker, will=will)
    await client.__aenter__()
    await client.publish(sensor.topic("status"), b"online", qos=1, retain=True)
    await client.publish(sensor.topic("readings"), b'{"temperature_c": 3.4}', qos=1)
    eventually(lambda: online(api, sensor) is True, SECONDS, "online")
    client._client.socket().shutdown(socket.SHUT_RDWR)  # as when the power fails
    eventually(lambda: online(api, sensor) is False, SECONDS, "offline")
    await sensor.send({"temperature_c": 3.5})
    eventually(lambda: online(api, sensor) is True, SECONDS, "a reading after the will shows it online")


def online(api: httpx.Client, sensor: Sensor) -> bool | None:
    return answer(api, f"/devices/{sensor.device}").get("online")


async def test_a_malformed_message_is_shown_with_its_bytes_and_its_reason(sensor, api):
    await sensor.send(b'{"temperature_c": "warm"}', {"temperature_c": 3.4})
    eventually(lambda: bool(letters(api, sensor)), SECONDS, "the dead letter")
    (letter,) = letters(api, sensor)
    assert (letter["reason"], letter["mqtt_topic"]) == ("value_not_a_number", sensor.topic("readings"))
    assert answer(api, f"/dead-letters/{letter['id']}")["payload_text"] == '{"temperature_c": "warm"}'
    eventually(lambda: totals(api, sensor).get("received") == 2, SECONDS, "the good one beside it")
    assert (totals(api, sensor)["stored"], totals(api, sensor)["refused"]) == (1, 1)


def letters(api: httpx.Client, sensor: Sensor, **query: str) -> list[dict]:
    return answer(api, "/dead-letters", device=sensor.device, **query).get("dead_letters", [])


async def test_a_moved_device_s_dead_letters_are_replayed_over_http(stack, sensor, api, brigade, unique):
    await sensor.send({"temperature_c": 3.4})
    eventually(lambda: totals(api, sensor).get("stored") == 1, SECONDS, "the first reading")
    moved = Sensor(stack, unique, site=f"new-{unique}")
    await moved.send({"ts": iso(datetime.now(UTC)), "temperature_c": 4.5})
    eventually(lambda: bool(letters(api, sensor, reason="wrong_site")), SECONDS, "refused for its site")
    (letter,) = letters(api, sensor, reason="wrong_site")

    done = brigade("devices", "move", moved.device, moved.site)
    assert done.returncode == 0, done.stdout + done.stderr
    eventually(lambda: replayed(api, letter["id"]), REFUSALS_KEPT_SECONDS + SECONDS, "the replay is stored")
    assert answer(api, f"/dead-letters/{letter['id']}")["outcome"] == "stored"
    assert api.post(f"/api/v1/dead-letters/{letter['id']}/replay").status_code == 409
    counted = totals(api, sensor)
    assert (counted["received"], counted["stored"], counted["refused"]) == (2, 2, 0)
    assert answer(api, f"/devices/{sensor.device}/latest")["values"][0]["value"] == 4.5


def replayed(api: httpx.Client, letter: int) -> bool:
    """Asks for a replay where none is under way: a worker remembers a refusal for a while."""
    api.post(f"/api/v1/dead-letters/{letter}/replay")
    return bool(answer(api, f"/dead-letters/{letter}").get("resolved"))


async def test_a_late_reading_corrects_its_minute_hour_and_day(stack, sensor, api, brigade):
    done = brigade("sites", "set", sensor.site, "--time-zone", "Asia/Seoul")
    assert done.returncode == 0, done.stdout + done.stderr
    minute = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(hours=3)
    await sensor.send({"ts": iso(minute + timedelta(seconds=10)), "temperature_c": 2})
    eventually(lambda: averages(api, sensor, minute) == [2, 2, 2], SECONDS, "the first reading in all buckets")
    eventually(lambda: computed(stack, sensor), SECONDS, "its minute computed")
    await sensor.send({"ts": iso(minute + timedelta(seconds=40)), "temperature_c": 8})
    eventually(lambda: averages(api, sensor, minute) == [5, 5, 5], SECONDS, "the late one in all buckets")
    eventually(lambda: computed(stack, sensor), SECONDS, "its minute computed again")
    assert averages(api, sensor, minute) == [5, 5, 5]


def averages(api: httpx.Client, sensor: Sensor, minute: datetime) -> list[float]:
    """Of the minute, the hour and the site's day of that minute."""
    found = []
    for bucket in ("1m", "1h", "1d"):
        span = {"from": iso(minute), "to": iso(minute + timedelta(minutes=1))}
        got = answer(api, "/readings", device=sensor.device, bucket=bucket, agg="avg", **span)
        found += [point["avg"] for series in got.get("series", []) for point in series["points"]]
    return found


def computed(stack, sensor: Sensor) -> bool:
    """No mark of the device's past minutes is left."""
    with psycopg.connect(stack.superuser_url()) as connection:
        query = "SELECT count(*) FROM marks JOIN devices d ON d.id = device_id WHERE level = 0 AND d.name = %s"
        return connection.execute(query, (sensor.device,)).fetchone() == (0,)


def test_verify_without_a_file_finds_nothing(brigade):
    found = brigade("verify", "--wait", "20", "--hours", "2")
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_bridge_ends_within_five_seconds_and_well(stack):
    begin = time.monotonic()
    stack.stop("bridge-0")
    took = time.monotonic() - begin
    status = stack.supervisor.process("bridge-0")
    stack.start("bridge-0")
    assert took < 5
    assert status["exitstatus"] == 0


@pytest.mark.parametrize("port", PORTS)
def test_every_part_answers_for_itself(stack, port):
    eventually(lambda: get(stack.ports[port], "/readyz")[0] == 200, SECONDS, f"{port} is ready")
    assert get(stack.ports[port], "/healthz")[0] == 200
    status, text = get(stack.ports[port], "/metrics")
    assert status == 200
    assert "process_cpu_seconds_total" in text
    assert any(
        line.startswith(("pipeline_", "kafka_consumergroup_", "users_", "gateway_", "http_"))
        for line in text.splitlines()
    )


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as got:
            return got.status, got.read().decode()
    except OSError as error:
        return getattr(error, "code", 0), str(error)


def test_prometheus_sees_every_part(stack):
    def up() -> set[str]:
        address = f"http://127.0.0.1:{stack.ports['prometheus']}/api/v1/query"
        got = httpx.get(address, params={"query": "up == 1"}, timeout=SECONDS)
        return {found["metric"]["instance"] for found in got.json()["data"]["result"]}

    wanted = {f"127.0.0.1:{stack.ports[port]}" for port in PORTS}
    assert wait_until(lambda: wanted <= up(), SECONDS), f"not seen: {wanted - up()}"

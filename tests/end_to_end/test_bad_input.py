"""Whatever is published ends as a dead letter with its reason and its bytes, or is refused by the broker."""

import asyncio
import contextlib
import hashlib
import json
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import aiomqtt
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import packs
from pipeline.readings import Reason
from tests.end_to_end.load import eventually, readings_of
from tests.pipeline.bad_input import ELEMENTS, PAYLOADS, STATUSES, TOPICS, Bad

SECONDS = 60
BROKER_LIMIT = 1_048_576
BRIDGE_LIMIT = 256 * 1024
KEPT = 64 * 1024
OVERSIZED = [
    Bad("300 kB of text", b'{"note":"' + b"x" * 300_000 + b'"}', Reason.OVERSIZED),
    Bad("300 kB of zeros", bytes(300_000), Reason.OVERSIZED),
    Bad("999 kB", b"\xff" * 999_000, Reason.OVERSIZED),
    Bad("10 MB", b"x" * 10_000_000, Reason.OVERSIZED),
]
WORKERS = ("worker-1", "worker-2")


@pytest.fixture(autouse=True)
def _the_same_processes_before_and_after(stack):
    parts = (*WORKERS, "bridge-0")
    before = {part: stack.pid(part) for part in parts}
    yield
    assert {part: stack.pid(part) for part in parts} == before, "a part died of it"


def made_own(bad: Bad, unique: str) -> Bad:
    """On a site and a device of this test's own; a wrong topic's payload is told apart by its value."""
    topic = bad.topic.replace("seoul-1", f"site-{unique}").replace("fridge-2", f"fridge-{unique}")
    payload = bad.payload.replace(b"%TS%", str(int(time.time()) - 30).encode())
    if bad in TOPICS:
        payload = json.dumps({"temperature_c": int(unique, 16) * 100 + TOPICS.index(bad)}).encode()
    return replace(bad, topic=topic, payload=payload)


def refused_by_broker(bad: Bad) -> bool:
    """Packets over its limit, and topics that hold control characters, which MQTT lets it refuse."""
    return len(bad.payload) > BROKER_LIMIT or not bad.topic.isprintable()


def outside(bad: Bad) -> bool:
    return not (bad.topic + "/").startswith("brigade/v1/")


async def publish(stack, messages: list[tuple[str, bytes]]) -> None:
    """Return when the broker has acknowledged all of them."""
    async with aiomqtt.Client("127.0.0.1", stack.ports["mqtt"], **stack.mqtt_login, max_inflight_messages=20) as client:
        for topic, payload in messages:
            await client.publish(topic, payload, qos=1)


async def is_refused(stack, bad: Bad) -> bool:
    """Whether the broker ends the connection instead of acknowledging."""
    client = aiomqtt.Client("127.0.0.1", stack.ports["mqtt"], **stack.mqtt_login, protocol=aiomqtt.ProtocolVersion.V5)
    try:
        async with client:
            await client.publish(bad.topic, bad.payload, qos=1, timeout=5)
    except aiomqtt.MqttError:
        return True
    return False


def good(unique: str, number: int) -> tuple[str, bytes]:
    ts = datetime.now(UTC).isoformat()
    payload = json.dumps({"ts": ts, "seq": number, "temperature_c": number}).encode()
    return f"brigade/v1/site-{unique}/good-{unique}/readings", payload


def stored(stack, device: str) -> int:
    query = "SELECT count(*) FROM readings JOIN devices d ON d.id = device_id WHERE d.name = %s"
    with psycopg.connect(stack.superuser_url()) as connection:
        return connection.execute(query, (device,)).fetchone()[0]


def letters_since(stack, last: int) -> list[tuple]:
    query = """SELECT mqtt_topic, reason, payload, element, payload_size, payload_sha256 FROM dead_letters
               WHERE id > %s ORDER BY id"""
    with psycopg.connect(stack.superuser_url()) as connection:
        return connection.execute(query, (last,)).fetchall()


def last_letter(stack) -> int:
    with psycopg.connect(stack.superuser_url()) as connection:
        return connection.execute("SELECT coalesce(max(id), 0) FROM dead_letters").fetchone()[0]


def in_an_array(bad: Bad) -> bytes:
    now = time.time()
    first, last = (json.dumps({"ts": now - 10 - after, "temperature_c": 1}).encode() for after in (1, 0))
    return b"[" + b",".join((first, bad.payload, last)) + b"]"


async def test_each_bad_message_is_a_dead_letter_and_the_good_ones_around_it_are_stored(stack, unique):
    rows = [made_own(bad, unique) for bad in (*PAYLOADS, *TOPICS, *OVERSIZED)]
    sent = [bad for bad in rows if not refused_by_broker(bad) and not outside(bad)]
    last = last_letter(stack)
    messages = []
    for number, bad in enumerate(sent):
        messages += [good(unique, number), (bad.topic, bad.payload)]
    await publish(stack, messages)

    expected = Counter(expectation(bad) for bad in sent)
    eventually(lambda: len(letters_since(stack, last)) >= len(sent), SECONDS, "a dead letter for each")
    eventually(lambda: stored(stack, f"good-{unique}") == len(sent), SECONDS, "the good ones are stored")
    found = Counter(tuple(letter) for letter in letters_since(stack, last))
    assert found - expected == Counter()
    assert expected - found == Counter()


def expectation(bad: Bad) -> tuple:
    """Topic, reason, bytes, element, size, SHA-256 of the dead letter."""
    if len(bad.payload) <= BRIDGE_LIMIT:
        return bad.topic, bad.reason, bad.payload, None, len(bad.payload), None
    digest = hashlib.sha256(bad.payload).hexdigest()
    return bad.topic, Reason.OVERSIZED, bad.payload[:KEPT], None, len(bad.payload), digest


async def test_a_bad_element_is_a_dead_letter_alone(stack, unique):
    last = last_letter(stack)
    rows = [made_own(bad, f"{unique}{index:02}") for index, bad in enumerate(ELEMENTS)]
    await publish(stack, [(bad.topic, in_an_array(bad)) for bad in rows])
    eventually(lambda: len(letters_since(stack, last)) >= len(rows), SECONDS, "a dead letter for each")
    found = {(topic, reason, payload, element) for topic, reason, payload, element, *_ in letters_since(stack, last)}
    assert found == {(bad.topic, bad.reason, bad.payload, bad.element) for bad in rows}
    for index in range(len(rows)):
        assert stored(stack, f"fridge-{unique}{index:02}") == 2


async def test_a_bad_status_is_a_dead_letter(stack, unique):
    last = last_letter(stack)
    rows = [made_own(bad, unique) for bad in STATUSES]
    await publish(stack, [(bad.topic, bad.payload) for bad in rows])
    wanted = {(bad.topic, bad.reason, bad.payload) for bad in rows}
    eventually(lambda: wanted <= {tuple(letter[:3]) for letter in letters_since(stack, last)}, SECONDS, "all of them")


@pytest.mark.parametrize(
    "bad", [b for b in (*PAYLOADS, *TOPICS, *OVERSIZED) if refused_by_broker(b)], ids=lambda b: b.name
)
async def test_the_broker_refuses_and_the_sender_is_told(stack, unique, bad):
    last = last_letter(stack)
    bad = made_own(bad, unique)
    assert await is_refused(stack, bad)
    await publish(stack, [good(unique, 1)])
    eventually(lambda: stored(stack, f"good-{unique}") == 1, SECONDS, "the good one behind it is stored")
    assert letters_since(stack, last) == []


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=200),
            st.text(max_size=100).map(str.encode),
            st.recursive(
                st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
                lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
                max_leaves=12,
            ).map(lambda value: json.dumps(value).encode()),
        ),
        min_size=60,
        max_size=80,
    )
)
@settings(
    max_examples=3,
    deadline=None,
    database=None,
    suppress_health_check=[*HealthCheck],
)
def test_any_bytes_are_counted_as_what_they_are(stack, payloads):
    unique = f"{time.time_ns():x}"
    topic = f"brigade/v1/site-{unique}/any-{unique}/readings"
    asyncio.run(publish(stack, [(topic, payload) for payload in payloads] + [good(unique, 1)]))
    expected = sum(readings_of(packs.Message(topic, 0, payload)) for payload in payloads)
    with contextlib.suppress(AssertionError):  # told better below
        eventually(lambda: received(stack, topic, unique) >= expected, SECONDS, "all of them counted")
    assert received(stack, topic, unique) == expected
    eventually(lambda: stored(stack, f"good-{unique}") == 1, SECONDS, "the good one behind them is stored")


def received(stack, topic: str, unique: str) -> int:
    """Readings counted for the device, and dead letters of messages that came before it was known."""
    query = """
    SELECT coalesce((SELECT sum(received) FROM ledger_now JOIN devices d ON d.id = device_id WHERE d.name = %s), 0)
         + (SELECT count(*) FROM dead_letters WHERE device_id = 0 AND mqtt_topic = %s)
    """
    with psycopg.connect(stack.superuser_url()) as connection:
        return int(connection.execute(query, (f"any-{unique}", topic)).fetchone()[0])

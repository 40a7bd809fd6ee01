"""Bad input is an answer: its reason, and the good messages around it are stored."""

import time

import psycopg
import pytest

from pipeline.packs import Message
from pipeline.readings import (
    US,
    InvalidReadingError,
    Limits,
    Reading,
    Refusal,
    decode,
    parse_status,
    parse_topic,
)
from tests.pipeline.bad_input import ELEMENTS, PAYLOADS, STATUSES, TOPIC, TOPICS, Bad
from tests.pipeline.storing import store

NOW = 1_795_000_000 * US
LIMITS = Limits(future_us=300 * US, past_us=30 * 86_400 * US, metrics=64)


def name(bad: Bad) -> str:
    return bad.name


def in_an_array(bad: Bad, now_us: int) -> bytes:
    ts = str(now_us // US).encode()
    good = b'{"ts":%s.%d,"temperature_c":3.4}'
    element = bad.payload.replace(b"%TS%", ts)
    return b"[" + b",".join((good % (ts, 1), element, good % (ts, 2))) + b"]"


@pytest.mark.parametrize("bad", PAYLOADS, ids=name)
def test_a_bad_payload_has_its_reason(bad: Bad) -> None:
    (refusal,) = decode(Message(bad.topic, NOW, bad.payload), LIMITS)
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.element) == (bad.reason, None)


@pytest.mark.parametrize("bad", ELEMENTS, ids=name)
def test_a_bad_element_is_refused_alone_with_its_own_bytes(bad: Bad) -> None:
    first, refusal, last = decode(Message(bad.topic, NOW, in_an_array(bad, NOW)), LIMITS)
    assert isinstance(first, Reading)
    assert isinstance(last, Reading)
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.element) == (bad.reason, bad.element)
    assert refusal.raw == bad.payload.replace(b"%TS%", str(NOW // US).encode())


@pytest.mark.parametrize("bad", TOPICS, ids=name)
def test_a_wrong_topic_has_its_reason(bad: Bad) -> None:
    with pytest.raises(InvalidReadingError) as caught:
        parse_topic(bad.topic)
    assert caught.value.reason == bad.reason


@pytest.mark.parametrize("bad", STATUSES, ids=name)
def test_a_wrong_status_has_its_reason(bad: Bad) -> None:
    with pytest.raises(InvalidReadingError) as caught:
        parse_status(bad.payload)
    assert caught.value.reason == bad.reason


async def test_each_becomes_a_dead_letter_and_the_good_ones_between_are_stored(database: str) -> None:
    now_us = time.time_ns() // 1000
    messages = []
    for bad in (*PAYLOADS, *TOPICS, *STATUSES):
        messages += [(bad.topic, bad.payload), (TOPIC, b'{"temperature_c":%d}' % len(messages))]
    for index, bad in enumerate(ELEMENTS):
        messages.append((bad.topic, in_an_array(bad, now_us - (10 + index) * US)))
    await store(database, messages, now_us)

    expected = sorted(str(bad.reason) for bad in (*PAYLOADS, *TOPICS, *STATUSES, *ELEMENTS))
    with psycopg.connect(database) as connection:
        reasons = [reason for (reason,) in connection.execute("SELECT reason FROM dead_letters ORDER BY reason")]
        assert sorted(reasons) == expected
        good = len(PAYLOADS) + len(TOPICS) + len(STATUSES) + 2 * len(ELEMENTS)
        assert connection.execute("SELECT count(*) FROM readings").fetchone() == (good,)
        names = connection.execute("SELECT name FROM metrics").fetchall()
        assert names == [("temperature_c",)], "what was refused leaves no name behind"

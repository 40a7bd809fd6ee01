"""Messages into readings, by value."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.packs import Message
from pipeline.readings import (
    US,
    InvalidReadingError,
    Kind,
    Limits,
    Reading,
    Reason,
    Refusal,
    Topic,
    decode,
    is_status_topic,
    parse_status,
    parse_topic,
    parse_ts,
    unit_of,
)

NOW = 1_764_000_000 * US  # 2025-11-24T16:00:00Z
LIMITS = Limits(future_us=300 * US, past_us=30 * 86_400 * US, metrics=64)


def results(payload: bytes, **extra: object) -> list[Reading | Refusal]:
    message = Message("brigade/v1/seoul-1/fridge-2/readings", NOW, payload, extra or None)
    return list(decode(message, LIMITS))


def reasons(payload: bytes) -> list[str]:
    return [str(r.reason) if isinstance(r, Refusal) else "stored" for r in results(payload)]


@pytest.mark.parametrize(
    ("payload", "ts_us", "values"),
    [
        (b'{"ts":1764000000,"a":1}', NOW, {"a": 1.0}),
        (b'{"ts":1764000000123,"a":1}', NOW + 123_000, {"a": 1.0}),
        (b'{"ts":1764000000.25,"a":1}', NOW + 250_000, {"a": 1.0}),
        (b'{"ts":1764000000123.5,"a":1}', NOW + 123_500, {"a": 1.0}),
        (b'{"ts":"2025-11-24T16:00:00Z","a":1}', NOW, {"a": 1.0}),
        (b'{"ts":"2025-11-25T01:00:00.5+09:00","a":1}', NOW + 500_000, {"a": 1.0}),
        (b'{"a":true,"b":false,"c":-0.5}', NOW, {"a": 1.0, "b": 0.0, "c": -0.5}),
        (b'{"a":1,"b":null}', NOW, {"a": 1.0}),
        (b'{"a":1,"a":2}', NOW, {"a": 2.0}),
        (b' \n{"a":1}\t', NOW, {"a": 1.0}),
    ],
)
def test_a_good_reading(payload: bytes, ts_us: int, values: dict[str, float]) -> None:
    (result,) = results(payload)
    assert isinstance(result, Reading)
    assert (result.ts_us, dict(result.values)) == (ts_us, values)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "empty_payload"),
        (b"   ", "empty_payload"),
        (b"{", "malformed_json"),
        (b'{"a":1}}', "malformed_json"),
        (b'{"a":1},{"b":2}', "malformed_json"),
        (b'{"a":NaN}', "malformed_json"),
        (b'{"a":01}', "malformed_json"),
        (b"\xff\xfe", "malformed_json"),
        (b'{"a":"\xff"}', "malformed_json"),
        (b'{"\\ud800":1}', "malformed_json"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "malformed_json"),
        (b'"x"', "not_an_object"),
        (b"17", "not_an_object"),
        (b"null", "not_an_object"),
        (b'{"ts":true,"a":1}', "ts_invalid"),
        (b'{"ts":"yesterday","a":1}', "ts_invalid"),
        (b'{"ts":"2025-11-24T16:00:00","a":1}', "ts_invalid"),
        (b'{"ts":{},"a":1}', "ts_invalid"),
        (b'{"ts":1764000301,"a":1}', "too_far_in_future"),
        (b'{"ts":1e300,"a":1}', "too_far_in_future"),
        (b'{"ts":"9999-12-31T23:59:59Z","a":1}', "too_far_in_future"),
        (b'{"ts":0,"a":1}', "too_far_in_past"),
        (b'{"ts":-1e300,"a":1}', "too_far_in_past"),
        (b'{"ts":"0001-01-01T00:00:00Z","a":1}', "too_far_in_past"),
        (b'{"A":1}', "metric_name_invalid"),
        (b'{"a\\u0000":1}', "metric_name_invalid"),
        (b'{"":1}', "metric_name_invalid"),
        (b'{"' + b"a" * 64 + b'":1}', "metric_name_invalid"),
        (b'{"a":"3.4"}', "value_not_a_number"),
        (b'{"a":[1]}', "value_not_a_number"),
        (b'{"a":{"b":1}}', "value_not_a_number"),
        (b'{"a":1e999}', "value_not_finite"),
        (b'{"a":' + b"9" * 400 + b"}", "value_not_finite"),
        (b'{"a":-1.7e308}', "value_not_finite"),
        (b"{}", "no_metrics"),
        (b'{"ts":1764000000}', "no_metrics"),
        (b'{"a":null}', "no_metrics"),
        (b"[]", "no_metrics"),
        (b'{"seq":1.5,"a":1}', "seq_invalid"),
        (b'{"seq":9223372036854775808,"a":1}', "seq_invalid"),
        (json.dumps({f"m{i}": i for i in range(100_000)}).encode(), "too_many_metrics"),
    ],
)
def test_a_bad_reading_has_a_reason(payload: bytes, reason: str) -> None:
    assert reasons(payload) == [reason]


def test_a_bad_element_of_an_array_is_refused_alone_and_keeps_its_bytes() -> None:
    good, bad = b'{"ts":1764000000,"a":1}', b'{"ts":1764000001, "a":"x"}'
    first, second, third = results(b"[" + good + b", " + bad + b"," + good + b"]")
    assert isinstance(first, Reading)
    assert isinstance(third, Reading)
    assert isinstance(second, Refusal)
    assert (second.reason, second.element, second.raw) == (Reason.VALUE_NOT_A_NUMBER, 1, bad)


def test_in_an_array_every_reading_bears_its_own_time() -> None:
    assert reasons(b'[{"ts":1764000000,"a":1},{"a":1}]') == ["stored", "ts_missing_in_array"]


def test_a_payload_the_bridge_cut_is_oversized() -> None:
    (result,) = results(b'{"a":1', size=300_000, sha256="00")
    assert isinstance(result, Refusal)
    assert result.reason is Reason.OVERSIZED


def test_times_are_judged_against_the_receipt() -> None:
    edge = LIMITS.past_us // US
    old = b'{"ts":%d,"a":1}' % (1_764_000_000 - edge)
    assert reasons(old) == ["stored"]
    assert reasons(b'{"ts":%d,"a":1}' % (1_764_000_000 - edge - 1)) == ["too_far_in_past"]


@given(st.binary(max_size=200))
def test_whatever_bytes_come_there_is_an_answer(payload: bytes) -> None:
    assert results(payload)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


@given(_json)
def test_whatever_json_comes_there_is_an_answer_and_values_are_finite(document: object) -> None:
    for result in results(json.dumps(document).encode()):
        if isinstance(result, Reading):
            assert all(math.isfinite(value) for value in result.values.values())
        else:
            assert result.detail
            assert "\x00" not in result.detail


@pytest.mark.parametrize(
    "topic",
    ["brigade/v1/s/d", "brigade/v1/s/d/other", "brigade/v1//d/readings", "brigade/v1/s/ü/readings",
     "brigade/v1/s/d/readings/x", "brigade/v1/s/" + "d" * 129 + "/readings", "else/v1/s/d/readings"],
)  # fmt: skip
def test_a_topic_that_means_nothing_is_misplaced(topic: str) -> None:
    with pytest.raises(InvalidReadingError) as caught:
        parse_topic(topic)
    assert caught.value.reason is Reason.MISPLACED_TOPIC


def test_a_topic_names_site_device_and_kind() -> None:
    assert parse_topic("brigade/v1/seoul-1/seoul-1.fridge-2/readings") == Topic(
        "seoul-1", "seoul-1.fridge-2", Kind.READINGS
    )
    assert is_status_topic("brigade/v1/s/d/status")
    assert not is_status_topic("brigade/v1/s/d/readings")


def test_status_is_online_offline_or_cleared() -> None:
    assert [parse_status(payload) for payload in (b"online", b"offline", b"")] == [True, False, None]
    with pytest.raises(InvalidReadingError):
        parse_status(b"asleep")


@pytest.mark.parametrize(
    ("metric", "unit"), [("temperature_c", "°C"), ("humidity_pct", "%"), ("door_open", None), ("c", None), ("x_", None)]
)
def test_the_last_word_of_a_name_is_its_unit(metric: str, unit: str | None) -> None:
    assert unit_of(metric) == unit


def test_milliseconds_begin_at_ten_to_the_eleven() -> None:
    assert parse_ts(10**11) == 10**14
    assert parse_ts(10**11 - 1) == (10**11 - 1) * US

"""What must become a dead letter, and with which reason. Used by the tests of every part that meets it."""

import json
from dataclasses import dataclass

from pipeline.readings import Reason

TOPIC = "brigade/v1/seoul-1/fridge-2/readings"
STATUS = "brigade/v1/seoul-1/fridge-2/status"


@dataclass(frozen=True, slots=True)
class Bad:
    """A message that is refused. `element`: the index of the element of its array that is refused alone."""

    name: str
    payload: bytes
    reason: Reason
    topic: str = TOPIC
    element: int | None = None


def _nested(depth: int) -> bytes:
    return b'{"deep":' + b"[" * depth + b"]" * depth + b"}"


PAYLOADS = [
    Bad("empty", b"", Reason.EMPTY_PAYLOAD),
    Bad("blank", b" \r\n\t", Reason.EMPTY_PAYLOAD),
    Bad("cut off", b'{"temperature_c":3.4', Reason.MALFORMED_JSON),
    Bad("a trailing comma", b'{"temperature_c":3.4,}', Reason.MALFORMED_JSON),
    Bad("a second brace", b'{"temperature_c":3.4}}', Reason.MALFORMED_JSON),
    Bad("two objects", b'{"temperature_c":3.4}{"temperature_c":3.5}', Reason.MALFORMED_JSON),
    Bad("two objects and a comma", b'{"temperature_c":3.4},{"temperature_c":3.5}', Reason.MALFORMED_JSON),
    Bad("single quotes", b"{'temperature_c':3.4}", Reason.MALFORMED_JSON),
    Bad("no JSON", b"temperature=3.4", Reason.MALFORMED_JSON),
    Bad("a byte order mark", b'\xef\xbb\xbf{"temperature_c":3.4}', Reason.MALFORMED_JSON),
    Bad("UTF-16", '{"temperature_c":3.4}'.encode("utf-16-le"), Reason.MALFORMED_JSON),
    Bad("invalid UTF-8", b"\xff\xfe\xfd", Reason.MALFORMED_JSON),
    Bad("invalid UTF-8 in a value", b'{"temperature_c":"\xff"}', Reason.MALFORMED_JSON),
    Bad("invalid UTF-8 in a name", b'{"temperature\xff":1}', Reason.MALFORMED_JSON),
    Bad("half a surrogate pair", b'{"\\ud800":1}', Reason.MALFORMED_JSON),
    Bad("bytes of zero", bytes(64), Reason.MALFORMED_JSON),
    Bad("NaN", b'{"temperature_c":NaN}', Reason.MALFORMED_JSON),
    Bad("Infinity", b'{"temperature_c":-Infinity}', Reason.MALFORMED_JSON),
    Bad("a leading zero", b'{"temperature_c":03.4}', Reason.MALFORMED_JSON),
    Bad("a plus sign", b'{"temperature_c":+3.4}', Reason.MALFORMED_JSON),
    Bad("hexadecimal", b'{"temperature_c":0x10}', Reason.MALFORMED_JSON),
    Bad("100,000 brackets deep", _nested(100_000), Reason.MALFORMED_JSON),
    Bad("100,000 brackets deep as an array", b"[" * 100_000 + b"]" * 100_000, Reason.MALFORMED_JSON),
    Bad("an array cut off", b'[{"ts":1,"a":1},{"ts"', Reason.MALFORMED_JSON),
    Bad("a string", b'"temperature_c"', Reason.NOT_AN_OBJECT),
    Bad("a number", b"3.4", Reason.NOT_AN_OBJECT),
    Bad("null", b"null", Reason.NOT_AN_OBJECT),
    Bad("true", b"true", Reason.NOT_AN_OBJECT),
    Bad("an empty object", b"{}", Reason.NO_METRICS),
    Bad("an empty array", b"[]", Reason.NO_METRICS),
    Bad("only nulls", b'{"temperature_c":null}', Reason.NO_METRICS),
    Bad("only seq", b'{"seq":1}', Reason.NO_METRICS),
    Bad("a text value", b'{"temperature_c":"3.4"}', Reason.VALUE_NOT_A_NUMBER),
    Bad("a list value", b'{"temperature_c":[3.4]}', Reason.VALUE_NOT_A_NUMBER),
    Bad("an object value", b'{"temperature_c":{"value":3.4}}', Reason.VALUE_NOT_A_NUMBER),
    Bad("one bad value of two", b'{"temperature_c":3.4,"humidity_pct":""}', Reason.VALUE_NOT_A_NUMBER),
    Bad("400 digits", b'{"temperature_c":' + b"9" * 400 + b"}", Reason.VALUE_NOT_FINITE),
    Bad("400 digits below zero", b'{"temperature_c":-' + b"9" * 400 + b"}", Reason.VALUE_NOT_FINITE),
    Bad("100,000 digits", b'{"temperature_c":' + b"9" * 100_000 + b"}", Reason.VALUE_NOT_FINITE),
    Bad("too great an exponent", b'{"temperature_c":1e999}', Reason.VALUE_NOT_FINITE),
    Bad("a zero in a name", b'{"temperature\\u0000":3.4}', Reason.METRIC_NAME_INVALID),
    Bad("an upper-case name", b'{"Temperature":3.4}', Reason.METRIC_NAME_INVALID),
    Bad("a name in Korean", '{"온도":3.4}'.encode(), Reason.METRIC_NAME_INVALID),
    Bad("a name with a blank", b'{"temperature c":3.4}', Reason.METRIC_NAME_INVALID),
    Bad("a name with a quote", b'{"a\\"; DROP TABLE readings; --":3.4}', Reason.METRIC_NAME_INVALID),
    Bad("an empty name", b'{"":3.4}', Reason.METRIC_NAME_INVALID),
    Bad("a name of 64 letters", b'{"' + b"a" * 64 + b'":3.4}', Reason.METRIC_NAME_INVALID),
    Bad("a name ending in a line break", b'{"a\\n":3.4}', Reason.METRIC_NAME_INVALID),
    Bad("a time in words", b'{"ts":"yesterday","temperature_c":3.4}', Reason.TS_INVALID),
    Bad("a time without zone", b'{"ts":"2026-11-23T03:40:00","temperature_c":3.4}', Reason.TS_INVALID),
    Bad("a time that is no time", b'{"ts":"2026-02-30T25:61:00Z","temperature_c":3.4}', Reason.TS_INVALID),
    Bad("a time that is true", b'{"ts":true,"temperature_c":3.4}', Reason.TS_INVALID),
    Bad("a time that is a list", b'{"ts":[1],"temperature_c":3.4}', Reason.TS_INVALID),
    Bad("a time of zero", b'{"ts":0,"temperature_c":3.4}', Reason.TOO_FAR_IN_PAST),
    Bad("a time before Christ", b'{"ts":-99999999999,"temperature_c":3.4}', Reason.TOO_FAR_IN_PAST),
    Bad("a time without end, before", b'{"ts":-1e300,"temperature_c":3.4}', Reason.TOO_FAR_IN_PAST),
    Bad("the year 1", b'{"ts":"0001-01-01T00:00:00Z","temperature_c":3.4}', Reason.TOO_FAR_IN_PAST),
    Bad("the year 9999", b'{"ts":"9999-12-31T23:59:59Z","temperature_c":3.4}', Reason.TOO_FAR_IN_FUTURE),
    Bad("a time in microseconds", b'{"ts":1795000000000000,"temperature_c":3.4}', Reason.TOO_FAR_IN_FUTURE),
    Bad("a time without end", b'{"ts":1e300,"temperature_c":3.4}', Reason.TOO_FAR_IN_FUTURE),
    Bad("a seq with a fraction", b'{"seq":1.5,"temperature_c":3.4}', Reason.SEQ_INVALID),
    Bad("a seq in words", b'{"seq":"one","temperature_c":3.4}', Reason.SEQ_INVALID),
    Bad("a seq of 65 bits", b'{"seq":18446744073709551616,"temperature_c":3.4}', Reason.SEQ_INVALID),
    Bad("100,000 metrics", json.dumps({f"m{i}": i for i in range(100_000)}).encode(), Reason.TOO_MANY_METRICS),
    Bad("65 metrics", json.dumps({f"m{i}": i for i in range(65)}).encode(), Reason.TOO_MANY_METRICS),
]
"""On a readings topic: each is one dead letter and nothing else."""

ELEMENTS = [
    Bad("no ts", b'{"temperature_c":3.4}', Reason.TS_MISSING_IN_ARRAY, element=1),
    Bad("a null ts", b'{"ts":null,"temperature_c":3.4}', Reason.TS_MISSING_IN_ARRAY, element=1),
    Bad("a number", b"17", Reason.NOT_AN_OBJECT, element=1),
    Bad("an array", b"[1]", Reason.NOT_AN_OBJECT, element=1),
    Bad("null", b"null", Reason.NOT_AN_OBJECT, element=1),
    Bad("a text value", b'{"ts":%TS%,"temperature_c":"x"}', Reason.VALUE_NOT_A_NUMBER, element=1),
    Bad("400 digits", b'{"ts":%TS%,"temperature_c":' + b"9" * 400 + b"}", Reason.VALUE_NOT_FINITE, element=1),
    Bad("too great an exponent", b'{"ts":%TS%,"temperature_c":1e999}', Reason.VALUE_NOT_FINITE, element=1),
    Bad("a zero in a name", b'{"ts":%TS%,"a\\u0000":1}', Reason.METRIC_NAME_INVALID, element=1),
    Bad("an empty object", b"{}", Reason.TS_MISSING_IN_ARRAY, element=1),
    Bad("only a time", b'{"ts":%TS%}', Reason.NO_METRICS, element=1),
    Bad("long ago", b'{"ts":1,"temperature_c":3.4}', Reason.TOO_FAR_IN_PAST, element=1),
]
"""Between two good elements of an array each is refused alone; `%TS%` stands for a good time."""

TOPICS = [
    Bad(f"topic {topic}", b'{"temperature_c":3.4}', Reason.MISPLACED_TOPIC, topic)
    for topic in (
        "brigade/v1",
        "brigade/v1/",
        "brigade/v1/seoul-1/fridge-2",
        "brigade/v1/seoul-1/fridge-2/telemetry",
        "brigade/v1/seoul-1/fridge-2/readings/",
        "brigade/v1/seoul-1/fridge-2/readings/more",
        "brigade/v1//fridge-2/readings",
        "brigade/v1/seoul-1//readings",
        "brigade/v1/seoul 1/fridge-2/readings",
        "brigade/v1/서울/fridge-2/readings",
        "brigade/v1/seoul-1/fridge\x01/readings",
        "brigade/v1/seoul-1/fridge\n/readings",
        "brigade/v1/seoul-1/" + "f" * 129 + "/readings",
        "brigade/v1/" + "s" * 65 + "/fridge-2/readings",
        "brigade/v2/seoul-1/fridge-2/readings",
        "Brigade/v1/seoul-1/fridge-2/readings",
    )
]

STATUSES = [
    Bad("a status in capitals", b"ONLINE", Reason.STATUS_INVALID, STATUS),
    Bad("a status as JSON", b'"online"', Reason.STATUS_INVALID, STATUS),
    Bad("a status that is no text", b"\xff\x00", Reason.STATUS_INVALID, STATUS),
    Bad("a status with a line break", b"online\n", Reason.STATUS_INVALID, STATUS),
]

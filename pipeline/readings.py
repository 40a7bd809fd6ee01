"""What a message means: readings, or the reason why not. Pure: no I/O, no clock.

A message is what `packs` carries; `docs/mqtt.md` is the contract with the devices. This module is the plain
truth about every message; `batches` has a faster way for the clean ones and comes back here for all others.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

import msgspec

from pipeline.packs import Message

US: Final = 1_000_000
MINUTE_US: Final = 60 * US
HOUR_US: Final = 3600 * US
LARGEST: Final = 1e300
"""A value is smaller than this, so that the sum of a day's values fits a double."""
MILLISECONDS_FROM: Final = 10**11
"""A numeric `ts` from here on is milliseconds since 1970, below it seconds."""

UNITS: Final[Mapping[str, str]] = {
    "c": "°C", "f": "°F", "k": "K", "pct": "%", "hpa": "hPa", "pa": "Pa", "bar": "bar",
    "v": "V", "mv": "mV", "a": "A", "ma": "mA", "w": "W", "kw": "kW", "wh": "Wh", "kwh": "kWh", "hz": "Hz",
    "lx": "lx", "db": "dB", "dbm": "dBm", "ppm": "ppm", "ppb": "ppb", "ugm3": "µg/m³",
    "ms": "ms", "s": "s", "min": "min", "h": "h", "kg": "kg", "g": "g", "l": "L", "ml": "mL", "lpm": "L/min",
    "m": "m", "cm": "cm", "mm": "mm", "rpm": "1/min", "count": "1",
}  # fmt: skip
"""A metric's unit is the last word of its name: `temperature_c` is in °C."""


class Reason(StrEnum):
    """Why a reading was refused. Dead letters, the ledger and the metrics use these words."""

    MALFORMED_JSON = "malformed_json"
    NOT_AN_OBJECT = "not_an_object"
    EMPTY_PAYLOAD = "empty_payload"
    TS_INVALID = "ts_invalid"
    TS_MISSING_IN_ARRAY = "ts_missing_in_array"
    TOO_FAR_IN_FUTURE = "too_far_in_future"
    TOO_FAR_IN_PAST = "too_far_in_past"
    METRIC_NAME_INVALID = "metric_name_invalid"
    VALUE_NOT_A_NUMBER = "value_not_a_number"
    VALUE_NOT_FINITE = "value_not_finite"
    NO_METRICS = "no_metrics"
    SEQ_INVALID = "seq_invalid"
    STATUS_INVALID = "status_invalid"
    TOO_MANY_METRICS = "too_many_metrics"
    TOO_MANY_METRIC_NAMES = "too_many_metric_names"
    TOO_MANY_DEVICES = "too_many_devices"
    OVERSIZED = "oversized"
    MISPLACED_TOPIC = "misplaced_topic"
    WRONG_SITE = "wrong_site"
    WRONG_PARTITION = "wrong_partition"
    CONFLICTS_WITH_STORED = "conflicts_with_stored"
    DATABASE_REFUSED = "database_refused"
    UNDECODABLE_RECORD = "undecodable_record"


class InvalidReadingError(ValueError):
    """A reading, or a whole message, that can never be stored as it is."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Kind(StrEnum):
    READINGS = "readings"
    STATUS = "status"


@dataclass(frozen=True, slots=True)
class Topic:
    """`brigade/v1/{site}/{device}/{kind}`."""

    site: str
    device: str
    kind: Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a reading is judged by. Times in microseconds, against the receipt."""

    future_us: int
    past_us: int
    metrics: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One JSON object of a device. `ts_us`: microseconds since 1970 UTC, by the device's clock."""

    ts_us: int
    seq: int | None
    values: Mapping[str, float]
    element: int | None = None
    raw: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A message, or one element of its array, that becomes a dead letter. `raw`: the element's own bytes."""

    reason: Reason
    detail: str
    element: int | None = None
    raw: bytes | None = None


_TOPIC = re.compile(r"brigade/v1/([A-Za-z0-9._-]{1,64})/([A-Za-z0-9._:-]{1,128})/(readings|status)").fullmatch
_METRIC = re.compile(r"[a-z][a-z0-9_]{0,62}").fullmatch
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_object = msgspec.json.Decoder(dict[str, object]).decode
_array = msgspec.json.Decoder(list[msgspec.Raw]).decode


def parse_topic(topic: str) -> Topic:
    if match := _TOPIC(topic):
        return Topic(match[1], match[2], Kind(match[3]))
    raise InvalidReadingError(
        Reason.MISPLACED_TOPIC, "neither brigade/v1/SITE/DEVICE/readings nor …/status with plain names"
    )


def is_status_topic(topic: str) -> bool:
    """Status messages are no readings: the ledger does not count them."""
    match = _TOPIC(topic)
    return match is not None and match[3] == Kind.STATUS


def unit_of(metric: str) -> str | None:
    """The unit that a metric's name states by its last word, if it does."""
    rest, _, word = metric.rpartition("_")
    return UNITS.get(word) if rest else None


def decode(message: Message, limits: Limits) -> Iterator[Reading | Refusal]:
    """Every reading of a message of kind `readings`, at least one result; never raises for what a device sent.

    One bad value refuses its whole reading; a bad element of an array is refused alone.
    """
    if message.extra and "sha256" in message.extra:
        yield Refusal(reason=Reason.OVERSIZED, detail=f"{message.extra.get('size')} bytes; the limit is 256 kB")
        return
    payload = message.payload.strip(b" \t\r\n")
    try:
        if not payload.startswith(b"["):
            yield reading(payload, message.received_us, limits, default_ts=message.received_us)
            return
        elements = _elements(payload)
    except InvalidReadingError as error:
        yield Refusal(reason=error.reason, detail=error.detail)
        return
    for index, raw in enumerate(elements):
        try:
            yield reading(raw, message.received_us, limits, default_ts=None, element=index)
        except InvalidReadingError as error:
            yield Refusal(reason=error.reason, detail=error.detail, element=index, raw=raw)


def reading(
    payload: bytes, received_us: int, limits: Limits, *, default_ts: int | None, element: int | None = None
) -> Reading:
    """One JSON object as a reading; `InvalidReadingError` says why not."""
    fields = _fields(payload)
    ts_us = _ts(fields.pop("ts", None), default_ts)
    check_age(ts_us, received_us, limits)
    seq = _seq(fields.pop("seq", None))
    if len(fields) > limits.metrics:
        raise InvalidReadingError(Reason.TOO_MANY_METRICS, f"{len(fields)} metrics; a device may have {limits.metrics}")
    values = {_name(name): _value(name, value) for name, value in fields.items() if value is not None}
    if not values:
        raise InvalidReadingError(Reason.NO_METRICS, "the reading has no value")
    return Reading(ts_us=ts_us, seq=seq, values=values, element=element, raw=None if element is None else payload)


def parse_status(payload: bytes) -> bool | None:
    """True for `online`, False for `offline`, None for an empty payload (a retained status being cleared)."""
    match payload:
        case b"online":
            return True
        case b"offline":
            return False
        case b"":
            return None
    raise InvalidReadingError(
        Reason.STATUS_INVALID, f"{_shown(payload.decode(errors='replace'))} is neither online nor offline"
    )


def parse_ts(ts: object) -> int:
    """Microseconds since 1970 UTC of a `ts`: ISO 8601 with zone, or seconds or milliseconds since 1970."""
    if isinstance(ts, str):
        return _iso(ts)
    if isinstance(ts, bool) or not isinstance(ts, int | float):
        raise InvalidReadingError(Reason.TS_INVALID, f"ts {_shown(ts)} is neither a number nor ISO 8601")
    if abs(ts) > 10**15:
        reason = Reason.TOO_FAR_IN_FUTURE if ts > 0 else Reason.TOO_FAR_IN_PAST
        raise InvalidReadingError(reason, f"ts {_shown(ts)} is beyond any calendar")
    return round(ts * 1000) if ts >= MILLISECONDS_FROM else round(ts * US)


def check_age(ts_us: int, received_us: int, limits: Limits) -> None:
    """Judge the device's time against the receipt, so that backlog and replays are judged alike."""
    if ts_us > received_us + limits.future_us:
        raise InvalidReadingError(
            Reason.TOO_FAR_IN_FUTURE, f"ts is {(ts_us - received_us) / US:.0f} s ahead of its receipt"
        )
    if ts_us < received_us - limits.past_us:
        raise InvalidReadingError(
            Reason.TOO_FAR_IN_PAST, f"ts is {(received_us - ts_us) / US / 86400:.1f} days behind its receipt"
        )


def _elements(payload: bytes) -> list[bytes]:
    try:
        elements = [bytes(raw) for raw in _array(payload)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidReadingError(Reason.MALFORMED_JSON, str(error)) from error
    if not elements:
        raise InvalidReadingError(Reason.NO_METRICS, "the array is empty")
    return elements


def _fields(payload: bytes) -> dict[str, object]:
    if not payload:
        raise InvalidReadingError(Reason.EMPTY_PAYLOAD, "the payload is empty")
    try:
        return _object(payload)
    except msgspec.ValidationError as error:
        reason = Reason.VALUE_NOT_FINITE if "out of range" in str(error) else Reason.NOT_AN_OBJECT
        raise InvalidReadingError(reason, str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidReadingError(Reason.MALFORMED_JSON, str(error)) from error


def _ts(ts: object, default: int | None) -> int:
    if ts is not None:
        return parse_ts(ts)
    if default is None:
        raise InvalidReadingError(Reason.TS_MISSING_IN_ARRAY, "in an array every reading bears its own ts")
    return default


def _iso(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidReadingError(Reason.TS_INVALID, f"ts {_shown(text)} is not ISO 8601") from error
    if moment.tzinfo is None:
        raise InvalidReadingError(Reason.TS_INVALID, f"ts {_shown(text)} has no time zone; append Z for UTC")
    return (moment - _EPOCH) // _MICROSECOND


def _seq(seq: object) -> int | None:
    if seq is None:
        return None
    if isinstance(seq, float) and seq.is_integer():
        seq = int(seq)
    if isinstance(seq, bool) or not isinstance(seq, int) or not -(2**63) <= seq < 2**63:
        raise InvalidReadingError(Reason.SEQ_INVALID, f"seq {_shown(seq)} is not an integer of 64 bits")
    return seq


def _name(name: str) -> str:
    if not _METRIC(name):
        raise InvalidReadingError(Reason.METRIC_NAME_INVALID, f"{_shown(name)} is not [a-z][a-z0-9_]{{0,62}}")
    return name


def _value(name: str, value: object) -> float:
    if not isinstance(value, int | float):
        raise InvalidReadingError(
            Reason.VALUE_NOT_A_NUMBER, f"{name} is {_shown(value)}, neither a number nor a boolean"
        )
    try:
        number = float(value)
    except OverflowError as error:
        raise InvalidReadingError(Reason.VALUE_NOT_FINITE, f"{name} does not fit a double") from error
    if abs(number) >= LARGEST:
        raise InvalidReadingError(Reason.VALUE_NOT_FINITE, f"{name} is {number:g}; a value is below {LARGEST:g}")
    return number


def _shown(value: Any) -> str:
    """For a person and for a text column: ASCII, no control characters, short."""
    try:
        text = ascii(value)
    except ValueError:  # an integer of more digits than Python likes to print
        return "a very long number"
    return text if len(text) <= 120 else text[:120] + "…"

"""What a sensor's firmware makes of what it measures: JSON in many styles, repeated, late, sometimes broken. Pure."""

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from random import Random
from typing import Any, Final

import orjson

from pipeline.simulate.restaurant import Thing, Values

US: Final = 1_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SEOUL: Final = timezone(timedelta(hours=9))
SHOWN_PAYLOAD: Final = 4096
"""Of a malformed message the ledger keeps the bytes up to this size, the SHA-256 always."""


class Kind(StrEnum):
    READING = "reading"
    ARRAY = "array"
    DUPLICATE = "duplicate"
    MALFORMED = "malformed"


class Outcome(StrEnum):
    ACKNOWLEDGED = "acknowledged"
    FAILED = "failed"
    """Never sent, or refused by the broker."""
    UNKNOWN = "unknown"
    """Sent, and no word of it came back."""


@dataclass(slots=True, eq=False)
class Publish:
    """One MQTT message of a device and what became of it. `refused`: elements that must become dead letters."""

    site: str
    device: str
    topic: str
    payload: bytes
    kind: Kind
    readings: list[tuple[int, Values]]
    refused: tuple[bytes, ...] = ()
    sends: int = 0
    sent_us: int | None = None
    acked_us: int | None = None
    outcome: Outcome = Outcome.FAILED
    error: str | None = None
    settled: bool = False

    def line(self) -> dict[str, Any]:
        """Its line of the ledger file."""
        line: dict[str, Any] = {
            "device": self.device,
            "site": self.site,
            "kind": self.kind,
            "outcome": self.outcome,
            "sent_us": self.sent_us,
            "acked_us": self.acked_us,
            "readings": [{"ts_us": ts_us, "values": values} for ts_us, values in self.readings],
        }
        if self.error:
            line["error"] = self.error
        if self.kind is Kind.MALFORMED or self.refused:
            line["topic"] = self.topic
            line["refused"] = [_described(raw) for raw in self.refused or (self.payload,)]
        return line


def _described(raw: bytes) -> dict[str, Any]:
    described: dict[str, Any] = {"size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    if len(raw) <= SHOWN_PAYLOAD:
        described["payload"] = base64.b64encode(raw).decode()
    return described


# Time, as firmware writes it -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stamp:
    """A way to write `ts`; what it cannot tell apart, in microseconds, and how."""

    resolution_us: int
    write: Callable[[int], str | int | float]


def _iso(ts_us: int) -> str:
    return (_EPOCH + timedelta(microseconds=ts_us)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _iso_elsewhere(ts_us: int) -> str:
    return (_EPOCH + timedelta(microseconds=ts_us)).astimezone(_SEOUL).isoformat(timespec="microseconds")


ISO_US: Final = Stamp(1, _iso_elsewhere)
STAMPS: Final = (
    Stamp(1_000, _iso),
    ISO_US,
    Stamp(1_000, lambda ts_us: ts_us // 1_000),  # milliseconds
    Stamp(100, lambda ts_us: ts_us / 1_000),  # milliseconds with a fraction
    Stamp(1_000, lambda ts_us: ts_us / US),  # seconds with a fraction
    Stamp(US, lambda ts_us: ts_us // US),  # seconds
)


# Messages that no one can read -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Malformed:
    """A way to be broken. `make` is given a good reading's fields; `reason` is why it must be refused."""

    reason: str
    make: Callable[[dict[str, Any], Random], bytes]
    suffix: str = "readings"
    weight: int = 10


def _with(**changes: Any) -> Callable[[dict[str, Any], Random], bytes]:
    return lambda fields, _: orjson.dumps({**fields, **changes})


def _and(text: bytes) -> Callable[[dict[str, Any], Random], bytes]:
    """A good object with this written before its closing brace."""
    return lambda fields, _: orjson.dumps(fields)[:-1] + b"," + text + b"}"


def _cut(fields: dict[str, Any], random: Random) -> bytes:
    whole = orjson.dumps(fields)
    return whole[: random.randrange(1, len(whole))]


MALFORMED: Final = (
    Malformed("malformed_json", _cut),
    Malformed("malformed_json", _and(b'"note":"\xff\xfe"')),
    Malformed("malformed_json", _and(b'"temperature_c":NaN')),
    Malformed("malformed_json", _and(b'"deep":' + b"[" * 20_000 + b"]" * 20_000), weight=2),
    Malformed("empty_payload", lambda *_: b""),
    Malformed("not_an_object", lambda fields, _: orjson.dumps(fields["ts"])),
    Malformed("value_not_a_number", _with(temperature_c="warm")),
    Malformed("value_not_a_number", _with(temperature_c=[3.5])),
    Malformed("value_not_a_number", _with(temperature_c={"value": 3.5})),
    Malformed("value_not_finite", _and(b'"temperature_c":' + b"9" * 400)),
    Malformed("value_not_finite", _and(b'"temperature_c":1e999')),
    Malformed("metric_name_invalid", _and(b'"nul\\u0000":1')),
    Malformed("metric_name_invalid", _with(Temperature=3.5)),
    Malformed("ts_invalid", _with(ts="yesterday")),
    Malformed("ts_invalid", _with(ts="2026-11-23T03:40:00")),
    Malformed("ts_invalid", _with(ts=True)),
    Malformed("too_far_in_future", _with(ts="2099-01-01T00:00:00Z")),
    Malformed("too_far_in_past", _with(ts=1)),
    Malformed("seq_invalid", _with(seq=1.5)),
    Malformed("no_metrics", lambda fields, _: orjson.dumps({"ts": fields["ts"], "seq": fields["seq"]})),
    Malformed("too_many_metrics", _with(**{f"m{i}": i for i in range(1_000)}), weight=2),
    Malformed("misplaced_topic", lambda fields, _: orjson.dumps(fields), suffix="telemetry"),
    Malformed("oversized", _with(comment="x" * 300_000), weight=1),
)
_WEIGHTS: Final = [malformed.weight for malformed in MALFORMED]


# A sensor --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Shares, 0 to 1: of messages that are malformed, sent twice, late; of time that a device is offline."""

    malformed: float = 0.002
    duplicates: float = 0.005
    late: float = 0.002
    offline: float = 0.01
    skew: bool = True


NO_FAULTS: Final = Faults(malformed=0, duplicates=0, late=0, offline=0, skew=False)


@dataclass(slots=True, kw_only=True)
class Sensor:
    """A thing's sensor, its clock and its habits. The same seed measures and sends the same."""

    site: str
    device: str
    thing: Thing
    random: Random
    faults: Faults
    every_us: int
    skew_us: int = field(init=False)
    _stamp: Stamp = field(init=False)
    _last_us: int = field(init=False, default=0)
    _seq: int = field(init=False, default=0)
    _topic: str = field(init=False)
    _plain: float = field(init=False)

    def __post_init__(self) -> None:
        self._stamp = self.random.choice([s for s in STAMPS if s.resolution_us * 2 <= self.every_us] or [ISO_US])
        self.skew_us = _skew(self.random) if self.faults.skew else 0
        self._topic = f"brigade/v1/{self.site}/{self.device}/"
        self._plain = 1 - self.faults.malformed - self.faults.duplicates - self.faults.late

    def measure(self, now_us: int) -> list[Publish]:
        """What the sensor sends about this moment: a message, or one and the same again, or a broken one."""
        values = self.thing.step(now_us / US)
        lot = self.random.random()
        if lot < self._plain:
            return [self._reading(self._next_us(now_us), self._stamp, values)]
        if lot < self._plain + self.faults.malformed:
            return [self._malformed(now_us, values)]
        if lot < self._plain + self.faults.malformed + self.faults.late:
            return [self._late(now_us, values)]
        first = self._reading(self._next_us(now_us), self._stamp, values)
        return [first, self._copy(first, Kind.DUPLICATE)]

    def _next_us(self, now_us: int) -> int:
        """The time by the device's clock as its style can write it, never the same twice."""
        resolution = self._stamp.resolution_us
        ts_us = (now_us + self.skew_us) // resolution * resolution
        self._last_us = max(ts_us, self._last_us + resolution)
        return self._last_us

    def _reading(self, ts_us: int, stamp: Stamp, values: Values) -> Publish:
        self._seq += 1
        payload = orjson.dumps({"ts": stamp.write(ts_us), "seq": self._seq, **values})
        return self._publish(payload, Kind.READING, [(ts_us, values)])

    def _late(self, now_us: int, values: Values) -> Publish:
        """Found in the flash: a minute to two hours old. Its microseconds keep it apart from all others."""
        ts_us = now_us + self.skew_us - self.random.randrange(60 * US, 7_200 * US)
        return self._reading(ts_us // 100 * 100 + self.random.randrange(1, 100), ISO_US, values)

    def _malformed(self, now_us: int, values: Values) -> Publish:
        ts_us = self._next_us(now_us)
        self._seq += 1
        fields = {"ts": self._stamp.write(ts_us), "seq": self._seq, **values}
        if self.random.random() < 0.1:
            return self._array_with_a_bad_element(fields, ts_us, values)
        (malformed,) = self.random.choices(MALFORMED, _WEIGHTS)
        publish = self._publish(malformed.make(fields, self.random), Kind.MALFORMED, [])
        publish.topic = self._topic + malformed.suffix
        return publish

    def _array_with_a_bad_element(self, fields: dict[str, Any], ts_us: int, values: Values) -> Publish:
        bad = orjson.dumps({"seq": fields["seq"], **values})  # in an array every reading needs its own ts
        payload = b"[" + orjson.dumps(fields) + b"," + bad + b"]"
        publish = self._publish(payload, Kind.ARRAY, [(ts_us, values)])
        publish.refused = (bad,)
        return publish

    def _publish(self, payload: bytes, kind: Kind, readings: list[tuple[int, Values]]) -> Publish:
        return Publish(self.site, self.device, self._topic + "readings", payload, kind, readings)

    def _copy(self, publish: Publish, kind: Kind) -> Publish:
        return self._publish(publish.payload, kind, publish.readings)


def array_of(publishes: Sequence[Publish]) -> Publish:
    """Store and forward: readings that waited go out as one message."""
    first = publishes[0]
    payload = b"[" + b",".join(publish.payload for publish in publishes) + b"]"
    readings = [reading for publish in publishes for reading in publish.readings]
    return Publish(first.site, first.device, first.topic, payload, Kind.ARRAY, readings)


def _skew(random: Random) -> int:
    """Most clocks are right to a second, some to twenty; one in twenty is minutes behind or most of one ahead."""
    lot = random.random()
    if lot < 0.8:
        return random.randrange(-US, US)
    if lot < 0.95:
        return random.randrange(-20 * US, 20 * US)
    return random.randrange(-600 * US, 50 * US)

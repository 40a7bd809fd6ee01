"""Packs of messages into what one transaction writes: a binary COPY, marks, ledger, dead letters.

Clean messages go the fast way: all payloads of a pack are decoded as one JSON array, and a reading's rows are packed
by one call. Anything unusual in a pack sends the whole pack the plain way, message by message (`readings.decode`).
tests/pipeline/test_batches.py proves that both ways compute the same.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from struct import Struct
from typing import Any, Final

import msgspec

from pipeline import packs
from pipeline.directory import Device, Directory, Layout, Names, Unknown
from pipeline.packs import Message, UndecodableRecordError
from pipeline.readings import (
    HOUR_US,
    MILLISECONDS_FROM,
    MINUTE_US,
    US,
    InvalidReadingError,
    Limits,
    Reading,
    Reason,
    Refusal,
    decode,
    parse_status,
    parse_ts,
    reading,
)

COPY_HEAD: Final = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
COPY_TAIL: Final = b"\xff\xff"
EPOCH_US: Final = 946_684_800 * US
"""PostgreSQL's binary timestamps count from 2000-01-01."""

MOMENT = Struct(">iqiqii").pack
MOMENT_WITH_SEQ = Struct(">iqiqiqi").pack
_STAGED = Struct(">hiiiiihiqiqi").pack
_STAGED_SEQ = Struct(">qid").pack
_STAGED_NO_SEQ = Struct(">id").pack

Key = tuple[Any, ...]
"""(layout key, ts_us, value, value …): two readings with one key are the same reading."""

HOUR_BITS: Final = 20
_objects = msgspec.json.Decoder(list[dict[str, Any]]).decode


@dataclass(frozen=True, slots=True)
class Pack:
    """One record of `readings.raw` and where it stood."""

    partition: int
    offset: int
    value: bytes | None
    timestamp_us: int
    """Of the record, microseconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    refusal: Refusal
    message: Message
    pack: Pack
    position: int
    device_id: int

    @property
    def payload(self) -> bytes:
        return self.message.payload if self.refusal.raw is None else self.refusal.raw

    @property
    def replay_of(self) -> int | None:
        return replay_of(self.message)


@dataclass(frozen=True, slots=True)
class Replay:
    """A message published again, and the indices of its readings in `Batch.kept`."""

    letter_id: int
    message: Message
    indices: list[int] = field(default_factory=list)


def replay_of(message: Message) -> int | None:
    return message.extra.get("dead_letter") if message.extra else None


def messages_of(pack: Pack) -> list[Message]:
    """The messages of a pack; of a record that is none, an empty list."""
    try:
        return packs.decode(pack.value)
    except UndecodableRecordError:
        return []


def part_of(pack: Pack, positions: Iterable[int]) -> bytes:
    """A record's value with only these messages of a pack."""
    messages = messages_of(pack)
    return packs.encode([messages[position] for position in positions])


class _NotCleanError(Exception):
    """Something in the pack wants the plain way."""


class Recent:
    """Readings lately committed, so that an exact repeat costs no database work. Two generations.

    No key in here is later than its layout's `latest_us`: a reading that is later is no repeat, and is only noted down.
    A generation's set is built when one comes that is not: 1 µs a reading less for devices whose clocks go forward.
    """

    def __init__(self, size: int = 50_000) -> None:
        self._size = size
        self._new = _Generation()
        self._old = _Generation()

    @property
    def noted(self) -> list[Key]:
        return self._new.noted

    def knows(self, key: Key) -> bool:
        return self._new.knows(key) or self._old.knows(key)

    def turn(self) -> None:
        if len(self._new) > self._size:
            self._new, self._old = _Generation(), self._new

    def forget(self, keys: Iterable[Key] | None = None) -> None:
        if keys is None:
            self._new, self._old = _Generation(), _Generation()
        elif gone := set(keys):
            self._new.forget(gone)
            self._old.forget(gone)


class _Generation:
    """Keys noted down, and a set of those that were there when somebody last asked."""

    def __init__(self) -> None:
        self.noted: list[Key] = []
        self._known: set[Key] = set()

    def __len__(self) -> int:
        return len(self.noted) + len(self._known)

    def knows(self, key: Key) -> bool:
        if self.noted:
            self._known.update(self.noted)
            self.noted.clear()
        return key in self._known

    def forget(self, gone: set[Key]) -> None:
        self.noted[:] = [key for key in self.noted if key not in gone]
        self._known -= gone


@dataclass(slots=True)
class Batch:
    """What one transaction writes. Tallies count by `layout key << HOUR_BITS | hour of receipt`."""

    directory: Directory
    limits: Limits
    late_after_us: int
    recent: Recent
    oldest_us: int = 0
    """Replays of readings older than this are refused."""
    poisoned: Mapping[tuple[int, int], Mapping[int, str]] = field(default_factory=dict)
    """By (partition, offset): positions of messages the database will not have, and why."""

    packs: list[Pack] = field(default_factory=list)
    rows: list[bytes] = field(default_factory=list)
    kept: list[tuple[Key, Message, int | None, Reading | None]] = field(default_factory=list)
    tally: list[int] = field(default_factory=list)
    repeats: list[int] = field(default_factory=list)
    late: list[int] = field(default_factory=list)
    marks: dict[int, set[tuple[int, int]]] = field(default_factory=dict)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    statuses: dict[int, tuple[bool, int, bool]] = field(default_factory=dict)
    """By device: online, since when (of the first message that said so), and whether it changed within the batch."""
    replays: list[Replay] = field(default_factory=list)
    traced: list[tuple[Message, Pack]] = field(default_factory=list)
    messages: int = 0
    points: int = 0
    size: int = 0
    plain_packs: int = 0

    def staged_data(self) -> bytes:
        """A whole binary COPY of the same rows, with the reading's index in `kept` as the first column."""
        return b"".join((COPY_HEAD, *self._staged_rows(), COPY_TAIL))

    def _staged_rows(self) -> Iterator[bytes]:
        for index, (key, message, seq, _) in enumerate(self.kept):
            layout = self.directory.layouts[key[0]]
            ts, received = key[1] - EPOCH_US, message.received_us - EPOCH_US
            for metric_id, value in zip(layout.metric_ids, key[2:], strict=True):
                yield _STAGED(
                    7,
                    4,
                    index,
                    4,
                    layout.device_id,
                    2,
                    metric_id,
                    8,
                    ts,
                    8,
                    received,
                    -1 if seq is None else 8,
                )
                yield _STAGED_NO_SEQ(8, value) if seq is None else _STAGED_SEQ(seq, 8, value)

    def add(self, pack: Pack) -> Unknown | None:
        """Take a pack in; or leave the batch as it was and return the names that must be learned first."""
        try:
            messages = packs.decode(pack.value)
        except UndecodableRecordError as error:
            self._refuse_record(pack, error)
            return None
        before = self._lengths()
        try:
            unknown = self._add_clean(pack, messages)
        except _NotCleanError:
            self._undo(before)
            self.plain_packs += 1
            unknown = self._add_plainly(pack, messages)
        if unknown:
            self._undo(before)
            return unknown
        self.packs.append(pack)
        self.messages += len(messages)
        self.size += len(pack.value or b"")
        return None

    # The fast way ------------------------------------------------------------------------------------------

    def _add_clean(self, pack: Pack, messages: Sequence[Message]) -> Unknown | None:
        """Rows of a pack in which every message is one clean JSON object; `_NotCleanError` when one is not.

        Decoding the payloads joined is safe because each begins with `{` and ends with `}` and every value must be
        a number: an object that ran over a payload's edge would hold `},{` in a string, or an array.
        """
        objects = self._decoded(pack, messages)
        unknown: Unknown | None = None
        sources = self.directory.sources
        future_us, past_us, late_after_us = -self.limits.future_us, self.limits.past_us, self.late_after_us
        knows, note = self.recent.knows, self.recent.noted.append
        rows, kept, tally = self.rows.append, self.kept.append, self.tally.append
        marks: set[tuple[int, int]] = set()
        minutes: dict[Layout, int] = {}  # the last one marked: a device's readings come minute after minute
        points = 0
        for message, fields in zip(messages, objects, strict=True):
            device = sources.get(message.topic)
            ts = fields.pop("ts", None)
            seq = fields.pop("seq", None)
            names = tuple(fields)
            layout = None if device is None else device.layouts.get(names)
            if device is None or layout is None:
                unknown = self._unknown(unknown, message, device, names)
                continue
            if device.partition != pack.partition:
                raise _NotCleanError
            received_us = message.received_us
            if type(ts) is int and ts >= MILLISECONDS_FROM:  # what most devices send
                ts_us = ts * 1000
            else:
                ts_us = received_us if ts is None else _clean_ts(ts)
            delay_us = received_us - ts_us
            if not future_us <= delay_us <= past_us:
                raise _NotCleanError
            values = fields.values()
            key = (layout.key, ts_us, *values)
            counted = layout.key << HOUR_BITS | received_us // HOUR_US
            packed = _rows(layout, ts_us, received_us, seq, values)
            if ts_us > layout.latest_us:
                layout.latest_us = ts_us
            elif knows(key):
                self.repeats.append(counted)
                continue
            note(key)
            rows(packed)
            points += layout.points
            kept((key, message, seq, None))
            tally(counted)
            minute = ts_us // MINUTE_US
            if minute != minutes.get(layout):
                minutes[layout] = minute
                marks.add((minute, layout.device_id))
            if delay_us > late_after_us and received_us - late_after_us >= (minute + 1) * MINUTE_US:
                self.late.append(counted)
        self.points += points
        self.marks.setdefault(pack.partition, set()).update(marks)
        return unknown

    def _decoded(self, pack: Pack, messages: Sequence[Message]) -> list[dict[str, Any]]:
        if self.poisoned and (pack.partition, pack.offset) in self.poisoned:
            raise _NotCleanError
        payloads = []
        for message in messages:
            payload = message.payload
            if payload[:1] != b"{" or payload[-1:] != b"}":
                raise _NotCleanError
            if message.extra is not None:
                self._add_traced(message, pack)
            payloads.append(payload)
        try:
            objects = _objects(b"[" + b",".join(payloads) + b"]")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _NotCleanError from error
        if len(objects) != len(messages):
            raise _NotCleanError
        return objects

    def _add_traced(self, message: Message, pack: Pack) -> None:
        """A trace makes no other message of it; anything else in `extra` does."""
        if message.extra is None or message.extra.keys() != {"traceparent"}:
            raise _NotCleanError
        self.traced.append((message, pack))

    def _unknown(self, unknown: Unknown | None, message: Message, device: Device | None, names: Names) -> Unknown:
        """Note what must be learned. What cannot be learned, or is refused anyway, wants the plain way."""
        directory, topic = self.directory, message.topic
        if topic in directory.refused or topic in directory.announcers or (device and names in device.refused):
            raise _NotCleanError
        try:
            plain = reading(message.payload, message.received_us, self.limits, default_ts=message.received_us)
        except InvalidReadingError as error:
            raise _NotCleanError from error
        if tuple(plain.values) != names:
            raise _NotCleanError
        unknown = unknown or Unknown()
        if device is None:
            unknown.add_topic(topic)
        else:
            unknown.add_names(topic, names)
        return unknown

    # The plain way -----------------------------------------------------------------------------------------

    def _add_plainly(self, pack: Pack, messages: Sequence[Message]) -> Unknown | None:
        unknown = Unknown()
        poisoned = self.poisoned.get((pack.partition, pack.offset), {})
        for position, message in enumerate(messages):
            self._add_message(_Place(pack, message, position), unknown, poisoned.get(position))
        return unknown or None

    def _add_message(self, place: "_Place", unknown: Unknown, poison: str | None) -> None:
        topic = place.message.topic
        if place.message.extra and "traceparent" in place.message.extra:
            self.traced.append((place.message, place.pack))
        device = self.directory.sources.get(topic) or self.directory.announcers.get(topic)
        if device is None:
            if refusal := self.directory.refused.get(topic):
                self._refuse(place, refusal, None)
            else:
                unknown.add_topic(topic)
        elif device.partition != place.pack.partition:
            detail = f"{device.name} belongs to partition {device.partition}, this came through {place.pack.partition}"
            self._refuse(place, Refusal(reason=Reason.WRONG_PARTITION, detail=detail), device)
        elif poison is not None:
            self._refuse(place, Refusal(reason=Reason.DATABASE_REFUSED, detail=poison), device)
        elif topic in self.directory.announcers:
            self._add_status(place, device)
        else:
            self._add_readings(place, device, unknown)

    def _add_status(self, place: "_Place", device: Device) -> None:
        try:
            online = parse_status(place.message.payload)
        except InvalidReadingError as error:
            self._refuse(place, Refusal(reason=error.reason, detail=error.detail), device)
            return
        received_us = place.message.received_us
        if online is None:
            return
        if (before := self.statuses.get(device.id)) is None:
            self.statuses[device.id] = (online, received_us, False)
        elif online != before[0] and received_us >= before[1]:
            self.statuses[device.id] = (online, received_us, True)

    def _add_readings(self, place: "_Place", device: Device, unknown: Unknown) -> None:
        results = [_within_limits(result, device) for result in decode(place.message, self.limits)]
        replay = None
        if (letter_id := replay_of(place.message)) is not None:
            results = _whole_or_not([self._not_beyond_retention(result) for result in results])
            replay = Replay(letter_id, place.message)
        for result in results:
            if isinstance(result, Refusal):
                self._refuse(place, result, device)
            elif layout := device.layouts.get(tuple(result.values)):
                self._keep(place, layout, result, replay)
            else:
                unknown.add_names(place.message.topic, tuple(result.values))

    def _not_beyond_retention(self, result: Reading | Refusal) -> Reading | Refusal:
        """A minute whose other rows are dropped by now must not be computed from a replay alone."""
        if isinstance(result, Refusal) or result.ts_us >= self.oldest_us:
            return result
        detail = "its neighbours are beyond BRIGADE_RAW_RETENTION_DAYS by now: its minute cannot be computed any more"
        return Refusal(reason=Reason.TOO_FAR_IN_PAST, detail=detail, element=result.element, raw=result.raw)

    def _keep(self, place: "_Place", layout: Layout, reading: Reading, replay: Replay | None) -> None:
        key = (layout.key, reading.ts_us, *reading.values.values())
        received_us = place.message.received_us
        counted = layout.key << HOUR_BITS | received_us // HOUR_US
        if replay:
            if not replay.indices:
                self.replays.append(replay)
            replay.indices.append(len(self.kept))
        elif self.recent.knows(key):
            self.repeats.append(counted)
            return
        self.recent.noted.append(key)
        layout.latest_us = max(layout.latest_us, reading.ts_us)
        self.rows.append(_rows(layout, reading.ts_us, received_us, reading.seq, reading.values.values()))
        self.kept.append((key, place.message, reading.seq, reading))
        self.points += layout.points
        self.tally.append(counted)
        minute = reading.ts_us // MINUTE_US
        self.marks.setdefault(place.pack.partition, set()).add((minute, layout.device_id))
        if received_us - self.late_after_us >= (minute + 1) * MINUTE_US:
            self.late.append(counted)

    def _refuse(self, place: "_Place", refusal: Refusal, device: Device | None) -> None:
        self.dead_letters.append(
            DeadLetter(
                refusal=refusal,
                message=place.message,
                pack=place.pack,
                position=place.position,
                device_id=device.id if device else 0,
            )
        )

    def _refuse_record(self, pack: Pack, error: UndecodableRecordError) -> None:
        message = Message("", pack.timestamp_us, pack.value or b"")
        self._refuse(_Place(pack, message, 0), Refusal(reason=Reason.UNDECODABLE_RECORD, detail=str(error)), None)
        self.packs.append(pack)
        self.size += len(pack.value or b"")

    def _lengths(self) -> tuple[int, ...]:
        return (*map(len, self._lists()), self.points)

    def _undo(self, before: tuple[int, ...]) -> None:
        """Be again what one was at `_lengths`; marks may stay, one too many costs a computation and no more."""
        *lengths, self.points = before
        kept = lengths[0]
        self.recent.forget(key for key, *_ in self.kept[kept:])
        for entries, length in zip(self._lists(), lengths, strict=True):
            del entries[length:]

    def _lists(self) -> tuple[list[Any], ...]:
        return (self.kept, self.rows, self.tally, self.repeats, self.late, self.dead_letters, self.replays, self.traced)


@dataclass(frozen=True, slots=True)
class _Place:
    pack: Pack
    message: Message
    position: int


def _within_limits(result: Reading | Refusal, device: Device) -> Reading | Refusal:
    if isinstance(result, Reading) and (refused := device.refused.get(tuple(result.values))):
        return Refusal(reason=refused.reason, detail=refused.detail, element=result.element, raw=result.raw)
    return result


def _whole_or_not(results: list[Reading | Refusal]) -> list[Reading | Refusal]:
    """A replay succeeds whole or changes nothing: then this is its first refusal."""
    return next(([result] for result in results if isinstance(result, Refusal)), results)


def _clean_ts(ts: object) -> int:
    if type(ts) is int:
        return ts * 1000 if ts >= MILLISECONDS_FROM else ts * US
    try:
        return parse_ts(ts)
    except InvalidReadingError as error:
        raise _NotCleanError from error


def _rows(layout: Layout, ts_us: int, received_us: int, seq: int | None, values: Iterable[float]) -> bytes:
    """All rows of one reading; `_NotCleanError` when a value is no number that fits a double, or seq no int64."""
    try:
        if seq is None:
            return layout.rows(MOMENT(8, ts_us - EPOCH_US, 8, received_us - EPOCH_US, -1, 8), values)
        if type(seq) is not int:
            raise _NotCleanError
        moment = MOMENT_WITH_SEQ(8, ts_us - EPOCH_US, 8, received_us - EPOCH_US, 8, seq, 8)
        return layout.rows_with_seq(moment, values)
    except (struct.error, OverflowError, TypeError) as error:
        raise _NotCleanError from error

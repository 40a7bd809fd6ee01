"""What happened to every reading of a batch: the ledger, dead letters, replays, status."""

from collections import Counter as Tally
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import Counter
from psycopg import AsyncConnection

from pipeline.batches import HOUR_BITS, Batch, DeadLetter, Pack, messages_of
from pipeline.packs import Message
from pipeline.readings import HOUR_US, MINUTE_US, Reading, Reason, Refusal, is_status_topic
from pipeline.rows import Stored

READINGS = Counter("pipeline_sink_readings_total", "Readings by what became of them.", ["outcome"])
LATE = Counter("pipeline_sink_readings_late_total", "Stored readings that came after their minute was closed.")
REFUSED = Counter("pipeline_sink_refused_total", "Dead letters written.", ["reason"])

ACCOUNT = """
INSERT INTO ledger_pending (hour, device_ids, received, stored, duplicate, refused, late, points)
VALUES (to_timestamp(%s::bigint * 3600), %s::int[], %s::int[], %s::int[], %s::int[], %s::int[], %s::int[], %s::int[])"""

ACCOUNT_REFUSALS = """
INSERT INTO ledger_refusals AS l (device_id, hour, reason, refused)
SELECT device_id, to_timestamp(hour * 3600), reason, refused
FROM unnest(%s::int[], %s::bigint[], %s::text[], %s::bigint[]) AS new (device_id, hour, reason, refused)
ORDER BY device_id, hour, reason
ON CONFLICT (device_id, hour, reason) DO UPDATE SET refused = l.refused + excluded.refused"""

WRITE_DEAD_LETTERS = """
WITH new AS (
    INSERT INTO dead_letters (received_at, reason, detail, mqtt_topic, payload, payload_size, payload_sha256, element,
                              device_id, kafka_partition, kafka_offset, position)
    SELECT to_timestamp(received_us / 1000000.0), reason, detail, mqtt_topic, payload, payload_size, payload_sha256,
           element, device_id, kafka_partition, kafka_offset, position
    FROM unnest(%(received_us)s::bigint[], %(reason)s::text[], %(detail)s::text[], %(mqtt_topic)s::text[],
                %(payload)s::bytea[], %(payload_size)s::bigint[], %(payload_sha256)s::text[], %(element)s::int[],
                %(device_id)s::int[], %(kafka_partition)s::int[], %(kafka_offset)s::bigint[], %(position)s::int[])
      AS given (received_us, reason, detail, mqtt_topic, payload, payload_size, payload_sha256, element, device_id,
                kafka_partition, kafka_offset, position)
    RETURNING *
)
INSERT INTO outbox (partition, topic, key, value)
SELECT n.kafka_partition, %(topic)s, coalesce(d.name, ''), convert_to(json_build_object(
    'id', n.id, 'reason', n.reason, 'detail', n.detail, 'device', d.name, 'mqtt_topic', n.mqtt_topic,
    'received_at', n.received_at, 'element', n.element, 'payload_size', n.payload_size,
    'payload_sha256', n.payload_sha256, 'payload_base64', translate(encode(n.payload, 'base64'), E'\\n', ''),
    'kafka_partition', n.kafka_partition, 'kafka_offset', n.kafka_offset, 'position', n.position
)::text, 'UTF8')
FROM new n LEFT JOIN devices d ON d.id = n.device_id
ORDER BY n.id"""

WRITE_STATUS = """
INSERT INTO device_status AS s (device_id, online, received_at)
SELECT device_id, online, to_timestamp(received_us / 1000000.0)
FROM unnest(%s::int[], %s::boolean[], %s::bigint[], %s::boolean[]) AS new (device_id, online, received_us, changed)
WHERE changed OR NOT EXISTS (SELECT FROM device_status o WHERE o.device_id = new.device_id AND o.online = new.online)
ORDER BY device_id
ON CONFLICT (device_id) DO UPDATE SET online = excluded.online, received_at = excluded.received_at
WHERE s.received_at <= excluded.received_at"""
# An unchanged status keeps its time: a retained "offline" that the broker repeats must not hide newer readings.

SETTLE = """
WITH known AS (
    SELECT id FROM dead_letters
    WHERE id = %(id)s AND mqtt_topic = %(topic)s AND received_at = to_timestamp(%(received_us)s / 1000000.0)
), settled AS (
    UPDATE dead_letters l SET replayed_at = now(), outcome = %(outcome)s, resolved = %(resolved)s
    FROM known WHERE l.id = known.id AND NOT l.resolved
    RETURNING l.device_id, extract(epoch FROM l.received_at)::bigint / 3600, l.reason
)
SELECT settled.* FROM known LEFT JOIN settled ON true"""
# No row: no such dead letter here, the database was restored from before it. NULLs: it was resolved before.


@dataclass(slots=True)
class Account:
    """What a transaction adds to the ledger, by hour of receipt and device."""

    counts: dict[int, dict[int, list[int]]] = field(default_factory=dict)
    refusals: Tally[tuple[int, int, str]] = field(default_factory=Tally)

    RECEIVED, STORED, DUPLICATE, REFUSED, LATE, POINTS = range(6)

    def add(self, device_id: int, hour: int, column: int, n: int) -> None:
        self.row(device_id, hour)[column] += n

    def row(self, device_id: int, hour: int) -> list[int]:
        return self.counts.setdefault(hour, {}).setdefault(device_id, [0] * 6)

    def refuse(self, device_id: int, hour: int, reason: str, n: int) -> None:
        self.add(device_id, hour, self.REFUSED, n)
        self.refusals[(device_id, hour, reason)] += n


async def keep(database: AsyncConnection, batch: Batch, stored: Stored, *, dead_topic: str) -> None:
    """Write what became of every reading of a batch, in the transaction that stores it."""
    account = Account()
    _account_readings(account, batch, stored)
    letters = batch.dead_letters + _conflicts(batch, stored)
    new = [letter for letter in letters if not await _replay_failed(database, letter)]
    for letter in new:
        if not is_status_topic(letter.message.topic):
            hour = letter.message.received_us // HOUR_US
            account.add(letter.device_id, hour, Account.RECEIVED, 1)
            account.refuse(letter.device_id, hour, letter.refusal.reason, 1)
    await _settle_replays(database, account, batch, stored)
    if new:
        await database.execute(WRITE_DEAD_LETTERS, _columns(new, dead_topic))
    if batch.statuses:
        online, received, changed = zip(*batch.statuses.values(), strict=True)
        columns = (list(batch.statuses), list(online), list(received), list(changed))
        await database.execute(WRITE_STATUS, columns)
    await _write_account(database, account)


def _account_readings(account: Account, batch: Batch, stored: Stored) -> None:
    _tally(account, batch, batch.repeats, Account.DUPLICATE)
    if stored.points is None:
        _tally(account, batch, batch.tally, Account.STORED)
        for counted, n in Tally(batch.late).items():
            account.add(batch.directory.layouts[counted >> HOUR_BITS].device_id, _hour(counted), Account.LATE, n)
    else:
        for index, counted in enumerate(batch.tally):
            if index not in stored.conflicts:
                _account_one(account, batch, index, counted, points=stored.points.get(index, 0))


def _tally(account: Account, batch: Batch, counted_list: list[int], column: int) -> None:
    for counted, n in Tally(counted_list).items():
        layout = batch.directory.layouts[counted >> HOUR_BITS]
        row = account.row(layout.device_id, _hour(counted))
        row[Account.RECEIVED] += n
        row[column] += n
        if column == Account.STORED:
            row[Account.POINTS] += n * layout.points


def _account_one(account: Account, batch: Batch, index: int, counted: int, *, points: int) -> None:
    row = account.row(batch.directory.layouts[counted >> HOUR_BITS].device_id, _hour(counted))
    row[Account.RECEIVED] += 1
    row[Account.STORED if points else Account.DUPLICATE] += 1
    row[Account.POINTS] += points
    row[Account.LATE] += points > 0 and is_late(batch, index)


def is_late(batch: Batch, index: int) -> bool:
    key, message, *_ = batch.kept[index]
    return bool(message.received_us - batch.late_after_us >= (key[1] // MINUTE_US + 1) * MINUTE_US)


def _conflicts(batch: Batch, stored: Stored) -> list[DeadLetter]:
    letters = []
    places = _places(batch.packs) if stored.conflicts else {}
    for index in sorted(stored.conflicts):
        key, message, _, reading = batch.kept[index]
        pack, position = places[(message.topic, message.received_us, message.payload)]
        refusal = Refusal(
            reason=Reason.CONFLICTS_WITH_STORED,
            detail="another value is stored for the same device, metric and ts; it stays",
            element=reading.element if reading else None,
            raw=reading.raw if reading else None,
        )
        device_id = batch.directory.layouts[key[0]].device_id
        letters.append(DeadLetter(refusal=refusal, message=message, pack=pack, position=position, device_id=device_id))
    return letters


async def _replay_failed(database: AsyncConnection, letter: DeadLetter) -> bool:
    """Whether this is a known dead letter's replay, refused again: that changes its outcome and nothing else."""
    if letter.replay_of is None:
        return False
    outcome = str(letter.refusal.reason)
    return bool(await _settle(database, letter.replay_of, letter.message, outcome, resolved=False))


async def _settle_replays(database: AsyncConnection, account: Account, batch: Batch, stored: Stored) -> None:
    """A replay that succeeded moves one from refused in its old hour; a copy of it is no reading of its own."""
    for replay in batch.replays:
        if stored.conflicts.intersection(replay.indices):
            continue
        new = stored.points is None or any(stored.points.get(index) for index in replay.indices)
        outcome = "stored" if new else "duplicate"
        for device_id, hour, reason in await _settle(
            database, replay.letter_id, replay.message, outcome, resolved=True
        ):
            if reason is None:
                _take_back(account, batch, stored, replay.indices)
            else:
                account.add(device_id, int(hour), Account.RECEIVED, -1)
                account.refuse(device_id, int(hour), reason, -1)


def _take_back(account: Account, batch: Batch, stored: Stored, indices: list[int]) -> None:
    for index in indices:
        layout, hour = batch.directory.layouts[batch.tally[index] >> HOUR_BITS], _hour(batch.tally[index])
        account.add(layout.device_id, hour, Account.RECEIVED, -1)
        is_new = stored.points is None or stored.points.get(index)
        account.add(layout.device_id, hour, Account.STORED if is_new else Account.DUPLICATE, -1)


def _columns(letters: list[DeadLetter], dead_topic: str) -> dict[str, Any]:
    extras = [letter.message.extra or {} for letter in letters]
    return {
        "topic": dead_topic,
        "received_us": [letter.message.received_us for letter in letters],
        "reason": [str(letter.refusal.reason) for letter in letters],
        "detail": [_text(letter.refusal.detail) for letter in letters],
        "mqtt_topic": [_text(letter.message.topic) for letter in letters],
        "payload": [letter.payload for letter in letters],
        "payload_size": [e.get("size", len(x.payload)) for x, e in zip(letters, extras, strict=True)],
        "payload_sha256": [extra.get("sha256") for extra in extras],
        "element": [letter.refusal.element for letter in letters],
        "device_id": [letter.device_id for letter in letters],
        "kafka_partition": [letter.pack.partition for letter in letters],
        "kafka_offset": [letter.pack.offset for letter in letters],
        "position": [letter.position for letter in letters],
    }


def count(batch: Batch, stored: Stored) -> int:
    """Tell the metrics, after the commit; return how many readings were new."""
    new = len(batch.tally) if stored.points is None else len(stored.points)
    READINGS.labels("stored").inc(new)
    READINGS.labels("duplicate").inc(len(batch.repeats) + len(batch.tally) - new - len(stored.conflicts))
    READINGS.labels("refused").inc(len(batch.dead_letters) + len(stored.conflicts))
    LATE.inc(len(batch.late) if stored.points is None else sum(is_late(batch, index) for index in stored.points))
    for letter in batch.dead_letters:
        REFUSED.labels(letter.refusal.reason).inc()
    REFUSED.labels(Reason.CONFLICTS_WITH_STORED).inc(len(stored.conflicts))
    return new


def new_readings(batch: Batch, stored: Stored) -> Sequence[int]:
    """Indices in `Batch.kept` of those that are new and came as they were measured.

    What a device kept during an outage of its own comes in arrays; that, and replays, say nothing of how quick we are.
    """
    new = range(len(batch.kept)) if stored.points is None else list(stored.points)
    if not batch.plain_packs:
        return new
    replayed = {index for replay in batch.replays for index in replay.indices}
    return [index for index in new if index not in replayed and not _of_array(batch.kept[index][3])]


def _of_array(reading: Reading | None) -> bool:
    return reading is not None and reading.element is not None


async def _settle(
    database: AsyncConnection, letter_id: int, message: Message, outcome: str, *, resolved: bool
) -> list[Any]:
    values = {"id": letter_id, "topic": _text(message.topic), "received_us": message.received_us}
    return await (await database.execute(SETTLE, {**values, "outcome": outcome, "resolved": resolved})).fetchall()


async def _write_account(database: AsyncConnection, account: Account) -> None:
    for hour, devices in account.counts.items():
        received, stored, duplicate, refused, late, points = zip(*devices.values(), strict=True)
        counts = (_array(received), _array(stored), _sparse(duplicate), _sparse(refused), _sparse(late), _array(points))
        await database.execute(ACCOUNT, (hour, _array(devices), *counts))
    if account.refusals:
        rows = [(device_id, hour, reason, n) for (device_id, hour, reason), n in sorted(account.refusals.items())]
        await database.execute(ACCOUNT_REFUSALS, [list(column) for column in zip(*rows, strict=True)])


def _array(numbers: Any) -> str:
    """An array as PostgreSQL reads it: 4 µs a hundred, psycopg's own adaptation of a list takes ten times that."""
    return f"{{{','.join(map(str, numbers))}}}"


def _sparse(numbers: Any) -> str:
    return _array(numbers) if any(numbers) else "{}"


def _hour(counted: int) -> int:
    return counted & ((1 << HOUR_BITS) - 1)


def _places(packs: Iterable[Pack]) -> dict[tuple[Any, ...], tuple[Pack, int]]:
    """Where each message stood."""
    return {
        (message.topic, message.received_us, message.payload): (pack, position)
        for pack in packs
        for position, message in enumerate(messages_of(pack))
    }


def _text(text: str) -> str:
    """PostgreSQL's text holds no NUL."""
    return text.replace("\x00", "\\0")

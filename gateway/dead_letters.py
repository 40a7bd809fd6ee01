"""The messages that could not be stored: listed, shown, and sent through the pipeline again."""

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final

import msgspec
import structlog
from fastapi import APIRouter, Path, Request
from fastapi import Query as InQuery
from pydantic import Field

from gateway import cursors, times
from gateway.answers import Json, links
from gateway.auth import PrincipalOf
from gateway.database import Connection, DatabaseOf
from gateway.devices import Model
from gateway.problems import BadQueryError, NotReplayableError, UnknownError, documented
from gateway.queries import DEVICE_PATTERN, PREFIX, SITE_PATTERN, From, Nothing, Query, To
from gateway.roles import Permission

log = structlog.get_logger(__name__)

# A letter is of the site that its topic names. What came under no topic, as its Kafka record could not be read, is of
# none: `brigade dead-letters` shows it. Where no device could be told, the topic may still name one.
LIST: Final = """
SELECT l.id, l.created_at, l.received_at, l.reason, l.detail, l.mqtt_topic, d.name AS device, l.element,
       l.payload_size, l.payload_sha256 IS NOT NULL AS cut, l.kafka_partition, l.kafka_offset, l.position,
       l.replay_requested_at, l.replay_published_at, l.replayed_at, l.outcome, l.resolved
FROM dead_letters l LEFT JOIN devices d ON d.id = l.device_id
WHERE (%(before)s::bigint IS NULL OR l.id < %(before)s)
  AND (%(device)s::text IS NULL OR l.device_id IN (0, (SELECT id FROM devices WHERE name = %(device)s)))
  AND (%(device)s::text IS NULL OR l.device_id <> 0 OR split_part(l.mqtt_topic, '/', 4) = %(device)s)
  AND split_part(l.mqtt_topic, '/', 3) = ANY(%(sites)s)
  AND (%(reason)s::text IS NULL OR l.reason = %(reason)s)
  AND (%(resolved)s::bool IS NULL OR l.resolved = %(resolved)s)
  AND (%(start)s::timestamptz IS NULL OR l.received_at >= %(start)s)
  AND (%(end)s::timestamptz IS NULL OR l.received_at < %(end)s)
ORDER BY l.id DESC LIMIT %(limit)s
"""

SHOW: Final = """
SELECT l.id, l.created_at, l.received_at, l.reason, l.detail, l.mqtt_topic, d.name AS device, l.element,
       l.payload_size, l.payload_sha256, l.payload_sha256 IS NOT NULL AS cut, l.payload,
       l.kafka_partition, l.kafka_offset, l.position,
       l.replay_requested_at, l.replay_published_at, l.replayed_at, l.outcome, l.resolved
FROM dead_letters l LEFT JOIN devices d ON d.id = l.device_id
WHERE l.id = %(id)s AND split_part(l.mqtt_topic, '/', 3) = ANY(%(sites)s)
"""

# A replay is under way until its outcome is told. Cut payloads and unreadable Kafka records cannot be sent again.
REPLAY: Final = """
UPDATE dead_letters SET replay_requested_at = clock_timestamp(), replay_published_at = NULL
WHERE id = %(id)s AND split_part(mqtt_topic, '/', 3) = ANY(%(sites)s) AND NOT resolved AND payload_sha256 IS NULL
  AND (replay_requested_at IS NULL OR replayed_at >= replay_requested_at)
RETURNING id, replay_requested_at
"""

REPLAY_MANY: Final = """
UPDATE dead_letters SET replay_requested_at = clock_timestamp(), replay_published_at = NULL
WHERE id IN (
    SELECT l.id FROM dead_letters l
    WHERE NOT l.resolved AND l.payload_sha256 IS NULL
      AND (l.replay_requested_at IS NULL OR l.replayed_at >= l.replay_requested_at)
      AND (%(device)s::text IS NULL OR l.device_id IN (0, (SELECT id FROM devices WHERE name = %(device)s)))
      AND (%(device)s::text IS NULL OR l.device_id <> 0 OR split_part(l.mqtt_topic, '/', 4) = %(device)s)
      AND split_part(l.mqtt_topic, '/', 3) = ANY(%(sites)s)
      AND (%(reason)s::text IS NULL OR l.reason = %(reason)s)
      AND (%(start)s::timestamptz IS NULL OR l.received_at >= %(start)s)
      AND (%(end)s::timestamptz IS NULL OR l.received_at < %(end)s)
    ORDER BY l.id LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
)
"""

MOST_REPLAYS: Final = 10_000
BIGINT: Final = 2**63 - 1

router = APIRouter(prefix=PREFIX)


class Reason(StrEnum):
    """As the pipeline writes them; tests/contracts compares the two lists."""

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


class ListedLetter(Model):
    id: int
    created_at: datetime
    received_at: datetime = Field(description="When the bridge received it; a replay keeps this.")
    reason: Reason
    detail: str = Field(examples=["'ts' is no time: 'yesterday'"])
    mqtt_topic: str = Field(examples=["brigade/v1/seoul-1/fridge-0001/readings"])
    device: str | None = Field(description="None where the device is not known; see the topic.")
    element: int | None = Field(description="Its index in the array it came in; none: the whole message.")
    payload_size: int = Field(description="Of the original, also when cut.")
    cut: bool = Field(description="Only its beginning was kept: it cannot be replayed.")
    kafka_partition: int
    kafka_offset: int
    position: int = Field(description="Of the message in its Kafka record.")
    replay_requested_at: datetime | None
    replay_published_at: datetime | None
    replayed_at: datetime | None
    outcome: str | None = Field(description="Of the last replay: stored, duplicate, or why it was refused again.")
    resolved: bool = Field(description="A replay was stored, or found to be a duplicate.")


class Letters(Model):
    dead_letters: list[ListedLetter]
    next: str | None


class Letter(ListedLetter):
    payload_sha256: str | None = Field(description="Of the original, when cut.")
    payload_text: str | None = Field(description="The payload, when it is UTF-8.")
    payload_base64: str = Field(description="The payload, always.")


class Requested(Model):
    id: int
    replay_requested_at: datetime


class RequestedMany(Model):
    requested: int = Field(description="Dead letters whose replay was requested now.")
    more: bool = Field(description=f"Whether there may be more: a request takes {MOST_REPLAYS} at the most.")


class Filter(Query):
    device: str | None = Field(None, pattern=DEVICE_PATTERN, description="Only this device's.")
    site: str | None = Field(
        None, pattern=SITE_PATTERN, description="Only those whose topic names this site; else all of yours."
    )
    reason: Reason | None = Field(None, description="Only those refused for this reason.")
    start: From | None = Field(
        None, alias="from", description=f"Received from then on: {times.SPELLINGS}. Default: ever."
    )
    end: To | None = Field(None, alias="to", description="Received before; spelled as `from`. Default: until now.")

    def parameters(self, now: datetime, sites: Sequence[str]) -> dict[str, object]:
        """Of the query, within these sites."""
        start, end = (_at(name, moment, now) for name, moment in (("from", self.start), ("to", self.end)))
        if start and end and start >= end:
            raise BadQueryError("from", f"must be before 'to'; they are {start.isoformat()} and {end.isoformat()}")
        within = [site for site in sites if self.site in {None, site}]
        return {"device": self.device, "sites": within, "reason": self.reason, "start": start, "end": end}


class ListQuery(Filter):
    resolved: bool | None = Field(None, description="Only those that a replay resolved, or only the others.")
    limit: int = Field(100, ge=1, le=1000, description="Entries of a page.")
    cursor: str | None = Field(None, max_length=1000, description="`next` of the page before; opaque.")


class Before(msgspec.Struct, forbid_unknown_fields=True):
    """A page begins below this id: the newest come first."""

    before: Annotated[int, msgspec.Meta(ge=0, le=BIGINT)]


LetterId = Annotated[int, Path(ge=1, le=BIGINT, description="The dead letter's id.", examples=[17])]


@router.get(
    "/dead-letters",
    tags=["dead letters"],
    summary="Messages that could not be stored, newest first",
    response_model=Letters,
    responses=documented(),
)
async def dead_letters(
    request: Request, database: DatabaseOf, principal: PrincipalOf, query: Annotated[ListQuery, InQuery()]
) -> Json:
    mine = principal.must(Permission.DEAD_LETTERS_READ, query.site)
    before = cursors.decode(query.cursor, Before).before if query.cursor else None
    asked = query.parameters(datetime.now(UTC), mine)
    asked |= {"resolved": query.resolved, "before": before, "limit": query.limit + 1}
    rows = await database.ask(LIST, asked)
    following = cursors.encode(Before(rows[query.limit - 1]["id"])) if len(rows) > query.limit else None
    return Json({"dead_letters": rows[: query.limit], "next": following}, headers=links(request, following))


@router.get(
    "/dead-letters/{id}",
    tags=["dead letters"],
    summary="One of them, with its payload",
    response_model=Letter,
    responses=documented(UnknownError),
)
async def dead_letter(
    database: DatabaseOf,
    principal: PrincipalOf,
    id: LetterId,  # noqa: A002
    _: Annotated[Nothing, InQuery()],
) -> Json:
    mine = principal.must(Permission.DEAD_LETTERS_READ)
    async with database.reading() as connection:
        letter = await _find(connection, id, mine)
    payload = letter.pop("payload")
    return Json({**letter, "payload_text": _text(payload), "payload_base64": base64.b64encode(payload).decode()})


@router.post(
    "/dead-letters/replay",
    tags=["dead letters"],
    summary="Send through the pipeline again what matches a filter",
    description="Takes the filter of the listing; at least one part of it must be given. Those that are cut, resolved "
    "or on their way already are left out.",
    status_code=202,
    response_model=RequestedMany,
    responses=documented(),
)
async def replay_many(database: DatabaseOf, principal: PrincipalOf, query: Annotated[Filter, InQuery()]) -> Json:
    mine = principal.must(Permission.DEAD_LETTERS_REPLAY, query.site)
    if not query.model_fields_set:
        raise BadQueryError(
            "query", "name at least one of device, site, reason, from, to; from=1970-01-01T00:00:00Z means all"
        )
    asked = query.parameters(datetime.now(UTC), mine)
    async with database.writing() as connection:
        requested = (await connection.execute(REPLAY_MANY, asked | {"limit": MOST_REPLAYS})).rowcount
    log.info("replays_requested", requested=requested)
    return Json({"requested": requested, "more": requested == MOST_REPLAYS}, 202)


@router.post(
    "/dead-letters/{id}/replay",
    tags=["dead letters"],
    summary="Send one through the pipeline again",
    description="A worker publishes it within seconds; its outcome then stands in the dead letter.",
    status_code=202,
    response_model=Requested,
    responses=documented(UnknownError, NotReplayableError),
)
async def replay(
    database: DatabaseOf,
    principal: PrincipalOf,
    id: LetterId,  # noqa: A002
    _: Annotated[Nothing, InQuery()],
) -> Json:
    seen = principal.must(Permission.DEAD_LETTERS_READ)
    mine = principal.at(Permission.DEAD_LETTERS_REPLAY)
    async with database.writing() as connection:
        requested = await (await connection.execute(REPLAY, {"id": id, "sites": mine})).fetchone()
        if requested is None:
            letter = await _find(connection, id, seen)
            principal.must(Permission.DEAD_LETTERS_REPLAY, letter["mqtt_topic"].split("/")[2])
            raise NotReplayableError(_why_not(letter))
    log.info("replay_requested", id=id)
    return Json(requested, 202)


async def _find(connection: Connection, id: int, sites: Sequence[str]) -> dict[str, Any]:  # noqa: A002
    letter = await (await connection.execute(SHOW, {"id": id, "sites": sites})).fetchone()
    if letter is None:
        raise UnknownError("id", f"there is no dead letter {id}; /api/v1/dead-letters lists them")
    return letter


def _why_not(letter: dict[str, Any]) -> str:
    match letter:
        case {"resolved": True, "outcome": outcome}:
            return f"it is resolved already: {outcome}"
        case {"cut": True}:
            return "only the beginning of its payload was kept, so it cannot be sent again"
        case _:
            return "a replay of it is under way"


def _text(payload: bytes) -> str | None:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return None


def _at(field: str, moment: times.Moment | None, now: datetime) -> datetime | None:
    try:
        return moment.at(now) if moment else None
    except ValueError as error:
        raise BadQueryError(field, str(error)) from error

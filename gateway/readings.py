"""`/readings`: what a sensor measured over time, as it is or by minutes, hours and days."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Final

from fastapi import APIRouter, Request, Response
from fastapi import Query as InQuery
from pydantic import Field

from gateway import cursors
from gateway.answers import MEDIA_TYPES, NOT_MODIFIED, Format, Streamed, chosen, links, tagged
from gateway.auth import PrincipalOf
from gateway.database import Database, DatabaseOf
from gateway.devices import Device, Metric, Model
from gateway.directory import Directory
from gateway.problems import BadQueryError, NotAcceptableError, UnknownError, documented
from gateway.queries import PREFIX
from gateway.questions import Plan, ReadingsQuery, plan
from gateway.roles import Permission
from gateway.series import Place, Question, points, spans, whole_spans
from gateway.times import EARLIEST, LATEST, Bucket, zone
from gateway.writing import CsvWriter, JsonWriter, Writer

PART_BYTES: Final = 32_768

router = APIRouter(prefix=PREFIX)


class AnyPoint(Model):
    """A reading, or a bucket of them: then with the aggregates that were asked for."""

    ts: datetime = Field(description="The device's time; of a bucket, its beginning.")
    value: float | None = Field(None, description="Raw only.")
    received_at: datetime | None = Field(None, description="Raw only, and not when thinned.")
    seq: int | None = Field(None, description="Raw only, and not when thinned.")
    avg: float | None = None
    min: float | None = None
    max: float | None = None
    sum: float | None = None
    count: int | None = None
    first: float | None = None
    last: float | None = None
    out_of_bounds: bool = Field(description="Whether a reading was outside of the metric's bounds.")
    filled: bool = Field(False, description="With `fill`: no reading is behind this point.")


class Series(Model):
    metric: str = Field(examples=["temperature_c"])
    unit: str | None = Field(examples=["°C"])
    lower_bound: float | None
    upper_bound: float | None
    thinned: bool = Field(description="Whether points were left out to keep to `max_points`.")
    points: list[AnyPoint]


class Readings(Model):
    device: str
    site: str
    time_zone: str = Field(description="The zone whose days are counted.")
    from_: datetime = Field(alias="from", description="Where the first bucket begins.")
    to: datetime = Field(description="Where the last bucket ends.")
    bucket: Bucket
    next: str | None = Field(description="The cursor of the next page.")
    series: list[Series]


EXAMPLE: Final = {
    "device": "fridge-0001",
    "site": "seoul-1",
    "time_zone": "Asia/Seoul",
    "from": "2026-11-22T03:00:00Z",
    "to": "2026-11-23T03:00:00Z",
    "bucket": "1h",
    "next": None,
    "series": [
        {
            "metric": "temperature_c",
            "unit": "°C",
            "lower_bound": -5.0,
            "upper_bound": 8.0,
            "thinned": False,
            "points": [{"ts": "2026-11-22T03:00:00Z", "avg": 3.4, "min": 2.9, "max": 8.2, "out_of_bounds": True}],
        }
    ],
}
CSV_EXAMPLE: Final = (
    "device,metric,unit,ts,avg,min,max,out_of_bounds\r\n"
    "fridge-0001,temperature_c,°C,2026-11-22T03:00:00Z,3.4,2.9,8.2,true\r\n"
)


@router.get(
    "/readings",
    tags=["readings"],
    summary="Readings of a sensor over time",
    response_model=Readings,
    response_model_exclude_unset=True,
    responses=documented(UnknownError, NotAcceptableError)
    | NOT_MODIFIED
    | {
        200: {
            "description": "One series for each metric, in order of time. A long one is streamed; a short one has a "
            "tag (ETag) to ask with again.",
            "headers": {"Link": {"description": 'The next page, rel="next".', "schema": {"type": "string"}}},
            "content": {
                "application/json": {"example": EXAMPLE},
                "text/csv": {"schema": {"type": "string"}, "example": CSV_EXAMPLE},
            },
        }
    },
)
async def readings(
    request: Request, database: DatabaseOf, principal: PrincipalOf, query: Annotated[ReadingsQuery, InQuery()]
) -> Response:
    form = chosen(request, query.format)
    mine = principal.must(Permission.READINGS_READ)
    question = await _understood(request.app.state.directory, query, form, mine, now=datetime.now(UTC))
    if question.is_short:
        body = b"".join([part async for part in _whole(database, question, form)])
        return tagged(request, body, {"Vary": "Accept"}, MEDIA_TYPES[form])
    return Streamed(
        _parts(request, database, question, form),
        media_type=MEDIA_TYPES[form],
        headers={"Vary": "Accept"},
        stalled_seconds=database.stalled_client_seconds,
    )


async def _whole(database: Database, question: Question, form: Format) -> AsyncIterator[bytes]:
    """The body of a short answer, by one statement for each metric."""
    writer = _writer(form, question.plan)
    yield writer.head(question.about(None))
    async with database.fetching(statements=len(question.metrics)) as rows:
        for span in whole_spans(question):
            yield writer.series(span.about())
            async for batch in points(rows, question, span):
                yield writer.points(batch)
    yield writer.tail()


async def _parts(
    request: Request, database: Database, question: Question, form: Format
) -> AsyncGenerator[Mapping[str, str] | bytes]:
    """The headers that the database decides, then the body in parts of some size."""
    async with database.streaming() as stream:
        found, following = await spans(stream, question)
        cursor = cursors.encode(following) if following else None
        yield links(request, cursor)
        writer = _writer(form, question.plan)
        part = writer.head(question.about(cursor))
        for span in found:
            part += writer.series(span.about())
            async for batch in points(stream, question, span):
                part += writer.points(batch)
                if len(part) > PART_BYTES:
                    yield part
                    part = b""
        yield part + writer.tail()


async def _understood(
    directory: Directory, query: ReadingsQuery, form: Format, sites: Sequence[str], *, now: datetime
) -> Question:
    """The query with the names in it looked up; `ApiError` when it cannot be right."""
    device, known = await directory.find(query.device, sites, query.metric)
    metrics = _chosen_metrics(query, device, known)
    asked = plan(query, zone(device.time_zone), now=now, form=form)
    if query.cursor is None:
        return Question(device, metrics, asked, None)
    place = cursors.decode(query.cursor, Place)
    names = [metric.name for metric in metrics]
    if place.metric not in names or not EARLIEST <= place.start <= place.at < place.end < LATEST:
        raise BadQueryError("cursor", "belongs to another query; take it from `next` of a page of this one")
    page = replace(asked, start=place.start, end=place.end)
    return Question(device, metrics[names.index(place.metric) :], page, place)


def _chosen_metrics(query: ReadingsQuery, device: Device, known: Sequence[Metric]) -> Sequence[Metric]:
    by_name = {metric.name: metric for metric in known}
    if missing := [name for name in query.metric if name not in by_name]:
        has = ", ".join(by_name) or "none yet"
        raise BadQueryError("metric", f"{device.name} has no metric {missing[0]!r}; its metrics: {has}")
    return [by_name[name] for name in query.metric] or known


def _writer(form: Format, asked: Plan) -> Writer:
    return JsonWriter() if form is Format.JSON else CsvWriter(asked.columns)

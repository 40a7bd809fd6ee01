"""`/system`: which parts are up, how far behind the pipeline is, how much comes in. For the people who run it."""

import asyncio
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Annotated, Any, Final, Self

import httpx
import structlog
from fastapi import APIRouter, Request
from fastapi import Query as InQuery
from pydantic import Field

from gateway.answers import Json
from gateway.auth import PrincipalOf
from gateway.database import DatabaseOf
from gateway.devices import Model
from gateway.problems import documented
from gateway.queries import PREFIX, Nothing
from gateway.roles import Permission

log = structlog.get_logger(__name__)

SECONDS: Final = 1.0

UP: Final = "max by (job, instance) (up)"
MESSAGES_BEHIND: Final = "sum(max by (consumergroup, topic, partition) (kafka_consumergroup_lag_messages))"
SECONDS_BEHIND: Final = "max(kafka_consumergroup_lag_seconds)"
RECEIVED: Final = "sum(rate(pipeline_bridge_messages_acknowledged_total[5m]))"
STORED: Final = 'sum(rate(pipeline_sink_readings_total{outcome="stored"}[5m]))'
REFUSED: Final = "sum(rate(pipeline_sink_refused_total[5m]))"

OPEN_LETTERS: Final = """
SELECT count(*) AS open FROM (
    SELECT FROM dead_letters
    WHERE NOT resolved AND split_part(mqtt_topic, '/', 3) = ANY(%(sites)s) LIMIT 10000
) letters
"""

router = APIRouter(prefix=PREFIX)


class Part(Model):
    name: str = Field(examples=["worker-1"])
    up: bool
    detail: str | None = Field(description="What is known beside that.")


class Lag(Model):
    messages: float | None = Field(description="Messages received and not yet stored, estimated.")
    seconds: float | None = Field(description="Age of the oldest of them.")


class Rates(Model):
    received: float | None = Field(description="Messages a second that came, over five minutes.")
    stored: float | None = Field(description="Readings a second that were stored.")
    refused: float | None = Field(description="Dead letters a second.")
    dead_letters_open: int = Field(description="Dead letters of your sites without a good end; 10,000 at the most.")


class System(Model):
    at: datetime
    parts: list[Part]
    lag: Lag | None = Field(description="None: not known now.")
    rates: Rates


class Prometheus:
    """Its HTTP API, asked briefly; without an address, or when it is away, nothing is known."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def __aenter__(self) -> Self:
        self._client = httpx.AsyncClient(base_url=self._url, timeout=SECONDS, trust_env=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def ask(self, query: str) -> list[tuple[dict[str, str], float]] | None:
        """Labels and value of each series; None: it does not answer."""
        if not self._url:
            return None
        try:
            answer = await self._client.get("/api/v1/query", params={"query": query})
            found = answer.raise_for_status().json()["data"]["result"]
            return [(series["metric"], float(series["value"][1])) for series in found]
        except (httpx.HTTPError, ValueError, KeyError, TypeError, IndexError) as error:
            log.warning("prometheus_away", error=repr(error))
            return None

    async def number(self, query: str) -> float | None:
        found = await self.ask(query)
        return found[0][1] if found and math.isfinite(found[0][1]) else None


@router.get(
    "/system",
    tags=["health"],
    summary="Which parts are up, how far behind they are, how much comes in",
    response_model=System,
    responses=documented(),
)
async def system(
    request: Request, database: DatabaseOf, principal: PrincipalOf, _: Annotated[Nothing, InQuery()]
) -> Json:
    sites = principal.must(Permission.SYSTEM_READ)
    prometheus: Prometheus = request.app.state.prometheus
    numbers = asyncio.gather(*map(prometheus.number, (MESSAGES_BEHIND, SECONDS_BEHIND, RECEIVED, STORED, REFUSED)))
    up, (messages, seconds, received, stored, refused) = await asyncio.gather(prometheus.ask(UP), numbers)
    rows = await database.ask(OPEN_LETTERS, {"sites": sites})
    known = messages is not None or seconds is not None
    rates = {"received": received, "stored": stored, "refused": refused, "dead_letters_open": rows[0]["open"]}
    return Json(
        {
            "at": datetime.now(UTC),
            "parts": [*_parts(up), {"name": "prometheus", "up": up is not None, "detail": None}],
            "lag": {"messages": messages, "seconds": seconds} if known else None,
            "rates": rates,
        }
    )


def _parts(up: Sequence[tuple[dict[str, str], float]] | None) -> list[dict[str, Any]]:
    """One for each target, numbered where a job has several; Prometheus tells of itself by answering."""
    by_job: dict[str, list[tuple[str, bool]]] = {}
    for labels, value in up or ():
        by_job.setdefault(labels.get("job", "?"), []).append((labels.get("instance", ""), value == 1))
    return [
        {"name": job if len(targets) == 1 else f"{job}-{number}", "up": is_up, "detail": instance}
        for job, targets in sorted(by_job.items())
        if job != "prometheus"
        for number, (instance, is_up) in enumerate(sorted(targets), 1)
    ]

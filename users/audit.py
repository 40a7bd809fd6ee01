"""Who did what to whom, when and from where: every security event, readable by owners and auditors."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, LiteralString, Self
from uuid import UUID

from fastapi import APIRouter
from fastapi import Query as InQuery
from psycopg.types.json import Jsonb
from pydantic import Field

from users import pages
from users.callers import Caller, CallerOf
from users.database import Connection
from users.pages import Model, Page
from users.problems import ForbiddenError, UnknownError, documented
from users.resources import DatabaseOf
from users.roles import Permission
from users.tokens import Origin

NOBODYS: Final = UUID(int=0)
"""The organisation of what happens to accounts that do not exist."""

RECORD: Final = """
INSERT INTO audit_events (organisation, what, who, email, site, ip, request_id, detail)
VALUES (%(organisation)s, %(what)s, %(who)s, %(email)s, %(site)s, %(ip)s, %(request_id)s, %(detail)s)
"""

# What belongs to no site, such as a log-in, is seen where the person is a member.
EVENTS: Final = """
SELECT id, at, what, who, email, site, ip, request_id, detail
FROM audit_events e
WHERE organisation = %(organisation)s
  AND (site = ANY(%(sites)s) OR (site IS NULL AND EXISTS (
      SELECT FROM memberships m
      WHERE m.organisation = e.organisation AND m.person = e.who AND m.site = ANY(%(sites)s))))
  AND (%(before)s::bigint IS NULL OR id < %(before)s)
  AND (%(from)s::timestamptz IS NULL OR at >= %(from)s)
  AND (%(to)s::timestamptz IS NULL OR at < %(to)s)
ORDER BY id DESC LIMIT %(limit)s
"""

FORGET: Final = "DELETE FROM audit_events WHERE at < now() - make_interval(days => %s)"

router = APIRouter(tags=["audit"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who is written down for an event."""

    organisation: UUID
    id: UUID | None
    email: str | None
    ip: str
    request_id: str

    @classmethod
    def caller(cls, caller: Caller) -> Self:
        return cls(
            organisation=caller.organisation,
            id=caller.id,
            email=caller.email,
            ip=caller.ip,
            request_id=caller.request_id,
        )

    @classmethod
    def person(cls, origin: Origin, *, organisation: UUID, id: UUID, email: str) -> Self:  # noqa: A002, its name everywhere
        return cls(organisation=organisation, id=id, email=email, ip=origin.ip, request_id=origin.request_id)

    @classmethod
    def stranger(cls, origin: Origin) -> Self:
        """Their e-mail is not kept: people type passwords into the wrong field."""
        return cls(organisation=NOBODYS, id=None, email=None, ip=origin.ip, request_id=origin.request_id)

    @classmethod
    def operator(cls, organisation: UUID) -> Self:
        return cls(organisation=organisation, id=None, email=None, ip="", request_id="brigade users")


async def record(
    connection: Connection,
    what: LiteralString,
    by: Caller | Actor,
    *,
    site: str | None = None,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Write the event down, in the transaction of what it tells."""
    actor = by if isinstance(by, Actor) else Actor.caller(by)
    await connection.execute(
        RECORD,
        {
            "organisation": actor.organisation,
            "what": what,
            "who": actor.id,
            "email": actor.email,
            "site": site,
            "ip": actor.ip,
            "request_id": actor.request_id,
            "detail": Jsonb(dict(detail or {})),
        },
    )


class Who(Model):
    id: UUID | None = Field(description="A person, an API key, or nobody: the operator's command.")
    email: str | None


class Event(Model):
    id: int
    at: datetime
    what: str = Field(examples=["login"])
    who: Who
    site: str | None
    ip: str
    request_id: str
    detail: dict[str, Any]


class Events(Model):
    events: list[Event]
    next: str | None


class Asked(Page):
    site: pages.SiteName | None = Field(None, description="Of this site alone.")
    from_: datetime | None = Field(None, alias="from", description="Events from this time on.")
    to: datetime | None = Field(None, description="Events before this time.")


@router.get(
    "/audit",
    summary="What happened in your sites, the latest first",
    responses=documented(ForbiddenError, UnknownError),
)
async def audit(asked: Annotated[Asked, InQuery()], caller: CallerOf, database: DatabaseOf) -> Events:
    sites = caller.sites_for(Permission.AUDIT_READ, asked.site)
    parameters = {
        "organisation": caller.organisation,
        "sites": sites,
        "before": pages.decode(asked.cursor, int),
        "from": asked.from_,
        "to": asked.to,
        "limit": asked.limit + 1,
    }
    async with database.transaction() as connection:
        rows = await (await connection.execute(EVENTS, parameters)).fetchall()
    shown, cursor = pages.cut(rows, asked.limit, lambda row: row["id"])
    return Events(events=[_event(row) for row in shown], next=cursor)


def _event(row: Mapping[str, Any]) -> Event:
    fields = {name: value for name, value in row.items() if name not in {"who", "email"}}
    return Event(**fields, who=Who(id=row["who"], email=row["email"]))

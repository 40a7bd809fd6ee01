"""`/keys`: API keys for machines, and how the gateway exchanges one for an access token."""

import hmac
import re
import secrets
import string
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Path, Response
from fastapi import Query as InQuery
from pydantic import AwareDatetime, Field

from users import audit, pages, tokens
from users.callers import Caller, CallerOf
from users.database import Connection
from users.pages import Model, Name, Page, SiteName
from users.people import REFUSALS
from users.problems import BadKeyError, BadRequestError, ForbiddenError, UnknownError, documented
from users.resources import DatabaseOf, ResourcesOf
from users.roles import OF_SCOPE, Permission, Scope
from users.sealing import sha256
from users.tokens import ACCESS_SECONDS, Access, Kind

SHAPE: Final = re.compile(r"bk_([A-Za-z0-9]{8})_[A-Za-z0-9_-]{43}", re.ASCII)
AT_MOST: Final = timedelta(days=3653)
LETTERS: Final = string.ascii_letters + string.digits

KEYS: Final = """
SELECT k.id, k.prefix, k.name, k.scope, k.created_by, k.created_at, k.expires_at, k.last_used_at,
       array_agg(s.site ORDER BY s.site) AS sites
FROM api_keys k JOIN api_key_sites s ON s.organisation = k.organisation AND s.key = k.id
WHERE k.organisation = %(organisation)s AND s.site = ANY(%(sites)s) AND k.revoked_at IS NULL
  AND (%(after)s::uuid IS NULL OR k.id > %(after)s)
GROUP BY k.organisation, k.id
ORDER BY k.id LIMIT %(limit)s
"""

CREATE: Final = """
INSERT INTO api_keys (organisation, prefix, sha256, name, scope, created_by, expires_at)
VALUES (%(organisation)s, %(prefix)s, %(sha256)s, %(name)s, %(scope)s, %(person)s, %(expires_at)s)
RETURNING id, created_at
"""
CREATE_SITES: Final = "INSERT INTO api_key_sites (organisation, key, site) SELECT %s, %s, unnest(%s::text[])"

ONE: Final = """
SELECT k.name, array_agg(s.site) AS sites
FROM api_keys k JOIN api_key_sites s ON s.organisation = k.organisation AND s.key = k.id
WHERE k.organisation = %(organisation)s AND k.id = %(id)s AND k.revoked_at IS NULL
GROUP BY k.organisation, k.id
"""
REVOKE: Final = "UPDATE api_keys SET revoked_at = now() WHERE organisation = %(organisation)s AND id = %(id)s"

BY_PREFIX: Final = """
SELECT k.organisation, k.id, k.sha256, k.scope, k.expires_at,
       coalesce(array_agg(s.site) FILTER (WHERE s.site IS NOT NULL), '{}') AS sites
FROM api_keys k LEFT JOIN api_key_sites s ON s.organisation = k.organisation AND s.key = k.id
WHERE k.prefix = %s AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
GROUP BY k.organisation, k.id
"""
# A busy key is not a write at each exchange.
USED: Final = """
UPDATE api_keys SET last_used_at = now()
WHERE organisation = %s AND id = %s AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')
"""

router = APIRouter(tags=["keys"])


class Key(Model):
    id: UUID
    prefix: str = Field(description="How the key begins.", examples=["bk_x8Kd02Lm"])
    name: str
    scope: Scope
    sites: list[str] = Field(description="Those of them that are yours.")
    created_by: UUID
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="To the minute.")


class Keys(Model):
    keys: list[Key]
    next: str | None


class NewKey(Key):
    key: str = Field(description="Shown once.")


class New(Model):
    name: Name
    scope: Scope = Field(description="`read`: readings and dead letters. `write`: what a technician may do.")
    sites: Annotated[list[SiteName], Field(min_length=1, max_length=100)]
    expires_at: AwareDatetime | None = None


class Asked(Page):
    site: SiteName | None = Field(None, description="Good for this site.")


class Exchange(Model):
    key: Annotated[str, Field(max_length=100)]


class Exchanged(Model):
    access_token: str
    expires_in: int


@router.get("/keys", summary="The keys to your sites", responses=documented(*REFUSALS))
async def keys(asked: Annotated[Asked, InQuery()], caller: CallerOf, database: DatabaseOf) -> Keys:
    parameters = {
        "organisation": caller.organisation,
        "sites": caller.sites_for(Permission.KEYS_WRITE, asked.site),
        "after": pages.decode(asked.cursor, UUID),
        "limit": asked.limit + 1,
    }
    async with database.transaction() as connection:
        rows = await (await connection.execute(KEYS, parameters)).fetchall()
    shown, cursor = pages.cut(rows, asked.limit, lambda row: row["id"])
    return Keys(keys=[Key(**{**row, "prefix": f"bk_{row['prefix']}"}) for row in shown], next=cursor)


@router.post("/keys", status_code=201, summary="A new key, shown once", responses=documented(*REFUSALS))
async def create(body: New, caller: CallerOf, database: DatabaseOf) -> NewKey:
    for site in body.sites:
        caller.require(Permission.KEYS_WRITE, site)
    if body.expires_at and body.expires_at <= datetime.now(UTC):
        raise BadRequestError("expires_at", "has passed already")
    if body.expires_at and body.expires_at > datetime.now(UTC) + AT_MOST:
        raise BadRequestError("expires_at", "is more than ten years away")
    prefix, key = new_key()
    sites = sorted(set(body.sites))
    async with database.transaction() as connection:
        row = await _insert(connection, caller, body, prefix, key)
        await connection.execute(CREATE_SITES, (caller.organisation, row["id"], sites))
        await _record(
            connection, "key.created", caller, sites, {"key": str(row["id"]), "name": body.name, "scope": body.scope}
        )
    return NewKey(
        **row,
        key=key,
        prefix=f"bk_{prefix}",
        name=body.name,
        scope=body.scope,
        sites=sites,
        created_by=caller.id,
        expires_at=body.expires_at,
        last_used_at=None,
    )


async def _insert(connection: Connection, caller: Caller, body: New, prefix: str, key: str) -> Mapping[str, Any]:
    parameters = {
        "organisation": caller.organisation,
        "prefix": prefix,
        "sha256": sha256(key),
        "name": body.name,
        "scope": body.scope,
        "person": caller.id,
        "expires_at": body.expires_at,
    }
    return await (await connection.execute(CREATE, parameters)).fetchone() or {}


@router.delete("/keys/{id}", status_code=204, summary="Revoke it", responses=documented(*REFUSALS))
async def revoke(
    id: Annotated[UUID, Path(description="The key's.")],  # noqa: A002, its name in the path
    caller: CallerOf,
    database: DatabaseOf,
) -> Response:
    """The gateway knows it within half a minute."""
    parameters = {"organisation": caller.organisation, "id": id}
    async with database.transaction() as connection:
        row = await (await connection.execute(ONE, parameters)).fetchone()
        if row is None or not set(row["sites"]) & set(caller.sites):
            raise UnknownError("there is no key of this id")
        if not all(caller.may(Permission.KEYS_WRITE, site) for site in row["sites"]):
            raise ForbiddenError("this takes the right to make keys, in every site that the key is for")
        await connection.execute(REVOKE, parameters)
        await _record(connection, "key.revoked", caller, row["sites"], {"key": str(id), "name": row["name"]})
    return Response(status_code=204)


@router.post(
    "/internal/keys/exchange",
    tags=["internal"],
    summary="An API key for an access token",
    responses=documented(BadKeyError),
)
async def exchange(body: Exchange, resources: ResourcesOf) -> Exchanged:
    """For the gateway: the token lasts ten minutes, or as long as the key."""
    async with resources.database.transaction() as connection:
        row = await _looked_up(connection, body.key)
        await connection.execute(USED, (row["organisation"], row["id"]))
    access = Access(
        kind=Kind.KEY,
        subject=row["id"],
        organisation=row["organisation"],
        sites=dict.fromkeys(row["sites"], OF_SCOPE[Scope(row["scope"])]),
        seconds=_lasts(row["expires_at"]),
    )
    return Exchanged(access_token=tokens.sign(access, await resources.keys.signer()), expires_in=access.seconds)


async def _looked_up(connection: Connection, key: str) -> Mapping[str, Any]:
    if not (shape := SHAPE.fullmatch(key)):
        raise BadKeyError
    row = await (await connection.execute(BY_PREFIX, (shape[1],))).fetchone()
    if row is None or not hmac.compare_digest(row["sha256"], sha256(key)):
        raise BadKeyError
    return row


def new_key() -> tuple[str, str]:
    """What names it, and the whole of it."""
    prefix = "".join(secrets.choice(LETTERS) for _ in range(8))
    return prefix, f"bk_{prefix}_{secrets.token_urlsafe(32)}"


def _lasts(expires_at: datetime | None) -> int:
    if expires_at is None:
        return ACCESS_SECONDS
    return max(1, min(ACCESS_SECONDS, (expires_at - datetime.now(UTC)) // timedelta(seconds=1)))


async def _record(
    connection: Connection, what: Any, caller: Caller, sites: list[str], detail: Mapping[str, Any]
) -> None:
    """An event for each of its sites: their owners read it."""
    for site in sites:
        await audit.record(connection, what, caller, site=site, detail=detail)

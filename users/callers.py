"""Who calls, and what they may do where: read from the tables at every call, so that what is taken away is gone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import Depends

from users.database import Connection
from users.problems import ForbiddenError, SessionEndedError, TokenMissingError, UnknownError
from users.resources import OriginOf, Resources, ResourcesOf
from users.roles import OF_SCOPE, Permission, Role, Scope, may
from users.tokens import Kind, Origin

PERSON: Final = """
SELECT p.id, p.organisation, p.email, p.epoch,
       coalesce(jsonb_object_agg(m.site, m.role) FILTER (WHERE m.site IS NOT NULL), '{}') AS sites
FROM people p LEFT JOIN memberships m ON m.organisation = p.organisation AND m.person = p.id
WHERE p.organisation = %(organisation)s AND p.id = %(id)s
GROUP BY p.organisation, p.id
"""

KEY: Final = """
SELECT k.id, k.scope, coalesce(array_agg(s.site) FILTER (WHERE s.site IS NOT NULL), '{}') AS sites
FROM api_keys k LEFT JOIN api_key_sites s ON s.organisation = k.organisation AND s.key = k.id
WHERE k.organisation = %(organisation)s AND k.id = %(id)s
  AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
GROUP BY k.organisation, k.id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    kind: Kind
    id: UUID
    organisation: UUID
    sites: Mapping[str, Role]
    ip: str
    request_id: str
    email: str | None = None
    session: UUID | None = None

    def may(self, permission: Permission, site: str) -> bool:
        return site in self.sites and may(self.sites[site], permission)

    def may_somewhere(self, permission: Permission) -> bool:
        return any(may(role, permission) for role in self.sites.values())

    def require(self, permission: Permission, site: str) -> None:
        """`UnknownError` for a site that is not the caller's, `ForbiddenError` where the role does not reach."""
        if site not in self.sites:
            raise UnknownError(f"there is no site {site!r} of yours", fields={"site": "unknown"})
        if not self.may(permission, site):
            raise ForbiddenError

    def sites_for(self, permission: Permission, site: str | None) -> list[str]:
        """The sites to answer from: the one that was asked for, or all where the caller may."""
        if site is not None:
            self.require(permission, site)
            return [site]
        if sites := [site for site in self.sites if self.may(permission, site)]:
            return sites
        raise ForbiddenError


async def identity(connection: Connection, organisation: UUID, person: UUID) -> Mapping[str, Any] | None:
    """The person's id, e-mail, epoch and roles by site."""
    parameters = {"organisation": organisation, "id": person}
    return await (await connection.execute(PERSON, parameters)).fetchone()


def roles(sites: Mapping[str, str]) -> dict[str, Role]:
    return {site: Role(role) for site, role in sites.items()}


async def _caller(origin: OriginOf, resources: ResourcesOf) -> Any:
    match origin.kind:
        case Kind.PERSON:
            return await _person(origin, resources)
        case Kind.KEY:
            return await _key(origin, resources)
        case Kind.ANONYMOUS:
            raise TokenMissingError


async def _person(origin: Origin, resources: Resources) -> Caller:
    """A person whose session still lasts; their access token may outlive it by minutes."""
    organisation, person, sid = _known(origin.organisation), _known(origin.subject), _known(origin.session)
    session = await resources.sessions.get(sid)
    async with resources.database.transaction() as connection:
        row = await identity(connection, organisation, person)
    if row is None or session is None or session.person != person or session.epoch != row["epoch"]:
        raise SessionEndedError
    return Caller(
        kind=origin.kind,
        id=person,
        organisation=organisation,
        sites=roles(row["sites"]),
        ip=origin.ip,
        request_id=origin.request_id,
        email=row["email"],
        session=sid,
    )


async def _key(origin: Origin, resources: Resources) -> Caller:
    organisation, key = _known(origin.organisation), _known(origin.subject)
    async with resources.database.transaction() as connection:
        row = await (await connection.execute(KEY, {"organisation": organisation, "id": key})).fetchone()
    if row is None:
        raise SessionEndedError("this API key has been revoked or has expired")
    return Caller(
        kind=origin.kind,
        id=key,
        organisation=organisation,
        sites=dict.fromkeys(row["sites"], OF_SCOPE[Scope(row["scope"])]),
        ip=origin.ip,
        request_id=origin.request_id,
    )


def _known(value: UUID | None) -> UUID:
    if value is None:
        raise TokenMissingError
    return value


async def _only_person(caller: Annotated[Caller, Depends(_caller)]) -> Any:
    if caller.kind is not Kind.PERSON:
        raise ForbiddenError("an API key is nobody: this is for people")
    return caller


CallerOf = Annotated[Caller, Depends(_caller)]
PersonOf = Annotated[Caller, Depends(_only_person)]

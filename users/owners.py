"""The first owner of a site, made by the operator's command: nobody can sign up from outside."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

from users import audit
from users.audit import Actor
from users.database import Connection

ANY: Final = "SELECT person FROM memberships WHERE role = 'owner' LIMIT 1"

# One for now.
ORGANISATION: Final = """
WITH made AS (
    INSERT INTO organisations (name) SELECT %(organisation)s WHERE NOT EXISTS (SELECT FROM organisations) RETURNING id
)
SELECT id FROM made UNION ALL SELECT id FROM organisations LIMIT 1
"""

SITE: Final = """
INSERT INTO sites (organisation, site, name, time_zone)
VALUES (%(organisation)s, %(site)s, %(site_name)s, %(time_zone)s)
ON CONFLICT DO NOTHING
"""

PERSON: Final = """
INSERT INTO people (organisation, email, name, language, password)
VALUES (%(organisation)s, %(email)s, %(name)s, %(language)s, %(password)s)
ON CONFLICT DO NOTHING
RETURNING id
"""

OWN: Final = """
INSERT INTO memberships (organisation, person, site, role) VALUES (%(organisation)s, %(person)s, %(site)s, 'owner')
"""


class TakenError(Exception):
    """There is an account of this address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    email: str
    name: str
    language: str
    password: str  # hashed
    site: str
    site_name: str
    time_zone: str
    organisation: str

    def with_password(self, hashed: str) -> "Owner":
        return replace(self, password=hashed)


async def is_there_any(connection: Connection) -> bool:
    return await (await connection.execute(ANY)).fetchone() is not None


async def create(connection: Connection, owner: Owner) -> UUID:
    """The id of a new account that owns the site, which is made if it is not there; `TakenError`."""
    organisation = (await _one(connection, ORGANISATION, {"organisation": owner.organisation}))["id"]
    parameters = {
        "organisation": organisation,
        "email": owner.email,
        "name": owner.name,
        "language": owner.language,
        "password": owner.password,
        "site": owner.site,
        "site_name": owner.site_name,
        "time_zone": owner.time_zone,
    }
    await connection.execute(SITE, parameters)
    if not (person := await _one(connection, PERSON, parameters)):
        raise TakenError
    await connection.execute(OWN, parameters | {"person": person["id"]})
    detail = {"person": str(person["id"]), "email": owner.email}
    await audit.record(connection, "owner.created", Actor.operator(organisation), site=owner.site, detail=detail)
    return UUID(str(person["id"]))


async def _one(connection: Connection, query: Any, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    return await (await connection.execute(query, parameters)).fetchone() or {}

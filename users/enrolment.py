"""Devices in the table and in the broker: the two are changed together.

The broker is changed inside the table's transaction, before its commit: when the broker is away nothing has happened.
When the commit fails behind it, the broker knows something that the table does not; whoever asked was told that it
failed, and `sync` makes the broker what the table says. It waits for changes that are under way, and they for it.
"""

import secrets
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from users import audit
from users.audit import Actor
from users.broker import ROLE, Account, Broker, acls
from users.callers import Caller
from users.database import Connection
from users.problems import ConflictError
from users.sealing import Sealer

PASSWORD_LETTERS: Final = 32
"""190 bits: the broker's few rounds of hashing are enough for them."""

LOCK: Final = 0x6D717474
CHANGING: Final = "SELECT pg_advisory_xact_lock_shared(%s)"
SYNCING: Final = "SELECT pg_advisory_xact_lock(%s)"

OWN: Final = "brigade-"
"""How the client ids of our own services begin: a device called so could take over the bridge's session."""

ENROL: Final = """
INSERT INTO credentials AS c (organisation, device, site, name, sealed)
SELECT %(organisation)s, * FROM unnest(%(devices)s::text[], %(sites)s::text[], %(names)s::text[], %(sealed)s::bytea[])
ON CONFLICT (device) DO UPDATE
SET organisation = excluded.organisation, site = excluded.site, name = excluded.name, sealed = excluded.sealed,
    created_at = now(), rotated_at = NULL, revoked_at = NULL
WHERE c.revoked_at IS NOT NULL
RETURNING device
"""

ROTATE: Final = """
UPDATE credentials SET sealed = %(sealed)s, rotated_at = now()
WHERE organisation = %(organisation)s AND device = %(device)s
"""

MOVE: Final = """
UPDATE credentials SET site = %(site)s WHERE organisation = %(organisation)s AND device = %(device)s
"""

REVOKE: Final = """
UPDATE credentials SET revoked_at = coalesce(revoked_at, now())
WHERE organisation = %(organisation)s AND device = %(device)s
"""

ALL: Final = "SELECT device, site, sealed FROM credentials WHERE revoked_at IS NULL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A row that somebody is about to change."""

    organisation: UUID
    device: str
    site: str
    sealed: bytes
    revoked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    devices: int
    put: int
    removed: int
    roles: int


class Enrolment:
    """Changes within one transaction, which the caller commits, and one connection to the broker."""

    def __init__(self, connection: Connection, broker: Broker, sealer: Sealer, by: Caller | Actor) -> None:
        self._connection = connection
        self._broker = broker
        self._sealer = sealer
        self._by = by

    async def enrol(self, organisation: UUID, site: str, devices: Sequence[tuple[str, str]]) -> list[Account]:
        """New devices, by id and name; `ConflictError` if one has a credential that is not revoked."""
        if own := [device for device, _ in devices if device.startswith(OWN)]:
            raise ConflictError(f"{own[0]} is no name for a device: what begins with {OWN} are our own services")
        await self._connection.execute(CHANGING, (LOCK,))
        accounts = [Account(device, site, new_password()) for device, _ in devices]
        parameters = {
            "organisation": organisation,
            "devices": [account.device for account in accounts],
            "sites": [site] * len(accounts),
            "names": [name for _, name in devices],
            "sealed": [self._seal(account) for account in accounts],
        }
        rows = await (await self._connection.execute(ENROL, parameters)).fetchall()
        if taken := {account.device for account in accounts} - {row["device"] for row in rows}:
            raise ConflictError(f"{min(taken)} has a credential already: rotate it, or revoke it first")
        for account in accounts:
            await self._record("credential.created", site, account.device)
        await self._broker.put(accounts)
        return accounts

    async def rotate(self, old: Credential) -> Account:
        """Another password; `ConflictError` if it is revoked."""
        _require_active(old)
        account = Account(old.device, old.site, new_password())
        await self._change(ROTATE, old, sealed=self._seal(account))
        await self._record("credential.rotated", old.site, old.device)
        await self._broker.put([account])
        await self._broker.say_offline(old.site, old.device)
        return account

    async def move(self, old: Credential, site: str) -> None:
        """Its password stays; from now on it can publish below `site` alone. `ConflictError` if it is revoked."""
        _require_active(old)
        await self._change(MOVE, old, site=site)
        for seen_by in (old.site, site):
            await self._record("credential.moved", seen_by, old.device, {"from": old.site, "to": site})
        await self._broker.put([Account(old.device, site, opened(self._sealer, old.device, old.sealed))])

    async def revoke(self, old: Credential) -> None:
        await self._change(REVOKE, old)
        await self._record("credential.revoked", old.site, old.device)
        await self._broker.remove([old.device])
        await self._broker.say_offline(old.site, old.device)

    async def _change(self, statement: Any, old: Credential, **values: Any) -> None:
        await self._connection.execute(CHANGING, (LOCK,))
        await self._connection.execute(statement, {"organisation": old.organisation, "device": old.device, **values})

    async def _record(self, what: Any, site: str, device: str, more: dict[str, str] | None = None) -> None:
        await audit.record(self._connection, what, self._by, site=site, detail={"device": device, **(more or {})})

    def _seal(self, account: Account) -> bytes:
        return self._sealer.seal(account.password.encode(), _about(account.device))


def _require_active(credential: Credential) -> None:
    if credential.revoked:
        raise ConflictError(f"{credential.device} is revoked: give it a new credential")


async def sync(connection: Connection, broker: Broker, sealer: Sealer) -> Repaired:
    """Return when the broker has every device of the table as it stands there, and no other."""
    await connection.execute(SYNCING, (LOCK,))
    rows = await (await connection.execute(ALL)).fetchall()
    wanted = {row["device"]: Account(row["device"], row["site"], _opened(sealer, row)) for row in rows}
    there = await broker.states()
    different = [account for account in wanted.values() if there.get(account.device) != account.state]
    unknown = [device for device in there if device not in wanted]
    outdated = await _outdated(broker, {account.site for account in wanted.values()})
    await broker.set_roles(outdated)
    await broker.put(different)
    await broker.remove(unknown)
    return Repaired(devices=len(wanted), put=len(different), removed=len(unknown), roles=len(outdated))


async def _outdated(broker: Broker, sites: Iterable[str]) -> list[str]:
    """Sites whose role is there and allows something else than it should."""
    roles = await broker.roles()
    return [site for site in sites if roles.get(ROLE + site, acls(site)) != acls(site)]


def new_password() -> str:
    """Letters and digits alone: it is typed into firmware, shells and forms."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(PASSWORD_LETTERS))


def opened(sealer: Sealer, device: str, sealed: bytes) -> str:
    return sealer.open(sealed, _about(device)).decode()


def _opened(sealer: Sealer, row: Any) -> str:
    return opened(sealer, row["device"], row["sealed"])


def _about(device: str) -> str:
    return f"credential {device}"

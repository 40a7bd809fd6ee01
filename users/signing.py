"""The keys that sign access tokens: two live ones, rotated by command, their private halves sealed.

A new key is published as `next` long before it signs, so that whoever remembers the key set knows it by then. The one
it replaces stays published as `previous` until the last token it signed has expired.
"""

import asyncio
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

import psycopg
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from jwt.algorithms import OKPAlgorithm

from users.database import Connection, Database
from users.sealing import Sealer

log = structlog.get_logger(__name__)

PREVIOUS_LIVES: Final = timedelta(minutes=15)
"""Longer than any access token and its leeway."""

REMEMBERED_SECONDS: Final = 10
"""A rotation reaches every process so soon."""

LOCK: Final = "SELECT pg_advisory_xact_lock(hashtext('brigade users keys'))"
KEYS: Final = "SELECT kid, state, public, sealed, created_at, since FROM signing_keys ORDER BY created_at"
INSERT: Final = "INSERT INTO signing_keys (kid, state, public, sealed) VALUES (%s, %s, %s, %s)"
FORGET: Final = "DELETE FROM signing_keys WHERE state = ANY(%s)"
BECOMES: Final = "UPDATE signing_keys SET state = %s, since = now() WHERE state = %s"


class State(StrEnum):
    NEXT = "next"
    CURRENT = "current"
    PREVIOUS = "previous"


class TooSoonError(Exception):
    """Tokens signed by the previous key may still be in use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    kid: str
    state: State
    public: bytes
    sealed: bytes
    created_at: datetime
    since: datetime

    def jwk(self) -> dict[str, Any]:
        public = Ed25519PublicKey.from_public_bytes(self.public)
        return OKPAlgorithm.to_jwk(public, as_dict=True) | {"use": "sig", "alg": "EdDSA", "kid": self.kid}

    def private(self, sealer: Sealer) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(sealer.open(self.sealed, _about(self.kid)))


@dataclass(frozen=True, slots=True)
class Signer:
    """What is needed to sign, and to publish."""

    kid: str
    private: Ed25519PrivateKey
    jwks: dict[str, Any]


class SigningKeys:
    """The keys as they are in the database, remembered for a few seconds, and longer while it is away."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer
        self._signer: Signer | None = None
        self._read_at = 0.0
        self._lock = asyncio.Lock()

    async def signer(self) -> Signer:
        """Raises `SealError` when the secret is not the one that the keys were sealed with."""
        async with self._lock:
            if self._signer is None or time.monotonic() - self._read_at > REMEMBERED_SECONDS:
                self._signer = await self._read()
                self._read_at = time.monotonic()
            return self._signer

    async def _read(self) -> Signer:
        try:
            async with self._database.transaction() as connection:
                return signer_of(await present(connection, self._sealer), self._sealer)
        except (psycopg.OperationalError, TimeoutError):
            if self._signer is None:
                raise
            return self._signer


async def present(connection: Connection, sealer: Sealer) -> list[Key]:
    """The keys; the first two are made when there are none."""
    if keys := await stored(connection):
        return keys
    await connection.execute(LOCK)
    if not (keys := await stored(connection)):
        await _make(connection, sealer, State.CURRENT)
        await _make(connection, sealer, State.NEXT)
        keys = await stored(connection)
    return keys


async def stored(connection: Connection) -> list[Key]:
    rows = await (await connection.execute(KEYS)).fetchall()
    return [Key(**row | {"state": State(row["state"])}) for row in rows]


def live(keys: Sequence[Key], now: datetime) -> list[Key]:
    """The two that are published: the current one, and the previous one while its tokens last, else the next."""
    by_state = {key.state: key for key in keys}
    previous = by_state.get(State.PREVIOUS)
    lasts = previous is not None and now - previous.since < PREVIOUS_LIVES
    return [by_state[State.CURRENT], by_state[State.PREVIOUS if lasts else State.NEXT]]


def signer_of(keys: Sequence[Key], sealer: Sealer) -> Signer:
    published = live(keys, datetime.now(UTC))
    return Signer(published[0].kid, published[0].private(sealer), {"keys": [key.jwk() for key in published]})


async def rotate(connection: Connection, sealer: Sealer) -> list[Key]:
    """The next key signs from now on; `TooSoonError` while the previous one is still needed."""
    await connection.execute(LOCK)
    keys = await present(connection, sealer)
    if any(key.state is State.PREVIOUS for key in live(keys, datetime.now(UTC))):
        raise TooSoonError
    for key in keys:
        key.private(sealer)  # with another secret, half of the keys would be unreadable afterwards
    await connection.execute(FORGET, ([State.PREVIOUS],))
    await connection.execute(BECOMES, (State.PREVIOUS, State.CURRENT))
    await connection.execute(BECOMES, (State.CURRENT, State.NEXT))
    await _make(connection, sealer, State.NEXT)
    return await stored(connection)


async def replace(connection: Connection, sealer: Sealer) -> list[Key]:
    """Forget every key and make new ones: no token signed so far is accepted any more."""
    await connection.execute(LOCK)
    await connection.execute(FORGET, (list(State),))
    return await present(connection, sealer)


async def _make(connection: Connection, sealer: Sealer, state: State) -> None:
    private = Ed25519PrivateKey.generate()
    kid = secrets.token_urlsafe(9)
    sealed = sealer.seal(private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()), _about(kid))
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    await connection.execute(INSERT, (kid, state, public, sealed))
    log.info("signing_key_made", kid=kid, state=state)


def _about(kid: str) -> str:
    return f"signing-key {kid}"

"""Sessions and their refresh tokens, in Redis: rotated atomically, ended as a family when an old token comes again.

A refresh token is the session's id, 256 random bits and a code that only users can compute, so that a made-up token
is told from an old one: the former is refused, the latter ends the session. Redis has only hashes. The successor is
computed from the token it follows and a salt, so that within the grace the same one can be answered again.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from prometheus_client import Counter

from users.problems import SessionEndedError
from users.sealing import Sealer

IDLE: Final = timedelta(days=30)
ABSOLUTE: Final = timedelta(days=90)
GRACE: Final = timedelta(seconds=10)
SESSIONS_OF_A_PERSON: Final = 50

REUSED: Final = Counter("users_sessions_reused_total", "Sessions ended because an old refresh token came again.")

ROTATE: Final = """
local s = redis.call('HMGET', KEYS[1], 'current', 'previous', 'rotated', 'salt', 'ends')
if not s[5] then return {'ended', ''} end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
if s[1] == ARGV[1] then
    redis.call('HSET', KEYS[1], 'previous', ARGV[1], 'current', ARGV[2], 'salt', ARGV[3], 'rotated', now,
               'seen', now, 'ip', ARGV[4])
    redis.call('PEXPIREAT', KEYS[1], math.min(now + ARGV[5], tonumber(s[5])))
    return {'rotated', ARGV[3]}
end
if s[2] == ARGV[1] and now <= tonumber(s[3]) + ARGV[6] then return {'rotated', s[4]} end
redis.call('DEL', KEYS[1])
return {'reused', ''}
"""

ENTER_EPOCH: Final = "if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'epoch', ARGV[1]) end"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    id: UUID
    person: UUID
    organisation: UUID
    epoch: int
    created_at: datetime
    seen_at: datetime
    ip: str
    agent: str


class ReusedError(SessionEndedError):
    """An old refresh token: somebody else has a copy of it, or its owner has."""


class Sessions:
    """`RedisError` of an outage passes through."""

    def __init__(self, redis: Any, sealer: Sealer, *, grace: timedelta = GRACE) -> None:
        self._redis = redis
        self._sealer = sealer
        self._grace = grace
        self._rotate = redis.register_script(ROTATE)
        self._enter_epoch = redis.register_script(ENTER_EPOCH)

    async def begin(self, person: UUID, organisation: UUID, *, epoch: int, ip: str, agent: str) -> tuple[UUID, str]:
        """The id of a new session, and its first refresh token."""
        sid = uuid.uuid4()
        token = self._token(sid, secrets.token_bytes(32))
        now = datetime.now(UTC)
        fields = {
            "person": str(person), "organisation": str(organisation), "epoch": epoch, "current": _hash(token),
            "created": _ms(now), "seen": _ms(now), "ends": _ms(now + ABSOLUTE), "ip": ip, "agent": agent[:200],
        }  # fmt: skip
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(_key(sid), mapping=fields)
            pipe.pexpire(_key(sid), IDLE)
            pipe.zadd(_of(person), {str(sid): _ms(now)})
            pipe.pexpire(_of(person), ABSOLUTE)
            await pipe.execute()
        await self._end_oldest(person)
        return sid, token

    async def find(self, token: str) -> Session:
        """Whose session the token is, or was, one of; `SessionEndedError`."""
        session = await self.get(_sid(token)) if self._is_ours(token) else None
        if session is None:
            raise SessionEndedError
        return session

    async def get(self, sid: UUID) -> Session | None:
        return _session(sid, await self._redis.hgetall(_key(sid)))

    async def rotate(self, token: str, *, ip: str) -> str:
        """The token's successor. `ReusedError` after ending the session; `SessionEndedError` if it had ended."""
        salt = secrets.token_hex(16)
        became, salt = await self._rotate(
            keys=[_key(_sid(token))],
            args=[
                _hash(token), _hash(self._successor(token, salt)), salt, ip,
                IDLE // timedelta(milliseconds=1), self._grace // timedelta(milliseconds=1),
            ],
        )  # fmt: skip
        if became == "reused":
            REUSED.inc()
            raise ReusedError
        if became == "ended":
            raise SessionEndedError
        return self._successor(token, salt)

    async def of(self, person: UUID) -> list[Session]:
        """The latest first."""
        ids = [UUID(sid) for sid in await self._redis.zrange(_of(person), 0, -1, desc=True)]
        async with self._redis.pipeline(transaction=False) as pipe:
            for sid in ids:
                pipe.hgetall(_key(sid))
            found = [_session(sid, fields) for sid, fields in zip(ids, await pipe.execute(), strict=True)]
        await self._unlist(person, [sid for sid, session in zip(ids, found, strict=True) if session is None])
        return sorted((session for session in found if session), key=lambda session: session.seen_at, reverse=True)

    async def end(self, person: UUID, sid: UUID) -> bool:
        """Whether there was such a session of this person."""
        session = await self.get(sid)
        if session is None or session.person != person:
            return False
        await self._redis.delete(_key(sid))
        await self._unlist(person, [sid])
        return True

    async def end_all(self, person: UUID, *, but: UUID | None = None) -> int:
        ended = [session.id for session in await self.of(person) if session.id != but]
        if ended:
            await self._redis.delete(*map(_key, ended))
            await self._unlist(person, ended)
        return len(ended)

    async def enter_epoch(self, sid: UUID, epoch: int) -> None:
        """The session stays when those of earlier epochs end."""
        await self._enter_epoch(keys=[_key(sid)], args=[epoch])

    async def _end_oldest(self, person: UUID) -> None:
        if await self._redis.zcard(_of(person)) > SESSIONS_OF_A_PERSON:
            for session in (await self.of(person))[SESSIONS_OF_A_PERSON:]:
                await self.end(person, session.id)

    async def _unlist(self, person: UUID, ids: Sequence[UUID]) -> None:
        if ids:
            await self._redis.zrem(_of(person), *map(str, ids))

    def _token(self, sid: UUID, secret: bytes) -> str:
        body = sid.bytes + secret
        return base64.urlsafe_b64encode(body + self._code(body)).decode().rstrip("=")

    def _successor(self, token: str, salt: str) -> str:
        return self._token(_sid(token), self._sealer.mac("successor", token.encode(), salt.encode()))

    def _code(self, body: bytes) -> bytes:
        return self._sealer.mac("refresh", body)[:16]

    def _is_ours(self, token: str) -> bool:
        raw = _decoded(token)
        return len(raw) == 64 and hmac.compare_digest(raw[48:], self._code(raw[:48]))


def _decoded(token: str) -> bytes:
    """Nothing where it is not exactly the text of some bytes: a token has one spelling."""
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return b""
    return raw if base64.urlsafe_b64encode(raw).decode().rstrip("=") == token else b""


def _sid(token: str) -> UUID:
    return UUID(bytes=_decoded(token)[:16])


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _key(sid: UUID) -> str:
    return f"users:session:{sid}"


def _of(person: UUID) -> str:
    return f"users:sessions-of:{person}"


def _session(sid: UUID, fields: dict[str, str]) -> Session | None:
    if "person" not in fields:
        return None
    return Session(
        id=sid,
        person=UUID(fields["person"]),
        organisation=UUID(fields["organisation"]),
        epoch=int(fields["epoch"]),
        created_at=_time(fields["created"]),
        seen_at=_time(fields["seen"]),
        ip=fields["ip"],
        agent=fields["agent"],
    )


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _time(ms: str) -> datetime:
    return datetime.fromtimestamp(int(ms) / 1000, UTC)

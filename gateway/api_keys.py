"""API keys: a machine's long-lived secret, exchanged at users for an access token that is remembered a short while."""

import asyncio
import hashlib
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from gateway.problems import NoSuchTokenError, UsersAwayError, UsersSlowError
from gateway.tokens import Principal

PATTERN: Final = re.compile(r"bk_[A-Za-z0-9]{8}_[A-Za-z0-9_-]{43}", re.ASCII)
FRESH_SECONDS: Final = 30
"""A key that was revoked or has expired is good for so long at the most."""
REFUSED_SECONDS: Final = 10
AWAY_SECONDS: Final = 2
REMEMBERED: Final = 10_000

Exchange = Callable[[str], Awaitable[str | None]]


@dataclass(slots=True)
class _Known:
    principal: Principal | None
    """None: users refused it."""
    ask_again: float


class ApiKeys:
    """Who a key is; users is asked again after 30 s, and missed only when what it said has expired."""

    def __init__(self, verify: Callable[[str], Awaitable[Principal]]) -> None:
        self._verify = verify
        self._known: dict[bytes, _Known] = {}
        self._asking: dict[bytes, asyncio.Lock] = {}

    def knows(self, key: str) -> bool:
        """Whether it can be answered without asking users."""
        return self._fresh(_hash(key)) is not None

    async def principal(self, key: str, exchange: Exchange) -> Principal:
        hashed = _hash(key)
        known = self._fresh(hashed)
        if known is None:
            async with self._asking.setdefault(hashed, asyncio.Lock()):
                known = self._fresh(hashed) or await self._ask(key, hashed, exchange)
            self._asking.pop(hashed, None)
        if known.principal is None:
            raise NoSuchTokenError("there is no such API key, or it was revoked or has expired")
        return known.principal

    def _fresh(self, hashed: bytes) -> _Known | None:
        known = self._known.get(hashed)
        return known if known and time.monotonic() < known.ask_again else None

    async def _ask(self, key: str, hashed: bytes, exchange: Exchange) -> _Known:
        try:
            token = await exchange(key) if PATTERN.fullmatch(key) else None
            principal = await self._verify(token) if token else None
        except (UsersAwayError, UsersSlowError):
            return self._remembered(hashed)
        seconds = min(FRESH_SECONDS, principal.expires_at - time.time()) if principal else REFUSED_SECONDS
        return self._remember(hashed, _Known(principal, time.monotonic() + seconds))

    def _remembered(self, hashed: bytes) -> _Known:
        """What users said before it went away, until that expires."""
        known = self._known.get(hashed)
        if known is None or known.principal is None or known.principal.expires_at <= time.time():
            raise UsersAwayError("API keys cannot be looked up now; try again")
        known.ask_again = time.monotonic() + min(AWAY_SECONDS, known.principal.expires_at - time.time())
        return known

    def _remember(self, hashed: bytes, known: _Known) -> _Known:
        self._known.pop(hashed, None)
        if len(self._known) >= REMEMBERED:
            for oldest in list(self._known)[: REMEMBERED // 2]:
                del self._known[oldest]
        self._known[hashed] = known
        return known


def is_key(secret: str) -> bool:
    return secret.startswith("bk_")


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="replace")).digest()

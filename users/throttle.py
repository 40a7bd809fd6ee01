"""Guessing passwords gets slower with every wrong guess, for the account guessed at and for the address it comes from.

An attempt is counted before the password is looked at, so that a hundred at once are no better than a hundred in a
row; a right one is given back. Whoever has logged in before from the same address has a count of their own there:
strangers slow each other down, not them.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv6Address, ip_address
from typing import Any, Final

from prometheus_client import Counter

from users.problems import ThrottledError

KNOWN_FOR: Final = timedelta(days=90)

THROTTLED: Final = Counter("users_throttled_total", "Attempts that came too soon after wrong ones.")

TAKE: Final = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local wait = 0
for _, key in ipairs(KEYS) do
    wait = math.max(wait, tonumber(redis.call('HGET', key, 'until') or 0) - now)
end
if wait > 0 then return wait end
for i, key in ipairs(KEYS) do
    local free, most, forget = tonumber(ARGV[3 * i - 2]), tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i])
    local n = redis.call('HINCRBY', key, 'n', 1) - free
    local delay = 0
    if n > 0 then delay = math.min(most, 1000 * 2 ^ math.min(n - 1, 20)) end
    redis.call('HSET', key, 'until', now + delay)
    redis.call('PEXPIRE', key, forget)
end
return 0
"""

GIVE_BACK: Final = """
for _, key in ipairs(KEYS) do
    if redis.call('EXISTS', key) == 1 then
        redis.call('HINCRBY', key, 'n', -1)
        redis.call('HSET', key, 'until', 0)
    end
end
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """So many wrong attempts cost nothing; the next ones 1, 2, 4, … seconds; all is forgotten after a while."""

    free: int
    most: timedelta
    forgotten: timedelta

    def arguments(self) -> list[int]:
        millisecond = timedelta(milliseconds=1)
        return [self.free, self.most // millisecond, self.forgotten // millisecond]


ACCOUNT: Final = Limit(free=3, most=timedelta(seconds=30), forgotten=timedelta(minutes=15))
ADDRESS: Final = Limit(free=20, most=timedelta(minutes=5), forgotten=timedelta(hours=1))
MAILS: Final = Limit(free=3, most=timedelta(hours=1), forgotten=timedelta(hours=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One that was let through. Unless it is given back it counts as wrong."""

    account: str
    address: str
    known: str


class Throttle:
    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self._take = redis.register_script(TAKE)
        self._give_back = redis.register_script(GIVE_BACK)

    async def attempt(self, email: str, ip: str) -> Attempt:
        """`ThrottledError` when it is too soon."""
        attempt = await self._attempt(email, ip)
        await self._count({attempt.account: ACCOUNT, attempt.address: ADDRESS})
        return attempt

    async def give_back(self, attempt: Attempt) -> None:
        """It was not wrong, but did not let anybody in either."""
        await self._give_back(keys=[attempt.account, attempt.address])

    async def succeeded(self, attempt: Attempt) -> None:
        """Forget the account's wrong ones from here, and know the address from now on."""
        await self._redis.delete(attempt.account)
        await self._give_back(keys=[attempt.address])
        await self._redis.set(attempt.known, 1, px=KNOWN_FOR)

    async def mail(self, email: str, ip: str) -> bool:
        """Whether one more mail may go to somebody who has not asked for it himself, perhaps."""
        limits = {f"users:throttle:mail:{_digest(email)}": MAILS, f"users:throttle:mails-of:{network(ip)}": ADDRESS}
        return await self._wait(limits) == 0

    async def _attempt(self, email: str, ip: str) -> Attempt:
        account, address = _digest(email), network(ip)
        known = f"users:known:{account}:{address}"
        own = f":{address}" if await self._redis.exists(known) else ""
        return Attempt(
            account=f"users:throttle:account:{account}{own}", address=f"users:throttle:address:{address}", known=known
        )

    async def _count(self, limits: dict[str, Limit]) -> None:
        if wait := await self._wait(limits):
            THROTTLED.inc()
            raise ThrottledError(math.ceil(wait / 1000))

    async def _wait(self, limits: dict[str, Limit]) -> int:
        arguments: Sequence[int] = [number for limit in limits.values() for number in limit.arguments()]
        return int(await self._take(keys=list(limits), args=arguments))


def network(ip: str) -> str:
    """An IPv6 host has 2⁶⁴ addresses: its network counts."""
    try:
        address = ip_address(ip)
    except ValueError:
        return hashlib.sha256(ip.encode()).hexdigest()[:16]
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or f"{IPv6Address(int(address) >> 64 << 64)}/64")
    return str(address)


def _digest(email: str) -> str:
    return hashlib.sha256(email.strip().lower().encode()).hexdigest()[:32]

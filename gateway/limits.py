"""How often one may ask: so many requests in any minute, counted in Redis for all gateways together.

Redis away: people and machines are counted by this process alone, so that dashboards go on and nobody is without a
limit. Log-ins are refused: guessing passwords must never become cheaper because Redis is away.
"""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Final, Self

import structlog
from prometheus_client import Counter, Gauge

from gateway.problems import LimitsAwayError, TooManyError
from gateway.redis_script import RedisAwayError, RedisScript
from gateway.settings import GatewaySettings

log = structlog.get_logger(__name__)

WINDOW_SECONDS: Final = 60
AWAY_SECONDS: Final = 1
"""After a failure Redis is left alone so long: a request must not wait for it each time."""
COUNTED_ALONE: Final = 10_000

# The times of the last minute's requests, exactly; refused ones are not among them. Memory is the limit's, at most.
SCRIPT: Final = """
local limit, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - window)
local count = redis.call('ZCARD', KEYS[1])
local allowed = count < limit
if allowed then
    redis.call('ZADD', KEYS[1], now, string.format('%.0f-%d', now, count))
    redis.call('PEXPIRE', KEYS[1], window / 1000)
    count = count + 1
end
local oldest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return {allowed and 1 or 0, limit - count, math.ceil((oldest[2] + window - now) / 1000)}
"""

UP: Final = Gauge("gateway_redis_up", "1 if Redis counted the last request that was to be counted, else 0.")
REFUSED: Final = Counter("gateway_requests_limited_total", "Requests refused because there were too many.", ["kind"])
ALONE: Final = Counter("gateway_requests_counted_alone_total", "Requests counted without Redis.", ["kind"])


class RouteClass(StrEnum):
    PEOPLE = "people"
    MACHINES = "machines"
    LOGIN = "login"


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left of a limit after this request."""

    allowed: bool
    limit: int
    remaining: int
    reset_seconds: int
    """Until one more is possible than now."""

    def headers(self) -> dict[str, str]:
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(self.reset_seconds),
        }


class Limits:
    """Opened with `async with`, whether Redis is there or not."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._script = RedisScript(settings.redis_url.get_secret_value(), SCRIPT)
        self._limits: Mapping[RouteClass, int] = {
            RouteClass.PEOPLE: settings.rate_people,
            RouteClass.MACHINES: settings.rate_machines,
            RouteClass.LOGIN: settings.rate_login,
        }
        self._alone = CountedAlone()
        self._away_until = 0.0

    async def __aenter__(self) -> Self:
        await self._script.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._script.__aexit__(kind, error, trace)

    async def take(self, route_class: RouteClass, who: str) -> Allowance:
        """One request of somebody's; `TooManyError` beyond the limit, `LimitsAwayError` where nobody can count."""
        allowance = await self._counted(route_class, who)
        if not allowance.allowed:
            REFUSED.labels(route_class).inc()
            raise TooManyError(
                f"at most {allowance.limit} requests a minute; one more is possible in {allowance.reset_seconds} s",
                headers={**allowance.headers(), "Retry-After": str(allowance.reset_seconds)},
            )
        return allowance

    async def _counted(self, route_class: RouteClass, who: str) -> Allowance:
        limit = self._limits[route_class]
        key = f"gateway:limit:{route_class}:{who}"
        if time.monotonic() >= self._away_until:
            try:
                allowed, remaining, milliseconds = await self._script(key, limit, WINDOW_SECONDS * 1_000_000)
            except RedisAwayError as error:
                self._away_until = time.monotonic() + AWAY_SECONDS
                UP.set(0)
                log.warning("redis_away", error=str(error))
            else:
                UP.set(1)
                return Allowance(bool(allowed), limit, max(remaining, 0), max(1, -(-milliseconds // 1000)))
        if route_class is RouteClass.LOGIN:
            raise LimitsAwayError("log-ins cannot be counted now, so none is let in; try again")
        ALONE.labels(route_class).inc()
        return self._alone.take(key, limit, time.monotonic())


class CountedAlone:
    """The same rule in this process's memory. Pure: the time is told."""

    def __init__(self) -> None:
        self._times: dict[str, deque[float]] = {}

    def take(self, key: str, limit: int, now: float) -> Allowance:
        times = self._times.pop(key, None) or deque()
        while times and times[0] <= now - WINDOW_SECONDS:
            times.popleft()
        if allowed := len(times) < limit:
            times.append(now)
        if len(self._times) >= COUNTED_ALONE:
            self._times.pop(next(iter(self._times)))
        self._times[key] = times
        return Allowance(allowed, limit, limit - len(times), max(1, round(times[0] + WINDOW_SECONDS - now)))

"""argon2id in a few threads: one more log-in must not take another 19 MiB and another core."""

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import Type
from prometheus_client import Counter

from users.problems import BusyError

HASHER: Final = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1, type=Type.ID)

WAITING: Final = 32
"""More than so many in the queue are told to come again: about half a second of work."""

DONE: Final = Counter("users_passwords_hashed_total", "argon2id computations, to set a password or to check one.")
REFUSED: Final = Counter("users_passwords_refused_total", "Refused because too many were waiting.")

T = TypeVar("T")


class Passwords:
    def __init__(self, *, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="argon2")
        self._limit = threads + WAITING
        self._asked = 0
        self._nobodys = HASHER.hash(secrets.token_hex())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def hash(self, password: str) -> str:
        return await self._compute(lambda: HASHER.hash(password))

    async def verify(self, password: str, hashed: str | None) -> bool:
        """Whether it is the password; without a hash the same work is done, and the answer is no."""
        right = await self._compute(lambda: _verify(hashed or self._nobodys, password))
        return right and hashed is not None

    async def _compute(self, work: Callable[[], T]) -> T:
        if self._asked >= self._limit:
            REFUSED.inc()
            raise BusyError
        self._asked += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._asked -= 1
            DONE.inc()


def outdated(hashed: str) -> bool:
    """Whether it was made with other parameters than today's."""
    return HASHER.check_needs_rehash(hashed)


def _verify(hashed: str, password: str) -> bool:
    try:
        return HASHER.verify(hashed, password)
    except (VerificationError, InvalidHashError):
        return False

"""One Lua script in Redis, over one connection: 20 µs a call, where a whole client takes 110 of every request.

What it answers is whole numbers. Calls are answered in order, so any number of them may be under way.
"""

import asyncio
import hashlib
import ssl
from collections import deque
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import unquote, urlsplit

TIMEOUT_SECONDS: Final = 0.25


class RedisAwayError(Exception):
    """It is not there, does not answer in time, or answers that it cannot; the text says which."""


class RedisScript:
    """Opened with `async with`; it connects at the first call, and again after an outage."""

    def __init__(self, url: str, script: str) -> None:
        self._address = urlsplit(url)
        self._script = script.encode()
        self._sha = hashlib.sha1(self._script, usedforsecurity=False).hexdigest().encode()
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection:
            self._connection.close("the gateway ends")

    async def __call__(self, key: str, *numbers: int) -> list[int]:
        """What the script returns; `RedisAwayError` where nobody can tell."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                connection = self._connection
                if connection is None or connection.closed:
                    connection = await self._connected()
                arguments = (b"1", key.encode(), *(b"%d" % number for number in numbers))
                answer = await connection.ask(b"EVALSHA", self._sha, *arguments)
                if isinstance(answer, Refusal) and answer.startswith("NOSCRIPT"):
                    answer = await connection.ask(b"EVAL", self._script, *arguments)
        except TimeoutError:
            if self._connection:  # its answers would be taken for those of later calls
                self._connection.close("it does not answer")
            raise RedisAwayError("Redis does not answer") from None
        except OSError as error:
            raise RedisAwayError(f"Redis is not there: {error!r}") from error
        if isinstance(answer, Refusal):
            raise RedisAwayError(f"Redis refuses: {answer}")
        return list(answer)

    async def _connected(self) -> "_Connection":
        async with self._connecting:
            if self._connection is None or self._connection.closed:
                self._connection = await self._connect()
                await self._introduce(self._connection)
            return self._connection

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        address = self._address
        if address.scheme == "unix":
            _, connection = await loop.create_unix_connection(_Connection, address.path)
        else:
            secure = ssl.create_default_context() if address.scheme == "rediss" else None
            _, connection = await loop.create_connection(
                _Connection, address.hostname or "127.0.0.1", address.port or 6379, ssl=secure
            )
        return connection

    async def _introduce(self, connection: "_Connection") -> None:
        address = self._address
        if address.password:
            user = [unquote(address.username).encode()] if address.username else []
            _must(await connection.ask(b"AUTH", *user, unquote(address.password).encode()))
        number = address.path.strip("/")
        if address.scheme != "unix" and number not in {"", "0"}:
            _must(await connection.ask(b"SELECT", number.encode()))


class Refusal(str):
    """An error that Redis answers."""

    __slots__ = ()


def _must(answer: Any) -> None:
    if isinstance(answer, Refusal):
        raise ConnectionRefusedError(answer)


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._data = b""
        self._transport: Any = None
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.close(repr(exc) if exc else "Redis ended the connection")

    def data_received(self, data: bytes) -> None:
        self._data += data
        at = 0
        while self._waiting and (found := reply(self._data, at)):
            answer, at = found
            waiting = self._waiting.popleft()
            if not waiting.done():  # else nobody waits any more
                waiting.set_result(answer)
        self._data = self._data[at:]

    async def ask(self, *words: bytes) -> Any:
        if self.closed:
            raise ConnectionResetError("the connection is closed")
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        parts = [b"*%d\r\n" % len(words), *(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)]
        self._transport.write(b"".join(parts))
        return await answer

    def close(self, why: str) -> None:
        self.closed = True
        self._transport.close()
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_exception(ConnectionResetError(why))


def reply(data: bytes, at: int) -> tuple[Any, int] | None:
    """The reply (RESP 2) that begins at `at`, and where the next one does; None while it is not whole."""
    end = data.find(b"\r\n", at)
    if end < 0:
        return None
    kind, line, following = data[at : at + 1], data[at + 1 : end], end + 2
    match kind:
        case b":":
            return int(line), following
        case b"*":
            return _several(data, following, int(line))
        case b"$":
            whole = following + int(line) + 2
            return (data[following : whole - 2], whole) if len(data) >= whole else None
        case b"-":
            return Refusal(line.decode(errors="replace")), following
        case _:
            return line.decode(errors="replace"), following


def _several(data: bytes, at: int, many: int) -> tuple[list[Any], int] | None:
    found = []
    for _ in range(many):
        if (one := reply(data, at)) is None:
            return None
        found.append(one[0])
        at = one[1]
    return found, at

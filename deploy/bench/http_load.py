"""HTTP as a load: keep-alive connections that ask and wait, or ask at a rate. A few µs a request of our own."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from deploy.bench.probes import quantile


@dataclass(frozen=True, slots=True)
class Asked:
    """Milliseconds, each from when the request was due to the last byte of its answer."""

    seconds: float
    times: Sequence[float]
    bytes: int

    @property
    def rate(self) -> float:
        return len(self.times) / self.seconds

    def quantile(self, q: float) -> float:
        return quantile(list(self.times), q)


class Client:
    """One connection; answers with Content-Length or in chunks."""

    def __init__(self, port: int, path: str, headers: dict[str, str]) -> None:
        lines = [f"GET {path} HTTP/1.1", "Host: bench", *(f"{name}: {value}" for name, value in headers.items())]
        self._port = port
        self._request = ("\r\n".join(lines) + "\r\n\r\n").encode()

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)

    def close(self) -> None:
        self._writer.close()

    async def ask(self) -> int:
        """Return the bytes of the answer's body; raise unless it is 200."""
        self._writer.write(self._request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        if not head.startswith(b"http/1.1 200"):
            raise RuntimeError(f"an answer that is none: {head[:200]!r}")
        if b"content-length: " in head:
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            return len(await self._reader.readexactly(length))
        return await self._chunks()

    async def _chunks(self) -> int:
        total = 0
        while size := int((await self._reader.readuntil(b"\r\n")).strip(), 16):
            await self._reader.readexactly(size + 2)
            total += size
        await self._reader.readexactly(2)
        return total


async def _opened(port: int, path: str, headers: dict[str, str], connections: int) -> list[Client]:
    clients = [Client(port, path, headers) for _ in range(connections)]
    for client in clients:
        await client.open()
    return clients


async def as_fast_as_it_goes(
    port: int, path: str, headers: dict[str, str], *, connections: int, seconds: float
) -> Asked:
    clients = await _opened(port, path, headers, connections)
    times: list[float] = []
    sizes: list[int] = []
    began = time.perf_counter()

    async def asking(client: Client) -> None:
        while (asked := time.perf_counter()) - began < seconds:
            sizes.append(await client.ask())
            times.append((time.perf_counter() - asked) * 1000)

    await asyncio.gather(*map(asking, clients))
    lasted = time.perf_counter() - began
    for client in clients:
        client.close()
    return Asked(lasted, times, sizes[0])


async def at_a_rate(
    port: int, path: str, headers: dict[str, str], *, rate: float, connections: int, seconds: float
) -> Asked:
    """Requests are due at even times, whatever became of the ones before: waiting in line counts."""
    clients = await _opened(port, path, headers, connections)
    free: asyncio.Queue[Client] = asyncio.Queue()  # in turn: a server closes connections that rest
    for client in clients:
        free.put_nowait(client)
    times: list[float] = []
    sizes: list[int] = []
    began = time.perf_counter()

    async def one(due: float) -> None:
        client = await free.get()
        sizes.append(await client.ask())
        times.append((time.perf_counter() - due) * 1000)
        free.put_nowait(client)

    async with asyncio.TaskGroup() as group:
        for number in range(round(rate * seconds)):
            due = began + number / rate
            await asyncio.sleep(max(0, due - time.perf_counter()))
            group.create_task(one(due))
    lasted = time.perf_counter() - began
    for client in clients:
        client.close()
    return Asked(lasted, times, sizes[0])

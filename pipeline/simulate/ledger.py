"""The file that says what was sent and what became of it: a JSON object a line, in the order of the outcomes."""

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import orjson

from pipeline.simulate.messages import Publish

FLUSH_SECONDS: Final = 1.0


class LedgerFile:
    """Opened with `async with`; appended to, written out each second, complete when closed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def __aenter__(self) -> Self:
        self._file = self._path.open("ab", buffering=1 << 20)
        self._flushing = asyncio.create_task(self._flush())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flushing.cancel()
        self._file.close()

    def write(self, publish: Publish) -> None:
        self._file.write(orjson.dumps(publish.line(), option=orjson.OPT_APPEND_NEWLINE))

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            self._file.flush()

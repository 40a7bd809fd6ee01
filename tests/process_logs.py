"""What the processes of a test wrote while it ran, shown when it fails: its workers, bridges, servers, its stacks'."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from deploy.local.layout import state_folder

LINES = 40
WIDTH = 500


class Logs:
    """Log files below a folder of this test run, and those of its stacks, from a moment on."""

    def __init__(self, folder: Path, began: float, sizes: dict[Path, int]) -> None:
        self._folder = folder
        self._began = began
        self._sizes = sizes
        """Of those that go on from test to test."""

    @classmethod
    def from_now_on(cls, folder: Path) -> Self:
        return cls(folder, time.time(), {log: log.stat().st_size for log in _of_stacks()})

    def written(self) -> list[tuple[str, str]]:
        """A title and the last lines of each that something was written to."""
        grown = [log for log in _all(self._folder) if log.stat().st_mtime >= self._began]
        return [(f"log of {log.stem}: {log}", text) for log in grown if (text := self._end(log))]

    def _end(self, log: Path) -> str:
        with log.open("rb") as opened:
            opened.seek(self._sizes.get(log, 0))
            lines = opened.read().decode(errors="replace").splitlines()[-LINES:]
        return "\n".join(line[:WIDTH] for line in lines)


def _all(folder: Path) -> Iterator[Path]:
    """Without the segments of Kafka's partitions, which are called so too."""
    yield from (log for log in sorted(folder.rglob("*.log")) if "data" not in log.relative_to(folder).parts)
    yield from _of_stacks()


def _of_stacks() -> Iterator[Path]:
    if name := os.environ.get("BRIGADE_TEST_INSTANCE"):
        state = state_folder(name)
        for stack in (state, *sorted(state.parent.glob(f"*-{os.getpid()}"))):
            yield from sorted((stack / "logs").glob("*.log"))

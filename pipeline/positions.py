"""What this worker remembers of each partition it owns: filled by commits, thrown away after any error.

The writer and the closer share it. The rules that keep a mark from being lost between them are here:

- The writer inserts `unmarked(closings, …)` where `closings` is what its compare-and-swap returned, so its
  memory of marks counts only if nobody has cleared marks since that memory was filled. Read from the table, it is
  filled with marks set under the present `closings` alone: a closing that is under way may remove all others.
- The closer begins only while the table's `next_offset` is ours, and tells by `closed` which marks will go.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

Pair = tuple[int, int]
"""A minute (minutes since 1970 UTC) and a device's id."""


@dataclass(slots=True)
class Position:
    next_offset: int | None = None
    closings: int = 0
    marked: set[Pair] = field(default_factory=set)

    def unmarked(self, closings: int, pairs: set[Pair]) -> set[Pair]:
        """Those of `pairs` whose marks are to be inserted in a transaction that found `closings`."""
        return pairs - self.marked if closings == self.closings else pairs

    def written(self, next_offset: int, closings: int, pairs: Iterable[Pair]) -> None:
        """Remember a committed batch: it found `closings` and marked `pairs`."""
        if closings != self.closings:
            self.marked = set()
        self.next_offset, self.closings = next_offset, closings
        self.marked.update(pairs)

    def closed(self, before: int, after: int, pairs: Iterable[Pair]) -> None:
        """Remember that `closings` was raised from `before`, and that the marks of `pairs` count no more."""
        if self.closings == before:
            self.closings = after
            self.marked.difference_update(pairs)


class Positions(dict[int, Position]):
    """The partitions this worker owns. A key says "mine", a `next_offset` of None "ask the table"."""

    def assign(self, partitions: Iterable[int]) -> None:
        """Own these and no others, and know nothing of them yet."""
        self.clear()
        self.update((partition, Position()) for partition in partitions)

    def forget(self) -> None:
        """Keep only which partitions are ours; new objects, so that work still under way cannot fill them."""
        self.assign(list(self))

    @property
    def known(self) -> dict[int, int]:
        """Next offset of each partition whose place in the table is known."""
        return {p: at.next_offset for p, at in self.items() if at.next_offset is not None}

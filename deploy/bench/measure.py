"""CPU seconds of processes, from /proc: with all their threads, their children, and children that have ended."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Process:
    parent: int
    own: float  # seconds, all threads
    ended: float  # seconds of children that have ended and were waited for


@dataclass(frozen=True)
class Snapshot:
    """All processes of the machine at one moment."""

    processes: Mapping[int, Process]
    busy: float  # CPU seconds of the whole machine since it started, interrupts included
    stolen: float  # by other machines on the same hardware

    @classmethod
    def take(cls) -> "Snapshot":
        found = {}
        for entry in os.scandir(PROC):
            if entry.name.isdigit() and (process := _process(int(entry.name))):
                found[int(entry.name)] = process
        return cls(found, *_machine())

    def family(self, *roots: int) -> set[int]:
        """These processes and all that came of them."""
        children: dict[int, list[int]] = {}
        for pid, process in self.processes.items():
            children.setdefault(process.parent, []).append(pid)
        family: set[int] = set()
        todo = [pid for pid in roots if pid in self.processes]
        while todo:
            pid = todo.pop()
            family.add(pid)
            todo += children.get(pid, ())
        return family

    def seconds(self, pids: Iterable[int]) -> float:
        return sum(process.own + process.ended for pid in pids if (process := self.processes.get(pid)))


def _process(pid: int) -> Process | None:
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()  # a name may hold blanks and brackets
    user, system, ended_user, ended_system = (int(field) / TICKS for field in fields[11:15])
    return Process(int(fields[1]), user + system, ended_user + ended_system)


def _machine() -> tuple[float, float]:
    user, nice, system, _idle, _iowait, irq, softirq, steal = (
        int(field) / TICKS for field in (PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return user + nice + system + irq + softirq, steal


def outer_pids(pids: Iterable[int]) -> dict[int, int]:
    """By the number a process has in its sandbox: the number it has out here."""
    found = {}
    for pid in pids:
        try:
            status = (PROC / str(pid) / "status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        inner = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1]
        found[int(inner)] = pid
    return found


def model() -> str:
    """The processor, as it calls itself."""
    for line in (PROC / "cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30

"""The cases: a part, what happens to it while sensors send, and what came out."""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from deploy.local.stack import Stack
from tests.end_to_end.load import Account, Books, Progress, Sensors, eventually

PARTS = ("mosquitto", "bridge-0", "kafka", "worker-1", "postgres")
RECOVERY_SECONDS = 60
"""After this much more than the outage itself every partition must be moving again."""
FROZEN_SECONDS = 15


class How(StrEnum):
    KILL = "kill"
    TERM = "term"
    FREEZE = "freeze"
    AWAY = "away"
    KILL_BESIDE_FROZEN = "kill-beside-frozen"
    COME_AND_GO = "come-and-go"


@dataclass(frozen=True, kw_only=True)
class Case:
    part: str
    how: How
    seconds: float = 0
    """Of the outage; a killed or ended part is started again at once, by the supervisor."""
    frozen: str = ""
    """The part beside it that takes nothing meanwhile, so that much is under way when this one dies."""

    def __str__(self) -> str:
        return f"{self.part}:{self.how}{f'-{self.frozen}' if self.frozen else ''}"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    case: Case
    account: Account
    recovery_seconds: float
    """From the fault to the moment when the last partition that stood still committed rows again."""
    returned: bool
    """By itself: with a new pid where it had ended."""

    @property
    def right(self) -> bool:
        return self.account.right and self.returned


MATRIX = tuple(
    Case(part=part, how=how, seconds=FROZEN_SECONDS if how is How.FREEZE else 0)
    for part in PARTS
    for how in (How.KILL, How.TERM, How.FREEZE)
)


def away(kafka: float, postgres: float) -> tuple[Case, ...]:
    return (
        Case(part="kafka", how=How.AWAY, seconds=kafka),
        Case(part="postgres", how=How.AWAY, seconds=postgres),
    )


FULL_HANDS = tuple(
    Case(part=part, how=How.KILL_BESIDE_FROZEN, frozen=frozen, seconds=5)
    for part, frozen in (
        ("mosquitto", "bridge-0"),
        ("bridge-0", "kafka"),
        ("kafka", "worker-1"),
        ("worker-1", "postgres"),
    )
)
COME_AND_GO = Case(part="worker-2", how=How.COME_AND_GO)


def run(stack: Stack, case: Case, folder: Path, *, rate: int = 1_000) -> Outcome:
    """Sensors at work, the fault, everything moving again, the sensors' goodbye, the account."""
    books = Books(stack)
    with Progress(stack) as progress, Sensors(stack, folder, rate=rate) as sensors:
        assert progress.wait_moving(RECOVERY_SECONDS), f"{case}: the partitions did not move before the fault"
        begin = time.monotonic()
        returned = FAULTS[case.how](stack, case)
        moving = progress.wait_moving(RECOVERY_SECONDS)
        recovery = progress.standstill(begin)
    account = books.close(sensors.ledger)
    if account.right:
        sensors.ledger.unlink()
    return Outcome(case=case, account=account, recovery_seconds=recovery, returned=returned and moving)


def _kill(stack: Stack, case: Case) -> bool:
    return _end(stack, case.part, signal.SIGKILL)


def _term(stack: Stack, case: Case) -> bool:
    """PostgreSQL's TERM would wait for its clients to leave; INT is what service managers and we send it."""
    return _end(stack, case.part, signal.SIGINT if case.part == "postgres" else signal.SIGTERM)


def _end(stack: Stack, part: str, number: signal.Signals) -> bool:
    """Whether the supervisor started it again, with another pid, and it answers."""
    _signal_and_wait(stack, part, number)
    return stack.wait_ready(part, seconds=RECOVERY_SECONDS)


def _signal_and_wait(stack: Stack, part: str, number: signal.Signals) -> None:
    """Return when the supervisor has started it again."""
    before = stack.pid(part)
    assert before, f"{part} does not run"
    stack.signal(part, number)
    eventually(lambda: stack.pid(part) not in {0, before}, RECOVERY_SECONDS, f"{part} is not started again")


def _kill_beside_frozen(stack: Stack, case: Case) -> bool:
    stack.signal(case.frozen, signal.SIGSTOP)
    try:
        time.sleep(case.seconds)
        _signal_and_wait(stack, case.part, signal.SIGKILL)
    finally:
        stack.signal(case.frozen, signal.SIGCONT)
    return all(stack.wait_ready(part, seconds=RECOVERY_SECONDS) for part in (case.part, case.frozen))


def _freeze(stack: Stack, case: Case) -> bool:
    before = stack.pid(case.part)
    stack.signal(case.part, signal.SIGSTOP)
    try:
        time.sleep(case.seconds)
    finally:
        stack.signal(case.part, signal.SIGCONT)
    return bool(before) and stack.wait_ready(case.part, seconds=RECOVERY_SECONDS)


def _away(stack: Stack, case: Case) -> bool:
    stack.stop(case.part)
    try:
        time.sleep(case.seconds)
    finally:
        stack.start(case.part)
    return True


def _come_and_go(stack: Stack, case: Case) -> bool:
    """A worker leaves, comes, and goes again while the first is in the middle of taking over."""
    for _ in range(2):
        stack.stop(case.part)
        time.sleep(1)
        stack.start(case.part)
    stack.stop(case.part)
    stack.stop("worker-1")
    stack.start(case.part)
    stack.start("worker-1")
    return True


FAULTS: dict[How, Callable[[Stack, Case], bool]] = {
    How.KILL: _kill,
    How.TERM: _term,
    How.FREEZE: _freeze,
    How.AWAY: _away,
    How.KILL_BESIDE_FROZEN: _kill_beside_frozen,
    How.COME_AND_GO: _come_and_go,
}

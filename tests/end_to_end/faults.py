"""The cases: a part, what happens to it while sensors send, and what came out."""

import signal
import time
from collections.abc import Callable, Sequence
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
    KILL_ALL = "kill-all"
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
    """Of cases that the same sensors lived through, one after the other."""

    account: Account
    recovery_seconds: dict[str, float]
    """From each fault to the moment when the last partition that stood still committed rows again."""
    not_returned: tuple[str, ...]
    """Cases after which a part did not come back by itself, or a partition did not move again."""

    @property
    def right(self) -> bool:
        return self.account.right and not self.not_returned


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
COME_AND_GO = Case(part="worker-1", how=How.COME_AND_GO)
ALL_AT_ONCE = Case(part="everything", how=How.KILL_ALL)


def run(stack: Stack, cases: Sequence[Case], folder: Path, *, rate: int = 1_000) -> Outcome:
    """Sensors at work; each fault, and everything moving again; the sensors' goodbye; the account."""
    books = Books(stack)
    recovery_seconds: dict[str, float] = {}
    with Progress(stack) as progress, Sensors(stack, folder, rate=rate) as sensors:
        assert progress.wait_moving(RECOVERY_SECONDS), "the partitions did not move before the first fault"
        returned = {str(case): _suffer(stack, case, progress, recovery_seconds) for case in cases}
    account = books.close(sensors.ledger)
    if account.right:
        sensors.ledger.unlink()
    not_returned = tuple(case for case, back in returned.items() if not back)
    return Outcome(account=account, recovery_seconds=recovery_seconds, not_returned=not_returned)


def _suffer(stack: Stack, case: Case, progress: Progress, recovery_seconds: dict[str, float]) -> bool:
    begin = time.monotonic()
    returned = FAULTS[case.how](stack, case)
    moving = progress.wait_moving(RECOVERY_SECONDS)
    recovery_seconds[str(case)] = progress.standstill(begin)
    return returned and moving


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


def _kill_all(stack: Stack, _case: Case) -> bool:
    for part in PARTS:
        stack.signal(part, signal.SIGKILL)
    return all(stack.wait_ready(part, seconds=RECOVERY_SECONDS) for part in PARTS)


def _come_and_go(stack: Stack, case: Case) -> bool:
    """A worker leaves and comes; then both leave, and come back at different times."""
    stack.stop(case.part)
    stack.start(case.part)
    for part in (case.part, "worker-2"):
        stack.stop(part)
    for part in ("worker-2", case.part):
        stack.start(part)
    return True


FAULTS: dict[How, Callable[[Stack, Case], bool]] = {
    How.KILL: _kill,
    How.TERM: _term,
    How.FREEZE: _freeze,
    How.AWAY: _away,
    How.KILL_BESIDE_FROZEN: _kill_beside_frozen,
    How.KILL_ALL: _kill_all,
    How.COME_AND_GO: _come_and_go,
}

"""The cases: a part, what happens to it while sensors send, and what came out."""

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from deploy.local.stack import Stack
from tests.end_to_end.load import Account, Books, Progress, Sensors, eventually, forgive

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


class Scene:
    """Where a case happens; remembers when Mosquitto was killed."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.broker_killed_us: list[int] = []

    def signal(self, part: str, number: signal.Signals) -> None:
        if part == "mosquitto" and number is signal.SIGKILL:
            self.broker_killed_us.append(time.time_ns() // 1_000)
        self.stack.signal(part, number)


def run(stack: Stack, cases: Sequence[Case], folder: Path, *, rate: int = 1_000, strict: bool = False) -> Outcome:
    """Sensors at work; each fault, and everything moving again; the sensors' goodbye; the account.

    Unless `strict`, what Mosquitto acknowledged in the last moment before its kill counts as unknown: it commits
    once a turn of its loop, after the PUBACKs of that turn.
    """
    books, scene = Books(stack), Scene(stack)
    recovery_seconds: dict[str, float] = {}
    with Progress(stack) as progress, Sensors(stack, folder, rate=rate) as sensors:
        assert progress.wait_moving(RECOVERY_SECONDS), "the partitions did not move before the first fault"
        returned = {str(case): _suffer(scene, case, progress, recovery_seconds) for case in cases}
    if not strict:
        forgive(sensors.ledger, scene.broker_killed_us)
    account = books.close(sensors.ledger)
    if account.right:
        sensors.ledger.unlink()
    not_returned = tuple(case for case, back in returned.items() if not back)
    return Outcome(account=account, recovery_seconds=recovery_seconds, not_returned=not_returned)


def _suffer(scene: Scene, case: Case, progress: Progress, recovery_seconds: dict[str, float]) -> bool:
    begin = time.monotonic()
    returned = FAULTS[case.how](scene, case)
    moving = progress.wait_moving(RECOVERY_SECONDS)
    recovery_seconds[str(case)] = progress.standstill(begin)
    return returned and moving


def _kill(scene: Scene, case: Case) -> bool:
    return _end(scene, case.part, signal.SIGKILL)


def _term(scene: Scene, case: Case) -> bool:
    """PostgreSQL's TERM would wait for its clients to leave; INT is what service managers and we send it."""
    return _end(scene, case.part, signal.SIGINT if case.part == "postgres" else signal.SIGTERM)


def _end(scene: Scene, part: str, number: signal.Signals) -> bool:
    """Whether the supervisor started it again, with another pid, and it answers."""
    _signal_and_wait(scene, part, number)
    return scene.stack.wait_ready(part, seconds=RECOVERY_SECONDS)


def _signal_and_wait(scene: Scene, part: str, number: signal.Signals) -> None:
    """Return when the supervisor has started it again."""
    before = scene.stack.pid(part)
    assert before, f"{part} does not run"
    scene.signal(part, number)
    eventually(lambda: scene.stack.pid(part) not in {0, before}, RECOVERY_SECONDS, f"{part} is not started again")


def _kill_beside_frozen(scene: Scene, case: Case) -> bool:
    scene.signal(case.frozen, signal.SIGSTOP)
    try:
        time.sleep(case.seconds)
        _signal_and_wait(scene, case.part, signal.SIGKILL)
    finally:
        scene.signal(case.frozen, signal.SIGCONT)
    return all(scene.stack.wait_ready(part, seconds=RECOVERY_SECONDS) for part in (case.part, case.frozen))


def _freeze(scene: Scene, case: Case) -> bool:
    before = scene.stack.pid(case.part)
    scene.signal(case.part, signal.SIGSTOP)
    try:
        time.sleep(case.seconds)
    finally:
        scene.signal(case.part, signal.SIGCONT)
    return bool(before) and scene.stack.wait_ready(case.part, seconds=RECOVERY_SECONDS)


def _away(scene: Scene, case: Case) -> bool:
    scene.stack.stop(case.part)
    try:
        time.sleep(case.seconds)
    finally:
        scene.stack.start(case.part)
    return True


def _kill_all(scene: Scene, _case: Case) -> bool:
    for part in PARTS:
        scene.signal(part, signal.SIGKILL)
    return all(scene.stack.wait_ready(part, seconds=RECOVERY_SECONDS) for part in PARTS)


def _come_and_go(scene: Scene, case: Case) -> bool:
    """A worker leaves and comes; then both leave, and come back at different times."""
    scene.stack.stop(case.part)
    scene.stack.start(case.part)
    for part in (case.part, "worker-2"):
        scene.stack.stop(part)
    for part in ("worker-2", case.part):
        scene.stack.start(part)
    return True


FAULTS: dict[How, Callable[[Scene, Case], bool]] = {
    How.KILL: _kill,
    How.TERM: _term,
    How.FREEZE: _freeze,
    How.AWAY: _away,
    How.KILL_BESIDE_FROZEN: _kill_beside_frozen,
    How.KILL_ALL: _kill_all,
    How.COME_AND_GO: _come_and_go,
}

"""`scripts/test`: pytest against the real servers of instance `test`, which ends with the last test run using it.

The instance begins empty, so that nothing of another version, or of a run that broke off, is in it.

Without arguments it runs everything, in two processes at the same time, each with servers of its own: tests that wait
for faults to pass leave the processors to others. What the second says is shown when the first has ended.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.local import roots
from deploy.local.down import shut_down
from deploy.local.layout import REPOSITORY, Instance, LayoutError, hold, state_folder
from deploy.local.say import say
from deploy.local.stack import Stack
from deploy.local.supervision import SupervisionError

INSTANCE = os.environ.get("BRIGADE_TEST_RUN", "test")
OFFSET = os.environ.get("BRIGADE_PORT_OFFSET", "10000")

BESIDE = "test-beside"
"""The second process's instance."""
BESIDE_OFFSET = 350
"""Of its ports from the first one's."""
BESIDE_FOLDERS = ("tests/end_to_end", "tests/gateway", "tests/grafana", "tests/prometheus", "tests/users")
"""About half of the time; the first process runs the others, and folders that are new."""


def main() -> None:
    raise SystemExit(run(sys.argv[1:]) if sys.argv[1:] else run_everything())


def run(words: list[str]) -> int:
    state = state_folder(INSTANCE)
    state.mkdir(parents=True, exist_ok=True)
    with in_use(state) as alone, servers(state, alone) as stack:
        environment = os.environ | stack.test_env | {"BRIGADE_TEST_ALL": "1"}
        pytest = subprocess.run([sys.executable, "-m", "pytest", *words], cwd=REPOSITORY, env=environment, check=False)
    return pytest.returncode


def run_everything() -> int:
    command = [sys.executable, "-m", "deploy.local.test", "-p", "no:cacheprovider", *BESIDE_FOLDERS]
    with (
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen(
            command, cwd=REPOSITORY, env=beside(), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        ) as second,
    ):
        say(f"two processes; the second runs {' '.join(BESIDE_FOLDERS)}")
        codes = {"first": run([f"--ignore={folder}" for folder in BESIDE_FOLDERS]), "second": second.wait()}
        say("what the second process said:")
        output.seek(0)
        shutil.copyfileobj(output, sys.stdout)
    say("; ".join(f"the {name} process ended with {code}" for name, code in codes.items()))
    return max(map(abs, codes.values()))


def beside() -> dict[str, str]:
    """The second process's environment."""
    own = {"BRIGADE_TEST_RUN": BESIDE, "BRIGADE_PORT_OFFSET": str(int(OFFSET) + BESIDE_OFFSET)}
    if state := os.environ.get("BRIGADE_STATE"):
        own["BRIGADE_STATE"] = f"{state}-beside"
    return os.environ | own


class Alone:
    """Asks whether no other test run uses the instance; the lock is shared by those that do."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __bool__(self) -> bool:
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def no_more(self) -> None:
        fcntl.flock(self.descriptor, fcntl.LOCK_SH)


@contextmanager
def in_use(state: Path) -> Iterator[Alone]:
    with (state / "test-runs").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield Alone(file.fileno())


@contextmanager
def servers(state: Path, alone: Alone) -> Iterator[Stack]:
    """Start the instance, and end it with the last of the test runs; one that somebody else runs stays."""
    ours = state / "started-by-tests"
    try:
        stack = Stack.attach(INSTANCE)
    except (LayoutError, SupervisionError):
        if alone:
            empty(state)
            alone.no_more()
        ours.touch()
        up = [
            sys.executable,
            "-m",
            "deploy.local.up",
            "--detach",
            "--only",
            "servers",
            "--instance",
            INSTANCE,
            "--offset",
            OFFSET,
        ]
        if subprocess.run(up, cwd=REPOSITORY, check=False).returncode:
            ours.unlink()
            raise SystemExit(1) from None
        stack = Stack.attach(INSTANCE)
    try:
        yield stack
    finally:
        if ours.exists() and alone:
            ours.unlink()
            shut_down(Instance.load(INSTANCE))
            say(f"instance {INSTANCE} is down")


def empty(state: Path) -> None:
    lock = hold(state / "lock")
    if lock is None:  # somebody is starting or ending it
        return
    for path in state.iterdir():
        if path.is_dir():
            roots.remove(path)
        elif path.name not in {"lock", "test-runs"}:
            path.unlink()
    os.close(lock)


if __name__ == "__main__":
    main()

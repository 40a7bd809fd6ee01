"""`scripts/test`: pytest against the real servers of instance `test`, which ends with the last test run using it."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.local.down import shut_down
from deploy.local.layout import REPOSITORY, Instance, LayoutError, state_folder
from deploy.local.say import say
from deploy.local.stack import Stack
from deploy.local.supervision import SupervisionError

INSTANCE = "test"
OFFSET = os.environ.get("BRIGADE_PORT_OFFSET", "10000")


def main() -> None:
    state = state_folder(INSTANCE)
    state.mkdir(parents=True, exist_ok=True)
    with in_use(state) as alone, servers(state, alone) as stack:
        environment = os.environ | stack.test_env | {"BRIGADE_TEST_ALL": "1"}
        pytest = subprocess.run(
            [sys.executable, "-m", "pytest", *sys.argv[1:]], cwd=REPOSITORY, env=environment, check=False
        )
    raise SystemExit(pytest.returncode)


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


if __name__ == "__main__":
    main()

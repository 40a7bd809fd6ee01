"""A whole stack of the tests' own: real servers, a bridge, two workers, a gateway; waits are shortened by settings."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from deploy.local import ports, roots
from deploy.local.down import shut_down
from deploy.local.layout import REPOSITORY, Instance, hold, state_folder
from deploy.local.layout import ports as shifted
from deploy.local.stack import Stack

OFFSETS = range(4_000, 20_000, 700)
START_SECONDS = 900
"""A first run makes the root file systems, too."""
SHORT_WAITS = {
    "BRIGADE_SESSION_TIMEOUT_SECONDS": "6",
    "BRIGADE_CLOSE_AFTER_SECONDS": "2",
}
ASKS_OFTEN = {"BRIGADE_GATEWAY_RATE_PEOPLE": "10000", "BRIGADE_GATEWAY_RATE_LOGIN": "1000"}
"""Tests ask until they see what they wait for."""


@contextmanager
def own_stack(kind: str, settings: dict[str, str], *, keep_logs: Callable[[], bool]) -> Iterator[Stack]:
    """Up with two workers; gone with its data afterwards, but for its logs where `keep_logs()` says so."""
    remove_orphans(kind)
    name = f"{kind}-{os.getpid()}"
    with free_offset() as offset:
        up = [sys.executable, "-m", "deploy.local.up", "--detach", "--no-simulator", "--workers", "2"]
        up += ["--instance", name, "--offset", str(offset)]
        state = state_of(name)
        environment = os.environ | settings | {"BRIGADE_STATE": str(state)}
        try:
            done = subprocess.run(
                up, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=START_SECONDS, check=False
            )
            if done.returncode:
                raise RuntimeError(f"{' '.join(up)} failed:\n{done.stdout}{done.stderr}")
            yield Stack(Instance.load(name, state))
        finally:
            remove(state, but_logs=keep_logs())


def state_of(name: str) -> Path:
    """Beside that of the instance that the tests use, wherever that is."""
    if own := os.environ.get("BRIGADE_STATE"):
        return Path(f"{own}-{name}").absolute()
    return state_folder(name)


@contextmanager
def free_offset() -> Iterator[int]:
    """The first by which no port of the stack is anybody's; no other test run takes it meanwhile."""
    for offset in OFFSETS:
        if (lock := hold(Path(tempfile.gettempdir()) / f"brigade-{os.getuid()}-offset-{offset}")) is None:
            continue
        try:
            if all(ports.free(port) for port in shifted(offset).values()):
                yield offset
                return
        finally:
            os.close(lock)
    raise RuntimeError(f"each offset of {OFFSETS} has a taken port")


def remove_orphans(kind: str) -> None:
    """End what test runs left behind that were killed."""
    state = state_of(kind)
    for folder in state.parent.glob(f"{state.name}-*"):
        owner = folder.name.removeprefix(f"{state.name}-")
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            remove(folder, but_logs=False)


def remove(folder: Path, *, but_logs: bool) -> None:
    if (folder / "instance.json").exists():
        shut_down(Instance.load(folder.name, folder))
    if not but_logs:
        roots.remove(folder)
        return
    roots.remove(folder / "data")
    sys.stderr.write(f"the stack's logs are in {folder / 'logs'}\n")

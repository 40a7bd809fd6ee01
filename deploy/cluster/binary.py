"""The servers of the control plane: one Go program, built once into the cache."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from deploy.local.layout import cache_folder
from deploy.local.say import say

SOURCE = Path(__file__).parent / "kubernetes"
MODULE = "k8s.io/kubernetes"
VERSIONED = "k8s.io/component-base/version"
MARK = "complete"


class BuildError(Exception):
    """It cannot be built; the text says why."""


def place() -> Path:
    """Where the program of these sources is, once it is built."""
    made_from = hashlib.sha256()
    for file in sorted(SOURCE.iterdir()):
        made_from.update(file.read_bytes())
    return cache_folder() / "kubernetes" / made_from.hexdigest()[:12] / "kubernetes"


def missing() -> str | None:
    """What keeps it from being built here; None when nothing does, or when it is there."""
    if place().exists() or shutil.which("go"):
        return None
    return "Kubernetes is built from source, and there is no Go here (the command `go`)"


def build() -> Path:
    """Return the program; build it where it is missing."""
    program = place()
    if program.exists():
        return program
    if why := missing():
        raise BuildError(why)
    number = version()
    say(f"building Kubernetes {number} (once; ten minutes of a processor)")
    program.parent.mkdir(parents=True, exist_ok=True)
    unfinished = program.with_suffix(f".{os.getpid()}")
    told = {"gitVersion": f"v{number}", "gitMajor": "1", "gitMinor": number.split(".")[1], "gitTreeState": "clean"}
    flags = " ".join(["-s", "-w", *(f"-X {VERSIONED}.{name}={value}" for name, value in told.items())])
    command = ["go", "build", "-trimpath", "-tags", "grpcnotrace", "-ldflags", flags, "-o", str(unfinished), "."]
    environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"}
    done = subprocess.run(
        ["nice", *command],
        cwd=SOURCE,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BuildError(f"go build failed in {SOURCE}:\n{done.stderr[-2000:]}")
    unfinished.rename(program)
    return program


def version() -> str:
    """As go.mod has it."""
    for line in (SOURCE / "go.mod").read_text().splitlines():
        match line.split():
            case [module, version, *_] if module == MODULE:
                return version.removeprefix("v")
    raise BuildError(f"{SOURCE}/go.mod does not require {MODULE}")

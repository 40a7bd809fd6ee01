"""The servers of the control plane, one Go program, and those of a node: each built once into the cache."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from deploy.local.layout import cache_folder
from deploy.local.say import say

SOURCE = Path(__file__).parent / "kubernetes"
NODE = Path(__file__).parent / "node"
"""A module of its own: who tries charts on the control plane alone does not build it."""
MODULE = "k8s.io/kubernetes"
VERSIONED = "k8s.io/component-base/version"
MARK = "complete"


class BuildError(Exception):
    """It cannot be built; the text says why."""


def place(source: Path = SOURCE) -> Path:
    """Where the program of these sources is, once it is built; other programs of the module are beside it."""
    made_from = hashlib.sha256()
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        made_from.update(file.read_bytes())
    return cache_folder() / "kubernetes" / made_from.hexdigest()[:12] / source.name


def missing(source: Path = SOURCE) -> str | None:
    """What keeps it from being built here; None when nothing does, or when it is there."""
    if place(source).exists() or shutil.which("go"):
        return None
    return "Kubernetes is built from source, and there is no Go here (the command `go`)"


def build(source: Path = SOURCE) -> Path:
    """Return the program; build it where it is missing."""
    program = place(source)
    if program.exists():
        return program
    if why := missing(source):
        raise BuildError(why)
    number = version(source)
    say(f"building {'the node of ' if source == NODE else ''}Kubernetes {number} (once; ten minutes of a processor)")
    told = {"gitVersion": f"v{number}", "gitMajor": "1", "gitMinor": number.split(".")[1], "gitTreeState": "clean"}
    flags = " ".join(["-s", "-w", *(f"-X {VERSIONED}.{name}={value}" for name, value in told.items())])
    program.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=program.parent) as unfinished:
        command = ["go", "build", "-trimpath", "-tags", "grpcnotrace", "-ldflags", flags, "-o", unfinished, "./..."]
        environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"}
        done = subprocess.run(
            ["nice", *command],
            cwd=source,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BuildError(f"go build failed in {source}:\n{done.stderr[-2000:]}")
        others = [built for built in Path(unfinished).iterdir() if built.name != program.name]
        for built in (*others, Path(unfinished, program.name)):  # itself last: where it is, all are
            built.rename(program.parent / built.name)
    return program


def version(source: Path = SOURCE) -> str:
    """As go.mod has it."""
    for line in (source / "go.mod").read_text().splitlines():
        match line.split():
            case [module, version, *_] if module == MODULE:
                return version.removeprefix("v")
    raise BuildError(f"{source}/go.mod does not require {MODULE}")

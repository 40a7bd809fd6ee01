"""Images of this machine's own making, from Debian's packages, for where no image registry answers.

They stand in for the public ones of public.toml while something is tried out, and are no part of what is delivered.
"""

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from deploy.images.docker import DockerError, docker
from deploy.local import jars, roots
from deploy.local.roots import FORKY, TRIXIE, Root
from deploy.local.say import say

PYTHON = Root("trixie", ("python3-minimal", "libpython3-stdlib", "ca-certificates"))
BUILDER = Root(
    "trixie", ("python3-venv", "binutils", "nodejs", "npm", "maven", "openjdk-21-jre-headless", "ca-certificates")
)

SERVERS = (
    "timescaledb",
    "postgresql",
    "kafka",
    "redis",
    "prometheus",
    "alertmanager",
    "node-exporter",
    "postgres-exporter",
    "redis-exporter",
)
"""All of them are one image here: a Debian with everything in it."""

UPSTREAM_NAMES = {
    "alertmanager": "prometheus-alertmanager",
    "node_exporter": "prometheus-node-exporter",
    "postgres_exporter": "prometheus-postgres-exporter",
    "redis_exporter": "prometheus-redis-exporter",
    **{name: f"../lib/postgresql/17/bin/{name}" for name in ("postgres", "initdb", "pg_ctl")},
}
"""What Debian calls otherwise than the public images do."""

CERTIFICATES = ("etc/ssl/certs/ca-certificates.crt", "etc/ssl/certs/java/cacerts")

LEFT_OUT = (
    *("./usr/share/doc/*", "./usr/share/man/*", "./usr/share/locale/*"),
    *("./var/cache/*", "./var/lib/apt/lists/*", "./var/log/*"),
)


def local(name: str) -> str:
    return f"brigade-local/{name}:local"


def builders(cache: Path) -> dict[str, str]:
    """The Dockerfile's arguments for a build without public bases, with the bases made."""
    _import(PYTHON, "python", cache)
    # It gets the authorities that this machine trusts: its network may have one of its own.
    machine = [word for file in CERTIFICATES if Path("/", file).exists() for word in ("-C", "/", file)]
    _import(BUILDER, "builder", cache, without=[f"./{file}" for file in CERTIFICATES], more=machine)
    builder = local("builder")
    return {
        "PYTHON_BASE": local("python"),
        "PYTHON_BUILDER": builder,
        "NODE_BUILDER": builder,
        "MAVEN_BUILDER": builder,
    }


def servers(cache: Path) -> dict[str, str]:
    """The servers of Compose's profile `core`: what stands in for which of public.toml, made."""
    kafka = jars.make(cache, roots.make(TRIXIE, cache))
    with tempfile.TemporaryDirectory() as folder:
        overlay = Path(folder)
        (overlay / "usr/local/bin").mkdir(parents=True)
        for upstream, debian in UPSTREAM_NAMES.items():
            (overlay / "usr/local/bin" / upstream).symlink_to(f"../../bin/{debian}")
        (overlay / "redis_exporter").symlink_to("usr/bin/prometheus-redis-exporter")  # its image has no PATH
        shutil.copytree(kafka, overlay / "opt/kafka/libs")
        more = ["-C", folder, "usr/local/bin", "redis_exporter", "opt/kafka"]
        _import(TRIXIE, "servers", cache, without=["./usr/share/maven*", "./usr/local/bin"], more=more)
    for name in SERVERS:
        docker("tag", local("servers"), local(name))
    _import(FORKY, "mosquitto", cache)
    return {name: local(name) for name in (*SERVERS, "mosquitto")}


def _import(root: Root, name: str, cache: Path, *, without: Sequence[str] = (), more: Sequence[str] = ()) -> None:
    """Make an image of a root file system, `without` some of its files and with `more` of tar's arguments."""
    folder = roots.make(root, cache)
    made_from = f"{folder.name} {hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]}"
    label = docker(
        "image", "ls", "--filter", f"reference={local(name)}", "--filter", f"label=made-from={made_from}", "-q"
    )
    if label:
        return
    say(f"importing {local(name)}")
    excludes = [f"--exclude={pattern}" for pattern in (*LEFT_OUT, *without)]
    tar = ["tar", "--create", "--directory", str(folder), "--anchored", *excludes, ".", *more]
    change = f'LABEL made-from="{made_from}"'
    with subprocess.Popen(tar, stdout=subprocess.PIPE) as packing:
        done = subprocess.run(
            ["docker", "import", "--change", change, "-", local(name)],
            stdin=packing.stdout, capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode or packing.returncode:
        raise DockerError(f"docker import of {local(name)} failed:\n{done.stderr}")

"""Debian root file systems that hold the servers, made once by mmdebstrap into the cache."""

import getpass
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from deploy.local.say import say


@dataclass(frozen=True)
class Root:
    suite: str
    packages: tuple[str, ...]

    def folder(self, cache: Path) -> Path:
        made_from = hashlib.sha256(repr(self).encode()).hexdigest()[:8]
        return cache / "roots" / f"{self.suite}-{made_from}"


TRIXIE = Root(
    "trixie",
    (
        "postgresql-17-timescaledb",
        "mosquitto-clients",
        "redis-server",
        "prometheus",
        "prometheus-alertmanager",
        "prometheus-node-exporter",
        "prometheus-postgres-exporter",
        "prometheus-redis-exporter",
        "openjdk-21-jre-headless",
        "maven",
    ),
)
FORKY = Root("forky", ("mosquitto", "mosquitto-clients"))
"""For its Mosquitto: trixie's 2.0 has no persist-sqlite, and kill -9 would lose what it acknowledged."""

# Packages that bring no user of their own get one here, so that every server has its own.
USERS = {"kafka": 9092, "alertmanager": 9093}


class RootError(Exception):
    """A root file system could not be made."""


def make(root: Root, cache: Path) -> Path:
    """Return the root's folder; make it if it is missing. Half a root never bears the name of a whole one."""
    folder = root.folder(cache)
    if folder.exists():
        return folder
    say(f"making a Debian {root.suite} with {', '.join(root.packages)} (once)")
    (cache / "logs").mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_suffix(".unfinished")
    remove(unfinished)
    unfinished.mkdir(parents=True)
    _bootstrap(root, unfinished, cache / "logs" / f"{root.suite}.log")
    with (unfinished / "etc/passwd").open("a") as passwd:
        passwd.writelines(f"{user}:x:{id_}:{id_}::/nonexistent:/usr/sbin/nologin\n" for user, id_ in USERS.items())
    for mount_point in ("data", "config", "kafka", "work"):
        (unfinished / mount_point).mkdir()
    unfinished.rename(folder)
    say(f"the Debian {root.suite} is there")
    return folder


def ids(folder: Path, user: str) -> tuple[int, int]:
    """User and group id of `user` in that root; they differ from root to root."""
    for line in (folder / "etc/passwd").read_text().splitlines():
        name, _, uid, gid, *_ = line.split(":")
        if name == user:
            return int(uid), int(gid)
    raise RootError(f"{folder} has no user {user}: delete it and run scripts/up again")


def remove(folder: Path) -> None:
    if folder.exists():
        subprocess.run(["chmod", "-R", "u+rwX", folder], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(folder)


def _bootstrap(root: Root, folder: Path, log: Path) -> None:
    if os.geteuid() != 0 and not _has_subordinate_ids():
        raise RootError(_NO_SUBORDINATE_IDS.format(user=getpass.getuser()))
    # Through a tar, so that it is the same for root and for a person whose user namespace only mmdebstrap enters.
    bootstrap = [
        "mmdebstrap",
        "--variant=minbase",
        "--format=tar",
        f"--mode={'root' if os.geteuid() == 0 else 'unshare'}",
        f"--include={','.join(root.packages)}",
        '--aptopt=Acquire::Check-Valid-Until "false"',
        *_proxies(),
        root.suite,
        "-",
        *sources(root.suite),
    ]
    unpack = ["tar", "-x", "--no-same-owner", "--exclude=./dev/*", "-C", str(folder)]
    environment = os.environ | {"TMPDIR": os.environ.get("TMPDIR", "/var/tmp")}  # noqa: S108  /tmp may be memory
    with log.open("wb") as output:
        making = subprocess.Popen(bootstrap, stdout=subprocess.PIPE, stderr=output, env=environment)
        unpacked = subprocess.run(unpack, stdin=making.stdout, stderr=output, check=False)
    if making.wait() or unpacked.returncode:
        last_lines = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise RootError(f"mmdebstrap could not make {root.suite} ({log}):\n{last_lines}")


_NO_SUBORDINATE_IDS = """{user} has no subordinate user ids, which mmdebstrap needs. Please run, then try again:
    sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"""


def _has_subordinate_ids() -> bool:
    owners = {getpass.getuser(), str(os.getuid())}
    return all(
        Path(file).exists() and any(line.split(":")[0] in owners for line in Path(file).read_text().splitlines())
        for file in ("/etc/subuid", "/etc/subgid")
    )


def sources(suite: str) -> Iterator[str]:
    """The machine's own Debian mirror; on other systems nothing, which leaves it to mmdebstrap."""
    if mirror := os.environ.get("BRIGADE_DEBIAN_MIRROR") or _mirrors().get("Debian"):
        yield f"deb {mirror} {suite} main"
    if mirror and suite == TRIXIE.suite:
        yield f"deb {mirror} {suite}-updates main"
        if security := _mirrors().get("Debian-Security"):
            yield f"deb {security} {suite}-security main"


@cache
def _mirrors() -> dict[str, str]:
    question = ["apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"]
    answer = subprocess.run(question, capture_output=True, text=True, check=False).stdout
    return dict(line.split(maxsplit=1) for line in answer.splitlines() if line.startswith("Debian"))


def _proxies() -> Iterator[str]:
    for scheme in ("http", "https"):
        question = ["apt-config", "shell", "PROXY", f"Acquire::{scheme}::Proxy"]
        answer = subprocess.run(question, capture_output=True, text=True, check=False).stdout.strip()
        if answer:
            yield f"--aptopt=Acquire::{scheme}::Proxy " + answer.removeprefix("PROXY=").replace("'", '"')

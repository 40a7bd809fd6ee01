"""Debian's Docker engine, and what speaks to one: `docker` with Compose 2 and buildx."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.local import roots
from deploy.local.say import say

SUITE = "trixie"  # bookworm's Compose is 1.29, too old for docker-compose.yml, and it has no buildx
PLUGINS = {"compose": "docker-compose", "buildx": "docker-buildx"}
"""Plugins of `docker`, and the packages that hold them."""


class ClientsError(Exception):
    """apt could not bring them."""


def install_engine() -> None:
    """`dockerd` and `docker`, where there are none. Where systemd runs, its package starts it, too."""
    if shutil.which("dockerd") and shutil.which("docker") and shutil.which("iptables"):
        return
    say("installing docker.io")
    with _no_service_starts():
        _run("apt-get", "-q", "update")
        _run("apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300", "install", "--no-install-recommends", "docker.io")
        if not shutil.which("docker"):  # a package of its own since trixie
            _run("apt-get", "-q", "-y", "install", "--no-install-recommends", "docker-cli")


def plugins(cache: Path) -> dict[str, str]:
    """What must be set so that `docker compose` and `docker buildx` work; nothing where they do."""
    home = cache / f"docker-{hashlib.sha256(f'{SUITE} {PLUGINS}'.encode()).hexdigest()[:8]}"
    if home.exists():
        return {"DOCKER_CONFIG": str(home)}
    if all(_works("docker", plugin, "version") for plugin in PLUGINS):
        return {}
    say(f"fetching {' and '.join(PLUGINS.values())} (once)")
    unfinished = home.with_suffix(".unfinished")
    roots.remove(unfinished)
    (unfinished / "cli-plugins").mkdir(parents=True)
    for package in _download(unfinished / "apt"):
        _run("dpkg-deb", "--extract", str(package), str(unfinished / "files"))
    for plugin in PLUGINS.values():
        (unfinished / "files/usr/libexec/docker/cli-plugins" / plugin).rename(unfinished / "cli-plugins" / plugin)
    for folder in ("apt", "files"):
        roots.remove(unfinished / folder)
    unfinished.rename(home)
    return {"DOCKER_CONFIG": str(home)}


def _download(folder: Path) -> list[Path]:
    """Packages of another suite than the machine's, by an apt that knows of nothing else."""
    for below in ("state/lists/partial", "cache/archives/partial"):
        (folder / below).mkdir(parents=True)
    keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
    lines = [line.replace("deb ", f"deb [signed-by={keys}] ", 1) for line in roots.sources(SUITE)]
    (folder / "sources.list").write_text("\n".join(lines) + "\n")
    options = {
        "Dir::State": folder / "state",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": folder / "cache",
        "Dir::Etc::SourceList": folder / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Acquire::Languages": "none",
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-q", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
    _run(*apt, "update", folder=folder)
    _run(*apt, "download", *PLUGINS.values(), folder=folder)
    return sorted(folder.glob("*.deb"))


@contextmanager
def _no_service_starts() -> Iterator[None]:
    """Without systemd a package would start its daemon by itself, and nobody would end it."""
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists() or Path("/run/systemd/system").exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


def _works(*command: str) -> bool:
    return bool(shutil.which(command[0])) and not subprocess.run(command, capture_output=True, check=False).returncode


def _run(*command: str, folder: Path | None = None) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClientsError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")

"""The images of a node's pods as archives in the cache: no registry is asked for them.

They are made by a Docker engine, one of this machine or one started for as long as that takes.
"""

import hashlib
import os
from pathlib import Path

from deploy.images import bases, engine, images
from deploy.images.docker import docker
from deploy.local.layout import REPOSITORY, cache_folder
from deploy.local.say import say

PAUSE = "brigade-local/pause:local"
"""What holds a pod's network namespace."""

BRIGADE = (
    *("deploy/images", "deploy/local/kafka", "pyproject.toml"),
    *("observability", "pipeline", "gateway", "users"),
)
SERVERS = (
    "deploy/cluster/images.py",
    *("deploy/images/bases.py", "deploy/local/jars.py", "deploy/local/roots.py", "deploy/local/kafka"),
)


def archives() -> list[Path]:
    """Return them; make those that are missing or made from other sources."""
    brigade, servers = _place("brigade", BRIGADE), _place("servers", SERVERS)
    missing = [archive for archive in (brigade, servers) if not archive.exists()]
    if missing:
        folder = cache_folder() / "engine"
        before = dict(os.environ)
        own = engine.Engine(folder)
        try:
            os.environ.update(engine.start(own))
            if brigade in missing:
                images.brigade()
                _save(brigade, images.BRIGADE)
            if servers in missing:
                bases.servers(cache_folder())
                bases.builders(cache_folder())
                _make_pause()
                _save(servers, bases.local("servers"), bases.local("mosquitto"), PAUSE)
        finally:
            own.down()
            os.environ.clear()
            os.environ.update(before)
    return [brigade, servers]


def _place(name: str, sources: tuple[str, ...]) -> Path:
    made_from = hashlib.sha256()
    for source in sources:
        path = REPOSITORY / source
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and not {"__pycache__", "node_modules"} & set(file.parts):
                made_from.update(f"{file.relative_to(REPOSITORY)}\n".encode() + file.read_bytes())
    return cache_folder() / "kubernetes" / "images" / f"{name}-{made_from.hexdigest()[:12]}.tar"


def _make_pause() -> None:
    folder = cache_folder() / "kubernetes" / "pause"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Dockerfile").write_text(f'FROM {bases.local("python")}\nCMD ["sleep", "infinity"]\n')
    docker("build", "--tag", PAUSE, str(folder))


def _save(archive: Path, *names: str) -> None:
    say(f"writing {archive}")
    archive.parent.mkdir(parents=True, exist_ok=True)
    for older in archive.parent.glob(f"{archive.name.rpartition('-')[0]}-*"):
        older.unlink()
    unfinished = archive.with_suffix(f".{os.getpid()}")
    docker("save", "--output", str(unfinished), *names)
    unfinished.rename(archive)

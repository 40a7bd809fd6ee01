"""The pages that the gateway serves, built by node once for each state of their sources. `scripts/pages` says where."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from deploy.local.layout import REPOSITORY, cache_folder, hold
from deploy.local.say import say

SOURCES = REPOSITORY / "gateway" / "pages"
MADE_HERE = {"node_modules", "dist"}


class PagesError(Exception):
    """npm or the bundler did not do it."""


def folder(cache: Path) -> Path:
    """Where the pages of these sources are, or will be."""
    return cache / "pages" / _digest(*_sources())


def make(cache: Path) -> Path:
    """The folder with the built pages; takes milliseconds when they are there."""
    built = folder(cache)
    if built.exists():
        return built
    lock = _wait_for(cache / "pages" / "lock")
    try:
        if not built.exists():
            libraries(cache)
            say("building the pages")
            fresh = built.with_suffix(".new")
            shutil.rmtree(fresh, ignore_errors=True)
            _run("node", "build.mjs", str(fresh), cwd=SOURCES)
            fresh.rename(built)
    finally:
        os.close(lock)
    return built


def libraries(cache: Path) -> None:
    """The npm packages of package-lock.json, in the cache, as `node_modules` beside the sources."""
    needed = [SOURCES / "package.json", SOURCES / "package-lock.json", SOURCES / ".npmrc"]
    home = cache / "pages" / f"libraries-{_digest(*needed)}"
    if not (home / "complete").exists():
        say("installing the pages' npm packages")
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        for file in needed:
            shutil.copy(file, home)
        _run("npm", "ci", "--no-audit", "--no-fund", "--loglevel=error", cwd=home)
        (home / "complete").touch()
    link = SOURCES / "node_modules"
    if link.is_symlink() and link.readlink() != home / "node_modules":
        link.unlink()
    if not link.exists():
        link.symlink_to(home / "node_modules")


def _sources() -> list[Path]:
    found = (path for path in sorted(SOURCES.rglob("*")) if not MADE_HERE & set(path.relative_to(SOURCES).parts))
    return [path for path in found if path.is_file()]


def _digest(*files: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        content = file.read_bytes()
        digest.update(f"{file.relative_to(SOURCES)} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def _wait_for(file: Path) -> int:
    while (lock := hold(file)) is None:
        time.sleep(0.2)
    return lock


def _run(*command: str, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PagesError(f"{' '.join(command)} failed in {cwd}:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    if "--libraries" in sys.argv:
        libraries(cache_folder())
    else:
        print(make(cache_folder()))

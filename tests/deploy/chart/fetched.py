"""What these tests fetch from package registries, once for every version, into the cache."""

import hashlib
import secrets
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.local.layout import cache_folder

CUSTOM = Path(__file__).parent / "custom"
REGO = "regopy==1.5.2"
CHECKOV = "checkov==3.3.30"


def custom_schemas() -> Path:
    """A folder with custom/validate.mjs and the schemas it reads."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("custom resources are not checked: node and npm are not installed")
    wanted = b"".join((CUSTOM / name).read_bytes() for name in ("package.json", "validate.mjs"))

    def fetch(folder: Path) -> list[str | Path]:
        for name in ("package.json", "validate.mjs"):
            shutil.copy(CUSTOM / name, folder)
        return ["npm", "install", "--package-lock=false", "--no-audit", "--no-fund", "--ignore-scripts"]

    return _folder(f"custom-resources-{hashlib.sha256(wanted).hexdigest()[:8]}", fetch)


def python_package(requirement: str) -> Path:
    """A folder with it and what it needs: too large, or for too few machines, to be among everybody's packages."""
    uv = next(iter(cache_folder().glob("uv-*/bin/uv")), None)
    if uv is None:
        pytest.skip(f"{requirement} is not fetched: there is no uv in the cache; scripts/test puts it there")
    install: list[str | Path] = [uv, "--system-certs", "pip", "install", "--quiet", "--target", ".", requirement]
    return _folder(requirement.replace("==", "-"), lambda _: install)


def _folder(name: str, fetch: Callable[[Path], list[str | Path]]) -> Path:
    folder = cache_folder() / name
    if folder.exists():
        return folder
    fresh = folder.with_name(f"{name}-{secrets.token_hex(4)}")
    fresh.mkdir(parents=True)
    done = subprocess.run(fetch(fresh), cwd=fresh, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        shutil.rmtree(fresh)
        pytest.skip(f"{name} could not be fetched: {done.stderr.strip()[-300:]}")
    try:
        fresh.rename(folder)
    except OSError:  # another run was faster
        shutil.rmtree(fresh)
    return folder

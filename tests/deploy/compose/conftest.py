"""Compose without an engine, and the engine that the tests of running containers need."""

import os
import subprocess
from pathlib import Path

import pytest

from deploy.images import clients
from deploy.images.bases import local
from deploy.images.docker import answers
from deploy.images.images import BRIGADE
from deploy.images.public import variable
from deploy.local.layout import cache_folder


@pytest.fixture(scope="session")
def compose_binary() -> Path:
    """Compose 2, which reads docker-compose.yml without an engine; Debian's, where this machine has none."""
    home = clients.plugins(cache_folder()).get("DOCKER_CONFIG")
    places = [Path(home) / "cli-plugins"] if home else []
    places += [
        Path(f"{prefix}/{folder}/docker/cli-plugins")
        for prefix in ("/usr", "/usr/local")
        for folder in ("libexec", "lib")
    ]
    found = next((place / "docker-compose" for place in places if (place / "docker-compose").exists()), None)
    if not found:
        pytest.skip("there is no Compose 2 here")
    return found


@pytest.fixture(scope="session")
def engine(compose_binary) -> dict[str, str]:
    """What must be set to use the engine, with the images that are here."""
    if not answers():
        pytest.skip('no Docker engine answers: eval "$(scripts/engine up)", then scripts/images brigade and servers')
    here = subprocess.run(
        ["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}"], capture_output=True, text=True, check=True
    ).stdout.split()
    image = os.environ.get("BRIGADE_IMAGE", BRIGADE)
    if image not in here:
        pytest.skip(f"the engine has no image {image}: scripts/images brigade")
    made = {
        variable(name): local(name) for name in ("timescaledb", "kafka", "mosquitto", "redis") if local(name) in here
    }
    return {"DOCKER_CONFIG": str(compose_binary.parents[1]), **made}

"""A Docker engine and the image in it, as .ci/run makes them; without them these tests are skipped, by name."""

import subprocess
from collections.abc import Callable

import pytest

from deploy.images.docker import DockerError, answers, docker
from deploy.images.images import BRIGADE

HARDENED = (
    *("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--memory", "256m", "--pids-limit", "100"),
)


@pytest.fixture(scope="session")
def engine() -> None:
    if not answers():
        pytest.skip('no Docker engine answers: eval "$(scripts/engine up)"')


@pytest.fixture(scope="session")
def image(engine: None) -> str:
    try:
        docker("image", "inspect", BRIGADE)
    except DockerError:
        pytest.skip(f"there is no image {BRIGADE}: scripts/images brigade")
    return BRIGADE


@pytest.fixture(scope="session")
def inside(image: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command in a container as Compose and the chart would start it."""

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        words = ("docker", "run", "--rm", "--network", "none", *HARDENED, image, *command)
        return subprocess.run(words, capture_output=True, text=True, check=False)

    return run

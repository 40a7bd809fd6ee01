"""The command `docker`, asked and told."""

import os
import shutil
import subprocess
from collections.abc import Mapping


class DockerError(Exception):
    """Docker could not do it, in its words."""


def docker(*words: str, environment: Mapping[str, str] = os.environ) -> str:
    """Run it to its end and return what it said."""
    if not shutil.which("docker"):
        raise DockerError("there is no command `docker` on this machine")
    done = subprocess.run(["docker", *words], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DockerError(f"docker {' '.join(words[:2])} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout.strip()


def answers(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether there is an engine."""
    if not shutil.which("docker"):
        return False
    question = ["docker", "version", "--format", "{{.Server.Version}}"]
    return not subprocess.run(question, env=environment, capture_output=True, check=False).returncode

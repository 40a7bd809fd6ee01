"""Docker and its Compose, as commands of this machine. Needs Python alone."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from deploy.local.layout import REPOSITORY

ENGINE = (20, 10)
COMPOSE = (2, 21)  # tells of each container in a line of its own

NO_DOCKER = (
    "There is no docker command here. Install Docker Engine 20.10 or newer, or run scripts/up, which needs none."
)
NO_COMPOSE = (
    "docker has no Compose 2.21 or newer here (docker compose version): install docker-compose-plugin, "
    "on Debian 13 docker-compose; or run scripts/up, which needs no Docker."
)


class EngineError(Exception):
    """Docker is missing, too old, or does not do what it was told."""


@dataclass(frozen=True, kw_only=True)
class Container:
    service: str
    state: str  # running, exited, created, restarting, …
    health: str  # healthy, unhealthy, starting, or empty without a check
    exit_code: int
    once: bool  # it does something and ends


class Compose:
    """This repository's docker-compose.yml on this machine's engine."""

    def __init__(self, profiles: Sequence[str] = (), environment: dict[str, str] | None = None) -> None:
        self._environment = os.environ | {"COMPOSE_PROFILES": ",".join(profiles)} | (environment or {})

    def check(self) -> None:
        """Raise, saying what to do, where this machine cannot run it."""
        if not shutil.which("docker", path=self._environment.get("PATH")):
            raise EngineError(NO_DOCKER)
        engine = self._run("docker", "version", "--format", "{{.Server.Version}}")
        if engine.returncode:
            raise EngineError(
                f"The Docker engine does not answer: {engine.stderr.strip()}\n"
                "Start it (sudo systemctl start docker), and see that you may use it (sudo usermod -aG docker $USER)."
            )
        if _version(engine.stdout) < ENGINE:
            raise EngineError(f"The Docker engine here is {engine.stdout.strip()}: 20.10 or newer is needed.")
        compose = self._run("docker", "compose", "version", "--short")
        if compose.returncode or _version(compose.stdout) < COMPOSE:
            raise EngineError(NO_COMPOSE)

    @cached_property
    def configuration(self) -> dict[str, Any]:
        """As Compose understands it, variables replaced, with the services of the profiles."""
        found: dict[str, Any] = json.loads(self.told("config", "--format", "json"))
        return found

    @property
    def services(self) -> dict[str, Any]:
        found: dict[str, Any] = self.configuration["services"]
        return found

    def published(self) -> dict[str, tuple[str, int]]:
        """Address and port of each service that this machine can reach."""
        return {
            name: (port.get("host_ip") or "0.0.0.0", int(port["published"]))  # Docker's default
            for name, service in self.services.items()
            for port in service.get("ports", ())
        }

    def containers(self) -> dict[str, Container]:
        answer = self._run("docker", "compose", "ps", "--all", "--format", "json")
        found = [json.loads(line) for line in answer.stdout.splitlines() if line.startswith("{")]
        return {
            one["Service"]: Container(
                service=one["Service"],
                state=one["State"],
                health=one["Health"],
                exit_code=int(one["ExitCode"]),
                once=self.once(one["Service"]),
            )
            for one in found
            if one["Service"] in self.services
        }

    def once(self, service: str) -> bool:
        return bool(self.services[service].get("restart") == "no")

    def start(self, output: Path) -> subprocess.Popen[bytes]:
        """Bring everything up; it ends when all is started, in its order, and writes what it does into `output`."""
        command = ["docker", "compose", "--progress", "plain", "up", "--detach"]
        with output.open("wb") as file:
            return subprocess.Popen(command, cwd=REPOSITORY, env=self._environment, stdout=file, stderr=file)

    def last_words(self, service: str, lines: int = 60) -> str:
        """What it said last; of a one-shot, since it was started last."""
        if not (state := self._state(service)):
            return ""
        since = ("--since", state["StartedAt"]) if self.once(service) else ()
        return self._run("docker", "logs", "--tail", str(lines), *since, state["Id"], merged=True).stdout.strip()

    def last_check(self, service: str) -> str:
        """What its health check said last."""
        log = (self._state(service).get("Health") or {}).get("Log") or []
        return str(log[-1]["Output"]).strip() if log else ""

    def _state(self, service: str) -> dict[str, Any]:
        ids = self._run("docker", "compose", "ps", "--all", "--quiet", service).stdout.split()
        if not ids:
            return {}
        [found] = json.loads(self._run("docker", "inspect", ids[0]).stdout)
        return {"Id": ids[0], **found["State"]}

    def read(self, secret: str) -> str:
        """A file of the folder with the secrets, which only root may open."""
        file = self.secrets / secret
        try:
            return file.read_text()
        except PermissionError:
            return self.told("run", "--rm", "--no-deps", "--no-TTY", "secrets", "cat", f"/secrets/{secret}")

    @property
    def secrets(self) -> Path:
        [mount] = self.services["secrets"]["volumes"]
        return Path(mount["source"])

    def data_root(self) -> Path | None:
        """Of an engine on this machine, where this user may look."""
        folder = Path(self._run("docker", "info", "--format", "{{.DockerRootDir}}").stdout.strip())
        return folder if self._environment.get("DOCKER_HOST", "unix:").startswith("unix:") and folder.is_dir() else None

    def told(self, *words: str) -> str:
        """What `docker compose …` says; raises what it complains about."""
        return self.docker("compose", *words)

    def docker(self, *words: str) -> str:
        """The same of `docker …`."""
        answer = self._run("docker", *words)
        if answer.returncode:
            raise EngineError(f"docker {' '.join(words)}: {answer.stderr.strip() or answer.stdout.strip()}")
        return answer.stdout

    def holder(self, port: int) -> str:
        """The container that has published this port, if one has."""
        answer = self._run("docker", "ps", "--filter", f"publish={port}", "--format", "{{.Names}} ({{.Image}})")
        return f"container {answer.stdout.strip()}" if answer.stdout.strip() else ""

    def _run(self, *command: str, merged: bool = False) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=REPOSITORY,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merged else subprocess.PIPE,
            text=True,
            check=False,
        )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])

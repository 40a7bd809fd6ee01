"""A Docker engine on a machine that runs none: Debian's, in a folder of its own, ended by its process id.

`scripts/engine up` says on stdout what a shell must set to use it; `scripts/engine down` leaves nothing of it.
"""

import argparse
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from deploy.images import clients, leftovers
from deploy.images.docker import DockerError, answers, docker
from deploy.local.layout import cache_folder
from deploy.local.say import stop

START_SECONDS = 60
STOP_SECONDS = 60
LONGEST_PATH = 107 - len("/exec/containerd/containerd-debug.sock.ttrpc")


class EngineError(Exception):
    """No engine can be started here, and why."""


@dataclass(frozen=True)
class Engine:
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What must be set to use it."""
        return {"DOCKER_HOST": f"unix://{self.folder}/docker.sock"} | clients.plugins(cache_folder())

    @property
    def log(self) -> Path:
        return self.folder / "dockerd.log"

    @property
    def _number(self) -> int:
        """For what two engines on one machine must not share."""
        return int(hashlib.sha256(str(self.folder).encode()).hexdigest()[:4], 16)

    @property
    def _bridge(self) -> str:
        return f"brigade-{self._number:x}"

    @property
    def _network(self) -> str:
        return f"10.{200 + self._number % 50}"

    def up(self) -> None:
        """Return when it answers; it goes on in the background."""
        if answers(os.environ | self.environment):
            return
        if len(str(self.folder)) > LONGEST_PATH:
            raise EngineError(f"{self.folder} is too long for the sockets below it: at most {LONGEST_PATH} characters")
        if others := leftovers.engines():  # it would take away the other's rules of iptables
            raise EngineError(f"a Docker engine runs on this machine (process {others[0]}): DOCKER_HOST names it")
        if self.folder.exists():
            self.down()  # what is left of one that was killed
        self.folder.mkdir(parents=True)
        (self.folder / "daemon.json").write_text("{}")
        self._make_bridge()
        with self.log.open("wb") as log:  # it is nobody's child, so that it outlives who started it
            command = ["setsid", "--fork", *self._command()]
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True)
        began = time.monotonic()
        while not answers(os.environ | self.environment):
            seconds = time.monotonic() - began
            if seconds > START_SECONDS or (seconds > 1 and not leftovers.engines()):
                last_lines = "\n".join(self.log.read_text(errors="replace").splitlines()[-3:])
                self.down()
                raise EngineError(f"dockerd does not run on this machine:\n{last_lines}")
            time.sleep(0.1)

    def _make_bridge(self) -> None:
        try:
            leftovers.remember()
            for words in (
                ("link", "add", self._bridge, "type", "bridge"),
                ("address", "add", f"{self._network}.0.1/24", "dev", self._bridge),
                ("link", "set", self._bridge, "up"),
            ):
                subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
        except subprocess.CalledProcessError as error:
            self.down()
            raise EngineError(f"this machine's network cannot be changed: {error.stderr}") from error

    def _command(self) -> list[str]:
        return [
            "dockerd",
            f"--data-root={self.folder}/data",
            f"--exec-root={self.folder}/exec",
            f"--pidfile={self.folder}/dockerd.pid",
            f"--host=unix://{self.folder}/docker.sock",
            f"--config-file={self.folder}/daemon.json",  # not the machine's own
            f"--bridge={self._bridge}",
            f"--default-address-pool=base={self._network}.128.0/17,size=24",
            "--ip=127.0.0.1",  # a published port is this machine's alone, unless its own line says otherwise
            "--ip6tables=false",
            "--log-opt=max-size=20m",
        ]

    def down(self) -> None:
        """End it and take away what it made: containers, mounts, networks, rules, images, the folder."""
        if not self.folder.exists():
            return
        if answers(os.environ | self.environment):
            self._end_containers()
        self._end_process()
        leftovers.unmount_below(self.folder)
        leftovers.remove(self._network)
        shutil.rmtree(self.folder)

    def _end_containers(self) -> None:
        environment = os.environ | self.environment
        if containers := docker("ps", "--all", "--quiet", environment=environment).split():
            docker("rm", "--force", "--volumes", *containers, environment=environment)
        docker("network", "prune", "--force", environment=environment)

    def _end_process(self) -> None:
        file = self.folder / "dockerd.pid"
        if not file.exists():
            return
        pid = int(file.read_text())
        if Path(f"/proc/{pid}/comm").exists() and Path(f"/proc/{pid}/comm").read_text().strip() == "dockerd":
            os.kill(pid, signal.SIGTERM)
            _wait_for_the_end(pid)


def start(engine: Engine) -> dict[str, str]:
    """Return what must be set to use an engine: the one that runs here, or else `engine`, started."""
    if answers():
        return clients.plugins(cache_folder())
    if os.geteuid() != 0:
        raise EngineError("no Docker engine answers, and to start one takes root; DOCKER_HOST names one elsewhere")
    clients.install_engine()
    if answers():  # its package has started it
        return clients.plugins(cache_folder())
    engine.up()
    return engine.environment


def _wait_for_the_end(pid: int) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    while Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/status").read_text().count("State:\tZ") == 0:
        if time.monotonic() > deadline:
            raise EngineError(f"dockerd ({pid}) does not end")
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/engine", description=__doc__)
    parser.add_argument("what", choices=["up", "down"])
    folder = os.environ.get("BRIGADE_ENGINE") or str(cache_folder() / "engine")
    parser.add_argument("--folder", type=Path, default=folder, help="where it keeps everything (%(default)s)")
    asked = parser.parse_args()
    engine = Engine(asked.folder.absolute())
    try:
        if asked.what == "down":
            engine.down()
            return
        with redirect_stdout(sys.stderr):
            environment = start(engine)
    except (EngineError, clients.ClientsError, DockerError) as error:
        stop(error)
    for name, value in environment.items():
        print(f"export {name}={shlex.quote(value)}")


if __name__ == "__main__":
    main()

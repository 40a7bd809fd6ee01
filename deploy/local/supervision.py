"""What keeps the processes running: supervisord, its configuration, how to ask it, and its log made readable."""

import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

from supervisor.xmlrpc import SupervisorTransport

from deploy.local.layout import REPOSITORY, Instance

GROUPS = {"servers": 100, "parts": 200, "devices": 300}  # stopped from the highest down, started by hand
FOREVER = (
    1_000_000_000  # restarts; supervisord waits one second longer before each as long as they fail within a second
)
SOCKET_PATH_LIMIT = 100  # the kernel's is 107


@dataclass(frozen=True, kw_only=True)
class Program:
    name: str
    group: str
    command: list[str]
    stop_signal: str = "TERM"
    stop_seconds: int = 30
    env: Mapping[str, str] = field(default_factory=dict)


class SupervisionError(Exception):
    """supervisord does not do what was asked."""


def configuration(instance: Instance, programs: Iterable[Program]) -> str:
    """The whole supervisord.conf; nothing starts by itself."""
    programs = list(programs)
    sections = {
        "unix_http_server": {"file": str(instance.socket), "chmod": "0600"},
        "supervisord": {
            "logfile": str(instance.logs / "supervisord.log"),
            "logfile_maxbytes": "10MB",
            "logfile_backups": "1",
            "pidfile": str(instance.state / "supervisord.pid"),
            "directory": str(REPOSITORY),
            "nodaemon": "true",
            "silent": "true",
            "umask": "022",
            "identifier": f"brigade-{instance.name}",
        },
        "rpcinterface:supervisor": {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        },
    }
    for group, priority in GROUPS.items():
        if names := [program.name for program in programs if program.group == group]:
            sections[f"group:{group}"] = {"programs": ",".join(names), "priority": str(priority)}
    for program in programs:
        sections[f"program:{program.name}"] = _program(program, instance.logs)
    return "\n".join(
        f"[{section}]\n" + "".join(f"{key}={value.replace('%', '%%')}\n" for key, value in lines.items())
        for section, lines in sections.items()
    )


def _program(program: Program, logs: Path) -> dict[str, str]:
    return {
        "command": shlex.join(program.command),
        "environment": ",".join(f'{name}="{value}"' for name, value in program.env.items()),
        "autostart": "false",
        "autorestart": "true",
        "startsecs": "1",
        "startretries": str(FOREVER),
        "stopsignal": program.stop_signal,
        "stopasgroup": "true",  # bubblewrap is between supervisord and a server; see sandbox.py
        "killasgroup": "true",
        "stopwaitsecs": str(program.stop_seconds),
        "redirect_stderr": "true",
        "stdout_logfile": str(logs / f"{program.name}.log"),
        "stdout_logfile_maxbytes": "20MB",
        "stdout_logfile_backups": "2",
    }


class Supervisor:
    """supervisord of one instance, over its socket."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        if len(str(instance.socket)) > SOCKET_PATH_LIMIT:
            raise SupervisionError(f"{instance.state} is too long a path for a socket: choose a shorter BRIGADE_STATE")

    def launch(self, *, detached: bool, lock: int) -> subprocess.Popen[bytes]:
        """Start supervisord, which holds `lock` as long as it lives. In the foreground it ends cleanly when we die."""
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self.instance.config / "supervisord.conf")]
        if not detached:
            command = ["setpriv", "--pdeathsig", "TERM", *command]
        output = (self.instance.logs / "supervisord.out").open("wb")
        started = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=[lock], start_new_session=True
        )
        for _ in range(100):
            if self.alive():
                return started
            if started.poll() is not None:
                break
            time.sleep(0.1)
        raise SupervisionError(f"supervisord did not start: {(self.instance.logs / 'supervisord.out').read_text()}")

    def alive(self) -> bool:
        try:
            self._call("getState")
        except OSError:
            return False
        return True

    def processes(self) -> dict[str, dict[str, Any]]:
        return {process["name"]: process for process in self._call("getAllProcessInfo")}

    def process(self, name: str) -> dict[str, Any]:
        try:
            return self.processes()[name]
        except KeyError:
            raise SupervisionError(f"there is no part {name!r} in instance {self.instance.name!r}") from None

    def start(self, name: str) -> None:
        process = self.process(name)
        if process["statename"] not in {"RUNNING", "STARTING"}:
            self._call("startProcess", f"{process['group']}:{name}", False)

    def stop(self, name: str) -> None:
        """Return when it has ended, cleanly."""
        process = self.process(name)
        if process["statename"] not in {"STOPPED", "EXITED", "FATAL"}:
            self._call("stopProcess", f"{process['group']}:{name}", True)

    def shut_down(self) -> None:
        self._call("shutdown")

    def pid(self) -> int:
        return int(self._call("getPID"))

    def _call(self, method: str, *arguments: object) -> Any:
        with ServerProxy(
            "http://localhost", transport=SupervisorTransport(None, None, f"unix://{self.instance.socket}")
        ) as proxy:
            try:
                return getattr(proxy.supervisor, method)(*arguments)
            except Fault as fault:
                raise SupervisionError(f"supervisord, {method}{arguments}: {fault.faultString}") from fault


EVENTS = (
    (re.compile(r"exited: (\S+) \(exit status (\d+)"), "{0} ended with {1}, starting it again"),
    (re.compile(r"exited: (\S+) \(terminated by (\w+)"), "{0} ended with {1}, starting it again"),
    (re.compile(r"stopped: (\S+) \("), "{0} stopped"),
    (re.compile(r"killing '(\S+)' \(\d+\) with SIGKILL"), "{0} does not end by itself, killing it"),
    (re.compile(r"gave up: (\S+) "), "{0} keeps failing, giving up"),
)


def event(line: str) -> str | None:
    """Say a line of supervisord's log as a person would; None when it is not worth a line."""
    for pattern, words in EVENTS:
        if found := pattern.search(line):
            name, *how = found.groups()
            return words.format(name, *(_signal(code) for code in how))
    return None


def _signal(code: str) -> str:
    """A sandbox ends with 128 + the signal that ended the server."""
    try:
        return signal.Signals(int(code) - 128).name
    except ValueError:
        return code


def follow(log: Path, alive: Iterable[bool]) -> Iterator[str]:
    """Lines as they are written, from now on, for as long as `alive` says so; through a rotation of the log."""
    opened = log.open()
    opened.seek(0, 2)
    for more in alive:
        yield from opened
        if not more:
            return
        if log.exists() and log.stat().st_ino != Path(f"/proc/self/fd/{opened.fileno()}").stat().st_ino:
            opened.close()
            opened = log.open()

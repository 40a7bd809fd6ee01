"""The bubblewrap command that runs a server out of its Debian root.

A server sees its root read-only, `/data`, `/config` and nothing else of this machine, under a user id of its own.
Started by root it gets that id for real; started by a person it has it inside a user namespace.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

STOP_SIGNALS = ("TERM", "INT")


@dataclass(frozen=True, kw_only=True)
class Sandbox:
    root: Path
    uid: int
    gid: int
    data: Path
    config: Path
    mounts: Mapping[str, Path] = field(default_factory=dict)  # more of the machine, read-only

    def command(self, command: Sequence[str], *, as_root: bool | None = None) -> list[str]:
        """Return what runs `command` in here and ends, with all its children, when the caller does.

        TERM and INT to the process group reach the server and pass bubblewrap by: it would end at once and take the
        server with it. bubblewrap stays process 1 of the sandbox: its death, even by kill -9, ends all in there, which
        the server's own parent-death signal would not, as it comes from a user without the right to send it.
        """
        if as_root is None:
            as_root = os.geteuid() == 0
        switch = [
            "setpriv",
            f"--reuid={self.uid}",
            f"--regid={self.gid}",
            "--clear-groups",
            "--bounding-set=-all",
            "--inh-caps=-all",
        ]
        return [
            "env", *(f"--ignore-signal={name}" for name in STOP_SIGNALS),
            "bwrap", "--die-with-parent", "--unshare-pid",
            *(_CAPABILITIES if as_root else ("--unshare-user", "--uid", str(self.uid), "--gid", str(self.gid))),
            "--ro-bind", str(self.root), "/", "--proc", "/proc", "--dev", "/dev",
            *(word for folder in _EMPTY for word in ("--perms", "1777", "--tmpfs", folder)),
            "--bind", str(self.data), "/data", "--ro-bind", str(self.config), "/config",
            *(word for inside, outside in self.mounts.items() for word in ("--ro-bind", str(outside), inside)),
            "--chdir", "/data", "--clearenv",
            "--setenv", "PATH", "/usr/bin:/bin:/usr/sbin:/sbin", "--setenv", "LANG", "C.UTF-8", "--setenv", "TZ", "UTC",
            "--", *(switch if as_root else ()), "env", *(f"--default-signal={name}" for name in STOP_SIGNALS), *command,
        ]  # fmt: skip

    def run(self, command: Sequence[str], *, stdin: str = "") -> str:
        """Run a command to its end and return what it said."""
        self.own()
        done = subprocess.run(self.command(command), input=stdin, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SandboxError(f"{' '.join(command)}: ended with {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def own(self) -> None:
        """Give the data to the server's user; a newer root may know it by another id."""
        self.data.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0 and self.data.stat().st_uid != self.uid:
            subprocess.run(["chown", "-R", f"{self.uid}:{self.gid}", self.data], check=True)


_EMPTY = ("/dev/shm", "/run", "/tmp")  # noqa: S108  the sandbox has its own
_CAPABILITIES = ("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP")


class SandboxError(Exception):
    """A command inside a sandbox failed."""


def missing() -> str | None:
    """Say what keeps bubblewrap from working here; None when it works."""
    trial = ["bwrap", "--unshare-pid", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"]
    trial += ["true"] if os.geteuid() == 0 else ["--unshare-user", "--uid", "101", "true"]
    done = subprocess.run(trial, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    return "\n".join(
        (f"bubblewrap cannot make a sandbox on this machine: {done.stderr.strip()}", *_reasons(), _WAY_OUT)
    )


_WAY_OUT = (
    "The servers need root, or a user who may make user namespaces. Run scripts/up as root, or allow the namespaces."
)


def _reasons() -> list[str]:
    wanted = {
        "kernel/unprivileged_userns_clone": ("0", "1"),
        "kernel/apparmor_restrict_unprivileged_userns": ("1", "0"),
        "user/max_user_namespaces": ("0", "10000"),
    }
    return [
        f"This machine forbids user namespaces: sudo sysctl -w {name.replace('/', '.')}={right}"
        for name, (wrong, right) in wanted.items()
        if (file := Path("/proc/sys") / name).exists() and file.read_text().strip() == wrong
    ]

"""Whether a port is free, and if not, whose it is. Without packages: `scripts/up --docker` runs on any Python."""

import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

PROC = Path("/proc")
LISTENING = "0A"


def taken(ports: Mapping[str, int], host: str = "127.0.0.1") -> list[str]:
    """A sentence for each port that somebody has."""
    return [f"port {port} for {name} is taken by {owner(port)}" for name, port in ports.items() if not free(port, host)]


def free(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError:
            return False
    return True


def owner(port: int) -> str:
    wanted = {f"socket:[{inode}]" for inode in _listening(port)}
    for process in PROC.glob("[0-9]*"):
        if wanted & set(_open_files(process)):
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            return f"process {process.name}: {command[:120]}"
    return "another user's process (root could tell which)"


def _listening(port: int) -> Iterator[str]:
    for table in (PROC / "net/tcp", PROC / "net/tcp6"):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            _, local, _, state, *_, inode = line.split()[:10]
            if state == LISTENING and int(local.rpartition(":")[2], 16) == port:
                yield inode


def _open_files(process: Path) -> Iterator[str]:
    try:
        for file in (process / "fd").iterdir():
            yield str(file.readlink())
    except OSError:  # it has ended, or is another user's
        return

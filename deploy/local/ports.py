"""Whether a port is free, and if not, whose it is."""

import socket
from collections.abc import Mapping

import psutil


def taken(ports: Mapping[str, int]) -> list[str]:
    """A sentence for each port that somebody has."""
    return [f"port {port} for {name} is taken by {owner(port)}" for name, port in ports.items() if not free(port)]


def free(port: int) -> bool:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def owner(port: int) -> str:
    for connection in psutil.net_connections("inet"):
        if (
            connection.laddr
            and connection.laddr.port == port
            and connection.status == psutil.CONN_LISTEN
            and connection.pid
        ):
            command = " ".join(psutil.Process(connection.pid).cmdline())
            return f"process {connection.pid}: {command[:120]}"
    return "another user's process (root could tell which)"

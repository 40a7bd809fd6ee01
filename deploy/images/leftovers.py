"""What dockerd changes on a machine for good, and how it is made as it was before."""

import json
import shlex
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

BEFORE = Path("/run/brigade-engine.json")
"""How the engine found the machine. Not in the engine's folder: that may be deleted by hand."""

FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")


def remember() -> None:
    """To be called before an engine is started."""
    if BEFORE.exists():  # an engine was killed, and this is how it found the machine
        return
    policy = _run("iptables", "--list-rules", "FORWARD").split()[2]
    BEFORE.write_text(json.dumps({"policy": policy, "forwarding": FORWARDING.read_text()}))


def remove(network: str) -> None:
    """Take away what an engine with addresses below `network` left; nothing while another one needs its like."""
    if engines():
        return
    interfaces = [line.split()[1] for line in _run("ip", "-o", "-4", "address").splitlines() if f" {network}." in line]
    for table in ("filter", "nat"):
        _remove_rules(table, lambda word: word in interfaces or word.startswith(f"{network}.") or _is_chain(word))
        _remove_chains(table)
    for interface in interfaces:
        _run("ip", "link", "delete", interface)
    for folder in Path("/sys/fs/cgroup").glob("*/docker"):
        with suppress(OSError):
            folder.rmdir()
    if BEFORE.exists():
        before = json.loads(BEFORE.read_text())
        _run("iptables", "--policy", "FORWARD", before["policy"])
        FORWARDING.write_text(before["forwarding"])
        BEFORE.unlink()


def unmount_below(folder: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if Path(mount).is_relative_to(folder):
            _run("umount", "--lazy", mount)


def engines() -> list[str]:
    """Process ids of every dockerd on the machine."""
    running = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            if (process / "comm").read_text() == "dockerd\n" and "zombie" not in (process / "status").read_text():
                running.append(process.name)
    return running


def _is_chain(word: str) -> bool:
    return word == "DOCKER" or word.startswith("DOCKER-")


def _remove_rules(table: str, ours: Callable[[str], bool]) -> None:
    for line in _run("iptables", "--table", table, "--list-rules").splitlines():
        action, chain, *words = shlex.split(line)
        if action == "-A" and any(map(ours, words)):
            _run("iptables", "--table", table, "--delete", chain, *words)


def _remove_chains(table: str) -> None:
    lines = [line.split() for line in _run("iptables", "--table", table, "--list-rules").splitlines()]
    chains = [words[1] for words in lines if words[0] == "-N" and _is_chain(words[1])]
    for action in ("--flush", "--delete-chain"):
        for chain in chains:
            _run("iptables", "--table", table, action, chain)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout

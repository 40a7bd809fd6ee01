"""A control plane of these tests alone."""

import secrets
import socket

import pytest

from deploy.cluster import binary
from deploy.cluster.control_plane import PORTS, Cluster


@pytest.fixture(scope="session")
def program():
    """Built by `scripts/cluster build` alone: that takes longer than all tests together."""
    if binary.place().exists():
        return binary.place()
    pytest.skip(binary.missing() or "Kubernetes is not built on this machine: scripts/cluster build")


def free_ports():
    trials = {name: socket.socket() for name in PORTS}
    for trial in trials.values():
        trial.bind(("127.0.0.1", 0))
    found = {name: trial.getsockname()[1] for name, trial in trials.items()}
    for trial in trials.values():
        trial.close()
    return found


@pytest.fixture(scope="session")
def ports():
    return free_ports()


@pytest.fixture(scope="session")
def cluster(program, ports):
    """Without a node: what runs no pod is whole."""
    cluster = Cluster(f"tests-{secrets.token_hex(3)}")
    cluster.up(program, ports)
    yield cluster
    cluster.down()

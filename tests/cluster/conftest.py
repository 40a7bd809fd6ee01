"""A control plane of these tests alone."""

import socket

import pytest

from deploy.cluster import binary
from deploy.cluster.control_plane import PORTS
from tests.cluster.owned import end_orphans, own_cluster


@pytest.fixture(scope="session")
def program():
    """Built by `scripts/cluster build` alone: that takes longer than all tests together."""
    if binary.place().exists():
        end_orphans()
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
    with own_cluster() as cluster:
        cluster.up(program, ports)
        yield cluster

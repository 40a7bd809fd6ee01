"""A node, and the chart installed on it: once for all tests of a run."""

import os
import subprocess
from pathlib import Path

import pytest

from deploy.cluster import binary, node
from deploy.cluster.__main__ import with_node
from deploy.cluster.images import archives
from tests.cluster.node.installed import Installed

NAME = "tests-node"
"""Always the same: there can be one on a machine, and that of a run that was killed is found again."""


def machine(state):
    """What a node might change for good."""
    return {
        "interfaces": sorted(path.name for path in Path("/sys/class/net").iterdir()),
        "routes": subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout,
        "rules": subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout,
        "forwarding": Path("/proc/sys/net/ipv4/ip_forward").read_text(),
        "namespaces": subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout,
        "mounts": [line for line in Path("/proc/mounts").read_text().splitlines() if str(state) in line],
        "control groups": sorted(map(str, Path("/sys/fs/cgroup").glob("**/kubepods*"))),
        "logs": [link for link in Path("/var/log/containers").glob("*") if str(state) in str(link.readlink())],
        "state": state.exists(),
    }


@pytest.fixture(scope="session")
def cluster():
    if os.environ.get("BRIGADE_TEST_NODE") != "1":
        pytest.skip("a node takes root and a part of the machine's network: BRIGADE_TEST_NODE=1 says that it may")
    if why := node.missing() or binary.missing() or binary.missing(binary.NODE):
        pytest.skip(f"{why}; not shown: that pods of the chart run")
    node.found(NAME).down()
    archives()  # a Docker engine may make them, which is no part of a node
    before = machine(node.WithNode(NAME).state)
    cluster = with_node(NAME)
    yield cluster
    cluster.down()
    assert machine(cluster.state) == before


@pytest.fixture(scope="session")
def installed(cluster, tmp_path_factory):
    installed = Installed(cluster, tmp_path_factory.mktemp("installed"))
    installed.helm()
    return installed

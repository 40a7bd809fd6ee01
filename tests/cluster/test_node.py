"""What a node needs, and where it is refused; what runs on one is in tests/cluster/node."""

import os
import shutil

import pytest

from deploy.cluster import __main__ as command
from deploy.cluster import binary, node
from deploy.cluster.control_plane import Cluster


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("BRIGADE_CACHE", str(tmp_path))
    return tmp_path


def test_it_is_of_the_same_kubernetes_as_its_control_plane():
    assert binary.version(binary.NODE) == binary.version()


def test_the_control_plane_is_built_without_it(cache):
    assert binary.place() != binary.place(binary.NODE)
    assert not binary.NODE.is_relative_to(binary.SOURCE)


def test_without_root_it_is_refused_by_name(cache, monkeypatch, capsys):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr("sys.argv", ["cluster", "up", "--node"])
    with pytest.raises(SystemExit):
        command.main()
    assert "a node takes root" in capsys.readouterr().err


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda program: None if program == "runc" else f"/usr/bin/{program}")
    assert node.packages() == ["runc"]
    assert node.missing() == "a node needs what Debian has as runc"


def test_a_network_that_the_machine_has_already_is_not_taken_from_it():
    assert node.taken_networks(["default", "192.0.2.0/24", "10.200.0.0/16"]) == []
    assert node.taken_networks(["10.0.0.0/8", "10.96.7.0/24", "198.18.254.0/30"]) == [
        "10.0.0.0/8",
        "10.96.7.0/24",
        "198.18.254.0/30",
    ]


def test_a_cluster_is_found_again_with_its_node_or_without(cache):
    for name, has_node in (("one", False), ("two", True)):
        state = cache / "state" / f"cluster-{name}"
        state.mkdir(parents=True)
        if has_node:
            (state / node.MARK).touch()
        assert isinstance(node.found(name), node.WithNode) is has_node
    assert type(node.found("none")) is Cluster

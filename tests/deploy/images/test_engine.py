"""The engine that scripts/engine starts, and that nothing of it stays."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from deploy.images import clients, leftovers
from deploy.images.docker import answers, docker
from deploy.images.engine import Engine, EngineError


@pytest.fixture
def engine():
    if os.environ.get("BRIGADE_TEST_ENGINE") != "1":
        pytest.skip("a Docker engine changes the machine's network: .ci/run sets BRIGADE_TEST_ENGINE=1")
    if os.geteuid() != 0:
        pytest.skip("starting a Docker engine takes root")
    if engines := leftovers.engines():
        pytest.skip(f"a Docker engine runs here already (process {engines[0]})")
    clients.install_engine()
    with tempfile.TemporaryDirectory(prefix="brigade-") as folder:  # sockets bear no path as long as tmp_path
        yield Engine(Path(folder, "engine"))


def test_a_folder_too_deep_for_its_sockets_is_refused(tmp_path):
    with pytest.raises(EngineError, match="too long for the sockets"):
        Engine(tmp_path / ("deep" * 20)).up()


def machine():
    """What an engine changes."""
    saved = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout.splitlines()
    policy = subprocess.run(["iptables", "--list-rules", "FORWARD"], capture_output=True, text=True, check=True).stdout
    return {
        "rules": sorted(line for line in saved if line.startswith("-A")),
        "chains": sorted(line.split()[0] for line in saved if " - [" in line),  # not the kernel's own
        "policy": policy.splitlines()[0],
        "forwarding": leftovers.FORWARDING.read_text(),
        "interfaces": sorted(path.name for path in Path("/sys/class/net").iterdir()),
        "control groups": sorted(map(str, Path("/sys/fs/cgroup").glob("*/docker"))),
        "engines": leftovers.engines(),
    }


def mounts_below(folder):
    return [line for line in Path("/proc/mounts").read_text().splitlines() if str(folder) in line]


def test_it_comes_and_goes_without_a_trace(engine, tmp_path):
    before = machine()
    try:
        engine.up()
    except EngineError as error:
        pytest.skip(str(error))
    environment = os.environ | engine.environment
    try:
        (tmp_path / "empty").mkdir()
        archive = subprocess.run(["tar", "-c", "-C", tmp_path / "empty", "."], capture_output=True, check=True).stdout
        subprocess.run(["docker", "import", "-", "some:image"], env=environment, input=archive, check=True)
        docker("network", "create", "some-network", environment=environment)
        docker("create", "--network", "some-network", "some:image", "true", environment=environment)
        assert machine()["rules"] != before["rules"]
        assert leftovers.engines() != []
        with pytest.raises(EngineError, match="a Docker engine runs on this machine"):
            Engine(Path("/second")).up()
    finally:
        engine.down()
    assert not answers(environment)
    assert machine() == before
    assert mounts_below(engine.folder) == []
    assert not engine.folder.exists()


def test_what_a_killed_one_left_is_taken_away(engine):
    before = machine()
    try:
        engine.up()
    except EngineError as error:
        pytest.skip(str(error))
    for process in (*leftovers.engines(), *containerd_of(engine)):
        os.kill(int(process), 9)
    engine.down()
    assert machine() == before
    assert mounts_below(engine.folder) == []


def containerd_of(engine):
    return [
        path.name
        for path in Path("/proc").glob("[0-9]*")
        if str(engine.folder) in command(path) and "containerd" in command(path)
    ]


def command(process):
    try:
        return (process / "cmdline").read_text()
    except OSError:
        return ""

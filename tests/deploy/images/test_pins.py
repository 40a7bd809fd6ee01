"""Digests come from registries, from nowhere else."""

import shutil
import socket
import subprocess
import tarfile
import tomllib

import pytest

from deploy.images import pins
from deploy.images.docker import docker
from deploy.local.layout import cache_folder
from deploy.local.ready import wait_until

PACKAGE = "docker-registry"


@pytest.fixture
def registry(engine, tmp_path):
    """Debian's registry, on loopback; its address."""
    server = cache_folder() / PACKAGE
    if not server.exists():
        subprocess.run(["apt-get", "-q", "update"], check=True, capture_output=True)
        options = ("-o", "APT::Sandbox::User=root")
        subprocess.run(["apt-get", *options, "download", PACKAGE], cwd=tmp_path, check=True, capture_output=True)
        (package,) = tmp_path.glob("*.deb")
        subprocess.run(["dpkg-deb", "--extract", package, tmp_path / "files"], check=True)
        shutil.move(tmp_path / "files/usr/bin" / PACKAGE, server)
    address = f"127.0.0.1:{free_port()}"
    (tmp_path / "registry.yml").write_text(
        f"version: 0.1\nlog: {{level: error}}\nhttp: {{addr: {address}}}\n"
        f"storage: {{filesystem: {{rootdirectory: {tmp_path}/images}}}}\n"
    )
    with subprocess.Popen([server, "serve", tmp_path / "registry.yml"], stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: listens(address), 10)
        yield address
        process.terminate()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(address):
    host, _, port = address.partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


@pytest.fixture
def pushed(registry, tmp_path):
    """An image in that registry, and its digest as the engine was told."""
    name = f"{registry}/some/image:1.2"
    with tarfile.open(tmp_path / "image.tar", "w") as archive:
        archive.add(__file__, "file")
    docker("import", str(tmp_path / "image.tar"), name)
    try:
        docker("push", name)
        yield name, docker("image", "inspect", "--format", "{{index .RepoDigests 0}}", name).partition("@")[2]
    finally:
        docker("image", "rm", name)


def test_a_digest_is_what_the_registry_says(pushed, tmp_path, monkeypatch):
    name, digest = pushed
    assert pins.ask([name]) == {name: digest}

    monkeypatch.setattr(pins, "PINS", tmp_path / "pins.toml")
    pins.write({name: digest}, pins.PINS)
    assert tomllib.loads(pins.PINS.read_text()) == {"digests": {name: digest}}
    assert pins.pinned(name) == f"{name}@{digest}"
    assert pins.pinned("other:1") == "other:1"


def test_a_tag_that_the_registry_has_not_is_named(pushed, registry):
    name, _ = pushed
    with pytest.raises(pins.PinsError, match=f"no digest of {registry}/some/image:9.9"):
        pins.ask([name, f"{registry}/some/image:9.9"])


def test_where_no_registry_answers_nothing_changes(engine, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pins, "public", lambda: {"run": {"some": f"127.0.0.1:{free_port()}/some/image:1.2"}})
    monkeypatch.setattr(pins, "PINS", tmp_path / "pins.toml")
    with pytest.raises(SystemExit):
        pins.main()
    assert "no digest of 127.0.0.1:" in capsys.readouterr().err
    assert not pins.PINS.exists()

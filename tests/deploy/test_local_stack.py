"""The local stack: its configuration by value, its promises on the running test instance."""

import os
import shlex
import signal
import socket
import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path

import pytest

from deploy.local import down, ports, roots, sandbox, servers, supervision, up
from deploy.local.layout import Broker, Instance, LayoutError, cache_folder, hold, state_folder
from deploy.local.layout import ports as numbered
from deploy.local.ready import wait_until
from deploy.local.sandbox import Sandbox
from deploy.local.stack import Stack
from deploy.local.supervision import Program

BOX = Sandbox(
    root=Path("/roots/trixie"), uid=102, gid=104, data=Path("/state/data/postgres"), config=Path("/state/config")
)


@pytest.fixture
def instance(tmp_path):
    return Instance(name="some", cache=tmp_path / "cache", state=tmp_path / "state", ports=numbered(1000))


@pytest.fixture
def stack():
    """The instance that scripts/test runs on."""
    if name := os.environ.get("BRIGADE_TEST_INSTANCE"):
        return Stack.attach(name)
    if os.environ.get("BRIGADE_TEST_ALL") == "1":
        pytest.fail("BRIGADE_TEST_INSTANCE is not set: the running instance of the local stack")
    pytest.skip("BRIGADE_TEST_INSTANCE is not set: the running instance of the local stack")


def template(name):
    return (servers.TEMPLATES / name).read_text()


def test_the_cache_is_where_the_person_says():
    assert cache_folder({"BRIGADE_CACHE": "/here", "XDG_CACHE_HOME": "/x"}) == Path("/here")
    assert cache_folder({"XDG_CACHE_HOME": "/x"}) == Path("/x/brigade")
    assert cache_folder({"XDG_CACHE_HOME": ""}) == Path.home() / ".cache/brigade"
    assert state_folder("blue", {"BRIGADE_CACHE": "/here"}) == Path("/here/state/blue")


@pytest.mark.parametrize("name", ["", ".", "..", "../..", "/home/me", "a b", "a" * 41])
def test_an_instance_cannot_lie_outside_of_the_cache(name):
    with pytest.raises(LayoutError, match="cannot be an instance's name"):
        state_folder(name, {"BRIGADE_CACHE": "/here"})


def test_only_what_scripts_up_made_is_deleted(tmp_path, monkeypatch):
    monkeypatch.setenv("BRIGADE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache/state/other").mkdir(parents=True)
    monkeypatch.setenv("BRIGADE_STATE", str(tmp_path / "precious"))
    (tmp_path / "precious").mkdir()
    down.delete("local")
    assert (tmp_path / "precious").exists()
    (tmp_path / "precious/lock").touch()
    down.delete("local")
    assert not (tmp_path / "precious").exists()


@pytest.mark.parametrize(("variable", "value"), [("BRIGADE_PORT_OFFSET", "many"), ("BRIGADE_BROKER", "rabbit")])
def test_a_wrong_variable_is_told_like_a_wrong_option(variable, value, monkeypatch, capsys):
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit):
        up.arguments([])
    assert value in capsys.readouterr().err


def test_an_offset_moves_every_port_but_those_named():
    moved = numbered(10000, {"kafka": 9999})
    assert (moved["mqtt"], moved["worker-2"], moved["kafka"]) == (11883, 19112, 9999)


@pytest.mark.parametrize(("offset", "own"), [(60000, {}), (0, {"kakfa": 1})])
def test_ports_that_cannot_be_are_refused(offset, own):
    with pytest.raises(LayoutError, match=r"kakfa|kafka|worker"):
        numbered(offset, own)


@pytest.mark.parametrize("server", servers.SERVERS, ids=lambda server: server.name)
def test_every_server_listens_on_loopback_and_its_shifted_port(server, instance):
    text = servers.render(template(server.template), instance, "/plugins") + " ".join(server.command)
    assert "0.0.0.0" not in text
    assert "127.0.0.1" in text
    if "$" not in " ".join(server.command):
        assert str(instance.ports[server.port]) in text


@pytest.mark.parametrize("exporter", servers.EXPORTERS, ids=lambda exporter: exporter.name)
def test_every_exporter_listens_on_loopback_and_has_its_password_in_no_command(exporter, instance):
    words = " ".join(exporter.command)
    assert f"127.0.0.1:${exporter.port.replace('-', '_')}" in words
    assert "0.0.0.0" not in words
    assert exporter.port in instance.ports
    assert "PASS=" not in words


def test_alertmanager_has_the_routes_of_the_cluster_and_tells_nobody(instance):
    text = servers.render(template("alertmanager.yml"), instance)
    assert "receiver: on-call" in text
    assert "inhibit_rules:" in text
    assert "example.com" not in text
    assert "url" not in text


def test_mosquitto_is_durable_unless_told_otherwise(instance):
    durable = servers.render(template("mosquitto.conf"), instance, "/plugins")
    assert "plugin /plugins/mosquitto_persist_sqlite.so" in durable
    assert "plugin_opt_flush_period 0" in durable
    memory = Instance(name="m", cache=instance.cache, state=instance.state, ports=instance.ports, broker=Broker.MEMORY)
    assert "sqlite" not in servers.render(template("mosquitto.conf"), memory, "/plugins")


def test_an_instance_is_found_again_by_its_name(instance, monkeypatch):
    monkeypatch.setenv("BRIGADE_STATE", str(instance.state))
    instance.state.mkdir()
    instance.save()
    assert Instance.load("some") == instance


def test_prometheus_asks_each_worker_that_was_started(instance):
    two = Instance(name="two", cache=instance.cache, state=instance.state, ports=instance.ports, workers=2)
    assert '["127.0.0.1:10102"]' in servers.render(template("prometheus.yml"), instance)
    assert '["127.0.0.1:10102", "127.0.0.1:10112"]' in servers.render(template("prometheus.yml"), two)


def test_a_person_runs_a_server_in_a_user_namespace_and_root_under_its_own_user():
    as_person, as_root = (BOX.command(["postgres"], as_root=by_root) for by_root in (False, True))
    assert "--unshare-user --uid 102 --gid 104" in shlex.join(as_person)
    assert "setpriv" not in as_person
    assert "--unshare-user" not in as_root
    assert "setpriv --reuid=102 --regid=104 --clear-groups" in shlex.join(as_root)


def test_a_server_sees_its_root_read_only_and_ends_with_its_supervisor():
    words = shlex.join(BOX.command(["postgres"], as_root=False))
    assert "--ro-bind /roots/trixie /" in words
    assert "--bind /state/data/postgres /data" in words
    assert "--die-with-parent --unshare-pid" in words
    assert words.endswith("env --default-signal=TERM --default-signal=INT postgres")


def test_supervisord_restarts_for_ever_and_starts_nothing_by_itself(instance):
    program = Program(name="worker-1", group="parts", command=["faust", "a b"], env={"URL": "postgresql://x:100%@y"})
    parser = RawConfigParser()
    parser.read_string(supervision.configuration(instance, [program]))
    described = parser["program:worker-1"]
    assert described["command"] == "faust 'a b'"
    assert described["environment"] == 'URL="postgresql://x:100%%@y"'
    assert (described["autostart"], described["autorestart"], described["stopasgroup"]) == ("false", "true", "true")
    assert int(described["startretries"]) > 1_000_000
    assert parser["group:parts"]["programs"] == "worker-1"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("WARN exited: worker-1 (exit status 1; not expected)", "worker-1 ended with 1, starting it again"),
        ("WARN exited: redis (exit status 137; not expected)", "redis ended with SIGKILL, starting it again"),
        ("WARN exited: lag (terminated by SIGKILL; not expected)", "lag ended with SIGKILL, starting it again"),
        ("INFO stopped: kafka (exit status 143)", "kafka stopped"),
        ("WARN killing 'worker-1' (77) with SIGKILL", "worker-1 does not end by itself, killing it"),
        ("INFO spawned: 'kafka' with pid 996", None),
        ("INFO success: kafka entered RUNNING state", None),
    ],
)
def test_an_event_is_one_readable_line(line, said):
    assert supervision.event(f"2026-11-23 16:04:11,123 {line}") == said


def test_a_taken_port_names_its_owner():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        [sentence] = ports.taken({"mqtt": port})
    assert sentence.startswith(f"port {port} for mqtt is taken by process {os.getpid()}: {sys.executable}"[:60])
    assert ports.taken({"mqtt": port}) == []


def test_an_instance_is_held_by_one(tmp_path):
    held = hold(tmp_path / "lock")
    assert held is not None
    assert hold(tmp_path / "lock") is None
    os.close(held)
    again = hold(tmp_path / "lock")
    assert again is not None
    os.close(again)


def test_the_lock_names_no_address():
    lock = (Path(__file__).parents[2] / "requirements.lock").read_text()
    assert "://" not in lock
    assert all(line.startswith("    --hash=sha256:") for line in lock.splitlines() if line.startswith(" "))


def test_a_root_of_other_packages_is_another_root():
    assert roots.Root("trixie", ("a",)).folder(Path("/c")) != roots.Root("trixie", ("b",)).folder(Path("/c"))


def test_a_server_runs_without_rights(stack):
    for server in servers.SERVERS:
        status = Path(f"/proc/{stack.pid(server.name)}/status").read_text()
        assert "CapEff:\t0000000000000000" in status, server.name


def test_a_killed_server_comes_back(stack):
    before = stack.pid("redis")
    stack.signal("redis", signal.SIGKILL)
    assert wait_until(lambda: stack.pid("redis") not in {0, before}, 60)
    assert stack.wait_ready("redis")


def test_nothing_outlives_a_killed_supervisor(stack):
    """In small: a sandbox whose parent is killed is gone, although its server is another user's."""
    server = next(server for server in servers.SERVERS if server.name == "redis")
    box = server.sandbox(stack.instance)
    start = "import subprocess, sys, time; subprocess.Popen(sys.argv[1:]); time.sleep(60)"
    command = [sys.executable, "-c", start, *box.command(["sh", "-c", "echo ready; sleep 60"])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        parent.kill()
        assert parent.stdout.read() == ""  # comes to an end with the last of them


@pytest.mark.faults
def test_a_stop_is_clean_and_postgres_recovers_nothing(stack):
    log = stack.instance.logs / "postgres.log"
    written = log.stat().st_size
    stack.stop("postgres")
    assert not stack.running("postgres")
    stack.start("postgres")
    since = log.read_bytes()[written:].decode()
    assert "database system was shut down" in since
    assert "not properly shut down" not in since


def test_what_keeps_a_sandbox_from_working_is_said():
    assert sandbox.missing() is None

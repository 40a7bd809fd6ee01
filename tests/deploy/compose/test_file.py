"""docker-compose.yml as Compose reads it, and the configuration it mounts: by value, without an engine."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from deploy.compose import configuration
from deploy.images.images import public, variable
from deploy.local import servers
from deploy.local.layout import PORTS, REPOSITORY
from pipeline import settings
from pipeline.settings_page import PARTS

PROFILES = ("observability", "simulator", "command")
CORE = {
    *("secrets", "volumes", "accounts", "install", "owner", "device"),
    *("timescaledb", "kafka", "mosquitto", "redis"),
    *("bridge", "worker", "lag", "broker", "maintain", "users", "gateway"),
}
READS = {
    "timescaledb": {"postgres"},
    "redis": {"redis"},
    "accounts": {"install"},
    "install": {"install"},
    "owner": {"users", "owner"},
    "device": {"users", "devices"},
    "sensors": {"users", "devices"},
    "simulator": {"devices"},
    "volumes": {"devices"},  # gives it to who writes it
    "brigade": {"command", "devices"},
    "grafana": {"grafana"},
    "alertmanager": {"alertmanager"},
    "postgres-exporter": {"exporters"},
    "redis-exporter": {"exporters"},
    **{name: {name} for name in ("bridge", "worker", "broker", "maintain", "users", "gateway")},
}
"""Whose secrets each may open."""

ROOT = {  # what a container of root's may do; all others are nobody
    "secrets": {"CHOWN", "DAC_OVERRIDE", "FOWNER"},
    "volumes": {"CHOWN"},
    "fluent-bit": {"DAC_READ_SEARCH"},
}


@pytest.fixture(scope="module")
def read(compose_binary):
    def read(*profiles, **environment):
        command = [compose_binary, *(word for name in profiles for word in ("--profile", name))]
        clean = {name: value for name, value in os.environ.items() if not name.endswith(("_IMAGE", "_PORT"))}
        done = subprocess.run(
            [*command, "config", "--format", "json"],
            cwd=REPOSITORY,
            env=clean | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)["services"]

    return read


@pytest.fixture(scope="module")
def everything(read):
    return read(*PROFILES)


def folders(service):
    """Of the secrets, that are mounted."""
    place = f"{REPOSITORY}/deploy/compose/secrets/"
    return {one["source"].removeprefix(place) for one in service.get("volumes", ()) if one["source"].startswith(place)}


def test_the_core_is_what_runs_when_nothing_is_named(read):
    assert set(read()) == CORE
    assert set(read("core")) == CORE


def test_profiles_add_to_the_core(read):
    assert set(read("simulator")) - CORE == {"sensors", "simulator"}
    assert set(read("observability")) - CORE == {
        *("prometheus", "alertmanager", "grafana", "loki", "fluent-bit", "jaeger"),
        *("node-exporter", "postgres-exporter", "redis-exporter"),
    }


def test_only_what_people_and_devices_reach_is_published_and_on_loopback(everything):
    published = {
        name: (port["host_ip"], port["published"], port["target"])
        for name, service in everything.items()
        for port in service.get("ports", ())
    }
    assert published == {
        "gateway": ("127.0.0.1", "8000", 8000),
        "mosquitto": ("127.0.0.1", "1883", 1883),
        "grafana": ("127.0.0.1", "3000", 3000),
        "prometheus": ("127.0.0.1", "9090", 9090),
    }


def test_addresses_and_ports_are_variables(read):
    services = read(BRIGADE_ADDRESS="10.0.0.1", GATEWAY_PORT="81", MQTT_PORT="82")
    [gateway], [mqtt] = services["gateway"]["ports"], services["mosquitto"]["ports"]
    assert (gateway["host_ip"], gateway["published"], mqtt["published"]) == ("10.0.0.1", "81", "82")
    assert services["users"]["environment"]["BRIGADE_USERS_PUBLIC_URL"] == "http://127.0.0.1:81"
    assert services["users"]["environment"]["BRIGADE_USERS_MQTT_PUBLIC_PORT"] == "82"


def test_each_container_is_bounded_and_has_no_rights(everything):
    for name, service in everything.items():
        assert int(service["mem_limit"]) <= 2 << 30, name
        assert 0 < service["cpus"] <= 2, name
        assert service["pids_limit"] > 0, name
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert set(service.get("cap_add", ())) == ROOT.get(name, set()), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["user"] == ("0:0" if name in ROOT else "10001:10001"), name
        assert service["logging"]["options"]["max-size"], name
        assert not service.get("privileged"), name


def test_what_serves_is_started_again_and_what_does_a_thing_once_is_not(everything):
    once = {name for name, service in everything.items() if service["restart"] == "no"}
    assert once == {"secrets", "volumes", "accounts", "install", "owner", "device", "sensors", "brigade"}
    assert {service["restart"] for name, service in everything.items() if name not in once} == {"unless-stopped"}


def test_each_of_ours_and_each_server_of_the_core_says_whether_it_works(everything):
    for name in CORE - {"secrets", "volumes", "accounts", "install", "owner", "device"}:
        assert everything[name]["healthcheck"]["test"], name
    for name, port in {"bridge": 9101, "worker": 9102, "lag": 9103, "maintain": 9104, "users": 9105}.items():
        assert everything[name]["healthcheck"]["test"][-1] == str(port)
        assert port in PORTS.values()


def test_each_opens_its_own_secrets_alone(everything):
    assert {name: found for name, service in everything.items() if (found := folders(service))} == READS
    [mount] = everything["secrets"]["volumes"]
    assert mount["source"] == f"{REPOSITORY}/deploy/compose/secrets"


def test_no_secret_is_in_the_file(everything):
    text = json.dumps(everything)
    assert not re.search(r'"[A-Z_]*(PASSWORD|SECRET)":', text)
    assert not re.search(r"://[^\"/@]+:[^\"/@]+@", text)


def test_every_setting_is_one(everything):
    names = {name for service in everything.values() for name in service.get("environment") or ()}
    names |= {name for one in everything.values() for name in (one.get("environment") or {}).get("SECRETS", "").split()}
    assert settings.misspelt(names) == []
    known = {f"BRIGADE_{field}".upper() for part in PARTS.values() for field in part.model_fields}
    ours = {name for name in names if name.startswith("BRIGADE_")}
    others = re.compile(r"BRIGADE_(USERS|GATEWAY|GRAFANA|SECRETS|LOG_LEVEL|INSTALL)")
    assert {name for name in ours - known if not others.match(name)} == set()


def test_secrets_stay_out_of_git():
    done = subprocess.run(
        ["git", "check-ignore", "--quiet", "deploy/compose/secrets/owner/password"], cwd=REPOSITORY, check=False
    )
    if done.returncode == 128:
        pytest.skip("this is no checkout")
    assert done.returncode == 0


def test_every_image_is_the_lists_and_can_be_another(everything, read):
    images = {name: one["image"] for name, one in everything.items() if not one["image"].startswith("brigade:")}
    assert images == {name: image for name, image in public()["run"].items() if name in images}
    others = read(*PROFILES, **{variable(name): f"other-{name}:1" for name in images})
    assert {name: others[name]["image"] for name in images} == {name: f"other-{name}:1" for name in images}
    ours = {one["image"] for name, one in read(*PROFILES, BRIGADE_IMAGE="mine:2").items() if name not in images}
    assert ours == {"mine:2"}


def test_rules_dashboards_and_routes_come_from_their_only_place(everything):
    def sources(name):
        return {one["target"]: one["source"] for one in everything[name]["volumes"] if one["type"] == "bind"}

    assert sources("prometheus")["/config/rules"] == f"{REPOSITORY}/deploy/prometheus/rules"
    assert sources("alertmanager")["/config/alertmanager.yml"] == f"{REPOSITORY}/deploy/alertmanager/alertmanager.yml"
    assert sources("grafana")["/etc/grafana/provisioning"] == f"{REPOSITORY}/grafana/provisioning"
    assert sources("grafana")["/var/lib/grafana/dashboards"] == f"{REPOSITORY}/grafana/dashboards"
    assert sources("loki")["/config/loki.yaml"] == f"{REPOSITORY}/deploy/logs/loki.yaml"


def test_every_file_that_is_mounted_is_there(everything):
    for name, service in everything.items():
        for mount in service.get("volumes", ()):
            source = Path(mount["source"])
            if (
                mount["type"] == "bind"
                and source.is_relative_to(REPOSITORY / "deploy")
                and "secrets" not in source.parts
            ):
                assert source.exists(), (name, source)


@pytest.mark.parametrize("template", sorted(configuration.DIFFERENCES))
def test_the_servers_configuration_is_current(template):
    assert (configuration.CONFIG / template).read_text() == configuration.rendered(template), "scripts/compose-config"


@pytest.mark.parametrize("template", sorted(configuration.DIFFERENCES))
def test_no_address_of_the_local_stack_is_left(template):
    """Loopback is what a server asks itself, and no more."""
    left = re.findall(r"127\.0\.0\.1:\d+", configuration.rendered(template))
    assert set(left) <= {"127.0.0.1:29093", "127.0.0.1:9090"}


def test_a_difference_that_has_gone_is_told(monkeypatch):
    monkeypatch.setitem(configuration.DIFFERENCES, "redis.conf", {"bind 10.0.0.1": "bind *"})
    with pytest.raises(configuration.DifferenceError, match=r"redis\.conf has no 'bind 10\.0\.0\.1'"):
        configuration.rendered("redis.conf")


def test_prometheus_asks_who_is_there(everything):
    text = configuration.rendered("prometheus.yml")
    asked = dict(re.findall(r'targets: \["([a-z-]+):(\d+)"\]', text)) | {"worker": "9102"}
    assert set(asked) <= set(everything)
    for name in ("bridge", "worker", "lag", "broker", "maintain", "users", "gateway"):
        assert everything[name]["healthcheck"]["test"][-1] == asked[name], name
    assert "node-exporter:9106" in text
    for name in ("node-exporter", "postgres-exporter", "redis-exporter"):
        assert f"--web.listen-address=:{asked[name]}" in everything[name]["command"]


@pytest.mark.parametrize("name", ["node-exporter", "postgres-exporter"])
def test_the_exporters_tell_what_the_local_ones_tell(name, everything):
    local = next(exporter for exporter in servers.EXPORTERS if exporter.name == name)

    def collectors(words):
        return {word for word in words if "collector" in word and "mount-points" not in word}

    assert collectors(everything[name]["command"]) == collectors(local.command)


def test_kafka_and_prometheus_run_as_they_do_locally(everything):
    kafka = (REPOSITORY / "deploy/compose/start/kafka.sh").read_text()
    local = {server.name: server.command for server in servers.SERVERS}
    for word in local["kafka"]:
        if word.startswith("-X") and "SharedArchiveFile" not in word:
            assert word in kafka
    retention = next(word for word in local["prometheus"] if "retention" in word)
    assert retention in everything["prometheus"]["command"]


def test_no_volume_becomes_an_images_own(everything):
    """Docker gives an empty volume to who owns the folder in the image, unless told not to."""
    for name, service in everything.items():
        for mount in service.get("volumes", ()):
            if mount["target"] in {"/data", "/loki", "/var/lib/grafana"} and name != "fluent-bit":
                assert mount["volume"] == {"nocopy": True}, name

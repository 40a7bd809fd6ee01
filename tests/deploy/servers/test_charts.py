"""What every server's chart must be: accepted by Helm and Kubernetes, restricted, current, by the names agreed."""

import json
import tomllib

import kubernetes_validate
import pytest
import yaml

from deploy.local.layout import REPOSITORY
from deploy.servers import files
from tests.deploy.servers.rendered import NAMES, containers, everything, helm, one, pods, refusal, render, told

KUBERNETES = "1.35"
UNRESTRICTED = {"node-exporter", "fluent-bit"}  # on the nodes' own files; both live in `monitoring`
ASK_THE_API = {"prometheus", "kube-state-metrics", "prometheus-adapter"}
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def test_there_are_the_servers_that_were_asked_for():
    keeping = {"postgresql", "timescaledb", "redis", "kafka", "mosquitto"}
    watching = {"prometheus", "alertmanager", "grafana", "prometheus-adapter", "kube-state-metrics", "node-exporter"}
    assert set(NAMES) == keeping | watching | {"loki", "jaeger"}


def test_what_the_charts_copy_is_current():
    assert files.stale(files.wanted()) == []


def test_a_copy_that_differs_or_belongs_to_nothing_is_found():
    copies = files.wanted()
    changed, removed = next(iter(copies)), next(copy for copy in copies if "files" in copy.parts)
    assert set(files.stale({**{c: t for c, t in copies.items() if c != removed}, changed: "other"})) == {
        changed,
        removed,
    }


@pytest.mark.parametrize("chart", NAMES)
def test_helm_finds_nothing_wrong(chart):
    linted = helm("lint", "--strict", str(files.CHARTS / chart))
    assert linted.returncode == 0, linted.stdout + linted.stderr


@pytest.mark.parametrize("chart", NAMES)
@pytest.mark.parametrize("rendering", [render, everything])
def test_kubernetes_takes_every_object(chart, rendering):
    for each in rendering(chart):
        if each["apiVersion"] != "cert-manager.io/v1":  # which it has no schema of
            kubernetes_validate.validate(each, KUBERNETES, strict=True)


@pytest.mark.parametrize("chart", NAMES)
def test_a_chart_has_the_version_of_brigade(chart):
    there = yaml.safe_load((files.CHARTS / chart / "Chart.yaml").read_text())
    assert (there["name"], there["version"]) == (chart, PROJECT["version"])


# Pods ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workloads():
    return [
        (name, pod) for chart in NAMES for rendering in (render, everything) for name, pod in pods(rendering(chart))
    ]


def test_pods_are_restricted_but_for_two(workloads):
    assert {name for name, pod in workloads if _loose(pod)} == UNRESTRICTED


def _loose(pod) -> list[str]:
    """What Pod Security `restricted` would refuse, and a root file system that can be written to."""
    spec, security = pod["spec"], pod["spec"]["securityContext"]
    wrong = [f"volume {v['name']}" for v in spec.get("volumes", []) if "hostPath" in v]
    wrong += [name for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    if not (security.get("runAsNonRoot") and security.get("runAsUser")):
        wrong.append("may be root")
    if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
        wrong.append("seccomp")
    for container in containers(pod):
        assert set(container["securityContext"]) == {
            "allowPrivilegeEscalation",
            "readOnlyRootFilesystem",
            "capabilities",
        }, container["name"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    return wrong


def test_each_container_says_what_it_takes(workloads):
    for name, pod in workloads:
        for container in containers(pod):
            for bound in ("requests", "limits"):
                assert set(container["resources"][bound]) == {"cpu", "memory"}, (name, container["name"])


def test_each_server_says_when_it_works_and_when_it_hangs(workloads):
    for name, pod in workloads:
        for container in pod["spec"]["containers"]:
            assert {"readinessProbe", "livenessProbe"} <= set(container), name


def test_only_who_asks_the_api_has_a_token(workloads):
    with_token = {name for name, pod in workloads if pod["spec"]["automountServiceAccountToken"]}
    assert with_token == ASK_THE_API
    assert not any(pod["spec"]["enableServiceLinks"] for _, pod in workloads)


@pytest.mark.parametrize("chart", NAMES)
def test_each_workload_has_a_service_account_of_its_own(chart):
    objects = render(chart)
    accounts = {each["metadata"]["name"] for each in objects if each["kind"] == "ServiceAccount"}
    assert accounts == {name for name, _ in pods(objects)}
    assert all(pod["spec"]["serviceAccountName"] == name for name, pod in pods(objects))


@pytest.mark.parametrize("chart", NAMES)
def test_rights_are_to_read_and_never_everything(chart):
    for each in render(chart):
        for rule in each.get("rules", []) if each["kind"].endswith("Role") else []:
            assert set(rule["verbs"]) <= {"get", "list", "watch"}, told(each)
            assert "*" not in [*rule["apiGroups"], *rule["resources"]], told(each)
            assert "secrets" not in rule["resources"], told(each)


@pytest.mark.parametrize("chart", NAMES)
def test_a_volume_of_the_pod_is_mounted_and_a_mount_has_its_volume(chart):
    for rendering in (render, everything):
        for each in rendering(chart):
            for name, pod in pods([each]):
                there = {volume["name"] for volume in pod["spec"].get("volumes", [])}
                there |= {claim["metadata"]["name"] for claim in each["spec"].get("volumeClaimTemplates", [])}
                mounted = {mount["name"] for c in containers(pod) for mount in c.get("volumeMounts", [])}
                assert there == mounted, name


@pytest.mark.parametrize("chart", NAMES)
def test_config_maps_that_a_pod_mounts_exist_and_fit(chart):
    objects = render(chart)
    maps = {each["metadata"]["name"]: each for each in objects if each["kind"] == "ConfigMap"}
    wanted = set()
    for _, pod in pods(objects):
        for volume in pod["spec"].get("volumes", []):
            sources = [volume, *volume.get("projected", {}).get("sources", [])]
            wanted |= {source["configMap"]["name"] for source in sources if "configMap" in source}
    assert wanted == set(maps)
    assert all(len(json.dumps(each)) < 256 * 1024 for each in maps.values())  # of kubectl apply's annotation


@pytest.mark.parametrize(
    ("chart", "name", "setting"),
    [
        ("postgresql", "postgresql", {"settings__work_mem": "1MB"}),
        ("timescaledb", "timescaledb", {"settings__work_mem": "1MB"}),
        ("redis", "redis", {"maxmemory": "1mb"}),
        ("mosquitto", "mosquitto", {"maxQueuedMessages": "5"}),
        ("kafka", "kafka", {"heap": "300m"}),
        ("prometheus", "prometheus", {"scrapeInterval": "20s"}),
        ("alertmanager", "alertmanager", {"settings__smtp_from": "a@example.com"}),
        ("grafana", "grafana", {"rootUrl": "http://other"}),
        ("jaeger", "jaeger", {"maxTraces": "5"}),
        ("prometheus-adapter", "prometheus-adapter", {"metrics__other": "other:series"}),
    ],
)
def test_changed_configuration_rolls_the_pods(chart, name, setting):
    before, after = (dict(pods(render(chart, **values)))[name] for values in ({}, setting))
    checksums = [
        {k: v for k, v in pod["metadata"]["annotations"].items() if "checksum" in k} for pod in (before, after)
    ]
    assert checksums[0]
    assert checksums[0] != checksums[1]


# Names, sizes, images -----------------------------------------------------------------------------------------------


def test_services_have_the_names_and_ports_that_others_use():
    services = {
        f"{each['metadata']['name']}.{each['metadata']['namespace']}": [port["port"] for port in each["spec"]["ports"]]
        for chart in NAMES
        for each in render(chart)
        if each["kind"] == "Service"
    }
    assert services == {
        "timescaledb-service.restaurant-system": [5432],
        "postgresql-service.restaurant-system": [5432],
        "kafka-service.restaurant-system": [9092],
        "kafka-headless.restaurant-system": [9092],
        "mosquitto-service.restaurant-system": [1883],
        "redis-service.restaurant-system": [6379],
        "prometheus-service.monitoring": [9090],
        "alertmanager-service.monitoring": [9093],
        "grafana-service.monitoring": [3000],
        "loki-service.monitoring": [3100],
        "jaeger-service.monitoring": [4318, 16686],
        "prometheus-adapter.monitoring": [443],
    }


@pytest.mark.parametrize("chart", NAMES)
def test_a_services_port_is_one_of_its_pods(chart):
    for rendering in (render, everything):
        objects = rendering(chart)
        for service in [each for each in objects if each["kind"] == "Service"]:
            selector = service["spec"]["selector"].items()
            (pod,) = [pod for _, pod in pods(objects) if selector <= pod["metadata"]["labels"].items()]
            named = {port["name"] for container in containers(pod) for port in container.get("ports", [])}
            assert {port["targetPort"] for port in service["spec"]["ports"]} <= named


@pytest.mark.parametrize(("chart", "size"), [("timescaledb", "2Gi"), ("postgresql", "1Gi")])
def test_databases_have_the_volumes_that_were_asked_for(chart, size):
    (claim,) = one(render(chart), "StatefulSet", chart)["spec"]["volumeClaimTemplates"]
    assert claim["spec"] == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}


def test_prometheus_keeps_200_hours():
    _, pod = next(pods(render("prometheus")))
    assert "--storage.tsdb.retention.time=200h" in pod["spec"]["containers"][0]["command"]


@pytest.mark.parametrize("chart", [name for name in NAMES if "StatefulSet" in {o["kind"] for o in render(name)}])
def test_a_storage_class_is_the_servers_or_everybodys(chart):
    def class_of(**values):
        (server,) = [each for each in render(chart, **values) if each["kind"] == "StatefulSet"]
        return server["spec"]["volumeClaimTemplates"][0]["spec"].get("storageClassName")

    assert class_of() is None  # the cluster's default
    assert class_of(global__storageClass="fast") == "fast"
    assert class_of(global__storageClass="fast", persistence__storageClass="own") == "own"


@pytest.mark.parametrize("chart", NAMES)
def test_images_come_from_where_the_person_says(chart):
    def images(**values):
        return {c["image"] for _, pod in pods(render(chart, **values)) for c in containers(pod)}

    assert all(image.startswith("mirror.example.com/") for image in images(global__imageRegistry="mirror.example.com"))
    assert not [image for image in images() if ":" not in image or image.endswith(":latest")]
    digest = f"sha256:{'0' * 64}"
    assert any(image.endswith(f"@{digest}") for image in images(image__digest=digest))
    assert f"{chart}: image.tag or image.digest must be set" in refusal(chart, image__tag="")


@pytest.mark.parametrize("chart", ["postgresql", "timescaledb", "kafka", "mosquitto"])
def test_tls_without_a_secret_is_refused_by_name(chart):
    assert f"{chart}.tls.secretName must name a Secret" in refusal(chart, tls__enabled="true")


@pytest.mark.parametrize("chart", ["postgresql", "timescaledb", "kafka", "mosquitto"])
def test_an_issuer_signs_for_the_names_that_clients_use(chart):
    objects = render(chart, tls__enabled="true", tls__issuer="restaurant", **{"tls__dnsNames[0]": "a.example.com"})
    certificate = one(objects, "Certificate", chart)["spec"]
    assert {f"{chart}-service", f"{chart}-service.restaurant-system.svc", "a.example.com"} <= set(
        certificate["dnsNames"]
    )
    volumes = {volume["name"]: volume for _, pod in pods(objects) for volume in pod["spec"]["volumes"]}
    assert volumes["certificate"]["secret"]["secretName"] == certificate["secretName"]


def test_another_monitoring_namespace_is_everybodys():
    for chart in NAMES:
        there = {
            each["metadata"].get("namespace", "") for each in render(chart, global__namespaces__monitoring="watch")
        }
        assert "monitoring" not in there

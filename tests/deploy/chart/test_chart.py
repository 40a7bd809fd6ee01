"""What the chart renders, against the table of what was asked for."""

import re

import pytest
import yaml

from deploy.local.layout import PORTS, REPOSITORY
from tests.deploy.chart import schemas
from tests.deploy.chart.rendering import CHART, MONITORING, SYSTEM, VALUES, helm, of_kind, pod_specs, render, template

ASKED_FOR = {  # workload: replicas, requests, limits
    "Deployment/gateway-deployment": (3, ("100m", "128Mi"), ("200m", "256Mi")),
    "Deployment/user-deployment": (2, ("150m", "256Mi"), ("300m", "512Mi")),
    "Deployment/iot-deployment": (2, ("200m", "512Mi"), ("500m", "1Gi")),
    "StatefulSet/iot-bridge": (2, ("100m", "128Mi"), ("300m", "256Mi")),
}
AUTOSCALED = {"gateway-hpa": (2, 10), "user-hpa": (2, 5), "iot-hpa": (2, 5)}
SERVICES = {"gateway-service": 8000, "user-service": 8001, "lag-exporter": 9103, "iot-bridge": 9101}
HOSTS = {f"{name}.restaurant.local" for name in ("api", "admin", "iot", "grafana", "prometheus")}
OURS = ("gateway", "users", "worker", "bridge", "lag", "broker", "maintain", "install")
CUSTOM = {  # kinds that kubernetes-validate has no schema of, and what brings them
    "Certificate": "cert-manager",
    "ClusterIssuer": "cert-manager",
    "ScaledObject": "KEDA",
    "ExternalSecret": "External Secrets",
    "Middleware": "Traefik",
    "Gateway": "Gateway API",
    "HTTPRoute": "Gateway API",
    "ReferenceGrant": "Gateway API",
    "APIService": "kube-aggregator",
}
ALL_OPTIONS = (
    "--set=tls.source=own-ca,gatewayApi.enabled=true,gatewayApi.className=istio,ingress.controller=traefik",
    "--set=secrets.source=external-secrets,secrets.externalSecrets.storeName=vault,bridge.leave={2},bridge.replicas=2",
    "--set=traces.endpoint=http://jaeger-service.monitoring:4318,policies.requireDigests=true",
    "--set=users.mailSecret=mail-credentials,priorityClassName=important,global.imagePullSecrets[0].name=registry",
)


def workload(name):
    kind, _, name = name.partition("/")
    return of_kind(kind)[name]


def main_container(pod):
    (container,) = pod["spec"]["containers"]
    return container


def mebibytes(quantity):
    return float(quantity.removesuffix("Mi").removesuffix("Gi")) * (1024 if quantity.endswith("Gi") else 1)


def millicores(quantity):
    return float(quantity.removesuffix("m")) * (1 if quantity.endswith("m") else 1000)


def test_lint_finds_nothing():
    done = helm("lint", "--strict", ".", "--namespace", SYSTEM)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("words", [*VALUES, ALL_OPTIONS, ("--is-upgrade",)], ids=" ".join)
def test_kubernetes_knows_every_object_and_every_field(words):
    for one in render(*words):
        for version in ("1.30", "1.36"):
            if not schemas.faults(one, version):
                continue
            assert schemas.faults(one, version) == [schemas.UNKNOWN]
            assert one["kind"] in CUSTOM


@pytest.mark.parametrize("name", ASKED_FOR)
def test_the_sizes_are_those_asked_for(name):
    replicas, requests, limits = ASKED_FOR[name]
    spec = workload(name)["spec"]
    resources = main_container(spec["template"])["resources"]
    assert spec["replicas"] == replicas
    assert (resources["requests"]["cpu"], resources["requests"]["memory"]) == requests
    assert (resources["limits"]["cpu"], resources["limits"]["memory"]) == limits


def test_gateway_users_and_worker_ask_for_about_two_gibibytes_and_one_core():
    memory = cpu = 0.0
    for name in list(ASKED_FOR)[:3]:
        spec = workload(name)["spec"]
        requests = main_container(spec["template"])["resources"]["requests"]
        memory += spec["replicas"] * mebibytes(requests["memory"])
        cpu += spec["replicas"] * millicores(requests["cpu"])
    assert memory <= 2 * 1024 * 1.05
    assert cpu <= 1000


def test_autoscalers_are_as_asked_for():
    autoscalers = of_kind("HorizontalPodAutoscaler")
    assert {
        name: (one["spec"]["minReplicas"], one["spec"]["maxReplicas"]) for name, one in autoscalers.items()
    } == AUTOSCALED
    for name in ("gateway-hpa", "user-hpa"):
        resources = [metric["resource"] for metric in autoscalers[name]["spec"]["metrics"]]
        targets = {one["name"]: one["target"]["averageUtilization"] for one in resources}
        assert targets == {"cpu": 70, "memory": 80}


def test_the_workers_autoscaler_reads_lag_and_rate_by_average_value():
    spec = of_kind("HorizontalPodAutoscaler")["iot-hpa"]["spec"]
    metrics = [metric["external"] for metric in spec["metrics"]]
    assert [one["metric"]["name"] for one in metrics] == [
        "kafka_consumergroup_lag_messages",
        "pipeline_messages_appended_per_second",
    ]
    assert {one["target"]["type"] for one in metrics} == {"AverageValue"}
    lag, rate = (float(one["target"]["averageValue"]) for one in metrics)
    assert lag == 10 * rate  # ten seconds of work
    assert spec["behavior"] == {
        "scaleUp": {
            "stabilizationWindowSeconds": 30,
            "policies": [{"type": "Pods", "value": 2, "periodSeconds": 60}],
        },
        "scaleDown": {
            "stabilizationWindowSeconds": 300,
            "policies": [{"type": "Pods", "value": 1, "periodSeconds": 120}],
        },
    }


def test_keda_gets_the_same_numbers_and_there_is_one_autoscaler_of_the_worker():
    keda = ("-f", "values-keda.yaml")
    assert "iot-hpa" not in of_kind("HorizontalPodAutoscaler", *keda)
    spec = of_kind("ScaledObject", *keda)["iot"]["spec"]
    native = of_kind("HorizontalPodAutoscaler")["iot-hpa"]["spec"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (native["minReplicas"], native["maxReplicas"])
    assert spec["advanced"]["horizontalPodAutoscalerConfig"] == {"name": "iot-hpa", "behavior": native["behavior"]}
    thresholds = [trigger["metadata"]["threshold"] for trigger in spec["triggers"]]
    assert thresholds == [metric["external"]["target"]["averageValue"] for metric in native["metrics"]]
    for trigger in spec["triggers"]:
        assert trigger["metricType"] == "AverageValue"
        assert trigger["metadata"]["ignoreNullValues"] == "false"  # no series: the number stays


def test_keda_asks_for_series_that_the_rules_record():
    recorded = (REPOSITORY / "deploy" / "prometheus" / "rules" / "pipeline.yml").read_text()
    for trigger in of_kind("ScaledObject", "-f", "values-keda.yaml")["iot"]["spec"]["triggers"]:
        (series,) = re.findall(r"sum\(([a-z0-9_:]+)\{", trigger["metadata"]["query"])
        assert f"record: {series}\n" in recorded


def test_where_the_cluster_cannot_be_asked_no_autoscaled_workload_says_its_replicas():
    deployments = of_kind("Deployment", "--set", "autoscaling.writeReplicas=never")
    for name in ("gateway-deployment", "user-deployment", "iot-deployment"):
        assert "replicas" not in deployments[name]["spec"]


def test_no_update_takes_more_than_it_may():
    deployments = of_kind("Deployment")
    for name in ("gateway-deployment", "user-deployment"):
        assert deployments[name]["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    worker = deployments["iot-deployment"]["spec"]
    assert worker["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert worker["template"]["spec"]["terminationGracePeriodSeconds"] == 60


def test_services_have_the_names_and_ports_that_people_type():
    services = of_kind("Service")
    assert {name: services[name]["spec"]["ports"][0]["port"] for name in SERVICES} == SERVICES


def test_ports_are_those_of_the_local_stack():
    local = {
        "gateway": {PORTS["gateway"], PORTS["gateway-metrics"]},
        "users": {PORTS["users"], PORTS["users-metrics"]},
        "worker": {PORTS["worker-1"]},
        "bridge": {PORTS["bridge-0"]},
        "lag": {PORTS["lag"]},
        "broker": {PORTS["broker"]},
        "maintain": {PORTS["maintain"]},
    }
    containers = [main_container(pod) for pod in pod_specs().values() if len(pod["spec"]["containers"]) == 1]
    ports = {one["name"]: {port["containerPort"] for port in one.get("ports", ())} for one in containers}
    assert {name: ports[name] for name in local} == local


def test_every_service_reaches_pods_by_a_port_that_they_name():
    pods = pod_specs().values()
    for name, service in of_kind("Service").items():
        selector = service["spec"]["selector"].items()
        reached = [pod for pod in pods if selector <= pod["metadata"]["labels"].items()]
        assert reached, name
        for port in service["spec"]["ports"]:
            named = {
                own["name"]
                for pod in reached
                for container in pod["spec"]["containers"]
                for own in container.get("ports", ())
            }
            numbers = {
                own["containerPort"]
                for pod in reached
                for container in pod["spec"]["containers"]
                for own in container.get("ports", ())
            }
            assert port.get("targetPort", port["port"]) in named | numbers, name


@pytest.mark.parametrize("words", [(), ALL_OPTIONS, ("--is-upgrade",)], ids=" ".join)
def test_our_pods_are_restricted(words):
    ours = {name: pod["spec"] for name, pod in pod_specs(*words).items() if pod["spec"]["serviceAccountName"] in OURS}
    assert len(ours) >= len(OURS)
    for name, pod in ours.items():
        assert pod["automountServiceAccountToken"] is False, name
        security = pod["securityContext"]
        assert security["runAsNonRoot"], name
        assert security["runAsUser"] == 10001, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            own = container["securityContext"]
            assert own["readOnlyRootFilesystem"], name
            assert own["allowPrivilegeEscalation"] is False, name
            assert own["capabilities"] == {"drop": ["ALL"]}, name
            assert {"requests", "limits"} <= container["resources"].keys(), name
        assert {constraint["topologyKey"] for constraint in pod["topologySpreadConstraints"]} == {
            "kubernetes.io/hostname",
            "topology.kubernetes.io/zone",
        }, name


def test_each_part_has_an_account_of_its_own_without_a_token():
    accounts = of_kind("ServiceAccount")
    assert all(accounts[name]["automountServiceAccountToken"] is False for name in OURS)


def test_probes_ask_for_health_and_for_work():
    for name, pod in pod_specs().items():
        container = pod["spec"]["containers"][0]
        if pod["spec"]["serviceAccountName"] not in OURS or name.startswith("Job/"):
            continue
        assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "metrics"}, name
        asked = {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe")}
        assert "/readyz" in asked, name


def test_a_reader_gets_its_own_secrets_and_no_other():
    for name, pod in pod_specs().items():
        part = pod["spec"]["serviceAccountName"]
        if part not in OURS or part == "install":
            continue
        for volume in pod["spec"]["volumes"]:
            for source in volume.get("projected", {}).get("sources", ()):
                assert all(item["key"].startswith(f"{part}.") for item in source["secret"]["items"]), name


def test_every_key_that_is_read_is_in_its_secret():
    secrets = {name: set(one["data"]) for name, one in of_kind("Secret").items()}
    for pod in pod_specs().values():
        for volume in pod["spec"].get("volumes", ()):
            for source in volume.get("projected", {}).get("sources", [volume]):
                if secret := source.get("secret"):
                    assert secret.get("items", True), pod  # none would be all of them
                    items = {item["key"] for item in secret.get("items", ())}
                    assert items <= secrets[secret.get("name") or secret["secretName"]]
        for container in (*pod["spec"]["containers"], *pod["spec"].get("initContainers", ())):
            for variable in container.get("env", ()):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                assert not reference or reference["key"] in secrets[reference["name"]]


def test_no_password_is_in_the_values_and_none_is_the_same_twice():
    first, second = (
        yaml.safe_load_all(helm("template", "x", ".", "-n", SYSTEM, "-s", "templates/secrets.yaml").stdout)
        for _ in "12"
    )
    values = [value for one in first if one for value in one["data"].values()]
    again = {value for one in second if one for value in one["data"].values()}
    assert [value for value in values if value in again] == ["YWRtaW4=", "YnJpZ2FkZQ=="]  # the names admin, brigade


def test_settings_bear_the_names_that_the_programs_know():
    known = set(
        re.findall(
            r"`((?:BRIGADE|OTEL)_[A-Z_]+)`",
            "".join((REPOSITORY / "docs" / page).read_text() for page in ("settings.md", "traces.md")),
        )
    )
    known |= {"BRIGADE_SECRETS", "BRIGADE_INSTALL_WAIT_SECONDS"}
    for name, one in of_kind("ConfigMap").items():
        if name.removesuffix("-settings") in {"brigade", *OURS}:
            assert set(one["data"]) <= known, name


def test_another_setting_replaces_the_pods_that_read_it_and_no_others():
    changed = pod_specs("--set", "gateway.settings.BRIGADE_GATEWAY_RATE_PEOPLE=50")
    checksum = lambda pods, name: pods[name]["metadata"]["annotations"]["checksum/settings"]  # noqa: E731
    names = list(ASKED_FOR)
    assert [name for name in names if checksum(changed, name) != checksum(pod_specs(), name)] == names[:1]


def test_an_upgrade_prepares_before_anything_changes_and_an_installation_beside_it():
    (installing,) = of_kind("Job").values()
    assert "annotations" not in installing["metadata"]
    (upgrading,) = of_kind("Job", "--is-upgrade").values()
    assert upgrading["metadata"]["annotations"]["helm.sh/hook"] == "pre-upgrade"
    secret = of_kind("Secret", "--is-upgrade")["brigade-upgrade"]
    assert secret["metadata"]["annotations"]["helm.sh/hook"] == "pre-upgrade"
    weights = [int(one["metadata"]["annotations"]["helm.sh/hook-weight"]) for one in (secret, upgrading)]
    assert weights == sorted(weights)
    for job in (installing, upgrading):
        pod = job["spec"]["template"]["spec"]
        commands = [container["command"] for container in (*pod["initContainers"], *pod["containers"])]
        assert commands == [["brigade", "install", "database"], ["brigade", "install", "topics"]]


def test_the_hook_before_an_upgrade_needs_nothing_that_the_upgrade_brings():
    (job,) = of_kind("Job", "--is-upgrade").values()
    pod = job["spec"]["template"]["spec"]
    assert not any("envFrom" in container for container in (*pod["initContainers"], *pod["containers"]))
    (secrets,) = [volume for volume in pod["volumes"] if volume["name"] == "secrets"]
    assert [source["secret"]["name"] for source in secrets["projected"]["sources"]] == ["brigade-upgrade"]


@pytest.mark.parametrize(
    ("name", "waits"),
    [
        ("Deployment/gateway-deployment", ["--database"]),
        ("Deployment/user-deployment", ["--users"]),
        ("Deployment/iot-deployment", ["--database", "--topics"]),
        ("StatefulSet/iot-bridge", ["--topics"]),
        ("Deployment/lag-exporter", ["--topics"]),
        ("Deployment/maintain", ["--database"]),
    ],
)
def test_no_part_starts_before_what_it_needs_is_there(name, waits):
    assert pod_specs()[name]["spec"]["initContainers"][0]["command"] == ["brigade", "install", "wait", *waits]


def test_a_bridge_that_left_is_drained_under_its_own_ordinal():
    jobs = of_kind("Job", "--is-upgrade", "--set", "bridge.replicas=1,bridge.leave={1}")
    container = main_container(jobs["iot-bridge-leave-1"]["spec"]["template"])
    assert container["command"] == ["python", "-m", "pipeline.bridge", "--leave"]
    assert container["env"] == [{"name": "BRIGADE_BRIDGE_ORDINAL", "value": "1"}]
    assert jobs["iot-bridge-leave-1"]["metadata"]["annotations"]["helm.sh/hook"] == "post-upgrade"


def test_the_five_hosts_have_their_limits():
    ingresses = of_kind("Ingress").values()
    assert {one["spec"]["rules"][0]["host"] for one in ingresses} == HOSTS
    limits = {
        one["metadata"]["name"]: one["metadata"]["annotations"]["haproxy.org/rate-limit-requests"] for one in ingresses
    }
    assert limits == {"api": "100"} | dict.fromkeys(("admin", "iot", "grafana", "prometheus"), "1200")


def test_nginx_gets_no_burst_beyond_the_limit():
    annotations = of_kind("Ingress", "--set", "ingress.controller=nginx")["api"]["metadata"]["annotations"]
    assert annotations["nginx.ingress.kubernetes.io/limit-rpm"] == "100"
    assert annotations["nginx.ingress.kubernetes.io/limit-burst-multiplier"] == "1"


@pytest.mark.parametrize("controller", ["haproxy", "nginx", "traefik"])
def test_prometheus_is_behind_a_password(controller):
    words = ("--set", f"ingress.controller={controller}")
    annotations = of_kind("Ingress", *words)["prometheus"]["metadata"]["annotations"]
    assert any("prometheus-web-users" in value or "prometheus-password" in value for value in annotations.values())
    assert of_kind("Secret", *words)["prometheus-web-users"]["metadata"]["namespace"] == MONITORING


def test_without_a_controller_that_asks_for_a_password_prometheus_has_no_ingress():
    assert "prometheus" not in of_kind("Ingress", "--set", "ingress.controller=none")


@pytest.mark.parametrize(("source", "issuer"), [("own-ca", "ca"), ("acme", "acme")])
def test_each_host_has_a_certificate_where_its_ingress_is(source, issuer):
    words = ["--set", f"tls.source={source}"]
    if source == "acme":
        words = ["-f", "values-production.yaml"]
    assert issuer in of_kind("ClusterIssuer", *words)["restaurant"]["spec"]
    certificates = [one for one in render(*words) if one["kind"] == "Certificate" and "dnsNames" in one["spec"]]
    named = {(one["metadata"]["namespace"], name) for one in certificates for name in one["spec"]["dnsNames"]}
    ingresses = of_kind("Ingress", *words).values()
    assert {(one["metadata"]["namespace"], one["spec"]["rules"][0]["host"]) for one in ingresses} == named
    assert all(one["spec"]["tls"][0]["secretName"] == certificates[0]["spec"]["secretName"] for one in ingresses)


def test_admission_refuses_latest_and_root_and_digests_are_a_choice():
    policies = of_kind("ValidatingAdmissionPolicy")
    assert set(policies) == {"brigade-images", "brigade-non-root"}
    assert len(policies["brigade-images"]["spec"]["validations"]) == 1
    strict = of_kind("ValidatingAdmissionPolicy", "--set", "policies.requireDigests=true")
    assert len(strict["brigade-images"]["spec"]["validations"]) == 2
    bindings = of_kind("ValidatingAdmissionPolicyBinding")
    assert all(one["spec"]["validationActions"] == ["Deny"] for one in bindings.values())


def test_images_come_by_digest_and_from_another_registry_where_that_is_said():
    digest = f"sha256:{'a' * 64}"
    words = ("--set", f"global.imageRegistry=registry.example.com/mirror,global.brigadeImage.digest={digest}")
    image = main_container(pod_specs(*words)["Deployment/gateway-deployment"])["image"]
    assert image == f"registry.example.com/mirror/brigade@{digest}"


def test_no_budget_counts_the_pod_of_a_job():
    """Kubernetes cannot compute such a budget, and then lets no pod of it be evicted: a node would never be drained."""
    words = ("--set", "bridge.leave={2}", "--is-upgrade")
    jobs = {name: pod["metadata"]["labels"] for name, pod in pod_specs(*words).items() if name.startswith("Job/")}
    assert "Job/iot-bridge-leave-2" in jobs
    for budget in of_kind("PodDisruptionBudget", *words).values():
        selector = budget["spec"]["selector"]
        without = [one["key"] for one in selector["matchExpressions"] if one["operator"] == "DoesNotExist"]
        for job, labels in jobs.items():
            theirs = labels | {"batch.kubernetes.io/job-name": job}  # by the Job's controller
            counted = selector["matchLabels"].items() <= theirs.items() and not set(without) & set(theirs)
            assert not counted, (budget["metadata"]["name"], job)


def test_the_core_needs_no_entry_point_of_an_image():
    """Images of one's own making, such as those of a node without a registry, have none."""
    specs = pod_specs("-f", "values-node.yaml")
    containers = [
        (name, one)
        for name, pod in specs.items()
        for key in ("initContainers", "containers")
        for one in pod["spec"].get(key, [])
    ]
    assert len(containers) > len(specs)
    assert [f"{name} {one['name']}" for name, one in containers if "command" not in one] == []


def test_notes_name_every_host_and_what_is_missing():
    notes = helm(
        "install", "restaurant-management", ".", "--namespace", SYSTEM, "--dry-run=client", "--hide-secret"
    ).stdout
    assert all(host in notes for host in HOSTS)
    assert "kubectl port-forward svc/prometheus-service 9090:9090 -n monitoring" in notes
    assert "No mail server" in notes


def test_the_version_is_that_of_the_programs():
    version = re.search(r'^version = "(.+)"', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)[1]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == version


def test_rendering_says_nothing_on_stderr():
    assert [template(*words).stderr for words in VALUES] == [""] * len(VALUES)


def test_parts_show_certificates_where_the_servers_want_them():
    words = ("-f", "values-tls.yaml")
    wants = {
        "bridge": {"KAFKA", "MQTT"},
        "worker": {"KAFKA"},
        "lag": {"KAFKA"},
        "install": {"KAFKA"},
        "broker": {"MQTT"},
        "users": {"MQTT"},
    }
    issued = {one["spec"]["secretName"]: one for one in render(*words) if one["kind"] == "Certificate"}
    settings = of_kind("ConfigMap", *words)
    for pod in pod_specs(*words).values():
        name = pod["spec"]["serviceAccountName"]
        if name not in OURS:
            continue
        secrets = {volume["secret"]["secretName"] for volume in pod["spec"]["volumes"] if volume["name"] == "tls"}
        assert secrets == ({f"{name}-client-tls"} if name in wants else set())
        containers = (*pod["spec"]["containers"], *pod["spec"].get("initContainers", ()))
        assert all(any(mount["name"] == "tls" for mount in one["volumeMounts"]) == bool(secrets) for one in containers)
        told = (
            settings[f"{name}-settings"]["data"] if name != "install" else {one["name"] for one in containers[0]["env"]}
        )
        assert {
            one
            for one in ("KAFKA", "MQTT")
            if any(f"{one}_SSL_CERT" in key or f"{one}_TLS_CERT" in key for key in told)
        } == wants.get(name, set())
    for name in wants:
        assert issued[f"{name}-client-tls"]["spec"]["usages"] == ["client auth"]
    assert settings["brigade-settings"]["data"]["BRIGADE_MQTT_PORT"] == "8883"


def test_passwords_outlive_an_uninstall_as_the_volumes_do():
    kept = {
        name
        for name, one in of_kind("Secret").items()
        if one["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
    }
    assert {"brigade-secrets", "brigade-install", "timescaledb-credentials", "redis-credentials"} <= kept

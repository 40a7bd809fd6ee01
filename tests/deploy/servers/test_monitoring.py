"""What Prometheus, its adapter, Alertmanager, Grafana and the collector are told, by values and by their own tools."""

import itertools
import json
import re

import pytest
import yaml

from deploy.local.layout import REPOSITORY
from tests.deploy.servers.rendered import NAMES, containers, data, one, pods, refusal, render
from tests.prometheus.promtool import RULES, tool

RECORDED = set(re.findall(r"record: (\S+)", "".join(file.read_text() for file in RULES.glob("*.yml"))))
ALL_RULES = "".join(file.read_text() for file in RULES.glob("*.yml"))


@pytest.fixture
def prometheus():
    return yaml.safe_load(data("prometheus", "prometheus-configuration")["prometheus.yml"])


def job(configuration, name):
    return next(each for each in configuration["scrape_configs"] if each["job_name"] == name)


# Prometheus ---------------------------------------------------------------------------------------------------------


def test_promtool_finds_nothing_wrong(prometheus, tmp_path):
    """But for the search for pods itself, which Debian's Prometheus lacks, and the files of a pod."""
    for each in prometheus["scrape_configs"]:
        each["file_sd_configs"] = [{"files": [f"{each['job_name']}.json"]}]
        assert each.pop("kubernetes_sd_configs")
        (tmp_path / f"{each['job_name']}.json").write_text("[]")
        each.pop("authorization", None)
        each.get("tls_config", {}).pop("ca_file", None)
    prometheus["rule_files"] = ["*.yml"]
    for name, text in data("prometheus", "prometheus-rules").items():
        (tmp_path / name).write_text(text)
    (tmp_path / "prometheus.json").write_text(json.dumps(prometheus))
    checked = tool("promtool", tmp_path, "check", "config", "prometheus.json")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(list(RULES.glob('*.yml')))} rule files found" in checked.stdout


def test_it_asks_every_15_seconds_and_has_all_rules(prometheus):
    assert prometheus["global"] == {"scrape_interval": "15s", "evaluation_interval": "15s"}
    assert data("prometheus", "prometheus-rules") == {file.name: file.read_text() for file in RULES.glob("*.yml")}


def test_it_finds_pods_of_two_namespaces_and_no_other(prometheus):
    for name in ("pods", "kube-state-metrics"):
        (search,) = job(prometheus, name)["kubernetes_sd_configs"]
        assert set(search["namespaces"]["names"]) <= {"restaurant-system", "monitoring"}


def target(prometheus, name, labels):
    """The labels of a target by the job's rules, or None where they drop it."""
    labels = {"__address__": "10.0.0.1:1", "job": name} | labels
    for rule in job(prometheus, name)["relabel_configs"]:
        value = ";".join(labels.get(source, "") for source in rule["source_labels"])
        found = re.fullmatch(rule.get("regex", "(.*)"), value)
        match rule.get("action", "replace"):
            case "keep":
                if not found:
                    return None
            case "drop":
                if found:
                    return None
            case "replace":
                if found:
                    labels[rule["target_label"]] = found[1]
    return {name: value for name, value in labels.items() if not name.startswith("__") or name == "__metrics_path__"}


def seen(pod, container, port, namespace="restaurant-system", name="a-pod", phase="Running"):
    """What Prometheus learns of a container's port."""
    meta = {f"label_{key}": value for key, value in pod["metadata"]["labels"].items()}
    meta |= {f"annotation_{key}": value for key, value in pod["metadata"].get("annotations", {}).items()}
    meta |= {"name": name, "phase": phase, "node_name": "node-1", "container_init": "false"}
    meta |= {"container_name": container["name"], "container_port_name": port.get("name", "")}
    labels = {f"__meta_kubernetes_pod_{re.sub('[^a-zA-Z0-9_]', '_', key)}": value for key, value in meta.items()}
    return labels | {"__meta_kubernetes_namespace": namespace}


def ports():
    for chart in NAMES:
        for workload, pod in pods(render(chart)):
            for container in containers(pod):
                for port in container.get("ports", []):
                    yield workload, pod, container, port


def test_each_server_is_one_target_under_the_job_that_the_rules_name(prometheus):
    found = [target(prometheus, "pods", seen(pod, c, port, name=w)) for w, pod, c, port in ports()]
    jobs = {each["instance"]: each["job"] for each in found if each}
    assert jobs == {
        "timescaledb-exporter": "postgres",
        "postgresql-exporter": "postgres",
        "redis-exporter": "redis",
        "kafka": "kafka",
        "prometheus": "prometheus",
        "alertmanager": "alertmanager",
        "grafana": "grafana",
        "loki": "loki",
        "fluent-bit": "fluent-bit",
        "jaeger": "jaeger",
        "node-1": "node",
    }
    assert len([each for each in found if each]) == len(jobs)


def test_our_own_pods_are_targets_under_their_names(prometheus):
    pod = {"metadata": {"labels": {"app.kubernetes.io/name": "lag", "app.kubernetes.io/part-of": "brigade"}}}
    lag = target(prometheus, "pods", seen(pod, {"name": "lag"}, {"name": "metrics"}, name="lag-1"))
    assert lag == {"job": "lag", "namespace": "restaurant-system", "pod": "lag-1", "instance": "lag-1"}
    named = set(re.findall(r'job="(\w+)"', ALL_RULES))
    named |= set(itertools.chain(*(names.split("|") for names in re.findall(r'job=~"([\w|]+)"', ALL_RULES))))
    ours = {"bridge", "worker", "lag", "maintain", "broker", "gateway", "users"}
    assert named <= ours | {"node", "postgres", "redis", "kafka"}


@pytest.mark.parametrize(
    "change",
    [
        {"__meta_kubernetes_pod_label_app_kubernetes_io_part_of": "other"},
        {"__meta_kubernetes_pod_container_port_name": "http"},
        {"__meta_kubernetes_pod_phase": "Succeeded"},
        {"__meta_kubernetes_pod_container_init": "true"},
    ],
    ids=str,
)
def test_what_is_no_target(prometheus, change):
    pod = {"metadata": {"labels": {"app.kubernetes.io/name": "lag", "app.kubernetes.io/part-of": "brigade"}}}
    labels = seen(pod, {"name": "lag"}, {"name": "metrics"})
    assert target(prometheus, "pods", labels)
    assert target(prometheus, "pods", labels | change) is None


def test_the_collectors_numbers_have_a_path_of_their_own(prometheus):
    found = [target(prometheus, "pods", seen(pod, c, p)) for w, pod, c, p in ports() if w == "fluent-bit"]
    assert [each["__metrics_path__"] for each in found] == ["/api/v2/metrics/prometheus"]


# Autoscaling --------------------------------------------------------------------------------------------------------


def test_what_kube_state_metrics_tells_keeps_its_own_namespace(prometheus):
    """An HPA is in restaurant-system, who tells of it in monitoring: alerts and panels ask by the former."""
    own = job(prometheus, "kube-state-metrics")
    assert own["honor_labels"] is True
    found = [target(prometheus, "kube-state-metrics", seen(pod, c, p, "monitoring")) for _, pod, c, p in ports()]
    assert [each for each in found if each] == [{"job": "kube-state-metrics", "instance": "a-pod"}]


def test_kube_state_metrics_tells_what_alerts_and_panels_ask():
    """`kube_<object>_…` comes with the object; the names are those of its own documentation."""
    (_, pod), *_ = pods(render("kube-state-metrics"))
    (resources,) = [a for a in pod["spec"]["containers"][0]["args"] if a.startswith("--resources=")]
    told = {resource.rstrip("s") for resource in resources.removeprefix("--resources=").split(",")}
    panels = (REPOSITORY / "grafana" / "infrastructure.py").read_text()
    asked = set(re.findall(r"\bkube_([a-z]+)_\w+", ALL_RULES + panels))
    assert "horizontalpodautoscaler" in asked
    assert asked <= told
    conditions = re.findall(r"kube_horizontalpodautoscaler_status_condition\{([^}]*)\}", ALL_RULES)
    assert conditions == ['condition="ScalingActive", status="true"']


def test_the_adapter_reads_series_that_the_rules_record():
    rules = yaml.safe_load(data("prometheus-adapter", "prometheus-adapter-configuration")["config.yaml"])
    assert set(rules) == {"externalRules"}
    told = {}
    for rule in rules["externalRules"]:
        (series,) = re.findall(r'__name__="([^"]+)"', rule["seriesQuery"])
        assert series in RECORDED
        assert rule["metricsQuery"] == "sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)"
        assert rule["resources"] == {"overrides": {"namespace": {"resource": "namespace"}}}
        told[rule["name"]["as"]] = series
        assert re.search(rf"record: {series}\n\s+expr:[^:]*sum by \(namespace", ALL_RULES), (
            "the adapter adds a namespace"
        )
    assert told == {
        "kafka_consumergroup_lag_messages": "consumergroup:kafka_consumergroup_lag_messages:sum",
        "pipeline_messages_appended_per_second": "pipeline:messages_appended:rate1m",
    }
    reader = one(render("prometheus-adapter"), "ClusterRole", "brigade-external-metrics-reader")
    assert reader["rules"][0]["resources"] == sorted(told)


def test_the_adapter_remembers_longer_than_it_asks():
    (_, pod), *_ = pods(render("prometheus-adapter"))
    args = pod["spec"]["containers"][0]["args"]
    assert "--metrics-relist-interval=30s" in args
    assert "--metrics-max-age=5m" in args


# Alertmanager -------------------------------------------------------------------------------------------------------

ROUTES = (REPOSITORY / "deploy" / "alertmanager" / "alertmanager.yml").read_text()
ON_CALL = {"receivers[0]__name": "on-call", "receivers[0]__webhook_configs[0]__url_file": "/run/secrets/alertmanager/a"}


def alertmanager(folder, **values):
    text = data("alertmanager", "alertmanager-configuration", **values)["alertmanager.yml"]
    (folder / "alertmanager.yml").write_text(text)
    return yaml.safe_load(text)


def test_routes_are_brigades_and_receivers_tell_nobody_by_themselves(tmp_path):
    told, ours = alertmanager(tmp_path), yaml.safe_load(ROUTES)
    assert (told["route"], told["inhibit_rules"]) == (ours["route"], ours["inhibit_rules"])
    assert told["receivers"] == [{"name": each["name"]} for each in ours["receivers"]]
    checked = tool("amtool", tmp_path, "check-config", "alertmanager.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_receiver_by_values_is_told(tmp_path):
    told = alertmanager(tmp_path, **ON_CALL)
    assert {"name": "on-call", "webhook_configs": [{"url_file": "/run/secrets/alertmanager/a"}]} in told["receivers"]
    checked = tool("amtool", tmp_path, "check-config", "alertmanager.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "no route tells kim; there are nobody, on-call" in refusal("alertmanager", **{"receivers[0]__name": "kim"})


# Grafana, logs ------------------------------------------------------------------------------------------------------


def test_grafana_has_every_dashboard_in_the_folder_that_its_provider_reads():
    objects = render("grafana")
    (_, pod), *_ = pods(objects)
    mounts = {each["name"]: each["mountPath"] for each in pod["spec"]["containers"][0]["volumeMounts"]}
    found = set()
    for volume in pod["spec"]["volumes"]:
        for source in volume.get("projected", {}).get("sources", []):
            for file, text in one(objects, "ConfigMap", source["configMap"]["name"])["data"].items():
                folder = mounts[volume["name"]].removeprefix("/var/lib/grafana/dashboards/")
                assert json.loads(text) == json.loads((REPOSITORY / "grafana/dashboards" / folder / file).read_text())
                found.add(f"{folder}/{file}")
    there = (REPOSITORY / "grafana/dashboards").glob("*/*.json")
    assert found == {f"{file.parent.name}/{file.name}" for file in there}
    providers = yaml.safe_load(data("grafana", "grafana-provisioning")["dashboards.yaml"])["providers"]
    assert {each["options"]["path"] for each in providers} <= set(mounts.values())


def test_grafana_knows_every_variable_of_its_data_sources():
    (_, pod), *_ = pods(render("grafana"))
    there = {each["name"] for each in pod["spec"]["containers"][0]["env"]}
    wanted = set(re.findall(r"\$\{(\w+)\}", data("grafana", "grafana-provisioning")["datasources.yaml"]))
    assert wanted
    assert wanted <= there


def test_the_collector_is_told_every_variable_and_file_that_it_names():
    objects = render("loki")
    there = dict(pods(objects))["fluent-bit"]["spec"]["containers"][0]
    files = data("loki", "fluent-bit-configuration")
    assert files == {
        name: (REPOSITORY / "deploy/logs" / name).read_text() for name in ("brigade.yaml", "fluent-bit-kubernetes.yaml")
    }
    assert set(re.findall(r"\$\{(\w+)\}", "".join(files.values()))) == {each["name"] for each in there["env"]}
    assert yaml.safe_load(files["fluent-bit-kubernetes.yaml"])["includes"] == ["brigade.yaml"]

"""Objects of other people's operators: the chart's, and the files of deploy/extras, against their makers' schemas."""

import importlib
import json
import subprocess
import sys

import pytest
import yaml

from deploy.local.layout import PORTS, REPOSITORY
from tests.deploy.chart import fetched, schemas
from tests.deploy.chart.rendering import SYSTEM, render, template
from tests.deploy.chart.test_chart import ALL_OPTIONS, CUSTOM

EXTRAS = REPOSITORY / "deploy" / "extras"
NO_SCHEMA = {  # in no package registry: these are looked at by reading alone
    "Elasticsearch",
    "Kibana",
    "ConstraintTemplate",
    "BrigadePods",
    "Kafka",  # Strimzi's; its definitions and CloudNativePG's are in their repositories alone
    "KafkaNodePool",
    "KafkaUser",
    "Cluster",
}
BY_AGGREGATOR = {"APIService"}


def objects(file):
    return list(yaml.load_all(file.read_text(), yaml.CSafeLoader))


def wrong(resources):
    folder = fetched.custom_schemas()
    done = subprocess.run(
        ["node", "validate.mjs"], cwd=folder, input=json.dumps(resources), capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def custom(*words):
    return [one for one in render(*words) if one["kind"] in CUSTOM.keys() - BY_AGGREGATOR]


def test_every_custom_resource_of_the_chart_is_one_that_its_maker_takes():
    words = (ALL_OPTIONS, ("-f", "values-keda.yaml"), ("-f", "values-production.yaml"))
    found = [one for some in words for one in custom(*some)]
    assert {one["kind"] for one in found} == CUSTOM.keys() - BY_AGGREGATOR
    assert wrong(found) == []


def test_a_custom_resource_with_a_wrong_value_is_told():
    (scaled,) = [one for one in custom("-f", "values-keda.yaml") if one["kind"] == "ScaledObject"]
    scaled = json.loads(json.dumps(scaled))
    scaled["spec"]["maxReplicaCount"] = "five"
    assert wrong([scaled]) == ["ScaledObject/iot: data/spec/maxReplicaCount must be integer"]


@pytest.mark.parametrize("file", sorted(EXTRAS.glob("*.yaml")), ids=lambda file: file.name)
def test_the_extra_says_that_it_was_not_run_and_fits_its_schema(file):
    assert file.read_text().startswith("# Not run here")
    kinds = [one for one in objects(file) if "kind" in one]
    ordinary = [one for one in kinds if schemas.faults(one, "1.30") != [schemas.UNKNOWN]]
    assert [fault for one in ordinary for fault in schemas.faults(one, "1.30")] == []
    assert wrong([one for one in kinds if one not in ordinary and one["kind"] not in NO_SCHEMA]) == []


def test_argo_cd_gets_values_that_the_chart_takes(tmp_path):
    (application,) = objects(EXTRAS / "argocd-application.yaml")
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(application["spec"]["source"]["helm"]["valuesObject"]))
    done = template("-f", str(values))
    assert done.returncode == 0, done.stderr
    assert application["spec"]["destination"]["namespace"] == SYSTEM
    assert (REPOSITORY / application["spec"]["source"]["path"] / "Chart.yaml").exists()


def test_istio_selects_pods_that_there_are():
    names = {
        one["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"]
        for one in render()
        if one["kind"] == "Deployment"
    }
    for one in objects(EXTRAS / "istio.yaml"):
        selector = one["spec"].get("selector", {"matchLabels": {"app.kubernetes.io/name": "users"}})
        assert selector["matchLabels"]["app.kubernetes.io/name"] in names


def test_falco_lets_through_every_port_that_a_part_speaks_to():
    (values,) = objects(EXTRAS / "falco-rules.yaml")
    rules = yaml.safe_load(values["customRules"]["brigade.yaml"])
    (connections,) = [rule for rule in rules if rule.get("rule", "").startswith("Connection")]
    for name in ("mqtt", "kafka", "postgres", "redis", "gateway", "users", "prometheus"):
        assert f"{PORTS[name]}" in connections["condition"]
    for rule in rules:
        assert {"rule", "desc", "condition", "output", "priority", "tags"} == rule.keys() or "rule" not in rule


@pytest.fixture(scope="module")
def gatekeeper():
    """What Gatekeeper's policy says of a pod, with these parameters."""
    folder = str(fetched.python_package(fetched.REGO))
    sys.path.insert(0, folder)
    try:
        interpreter = importlib.import_module("regopy").Interpreter
    except ImportError as error:
        pytest.skip(f"Rego is not run: {error}")
    finally:
        sys.path.remove(folder)
    text = objects(EXTRAS / "opa-gatekeeper.yaml")[0]["spec"]["targets"][0]["rego"]

    def violations(pod, **parameters):
        rego = interpreter()
        rego.add_module("brigadepods", text)
        rego.set_input({"review": {"object": pod}, "parameters": {"requireDigests": False} | parameters})
        (answer,) = json.loads(str(rego.query("data.brigadepods.violation")))["expressions"]
        return sorted(violation["msg"] for violation in answer)

    return violations


def pod(image, *, whole=True, **container):
    return {
        "spec": {"containers": [{"name": "a", "image": image, **container}], "securityContext": {"runAsNonRoot": whole}}
    }


@pytest.mark.parametrize(
    ("one", "told"),
    [
        (pod("brigade:0.1.0"), []),
        (pod("registry:5000/brigade@sha256:abc"), []),
        (pod("brigade"), ["brigade: an image needs a tag other than latest, or a digest"]),
        (pod("registry:5000/brigade"), ["registry:5000/brigade: an image needs a tag other than latest, or a digest"]),
        (pod("brigade:latest"), ["brigade:latest: an image needs a tag other than latest, or a digest"]),
        (pod("brigade:1", whole=False), ["a has to say runAsNonRoot, or its pod"]),
        (pod("brigade:1", whole=False, securityContext={"runAsNonRoot": True}), []),
        (pod("brigade:1", securityContext={"runAsNonRoot": False}), ["a has to say runAsNonRoot, or its pod"]),
    ],
)
def test_gatekeeper_refuses_what_the_chart_refuses(gatekeeper, one, told):
    assert gatekeeper(one) == told


def test_gatekeeper_demands_digests_where_it_is_told_to(gatekeeper):
    assert gatekeeper(pod("brigade:1"), requireDigests=True) == ["brigade:1: an image needs a digest"]


def test_gatekeeper_takes_every_pod_of_ours(gatekeeper):
    for one in render():
        if one["metadata"].get("namespace") == SYSTEM and "template" in one.get("spec", {}):
            assert gatekeeper(one["spec"]["template"]) == [], one["metadata"]["name"]

"""Who may speak to whom: the rendered NetworkPolicies, evaluated pod by pod as Kubernetes defines them.

The table here is written by hand beside the chart's own. That a network plugin enforces them is not shown: there is
none on the machines that run these tests.
"""

from ipaddress import ip_address, ip_network
from itertools import product

import pytest

from tests.deploy.chart.rendering import MONITORING, SYSTEM, of_kind, pod_specs, render

DATABASE, KAFKA, MQTT, MQTT_TLS, REDIS, TRACES = 5432, 9092, 1883, 8883, 6379, 4318
OPEN = {
    "gateway": {("users", 8001), ("timescaledb", DATABASE), ("redis", REDIS), ("prometheus", 9090), ("jaeger", TRACES)},
    "users": {
        ("postgresql", DATABASE),
        ("redis", REDIS),
        ("mosquitto", MQTT),
        ("mosquitto", MQTT_TLS),
        ("jaeger", TRACES),
    },
    "worker": {("kafka", KAFKA), ("timescaledb", DATABASE), ("jaeger", TRACES)},
    "bridge": {("mosquitto", MQTT), ("mosquitto", MQTT_TLS), ("kafka", KAFKA), ("jaeger", TRACES)},
    "lag": {("kafka", KAFKA)},
    "broker": {("mosquitto", MQTT), ("mosquitto", MQTT_TLS)},
    "maintain": {("timescaledb", DATABASE)},
    "install": {("timescaledb", DATABASE), ("postgresql", DATABASE), ("kafka", KAFKA)},
    "helm-test": {("gateway", 8000)},
    "timescaledb": set(),
    "postgresql": set(),
    "redis": set(),
    "kafka": set(),
    "mosquitto": set(),
    "timescaledb-exporter": {("timescaledb", DATABASE)},
    "postgresql-exporter": {("postgresql", DATABASE)},
    "redis-exporter": {("redis", REDIS)},
    "prometheus": {
        ("gateway", 9100),
        ("users", 9105),
        ("bridge", 9101),
        ("worker", 9102),
        ("lag", 9103),
        ("maintain", 9104),
        ("broker", 9110),
        ("timescaledb-exporter", 9107),
        ("postgresql-exporter", 9107),
        ("redis-exporter", 9108),
        ("kafka", 9109),
        ("alertmanager", 9093),
        ("grafana", 3000),
        ("kube-state-metrics", 8080),
        ("loki", 3100),
        ("fluent-bit", 2020),
        ("jaeger", 8888),
    },
    "grafana": {
        ("prometheus", 9090),
        ("alertmanager", 9093),
        ("timescaledb", DATABASE),
        ("loki", 3100),
        ("jaeger", 16686),
    },
    "alertmanager": set(),
    "prometheus-adapter": {("prometheus", 9090)},
    "kube-state-metrics": set(),
    "loki": set(),
    "fluent-bit": {("loki", 3100)},
    "jaeger": set(),
}
ON_THE_NODES_NETWORK = {"node-exporter"}
FROM_OUTSIDE = {  # by the ingress controllers, the devices and the API server
    "gateway": {8000},
    "grafana": {3000},
    "prometheus": {9090},
    "mosquitto": {1883, 8883},
    "prometheus-adapter": {6443},
}
TO_OUTSIDE = {
    "prometheus": {443, 6443, 9106, 10250},
    "prometheus-adapter": {443, 6443},
    "kube-state-metrics": {443, 6443},
    "helm-test": {443, 6443},
    "users": {465, 587},
    "alertmanager": {443, 465, 587},
}
PORTS = sorted({port for edges in OPEN.values() for _, port in edges} | {22, 80, 443, 8001, 10250})


def pods(*words):
    """Labels and namespace of a pod of each kind, by the name that policies select."""
    found = {}
    namespaces = {
        f"{one['kind']}/{one['metadata']['name']}": one["metadata"]["namespace"]
        for one in render(*words)
        if "namespace" in one["metadata"]
    }
    for owner, pod in pod_specs(*words).items():
        labels = pod["metadata"]["labels"]
        if not pod["spec"].get("hostNetwork"):
            found[labels["app.kubernetes.io/name"]] = (namespaces[owner], labels)
    tests = of_kind("Pod", *words)
    found["helm-test"] = (SYSTEM, tests["gateway-answers"]["metadata"]["labels"])
    return found


def policies(*words):
    return [one for one in render(*words) if one["kind"] == "NetworkPolicy"]


def selects(selector, labels):
    if "matchExpressions" in selector:
        (expression,) = selector["matchExpressions"]
        assert expression["operator"] == "In"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def is_peer(peer, pod):
    """An address block is no pod: plugins differ in whether it covers them, and no edge between pods may need it."""
    if "ipBlock" in peer:
        return False
    namespace, labels = pod
    return selects(peer.get("namespaceSelector", {}), {"kubernetes.io/metadata.name": namespace}) and selects(
        peer.get("podSelector", {}), labels
    )


def rules_about(pod, direction, all_policies):
    """None where no policy is about this pod in this direction: then everything is allowed."""
    namespace, labels = pod
    about = [
        one
        for one in all_policies
        if one["metadata"]["namespace"] == namespace
        and direction.capitalize() in one["spec"]["policyTypes"]
        and selects(one["spec"]["podSelector"], labels)
    ]
    return [rule for one in about for rule in one["spec"].get(direction) or []] if about else None


def allows(rules, side, other, port, protocol="TCP"):
    if rules is None:
        return True
    return any(
        any(one["port"] == port and one["protocol"] == protocol for one in rule["ports"])
        and any(is_peer(peer, other) for peer in rule[side])
        for rule in rules
    )


def is_open(source, target, port, all_policies):
    """Both ends have to allow it."""
    return allows(rules_about(source, "egress", all_policies), "to", target, port) and allows(
        rules_about(target, "ingress", all_policies), "from", source, port
    )


def test_the_table_knows_every_pod_of_the_chart():
    assert set(pods()) == set(OPEN)
    on_the_node = {
        pod["metadata"]["labels"]["app.kubernetes.io/name"]
        for pod in pod_specs().values()
        if pod["spec"].get("hostNetwork")
    }
    assert on_the_node == ON_THE_NODES_NETWORK


@pytest.mark.parametrize("source", OPEN)
def test_what_is_needed_is_open_and_everything_else_is_shut(source):
    all_pods, all_policies = pods(), policies()
    found = {
        (target, port)
        for target, port in product(all_pods, PORTS)
        if target != source and is_open(all_pods[source], all_pods[target], port, all_policies)
    }
    assert found == OPEN[source]


def test_whoever_comes_into_either_namespace_is_shut_in_both_ways():
    closed = {
        one["metadata"]["namespace"]: one["spec"] for one in policies() if one["metadata"]["name"] == "default-deny"
    }
    everything = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert closed == {SYSTEM: everything, MONITORING: everything}


def test_a_stranger_in_either_namespace_reaches_nobody_and_is_reached_by_nobody():
    all_pods, all_policies = pods(), policies()
    for namespace in (SYSTEM, MONITORING):
        stranger = (namespace, {"app": "stranger"})
        for pod, port in product(all_pods.values(), PORTS):
            assert not is_open(stranger, pod, port, all_policies)
            assert not is_open(pod, stranger, port, all_policies)


def outside(rules, side):
    """Ports that are open to address blocks, or to namespaces that are not ours."""
    ours = [(SYSTEM, {}), (MONITORING, {})]
    return {
        one["port"]
        for rule in rules or ()
        for one in rule["ports"]
        for peer in rule[side]
        if "ipBlock" in peer
        or ("podSelector" not in peer and not any(is_peer(peer, (namespace, {})) for namespace, _ in ours))
    }


def test_only_these_are_reached_from_outside_and_reach_it():
    all_policies = policies()
    inward = {name: outside(rules_about(pod, "ingress", all_policies), "from") for name, pod in pods().items()}
    outward = {name: outside(rules_about(pod, "egress", all_policies), "to") for name, pod in pods().items()}
    assert {name: ports for name, ports in inward.items() if ports} == FROM_OUTSIDE
    assert {name: ports for name, ports in outward.items() if ports} == TO_OUTSIDE


def test_who_speaks_at_all_may_ask_for_names():
    dns = ("kube-system", {"k8s-app": "kube-dns"})
    all_policies = policies()
    for name, pod in pods().items():
        speaks = bool(OPEN[name] or TO_OUTSIDE.get(name))
        assert allows(rules_about(pod, "egress", all_policies), "to", dns, 53, "UDP") == speaks, name


def test_every_port_of_an_edge_is_one_that_its_pod_listens_on():
    listening = {}
    for pod in [*pod_specs().values(), *pod_specs("-f", "values-tls.yaml").values()]:
        ports = {
            port["containerPort"] for container in pod["spec"]["containers"] for port in container.get("ports", ())
        }
        listening.setdefault(pod["metadata"]["labels"]["app.kubernetes.io/name"], set()).update(ports)
    for edges in OPEN.values():
        for target, port in edges:
            assert port in listening[target], (target, port)


def test_prometheus_reaches_everything_that_it_looks_for():
    """It scrapes whatever has a port named `metrics`."""
    for owner, pod in pod_specs().items():
        name = pod["metadata"]["labels"]["app.kubernetes.io/name"]
        if name in {"prometheus", *ON_THE_NODES_NETWORK}:
            continue
        for container in pod["spec"]["containers"]:
            for port in container.get("ports", ()):
                if port["name"] == "metrics":
                    assert (name, port["containerPort"]) in OPEN["prometheus"], owner


def test_servers_elsewhere_are_reached_by_their_addresses():
    words = (
        "--set=kafka.enabled=false,external.kafka.bootstrapServers=kafka.example.com:9093",
        "--set=timescaledb.enabled=false,external.database.host=db.example.com,external.database.port=5433",
        "--set=external.database.adminSecret=admin,networkPolicies.external={203.0.113.0/24}",
    )
    all_policies = policies(*words)
    rules = rules_about(pods(*words)["worker"], "egress", all_policies)
    blocks = {
        (one["port"], peer["ipBlock"]["cidr"])
        for rule in rules
        for one in rule["ports"]
        for peer in rule["to"]
        if "ipBlock" in peer
    }
    assert blocks == {(9093, "203.0.113.0/24"), (5433, "203.0.113.0/24")}
    assert ip_address("203.0.113.7") in ip_network("203.0.113.0/24")
    assert "timescaledb" not in {one["metadata"]["name"] for one in all_policies}


def test_keda_may_ask_prometheus_where_it_is_the_provider():
    keda = ("keda", {"app": "keda-operator"})
    for words, may in (((), False), (("-f", "values-keda.yaml"), True)):
        rules = rules_about(pods(*words)["prometheus"], "ingress", policies(*words))
        assert allows(rules, "from", keda, 9090) == may

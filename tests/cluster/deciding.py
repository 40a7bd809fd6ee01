"""The chart's autoscalers, each in a namespace of its own, and what they say of their decisions."""

import copy
import re
import time
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import quote

import httpx
import yaml

from deploy.local.ready import wait_until
from tests.cluster.recorded import GROUP, Recorded
from tests.deploy.chart.rendering import of_kind

VALUES = ("-f", "values-decisions.yaml")
LAG, RATE = "kafka_consumergroup_lag_messages", "pipeline_messages_appended_per_second"
PATIENCE_SECONDS = 180
PART_OF = {"iot": "worker", "gateway": "gateway", "user": "users"}
"""Service accounts, by what Deployments are called."""


@dataclass(frozen=True)
class Decision:
    """One look of an autoscaler: what it read, and what it wants for that."""

    pods: int
    wanted: int
    read: dict[str, float]
    reasons: dict[str, tuple[str, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, status):
        pods = status.get("currentReplicas", 0)
        return cls(
            pods=pods,
            wanted=status.get("desiredReplicas", 0),
            read=dict(_read(metric, pods) for metric in status.get("currentMetrics") or () if metric["type"]),
            reasons={each["type"]: (each["status"], each["reason"]) for each in status.get("conditions") or ()},
        )

    @property
    def settled(self):
        """There are as many pods as it wants, and no window or period holds it back."""
        reasons = [reason for _, reason in self.reasons.values()]
        held = {"ScaleUpLimit", "ScaleDownLimit"} & set(reasons)
        return self.pods == self.wanted and "ReadyForNewScale" in reasons and not held


def _read(metric, pods):
    if metric["type"] == "Resource":
        return metric["resource"]["name"], metric["resource"]["current"]["averageUtilization"]
    current = metric["external"]["current"]
    total = quantity(current["value"]) if "value" in current else quantity(current["averageValue"]) * pods
    return metric["external"]["metric"]["name"], total


def quantity(text):
    number, unit = re.fullmatch(r"(-?[\d.]+)(m|k|M)?", text).groups()
    return float(number) * {"m": 0.001, None: 1, "k": 1000, "M": 1_000_000}[unit]


class Case:
    """A Deployment of the chart and its autoscaler in a namespace of this case alone."""

    def __init__(self, api, name, workload="iot", change=None):
        self.api, self.namespace, self.workload = api, name, workload
        self.recorded = Recorded()
        self._change = change

    @property
    def _deployment(self):
        return f"/apis/apps/v1/namespaces/{self.namespace}/deployments"

    @property
    def _scalers(self):
        return f"/apis/autoscaling/v2/namespaces/{self.namespace}/horizontalpodautoscalers"

    def install(self):
        """All but the autoscaler; as the chart has it, in another namespace."""
        account = of_kind("ServiceAccount", *VALUES)[PART_OF[self.workload]]
        self.api.make("/api/v1/namespaces", {"metadata": {"name": self.namespace}})
        self.api.make(f"/api/v1/namespaces/{self.namespace}/serviceaccounts", self._own(account))
        self.api.make(self._deployment, self._own(of_kind("Deployment", *VALUES)[f"{self.workload}-deployment"]))

    def scale(self):
        """Add the autoscaler, when its metrics are served: without them it would only fill the events."""
        if self.workload == "iot":
            assert wait_until(lambda: None not in (self.served(LAG), self.served(RATE)), PATIENCE_SECONDS)
        scaler = self._own(of_kind("HorizontalPodAutoscaler", *VALUES)[f"{self.workload}-hpa"])
        if self._change:
            self._change(scaler)
        self.api.make(self._scalers, scaler)

    def _own(self, one):
        own = copy.deepcopy(one)
        own["metadata"]["namespace"] = self.namespace
        return own

    def served(self, metric):
        """The metric's value as an autoscaler would be told; None: there is none."""
        selector = f"?labelSelector={quote(f'consumergroup={GROUP}')}" if metric == LAG else ""
        path = f"/apis/external.metrics.k8s.io/v1beta1/namespaces/{self.namespace}/{metric}{selector}"
        answer = self.api.ask("GET", path)
        items = answer.json()["items"] if answer.is_success else []
        return sum(quantity(item["value"]) for item in items) if items else None

    def decision(self):
        return Decision.of(self.api.get(f"{self._scalers}/{self.workload}-hpa").get("status", {}))

    def until(self, what):
        """Return the first decision that is as described."""
        found = []

        def seen():
            found.append(self.decision())
            time.sleep(0.5)
            return what(found[-1])

        assert wait_until(seen, PATIENCE_SECONDS), f"{self.namespace}: {found[-1]}"
        return found[-1]

    def decides(self, **read):
        """How many pods it wants when it has read these numbers and all that follows has been done."""
        return self.decision_on(**read).wanted

    def decision_on(self, **read):
        def as_described(decision):
            return decision.settled and all(
                abs(decision.read.get(name, -1e9) - value) <= 0.001 * abs(value) + 0.1 for name, value in read.items()
            )

        return self.until(as_described)

    def pods(self):
        """How many the Deployment has been told to have."""
        return self.api.get(f"{self._deployment}/{self.workload}-deployment")["spec"]["replicas"]

    def keeps(self, pods, seconds):
        """Whether it has so many for so long; False as soon as it has not."""
        return not wait_until(lambda: self.pods() != pods, seconds)

    def steps(self):
        """Every change of the number of pods: when, and to how many, as the autoscaler wrote it down."""
        events = self.api.get(f"/api/v1/namespaces/{self.namespace}/events?fieldSelector=reason%3DSuccessfulRescale")
        found = [
            (datetime.fromisoformat(event["firstTimestamp"]), int(re.search(r"New size: (\d+)", event["message"])[1]))
            for event in events["items"]
        ]
        return sorted(found)


# Prometheus ---------------------------------------------------------------------------------------------------------


class Prometheus:
    """A real one, with the chart's rules and a target for each exporter of each case."""

    def __init__(self, server):
        self.server = server
        self.url = f"http://127.0.0.1:{server.instance.ports['prometheus']}"
        self.rules = server.instance.config / "rules"

    def configure(self, targets, interval):
        """`targets` are static_configs; a label `mutant` renames the series, so that other rules read them."""
        rename = {
            "source_labels": ["mutant", "__name__"],
            "regex": "(.+);(kafka_.+|pipeline_.+)",
            "target_label": "__name__",
            "replacement": "${1}:${2}",
        }
        document = {
            "global": {"scrape_interval": interval, "evaluation_interval": interval},
            "rule_files": ["/config/rules/*.yml"],
            "scrape_configs": [
                {"job_name": "recorded", "static_configs": targets, "metric_relabel_configs": [rename]},
            ],
        }
        (self.server.instance.config / "prometheus.yml").write_text(yaml.safe_dump(document))

    def query(self, question):
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": question}, timeout=60, trust_env=False)
        assert answer.is_success, answer.text
        return [float(each["value"][1]) for each in answer.json()["data"]["result"]]

    def fires(self, alert):
        return bool(self.query(f'ALERTS{{alertname="{alert}", alertstate="firing"}}'))


def chart_rules():
    """The files that the chart gives its Prometheus, by name."""
    return dict(of_kind("ConfigMap", *VALUES)["prometheus-rules"]["data"])


def adapter_rules():
    return of_kind("ConfigMap", *VALUES)["prometheus-adapter-configuration"]["data"]["config.yaml"]


def mutated(name, change):
    """The chart's rules that feed autoscalers, changed, over the series that only mutants of that name have."""
    (group,) = [one for one in yaml.safe_load(chart_rules()["pipeline.yml"])["groups"] if one["name"] == "lag"]
    before = [rule["expr"] for rule in group["rules"]]
    for rule in group["rules"]:
        rule["expr"] = change(rule["expr"])
    assert [rule["expr"] for rule in group["rules"]] != before, f"{name} changes nothing"
    for rule in group["rules"]:
        rule["expr"] = re.sub(r"\b(kafka_consumergroup_lag|pipeline_bridge)_?\w*", rf"{name}:\g<0>", rule["expr"])
    return yaml.safe_dump({"groups": [group | {"name": f"lag, {name}"}]})

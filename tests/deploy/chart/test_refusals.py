"""Bad values end in a message that names the value to change."""

import pytest

from tests.deploy.chart.rendering import template

SCHEMA = {
    "gateway.replica=3": "additional properties 'replica' not allowed",
    "nginx.enabled=true": "additional properties 'nginx' not allowed",
    "gateway.replicas=0": "at '/gateway/replicas'",
    "gateway.autoscaling.maxReplicas=11": "at '/gateway/autoscaling/maxReplicas'",
    "users.autoscaling.maxReplicas=6": "at '/users/autoscaling/maxReplicas'",
    "worker.autoscaling.behavior.scaleDown.stabilisationWindowSeconds=9": "additional properties 'stabilisationWindow",
    "worker.autoscaling.behavior.scaleUp.stabilizationWindowSeconds=3601": "at '/worker/autoscaling/behavior/scaleUp/",
    "bridge.replicas=9": "at '/bridge/replicas'",
    "bridge.leave={0}": "at '/bridge/leave/0'",
    "autoscaling.provider=prometheus": "at '/autoscaling/provider': value must be one of 'prometheus-adapter', 'keda'",
    "global.storageClass=Fast_Disks": "at '/global/storageClass'",
    "global.brigadeImage.tag=latest": "at '/global/brigadeImage/tag'",
    "global.brigadeImage.digest=abc": "at '/global/brigadeImage/digest'",
    "worker.resources.limits.memory=much": "at '/worker/resources/limits/memory'",
    "settings.BRIGADE_PARTITIONS=none": "at '/settings/BRIGADE_PARTITIONS'",
    "settings.partitions=3": "at '/settings",
    "settings.BRIGADE_LOG_LEVEL=loud": "at '/settings/BRIGADE_LOG_LEVEL'",
    "ingress.hosts.api=https://api": "at '/ingress/hosts/api'",
    "ingress.controller=caddy": "at '/ingress/controller'",
    "tls.source=letsencrypt": "at '/tls/source'",
    "tls.acme.email=me": "at '/tls/acme/email'",
    "secrets.source=values": "at '/secrets/source'",
    "external.kafka.bootstrapServers=kafka": "at '/external/kafka/bootstrapServers'",
    "networkPolicies.devices={everywhere}": "at '/networkPolicies/devices/0'",
    "environment=staging": "at '/environment'",
}
DATABASE = "timescaledb.enabled=false,external.database.host=db,external.database.adminSecret=admin"
TOGETHER = {
    "worker.autoscaling.maxReplicas=13": "worker.autoscaling.maxReplicas is 13 and settings.BRIGADE_PARTITIONS 12",
    "settings.BRIGADE_PARTITIONS=4": "worker.autoscaling.maxReplicas is 5 and settings.BRIGADE_PARTITIONS 4",
    "worker.autoscaling.enabled=false,worker.replicas=20": "worker.replicas is 20 and settings.BRIGADE_PARTITIONS 12",
    "users.autoscaling.minReplicas=4,users.autoscaling.maxReplicas=3": "users.autoscaling.minReplicas 4",
    "gateway.replicas=1": "gateway.replicas 1 is not between its autoscaling.minReplicas 2",
    "kafka.enabled=false": "external.kafka.bootstrapServers is empty",
    "timescaledb.enabled=false": "external.database.host is empty",
    "timescaledb.enabled=false,external.database.host=db": "external.database.adminSecret is empty",
    "redis.enabled=false": "external.redis.host is empty",
    f"{DATABASE},external.database.sslmode=verify-ca": "external.database.caSecret is empty",
    "kafka.enabled=false,external.kafka.bootstrapServers=k:1,external.kafka.securityProtocol=SASL_SSL": (
        "external.kafka.user and external.kafka.secret belong to"
    ),
    "external.mqtt.host=broker": "external.mqtt.host is set and mosquitto.enabled is true",
    "settings.BRIGADE_REPLICATION_FACTOR=3": "the chart's own Kafka is one node",
    "settings.BRIGADE_MIN_INSYNC_REPLICAS=2": "settings.BRIGADE_MIN_INSYNC_REPLICAS is above",
    "autoscaling.provider=keda": "prometheus-adapter.enabled is true",
    "prometheus.enabled=false": "prometheus.enabled=true or external.prometheus.url",
    "secrets.source=external-secrets": "secrets.externalSecrets.storeName is empty",
    "bridge.leave={1}": "bridge.leave names ordinal 1",
    "tls.source=acme": "tls.acme.email is empty",
    "tls.source=acme,tls.acme.email=me@example.com": "no public authority issues certificates for .local",
    "gatewayApi.enabled=true": "gatewayApi.className is empty",
    "global.namespaces.monitoring=restaurant-system": "global.namespaces.monitoring is the release's namespace",
    "global.namespaces.system=other": "install with --namespace other",
    "environment=production": "ingress.hosts.api is",
    "environment=production,ingress.enabled=false": "nobody can come in",
    "environment=production,tls.source=none": "there is no TLS",
    "environment=production,networkPolicies.enabled=false": "networkPolicies.enabled is false",
}


@pytest.mark.parametrize("values", [*SCHEMA, *TOGETHER])
def test_it_is_refused_by_name(values):
    done = template("--set", values)
    assert done.returncode != 0
    assert (SCHEMA | TOGETHER)[values] in done.stderr


def test_all_faults_are_told_at_once():
    done = template("--set", "kafka.enabled=false,redis.enabled=false")
    assert done.stderr.count("is empty: where is it?") == 2


def test_a_kubernetes_that_is_too_old_is_refused():
    done = template("--kube-version", "1.29.0")
    assert done.returncode != 0
    assert ">=1.30.0-0" in done.stderr

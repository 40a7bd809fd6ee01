"""Servers that are elsewhere: how each part speaks to them, whom it believes, and that it gets no other's passwords."""

import base64

import pytest

from pipeline.settings import KafkaSettings
from tests.deploy.chart.rendering import VALUES, of_kind, pod_specs

STRIMZI, POSTGRES, MANAGED = (("-f", f"values-{name}.yaml") for name in ("strimzi", "cloudnativepg", "managed"))
TO_KAFKA = {"bridge", "worker", "lag"}
PARTS = {"bridge", "worker", "lag", "broker", "maintain", "gateway", "users"}


def settings(part, *words):
    return of_kind("ConfigMap", *words)[f"{part}-settings"]["data"]


def pod(part, *words):
    (found,) = [one for one in pod_specs(*words).values() if _name(one) == part]
    return found["spec"]


def _name(template):
    return template["metadata"]["labels"]["app.kubernetes.io/name"]


def files(spec):
    """Every file that the pod's Secrets become: path in the pod → Secret and key."""
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    found = {}
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        for mount in container["volumeMounts"]:
            for source in volumes[mount["name"]].get("projected", {}).get("sources", []):
                for item in source["secret"]["items"]:
                    found[f"{mount['mountPath']}/{item['path']}"] = (source["secret"]["name"], item["key"])
    return found


@pytest.mark.parametrize("words", VALUES, ids=" ".join)
def test_no_pod_is_given_a_whole_secret_of_ours(words):
    """Without `items` a volume has every key of the Secret."""
    for owner, template in pod_specs(*words).items():
        for volume in template["spec"].get("volumes", []):
            sources = [*volume.get("projected", {}).get("sources", []), volume]
            for secret in [source["secret"] for source in sources if "secret" in source]:
                name = secret.get("name", secret.get("secretName"))
                assert secret.get("items") or name not in {"brigade-secrets", "brigade-install"}, owner


@pytest.mark.parametrize("part", sorted(PARTS))
def test_strimzi_is_spoken_to_by_tls_with_an_account(part, tmp_path):
    told = {name: value for name, value in settings(part, *STRIMZI).items() if name.startswith("BRIGADE_KAFKA_")}
    mounted = files(pod(part, *STRIMZI))
    if part not in TO_KAFKA:
        assert told == {}
        assert not [secret for secret, _ in mounted.values() if secret == "brigade"]
        return
    assert mounted["/run/secrets/brigade/BRIGADE_KAFKA_SASL_PASSWORD"] == ("brigade", "password")
    assert mounted[told["BRIGADE_KAFKA_SSL_CA"]] == ("brigade-cluster-ca-cert", "ca.crt")
    told |= of_kind("ConfigMap", *STRIMZI)["brigade-settings"]["data"]
    values = {name.removeprefix("BRIGADE_").lower(): value for name, value in told.items()}
    taken = KafkaSettings(**values | {"kafka_ssl_ca": "", "kafka_sasl_password": "a secret"})
    assert (taken.kafka_by_tls, taken.kafka_by_account, taken.kafka_sasl_user) == (True, True, "brigade")
    assert taken.kafka_bootstrap_servers == "brigade-kafka-bootstrap:9093"


def test_the_job_that_makes_topics_speaks_to_strimzi_too():
    jobs = [template["spec"] for owner, template in pod_specs(*STRIMZI).items() if _name(template) == "install"]
    assert jobs
    for job in jobs:
        told = {one["name"]: one["value"] for one in job["containers"][0]["env"]}
        assert told["BRIGADE_KAFKA_SECURITY_PROTOCOL"] == "SASL_SSL"
        assert files(job)["/run/secrets/brigade/BRIGADE_KAFKA_SASL_PASSWORD"] == ("brigade", "password")
        assert files(job)[told["BRIGADE_KAFKA_SSL_CA"]] == ("brigade-cluster-ca-cert", "ca.crt")


@pytest.mark.parametrize(
    ("part", "setting", "server"),
    [
        ("worker", "BRIGADE_DATABASE_URL", "timescaledb"),
        ("maintain", "BRIGADE_DATABASE_URL", "timescaledb"),
        ("gateway", "BRIGADE_GATEWAY_DATABASE_URL", "timescaledb"),
        ("users", "BRIGADE_USERS_DATABASE_URL", "postgresql"),
    ],
)
def test_databases_elsewhere_are_checked_by_name(part, setting, server):
    url = base64.b64decode(of_kind("Secret", *POSTGRES)["brigade-secrets"]["data"][f"{part}.{setting}"]).decode()
    assert f"@{server}-rw:5432/" in url
    assert "?sslmode=verify-full&sslrootcert=" in url
    assert files(pod(part, *POSTGRES))[url.split("sslrootcert=")[1]] == (f"{server}-ca", "ca.crt")


def test_a_providers_redis_is_spoken_to_by_tls():
    secrets = of_kind("Secret", *MANAGED)["brigade-secrets"]["data"]
    for key in ("gateway.BRIGADE_GATEWAY_REDIS_URL", "users.BRIGADE_USERS_REDIS_URL"):
        url = base64.b64decode(secrets[key]).decode()
        assert url.startswith("rediss://brigade:")
        assert url.endswith("@sessions.example.com:6379/0")
    assert settings("bridge", *MANAGED)["BRIGADE_KAFKA_SECURITY_PROTOCOL"] == "SASL_SSL"
    assert "BRIGADE_KAFKA_SSL_CA" not in settings("bridge", *MANAGED)  # a public authority


def test_a_broker_elsewhere_is_spoken_to_by_tls():
    words = (
        "--set=mosquitto.enabled=false,external.mqtt.host=mqtt.example.com,external.mqtt.port=8883",
        "--set=external.mqtt.secret=accounts,external.mqtt.tls=true,external.mqtt.caSecret=mqtt-ca",
    )
    for part, prefix in (("bridge", ""), ("broker", ""), ("users", "USERS_")):
        told = settings(part, *words)
        assert told[f"BRIGADE_{prefix}MQTT_TLS"] == "true"
        assert files(pod(part, *words))[told[f"BRIGADE_{prefix}MQTT_TLS_CA"]] == ("mqtt-ca", "ca.crt")
    assert not [name for name in settings("worker", *words) if "MQTT_TLS" in name]

"""TLS and accounts towards Kafka and the MQTT broker: settings that contradict each other, and the whole way."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import aiomqtt
import psycopg
import pytest
from pydantic import ValidationError

from deploy.local.layout import REPOSITORY
from observability import tls
from pipeline import lag
from pipeline.kafka import for_aiokafka
from pipeline.mqtt import Client, OutageError
from pipeline.settings import BridgeSettings, KafkaSettings, LagSettings
from tests.certificates import Authority
from tests.deploy.servers.starting import TlsKafka, TlsMosquitto
from tests.pipeline.workers import FAUST, eventually, free_port
from users.broker import Account, Address, Broker
from users.settings import UsersSettings

PASSWORDS = {"USERS": "of users itself", "BRIDGE": "of the bridge", "MONITOR": "of the monitor"}


@pytest.fixture
def files(tmp_path):
    authority = Authority()
    authority.signs("bridge").write(tmp_path / "bridge", authority)
    return {name: str(tmp_path / "bridge" / f"{file}") for name, file in FILES.items()}


FILES = {"ca": "ca.crt", "cert": "tls.crt", "key": "tls.key"}


def refused(settings=BridgeSettings, **values):
    with pytest.raises(ValidationError) as error:
        settings(**values)
    return str(error.value)


@pytest.mark.parametrize("name", ["kafka_ssl_ca", "mqtt_tls_ca", "mqtt_tls_key"])
def test_a_file_that_is_not_there_is_named(name):
    assert f"{name}\n  Value error, cannot be read: No such file" in refused(**{name: "/nowhere/ca.crt"})


def test_files_without_tls_are_refused_for_they_would_do_nothing(files):
    assert "BRIGADE_KAFKA_SECURITY_PROTOCOL is without TLS" in refused(kafka_ssl_ca=files["ca"])
    assert "BRIGADE_MQTT_TLS is false" in refused(mqtt_tls_ca=files["ca"])


def test_a_certificate_without_its_key_is_refused(files):
    both = "_CERT and BRIGADE_{}_KEY belong together"
    by_kafka = refused(kafka_security_protocol="SSL", kafka_ssl_cert=files["cert"])
    assert both.format("KAFKA_SSL") in by_kafka
    assert both.format("MQTT_TLS") in refused(mqtt_tls=True, mqtt_tls_key=files["key"])


def test_a_key_of_something_else_is_refused(files, tmp_path):
    other = Authority()
    other.signs("other").write(tmp_path / "other", other)
    values = {"mqtt_tls": True, "mqtt_tls_cert": files["cert"], "mqtt_tls_key": str(tmp_path / "other" / "tls.key")}
    assert "BRIGADE_MQTT_TLS_CA, BRIGADE_MQTT_TLS_CERT and BRIGADE_MQTT_TLS_KEY cannot be used" in refused(**values)


def test_an_account_needs_both_its_words_and_a_protocol_that_asks_for_them():
    need = "which needs both"
    assert need in refused(kafka_security_protocol="SASL_SSL", kafka_sasl_user="brigade")
    assert need in refused(kafka_sasl_user="brigade", kafka_sasl_password="secret")
    plain = {"kafka_sasl_mechanism": "PLAIN", "kafka_sasl_user": "brigade", "kafka_sasl_password": "secret"}
    assert "for all to read" in refused(kafka_security_protocol="SASL_PLAINTEXT", **plain)
    assert KafkaSettings(kafka_security_protocol="SASL_SSL", **plain).kafka_by_account


def test_users_refuses_the_same(files, monkeypatch):
    for name, value in {"SECRET": "A" * 43 + "=", "MQTT_ADMIN_PASSWORD": "secret", "MAIL_URL": "file:///mails"}.items():
        monkeypatch.setenv(f"BRIGADE_USERS_{name}", value)
    monkeypatch.setenv("BRIGADE_USERS_INTERNAL_SECRET", "x" * 32)
    assert UsersSettings().broker.tls is None
    assert "BRIGADE_USERS_MQTT_TLS is false" in refused(UsersSettings, mqtt_tls_ca=files["ca"])
    assert UsersSettings(mqtt_tls=True, mqtt_tls_ca=files["ca"]).broker.tls


# The whole way ------------------------------------------------------------------------------------------------------


def accounts(folder: Path) -> str:
    file = folder / "accounts.json"
    passwords = {f"BRIGADE_INSTALL_MQTT_PASSWORD_{name}": password for name, password in PASSWORDS.items()}
    brigade(passwords, "install", "broker", "--file", str(file))
    return file.read_text()


def brigade(environment: dict[str, str], *words: str) -> str:
    command = [str(Path(sys.executable).parent / "brigade"), *words]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def part(stack: ExitStack, log: Path, environment: dict[str, str], *words: str) -> None:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=REPOSITORY,
            env=os.environ | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    stack.callback(process.wait)
    stack.callback(process.kill)


@pytest.mark.slow
async def test_a_reading_goes_the_whole_way_by_tls(tmp_path, database):
    """The bridge shows a certificate to both, worker and lag exporter an account; each knows one authority."""
    with ExitStack() as stack:
        (tmp_path / "mosquitto").mkdir()
        (tmp_path / "kafka").mkdir()
        kafka = stack.enter_context(TlsKafka(tmp_path / "kafka"))
        broker = TlsMosquitto(tmp_path / "mosquitto", kafka.authority, accounts(tmp_path))
        mosquitto = stack.enter_context(broker)
        kafka.account("brigade-worker", "a worker's secret")
        bridge, device = kafka.files("bridge"), kafka.files("device")
        by_certificate = {
            "BRIGADE_KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{kafka.port}",
            "BRIGADE_KAFKA_SECURITY_PROTOCOL": "SSL",
            "BRIGADE_KAFKA_SSL_CA": bridge["authority"],
            "BRIGADE_KAFKA_SSL_CERT": bridge["certificate"],
            "BRIGADE_KAFKA_SSL_KEY": bridge["key"],
            "BRIGADE_PARTITIONS": "2",
        }
        by_account = {
            "BRIGADE_KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{kafka.accounts_port}",
            "BRIGADE_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "BRIGADE_KAFKA_SSL_CA": bridge["authority"],
            "BRIGADE_KAFKA_SASL_USER": "brigade-worker",
            "BRIGADE_KAFKA_SASL_PASSWORD": "a worker's secret",
            "BRIGADE_PARTITIONS": "2",
        }
        by_mqtt = {
            "BRIGADE_MQTT_PORT": str(mosquitto.port),
            "BRIGADE_MQTT_USER": "brigade/bridge",
            "BRIGADE_MQTT_PASSWORD": PASSWORDS["BRIDGE"],
            "BRIGADE_MQTT_TLS": "true",
            "BRIGADE_MQTT_TLS_CA": bridge["authority"],
            "BRIGADE_MQTT_TLS_CERT": bridge["certificate"],
            "BRIGADE_MQTT_TLS_KEY": bridge["key"],
        }
        brigade(by_certificate, "topics", "create")
        port = {"BRIGADE_BRIDGE_PORT": str(free_port())}
        part(stack, tmp_path / "bridge.log", by_certificate | by_mqtt | port, "-m", "pipeline.bridge")
        own = {"BRIGADE_DATABASE_URL": database, "BRIGADE_WORKER_PORT": str(free_port())}
        part(stack, tmp_path / "worker.log", by_account | own, "-m", "faust", *FAUST)

        trusted = tls.context(device["authority"], device["certificate"], device["key"])
        as_users = Address("127.0.0.1", mosquitto.port, "brigade/users", PASSWORDS["USERS"], trusted)
        async with Broker(as_users, seconds=5) as administrator:
            await administrator.put([Account("demo.fridge-1", "demo", "of the fridge")])
        eventually(lambda: '"subscribed"' in (tmp_path / "bridge.log").read_text())
        async with aiomqtt.Client(
            "127.0.0.1",
            mosquitto.port,
            identifier="demo.fridge-1",
            username="demo.fridge-1",
            password="of the fridge",
            tls_context=trusted,
        ) as fridge:
            topic = "brigade/v1/demo/demo.fridge-1/readings"
            await fridge.publish(topic, json.dumps({"temperature_c": 3.5}), qos=1)
        stored = eventually(lambda: rows(database))
        assert stored == [(3.5,)]

        settings = LagSettings(**{name.removeprefix("BRIGADE_").lower(): value for name, value in by_account.items()})
        async with lag.Kafka(for_aiokafka(settings), group="brigade-worker", topic="readings.raw") as exporter:
            assert len(await exporter.look()) == 2

        other = Authority("somebody else")
        other.signs("bridge").write(tmp_path / "stranger", other)
        wrong = tls.context(str(tmp_path / "stranger" / "ca.crt"), "", "")
        with pytest.raises(OutageError, match="certificate verify failed"):
            async with Client("127.0.0.1", mosquitto.port, "stranger", tls=wrong):
                pass


def rows(database: str) -> list[tuple[float]]:
    with psycopg.connect(database) as connection:
        return connection.execute("SELECT value FROM readings").fetchall()

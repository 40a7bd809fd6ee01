"""The rendered configurations on the real servers, each in a sandbox with a network of its own.

They start by the charts' own scripts, their probes answer, and what the configuration promises is so.
"""

import json
import urllib.request
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import NewTopic

from deploy.local import roots
from deploy.local.layout import cache_folder
from tests.certificates import Authority
from tests.deploy.servers.rendered import data
from tests.deploy.servers.starting import Server, TlsKafka

ACL = "user default on nopass -@all +ping\nuser brigade on >secret ~* &* +@all\n"
ACCOUNTS = {
    "defaultACLAccess": {"publishClientSend": False, "publishClientReceive": False, "subscribe": False},
    "roles": [],
    "clients": [],
}


def while_it_runs(start: str, answers: str, then: str) -> str:
    """A script: start the server, wait for its probe's answer, do `then`, end it and see it end by itself."""
    return f"""
        {start} & server=$!
        for _ in $(seq 300); do {answers} && break; kill -0 $server || exit 9; sleep 0.2; done
        {answers} || exit 8
        ({then}) || exit 7
        kill -INT $server; wait $server; echo "ended with $?"
    """


@pytest.mark.parametrize("chart", ["timescaledb", "postgresql"])
def test_postgresql_starts_from_nothing_and_again_and_wants_a_password(chart, tmp_path):
    server = Server(tmp_path, roots.TRIXIE, "postgres", data(chart, f"{chart}-configuration"))
    server.secret("postgres/POSTGRES_PASSWORD", "very secret")
    extension = "CREATE EXTENSION timescaledb;" if chart == "timescaledb" else ""
    client = "psql -h 127.0.0.1 -U postgres -d postgres -v ON_ERROR_STOP=1 -Atc"
    then = f"""
        ! PGPASSWORD=wrong {client} 'SELECT 1' && export PGPASSWORD='very secret' &&
        {client} "{extension} SELECT 'timeout ' || current_setting('checkpoint_timeout'), current_setting('jit')"
    """
    start = "PGDATA=/data/pg sh /config/start.sh"
    first = server.run(while_it_runs(start, "sh /config/answers.sh", then))
    assert "ended with 0" in first
    assert f"timeout {'15min' if chart == 'timescaledb' else '5min'}|off" in first
    assert "ended with 0" in server.run(while_it_runs(start, "sh /config/answers.sh", "true"))


def test_an_unfinished_first_start_of_postgresql_is_begun_again(tmp_path):
    server = Server(tmp_path, roots.TRIXIE, "postgres", data("postgresql", "postgresql-configuration"))
    server.secret("postgres/POSTGRES_PASSWORD", "very secret")
    begun = "mkdir -p /data/pg.unfinished/base; touch /data/pg.unfinished/PG_VERSION;"
    script = while_it_runs("PGDATA=/data/pg sh /config/start.sh", "sh /config/answers.sh", "true")
    assert "ended with 0" in server.run(begun + script)


def test_redis_keeps_what_it_was_told_and_knows_who_may(tmp_path):
    server = Server(tmp_path, roots.TRIXIE, "redis", data("redis", "redis-configuration"))
    server.secret("redis/users.acl", ACL)
    start, answers = "redis-server /config/redis.conf", "redis-cli -t 3 ping | grep -qx PONG"
    client = "redis-cli --no-auth-warning --user brigade --pass secret"
    settings = f"{client} config get appendonly; {client} config get maxmemory-policy"
    then = f"redis-cli get a; {client} set a kept; {settings}"
    said = server.run(while_it_runs(start, answers, then))
    assert "NOPERM" in said
    assert "appendonly\nyes\nmaxmemory-policy\nnoeviction" in said
    assert "kept" in server.run(while_it_runs(start, answers, f"{client} get a"))


def mosquitto(folder: Path, **values: str) -> Server:
    root = roots.FORKY.folder(cache_folder())
    plugin = next((root / "usr/lib").glob("*/mosquitto/mosquitto_persist_sqlite.so"))
    files = data("mosquitto", "mosquitto-configuration", plugins=f"/{plugin.parent.relative_to(root)}", **values)
    server = Server(folder, roots.FORKY, "mosquitto", files)
    server.sandbox.own()
    server.sandbox.run(["sh", "-c", "cat > /data/accounts.json"], stdin=json.dumps(ACCOUNTS))
    return server


MOSQUITTO = ("mosquitto -c /config/mosquitto.conf", "sh /config/answers.sh")


def test_mosquitto_starts_and_refuses_its_probe_in_words_of_mqtt(tmp_path):
    said = mosquitto(tmp_path).run(while_it_runs(*MOSQUITTO, "ls /data/mosquitto.sqlite3"))
    assert "ended with 0" in said
    assert "/data/mosquitto.sqlite3" in said


def test_a_broker_that_hangs_does_not_answer_its_probe(tmp_path):
    hang = "kill -STOP $server; sh /config/answers.sh; answer=$?; kill -CONT $server; [ $answer != 0 ]"
    assert "ended with 0" in mosquitto(tmp_path).run(while_it_runs(*MOSQUITTO, hang))


def test_mosquitto_takes_devices_with_a_certificate_of_its_own_authority_alone(tmp_path):
    server = mosquitto(tmp_path, tls__enabled="true", tls__secretName="a", tls__clientCertificates="true")
    ours, others = Authority(), Authority("somebody else")
    ours.signs("broker", "127.0.0.1").write(server.secrets / "certificate", ours)
    ours.signs("my-fridge").write(server.secrets / "device", ours)
    others.signs("my-fridge").write(server.secrets / "stranger", ours)

    def connect(who: str) -> str:
        files = f"--cert /run/secrets/{who}/tls.crt --key /run/secrets/{who}/tls.key"
        return (
            f"mosquitto_sub -h 127.0.0.1 -p 8883 -V mqttv311 -i a -t a -W 5 --cafile /run/secrets/{who}/ca.crt {files}"
            f"; echo {who} $?"
        )

    nobody = "mosquitto_sub -h 127.0.0.1 -p 8883 -i a -t a -W 5 --cafile /run/secrets/device/ca.crt; echo nobody $?"
    said = server.run(while_it_runs(*MOSQUITTO, f"{connect('device')}; {connect('stranger')}; {nobody}"))
    assert "device 5" in said  # let in by TLS, refused for want of a password
    assert "stranger 5" not in said
    assert "nobody 5" not in said


def test_mosquitto_with_tls_alone_is_deaf_on_the_other_port(tmp_path):
    text = data("mosquitto", "mosquitto-configuration", tls__enabled="true", tls__secretName="a", tls__only="true")
    assert "listener 1883 127.0.0.1\n" in text["mosquitto.conf"]


# Kafka --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_kafka_starts_from_nothing_tells_prometheus_and_takes_clients_of_its_own_authority_alone(tmp_path):
    with TlsKafka(tmp_path) as kafka:
        bridge = kafka.client("bridge")
        bridge.create_topics([NewTopic("kept", 1)])["kept"].result(10)
        with pytest.raises(KafkaException):
            kafka.client("stranger", Authority("somebody else")).list_topics(timeout=3)
        with urllib.request.urlopen(f"http://127.0.0.1:{kafka.metrics_port}/metrics") as page:
            assert b"kafka_server_requesthandlers_idle_ratio" in page.read()
    assert (tmp_path / "data" / "log" / "kept-0").is_dir()

"""Does a server answer? Asked in its own protocol."""

import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable

import psycopg
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from deploy.local.layout import Instance, database_url

ANSWER_SECONDS = 1.0

MQTT_CONNECT = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x0a\x00\x00"  # 3.1.1, clean session, no client id
MQTT_CONNACK = b"\x20\x02\x00\x05"  # not authorised: it is up, and lets nobody in without an account


def ready(name: str, instance: Instance) -> bool:  # noqa: PLR0911  one answer a protocol
    """True when the part does its work now; a part without a way to ask is ready when it runs."""
    port = instance.ports
    match name:
        case "mosquitto":
            return _mosquitto(port["mqtt"])
        case "kafka":
            return _kafka(port["kafka"])
        case "postgres":
            return _postgres(database_url(instance, "postgres", "postgres"))
        case "redis":
            return _says(port["redis"], b"PING\r\n", b"+PONG\r\n")
        case "node-exporter" | "postgres-exporter" | "redis-exporter":
            return _http(port[name], "/")
        case "prometheus" | "alertmanager":
            return _http(port[name], "/-/ready")
        case "users":
            return _http(port["users-metrics"], "/readyz")
        case "gateway":
            return _http(port[name], "/health")
        case _ if name in port:
            return _http(port[name], "/readyz")
        case _:
            return True


def wait_until(what: Callable[[], bool], seconds: float, *, while_true: Callable[[], bool] = lambda: True) -> bool:
    """Return whether it came true in time; give up early when `while_true` is not."""
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end or not while_true():
            return False
        time.sleep(0.1)
    return True


def _mosquitto(port: int) -> bool:
    return _says(port, MQTT_CONNECT, MQTT_CONNACK)


def _kafka(port: int) -> bool:
    if not listens(port):
        return False
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0})
    try:
        return bool(admin.list_topics(timeout=ANSWER_SECONDS).brokers)
    except KafkaException:
        return False


def _postgres(url: str) -> bool:
    try:
        with psycopg.connect(url, connect_timeout=2) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS).close()
    except OSError:
        return False
    return True


def _says(port: int, question: bytes, answer: bytes) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS) as connection:
            connection.sendall(question)
            heard = connection.recv(len(answer), socket.MSG_WAITALL)
    except OSError:
        return False
    return heard == answer


def _http(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=ANSWER_SECONDS) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False

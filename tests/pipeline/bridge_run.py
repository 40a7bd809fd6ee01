"""A bridge as a process of its own, what goes into it, and what came out."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from prometheus_client.parser import text_string_to_metric_families

from deploy.local.ready import wait_until
from pipeline import packs, topics
from pipeline.mqtt import Client
from pipeline.settings import KafkaSettings
from tests.pipeline.bridge_servers import OwnServers, _free_ports

REPOSITORY = Path(__file__).parents[2]
SECONDS = 120
"""For what will come; what must come soon says how soon."""


class Run:
    """What the bridges of one test share: topics and names of its own."""

    def __init__(self, servers: OwnServers, unique: str, folder: Path, partitions: int = 3) -> None:
        self.servers = servers
        self.unique = unique
        self.folder = folder
        self.kafka = KafkaSettings(
            kafka_bootstrap_servers=servers.kafka_address, topic_prefix=f"{unique}-", partitions=partitions
        )
        self.topic = topics.Topics(self.kafka).raw
        self.bridges: list[Bridge] = []

    def create_topics(self) -> None:
        topics.create(self.kafka)

    def bridge(self, *arguments: str, **settings: object) -> "Bridge":
        bridge = Bridge(self, arguments, settings, len(self.bridges))
        self.bridges.append(bridge)
        return bridge

    def client(self, client_id: str, **options: object) -> Client:
        options = {**self.servers.account, **options}
        return Client("127.0.0.1", self.servers.mqtt_port, f"{client_id}-{self.unique}", **options)

    def device(self, number: int = 0) -> str:
        return f"device-{number}-{self.unique}"

    def messages(self, count: int, *, devices: int = 5, size: int = 0, begin: int = 0) -> list[tuple[str, bytes]]:
        return [
            (f"brigade/v1/seoul/{self.device(i % devices)}/readings", b"%d " % i + b"x" * size)
            for i in range(begin, begin + count)
        ]

    def publish(self, messages: Iterable[tuple[str, bytes]], *, retain: bool = False) -> int:
        """How many the broker acknowledged."""

        async def go() -> int:
            async with self.client("publisher", clean_start=True) as mqtt:
                return await mqtt.publish(messages, retain=retain)

        return asyncio.run(go())

    def stored(self) -> list[tuple[int, packs.Message]]:
        """Every message in the topic, with its partition, in the order of the partitions."""
        consumer = Consumer({"bootstrap.servers": self.kafka.kafka_bootstrap_servers, "group.id": "tests"})
        found = []
        try:
            for partition in range(self.kafka.partitions):
                place = TopicPartition(self.topic, partition, 0)
                _, end = consumer.get_watermark_offsets(place, timeout=SECONDS)
                consumer.assign([place])
                offset = 0
                while offset < end:
                    record = consumer.poll(SECONDS)
                    assert record is not None
                    assert record.error() is None
                    offset = record.offset() + 1
                    pack = packs.decode(record.value())
                    assert dict(record.headers()) == dict(packs.headers(len(pack)))
                    found += [(partition, message) for message in pack if self.unique in message.topic]
        finally:
            consumer.close()
        return found

    def numbers(self) -> list[int]:
        """The numbers that `messages` gave its payloads, sorted; each as often as it is stored."""
        return sorted(int(message.payload.split(b" ")[0]) for _, message in self.stored())

    def wait_for(self, count: int, seconds: float = SECONDS) -> list[int]:
        """The numbers, when so many different ones are stored."""
        found: list[int] = []
        refused = None

        def enough() -> bool:
            nonlocal refused
            try:
                found[:] = self.numbers()
                refused = None
            except KafkaException as error:  # it has started, but does not lead its partitions yet
                refused = error
            return len(set(found)) >= count

        assert wait_until(enough, seconds), self._told(set(found), count)
        return found

    def _told(self, found: set[int], count: int) -> str:
        held = [(bridge.metric("messages_in_flight"), bridge.metric("held_bytes")) for bridge in self.bridges]
        missing = sorted(set(range(count)) - found)[:20]
        return f"{len(found)} came, not {missing}…; messages in flight and bytes held of each bridge: {held}"

    def end(self) -> None:
        for bridge in self.bridges:
            bridge.kill()
        if self.servers.kafka.ready():
            admin = AdminClient({"bootstrap.servers": self.servers.kafka_address, "log_level": 0})
            names = [topic.name for topic in topics.Topics(self.kafka).declared()]
            for future in admin.delete_topics(names).values():
                future.exception()


class Bridge:
    def __init__(self, run: Run, arguments: tuple[str, ...], settings: dict[str, object], number: int) -> None:
        self.ordinal = settings.get("bridge_ordinal", 0)
        self.port = _free_ports(1)[0]
        self.log = run.folder / f"bridge-{number}.log"
        chosen = {
            "kafka_bootstrap_servers": run.kafka.kafka_bootstrap_servers,
            "topic_prefix": run.kafka.topic_prefix,
            "partitions": run.kafka.partitions,
            "mqtt_port": run.servers.mqtt_port,
            "mqtt_user": run.servers.account["user"],
            "mqtt_password": run.servers.account["password"],
            "bridge_group": run.unique,
            "bridge_client_id": f"bridge-{run.unique}",
            "bridge_port": self.port,
            **settings,
        }
        environment = {f"BRIGADE_{name.upper()}": str(value) for name, value in chosen.items()}
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.bridge", *arguments],
                cwd=REPOSITORY,
                env=os.environ | environment,
                stdout=output,
                stderr=output,
            )
        self.psutil = psutil.Process(self._process.pid)

    def ready(self) -> "Bridge":
        """Return when it says that it is."""
        assert wait_until(self.is_ready, SECONDS, while_true=lambda: self._process.poll() is None), self.said()
        return self

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5) as answer:
                return answer.status == 200
        except OSError as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            return False

    def metric(self, name: str) -> float:
        samples = [s for family in text_string_to_metric_families(self.metrics()) for s in family.samples]
        return next(s.value for s in samples if s.name == f"pipeline_bridge_{name}")

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=SECONDS) as answer:
            return answer.read().decode()

    def wait(self, condition: "Callable[[Bridge], bool]", seconds: float = SECONDS) -> None:
        if not wait_until(lambda: condition(self), seconds):
            raise AssertionError("\n".join([f"not within {seconds} s:", *self.told()]))

    def told(self) -> list[str]:
        """What its metrics say, or why they say nothing."""
        try:
            return [line for line in self.metrics().splitlines() if line.startswith("pipeline_bridge")]
        except OSError as error:
            return [f"bridge {self.ordinal}: {error}"]

    def said(self) -> str:
        return self.log.read_text()

    def events(self) -> list[str]:
        lines = [line for line in self.said().splitlines() if line.startswith("{")]
        return [json.loads(line)["event"] for line in lines]

    def terminate(self) -> tuple[int, float]:
        """Its exit code, and the seconds it took."""
        began = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(SECONDS)
        return code, time.monotonic() - began

    def exit_code(self, seconds: float = SECONDS) -> int:
        return self._process.wait(seconds)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

"""Mosquitto's `$SYS` topics as metrics: how many clients, messages and bytes, and how many messages it dropped.

    python -m pipeline.broker

Each topic below `$SYS/broker` whose value is a number becomes a series, `/` and blanks becoming `_`:
`broker_publish_messages_dropped`. So does sapcc's mosquitto-exporter, whose dashboards fit; it is a Go program without
a package for Debian or Python, and sixty lines are less than a toolchain on every machine.
While the broker is away the series end, and `broker_up` is 0.
"""

import asyncio
import random
import re
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import aiomqtt
import structlog
from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from observability import logs, web
from pipeline.settings import BrokerSettings, load

TOPICS: Final = "$SYS/broker/#"
AVERAGES: Final = "$SYS/broker/load/"
"""Its own averages over 1, 5 and 15 minutes: `rate()` tells the same of the counters."""
SILENT_SECONDS: Final = 60.0
"""Mosquitto tells every 10 s what changed, its uptime at least; one that says nothing for so long hangs."""
MOST_SERIES: Final = 200
LONGEST_WAIT_SECONDS: Final = 5.0

log = structlog.get_logger()


class Sys(Collector):
    """The last number of each topic, for as long as the broker talks."""

    def __init__(self) -> None:
        self._numbers: dict[str, float] = {}
        self._heard = 0.0

    def hear(self, topic: str, payload: bytes) -> None:
        self._heard = time.monotonic()
        number = number_of(payload)
        if number is not None and not topic.startswith(AVERAGES) and len(self._numbers) < MOST_SERIES:
            self._numbers[name_of(topic)] = number

    def end(self) -> None:
        self._numbers = {}

    def known(self) -> bool | str:
        talks = self._numbers and time.monotonic() - self._heard < SILENT_SECONDS
        return True if talks else "the broker tells nothing of itself"

    def collect(self) -> Iterable[Metric]:
        up = self.known() is True
        yield GaugeMetricFamily("broker_up", "1 while the broker tells of itself.", value=up)
        for name, number in sorted(self._numbers.items()) if up else ():
            metric = Metric(name, "As Mosquitto's $SYS topic of that name.", "unknown")
            metric.add_sample(name, {}, number)
            yield metric


def name_of(topic: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", topic.removeprefix("$SYS/").lower())


def number_of(payload: bytes) -> float | None:
    """`117` and `117 seconds` are numbers, `mosquitto version 2.1.2` is none."""
    try:
        return float(payload.removesuffix(b" seconds"))
    except ValueError:
        return None


async def watch(settings: BrokerSettings, told: Sys) -> None:
    """Listen, and listen again; while the broker is away, end the series and come back by ourselves."""
    password = settings.mqtt_password
    away = False
    while True:
        try:
            async with aiomqtt.Client(
                settings.mqtt_host,
                settings.mqtt_port,
                username=settings.mqtt_user,
                password=password.get_secret_value() if password else None,
                tls_context=settings.mqtt_tls_context,
                keepalive=20,
            ) as client:
                await client.subscribe(TOPICS)
                async for message in client.messages:
                    told.hear(str(message.topic), bytes(message.payload or b""))
                    if away:
                        log.info("broker_back")
                    away = False
        except aiomqtt.MqttError as error:
            told.end()
            if not away:
                log.warning("broker_away", error=str(error))
            away = True
        await asyncio.sleep(random.uniform(0.5, 1) * LONGEST_WAIT_SECONDS)


async def run(settings: BrokerSettings) -> None:
    told = Sys()
    REGISTRY.register(told)
    task = asyncio.create_task(watch(settings, told))
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, task.cancel)
    with (
        web.serve(settings.broker_port, host=settings.web_host, healthy=lambda: True, ready=told.known) as server,
        suppress(asyncio.CancelledError),
    ):
        log.info("started", port=server.port)
        await task
    log.info("stopped")


def main() -> None:
    settings = load(BrokerSettings)
    logs.configure("broker", settings.log_level)
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()

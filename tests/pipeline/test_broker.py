"""Mosquitto's own numbers as series."""

import asyncio
import contextlib

import pytest
from prometheus_client import CollectorRegistry

from pipeline.broker import Sys, name_of, number_of, watch
from pipeline.settings import BrokerSettings


def series(told):
    registry = CollectorRegistry()
    registry.register(told)
    return {sample.name: sample.value for family in registry.collect() for sample in family.samples}


@pytest.mark.parametrize(
    ("topic", "name"),
    [
        ("$SYS/broker/publish/messages/dropped", "broker_publish_messages_dropped"),
        ("$SYS/broker/store/messages/count", "broker_store_messages_count"),
        ("$SYS/broker/retained messages/count", "broker_retained_messages_count"),
    ],
)
def test_a_topic_becomes_a_name(topic, name):
    assert name_of(topic) == name


@pytest.mark.parametrize(
    ("payload", "number"),
    [(b"117", 117), (b"117 seconds", 117), (b"-1", -1), (b"mosquitto version 2.1.2", None), (b"", None)],
)
def test_numbers_are_told_and_texts_are_not(payload, number):
    assert number_of(payload) == number


def test_series_end_with_the_broker_and_their_number_is_bounded():
    told = Sys()
    assert series(told) == {"broker_up": 0}
    for n in range(1000):
        told.hear(f"$SYS/broker/{n}", b"1")
    told.hear("$SYS/broker/load/messages/sent/1min", b"1")
    assert len(series(told)) == 201
    assert series(told)["broker_up"] == 1
    told.end()
    assert series(told) == {"broker_up": 0}


async def test_the_real_broker_tells_what_it_dropped(mqtt_monitor):
    told = Sys()
    host, port, user, password = mqtt_monitor
    settings = BrokerSettings(mqtt_host=host, mqtt_port=port, mqtt_user=user, mqtt_password=password)
    listening = asyncio.create_task(watch(settings, told))
    for _ in range(600):
        if series(told).get("broker_clients_connected"):  # told every ten seconds: not of us at first
            break
        await asyncio.sleep(0.05)
    listening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await listening
    assert series(told)["broker_up"] == 1
    assert series(told)["broker_clients_connected"] >= 1
    assert "broker_publish_messages_dropped" in series(told)

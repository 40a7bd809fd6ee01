"""A topic deleted and made again, as somebody does by mistake."""

import time
from collections.abc import Callable

from confluent_kafka.admin import AdminClient

from pipeline import topics
from pipeline.settings import KafkaSettings

SECONDS = 60


def make_again(settings: KafkaSettings, name: str, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Return when it is there, empty, with another id; `meanwhile` is called while there is none."""
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers, "log_level": 0})
    admin.delete_topics([name])[name].result()
    _wait_until_gone(settings, name)
    meanwhile()
    topics.create(settings)


def _wait_until_gone(settings: KafkaSettings, name: str) -> None:
    """A broker says that a topic is deleted before its metadata do."""
    deadline = time.monotonic() + SECONDS
    while not _is_gone(settings, name):
        assert time.monotonic() < deadline, f"{name} is not gone after {SECONDS} s"
        time.sleep(0.05)


def _is_gone(settings: KafkaSettings, name: str) -> bool:
    try:
        topics.topic_id(settings, name)
    except topics.TopicsError:
        return True
    return False

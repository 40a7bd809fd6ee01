"""The Kafka topics, declared here and nowhere else: created by a command, checked by the parts at their start."""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar

import typer
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
    TopicDescription,
)

from pipeline.kafka import for_librdkafka
from pipeline.settings import KafkaSettings, load

MAX_MESSAGE_BYTES: Final = 2 << 20
"""Room for a pack (`packs.MAX_BYTES` of payloads and topics) with its frame, compressed or not."""

_SECONDS: Final = 10.0
_AWAY: Final = {
    KafkaError._TIMED_OUT,  # noqa: SLF001, confluent-kafka's public names begin so
    KafkaError._TRANSPORT,  # noqa: SLF001
    KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
    KafkaError._RESOLVE,  # noqa: SLF001
}
T = TypeVar("T")


class TopicsError(RuntimeError):
    """The topics are not as declared; the text says what to do, a line for each difference."""


class KafkaAwayError(ConnectionError):
    """No broker answered in time: worth another try."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    name: str
    partitions: int
    replication_factor: int
    config: dict[str, str]


class Topics:
    """The names of the topics of one installation, and how each is declared."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.raw = f"{settings.topic_prefix}readings.raw"
        self.dead = f"{settings.topic_prefix}readings.dead"
        self.aggregates_1m = f"{settings.topic_prefix}aggregates.1m"
        self.alarms = f"{settings.topic_prefix}alarms"
        self.settings = settings

    def declared(self) -> list[Topic]:
        return [
            self._topic(self.raw, timedelta(hours=self.settings.readings_retention_hours)),
            self._topic(self.dead, timedelta(days=30)),
            self._topic(self.aggregates_1m, timedelta(days=7)),
            self._topic(self.alarms, timedelta(days=30)),
        ]

    def _topic(self, name: str, kept: timedelta) -> Topic:
        return Topic(
            name=name,
            partitions=self.settings.partitions,
            replication_factor=self.settings.replication_factor,
            config={
                "cleanup.policy": "delete",
                "retention.ms": str(kept // timedelta(milliseconds=1)),
                "min.insync.replicas": str(self.settings.min_insync_replicas),
                "max.message.bytes": str(MAX_MESSAGE_BYTES),
                "unclean.leader.election.enable": "false",
            },
        )


def create(settings: KafkaSettings) -> list[str]:
    """Create what is missing and set what can be set on what is there; return a line for each change.

    `TopicsError` for what cannot be changed in place. Safe to run at any time, by several at once.
    """
    admin = _admin(settings)
    declared = Topics(settings).declared()
    there = _described(admin, declared)
    missing = [topic for topic in declared if topic.name not in there]
    done = [f"topic {topic.name}: created, {topic.partitions} partitions" for topic in missing]
    for topic in missing:
        _create(admin, topic)
    _wait_for(admin, missing)
    for topic in declared:
        if changed := _other_config(admin, topic):
            _configure(admin, topic, changed)
            done += [f"topic {topic.name}: {name}={topic.config[name]}, was {was}" for name, was in changed.items()]
    check(settings)
    return done


def check(settings: KafkaSettings) -> None:
    """`TopicsError` unless every topic is as declared; `KafkaAwayError` when no broker answers."""
    admin = _admin(settings)
    declared = Topics(settings).declared()
    there = _described(admin, declared)
    wrong = []
    for topic in declared:
        if topic.name not in there:
            wrong.append(f"topic {topic.name} does not exist: `brigade topics create` creates it")
            continue
        wrong += _other_shape(topic, there[topic.name])
        wrong += [
            f"topic {topic.name} has {name}={was}, declared is {topic.config[name]}: `brigade topics create` sets it"
            for name, was in _other_config(admin, topic).items()
        ]
    if wrong:
        raise TopicsError("\n".join(wrong))


def topic_id(settings: KafkaSettings, name: str) -> str:
    """What a topic created again under the same name does not share with the old one."""
    return str(_there(settings, name).topic_id)


def partitions(settings: KafkaSettings) -> int:
    """How many partitions `readings.raw` has, whatever the setting says."""
    return len(_there(settings, Topics(settings).raw).partitions)


def _there(settings: KafkaSettings, name: str) -> TopicDescription:
    described = _described(_admin(settings), [name])
    if name not in described:
        raise TopicsError(f"topic {name} does not exist: `brigade topics create` creates it")
    return described[name]


def _admin(settings: KafkaSettings) -> AdminClient:
    # log_level 0: librdkafka writes to stderr twenty times a second while a broker is away
    return AdminClient({**for_librdkafka(settings), "log_level": 0})


def _described(admin: AdminClient, topics: Sequence[Topic | str]) -> dict[str, TopicDescription]:
    names = [topic if isinstance(topic, str) else topic.name for topic in topics]
    answers = admin.describe_topics(TopicCollection(names), request_timeout=_SECONDS)
    found = {name: _result(answers[name], unless=KafkaError.UNKNOWN_TOPIC_OR_PART) for name in names}
    return {name: description for name, description in found.items() if description is not None}


def _other_shape(topic: Topic, there: TopicDescription) -> list[str]:
    wrong = []
    if (partitions := len(there.partitions)) != topic.partitions:
        wrong.append(
            f"topic {topic.name} has {partitions} partitions, BRIGADE_PARTITIONS says {topic.partitions}: set "
            f"BRIGADE_PARTITIONS={partitions}; the number is fixed when the topics are created"
        )
    if (replicas := len(there.partitions[0].replicas)) != topic.replication_factor:
        wrong.append(
            f"topic {topic.name} has {replicas} replicas, BRIGADE_REPLICATION_FACTOR says {topic.replication_factor}: "
            f"set it to {replicas}, or reassign the replicas with kafka-reassign-partitions"
        )
    return wrong


def _other_config(admin: AdminClient, topic: Topic) -> dict[str, str]:
    """The values that are not as declared, as they are now."""
    resource = ConfigResource(ResourceType.TOPIC, topic.name)
    there = _result(admin.describe_configs([resource], request_timeout=_SECONDS)[resource])
    return {name: there[name].value for name, value in topic.config.items() if there[name].value != value}


def _configure(admin: AdminClient, topic: Topic, names: Iterable[str]) -> None:
    entries = [ConfigEntry(name, topic.config[name], incremental_operation=AlterConfigOpType.SET) for name in names]
    resource = ConfigResource(ResourceType.TOPIC, topic.name, incremental_configs=entries)
    _result(admin.incremental_alter_configs([resource], request_timeout=_SECONDS)[resource])


def _create(admin: AdminClient, topic: Topic) -> None:
    new = NewTopic(topic.name, topic.partitions, topic.replication_factor, config=topic.config)
    answers = admin.create_topics([new], request_timeout=_SECONDS)
    try:
        _result(answers[topic.name], unless=KafkaError.TOPIC_ALREADY_EXISTS)
    except KafkaException as error:
        raise TopicsError(f"Kafka refused to create topic {topic.name}: {error.args[0].str()}") from error


def _wait_for(admin: AdminClient, topics: Sequence[Topic]) -> None:
    """Kafka answers before every broker knows the topic."""
    deadline = time.monotonic() + _SECONDS
    while topics and len(_described(admin, topics)) < len(topics):
        if time.monotonic() > deadline:
            raise KafkaAwayError(f"Kafka accepted the topics but does not show them after {_SECONDS:.0f} s: try again")
        time.sleep(0.1)


def _result(future: Future[Any], *, unless: int | None = None) -> Any:
    """What Kafka answered; None for the one error that is fine."""
    try:
        return future.result()
    except KafkaException as error:
        code = error.args[0].code()
        if code == unless:
            return None
        if code in _AWAY:
            raise KafkaAwayError("Kafka does not answer: is it running at BRIGADE_KAFKA_BOOTSTRAP_SERVERS?") from error
        raise


app = typer.Typer(no_args_is_help=True)


@app.command("create")
def create_command() -> None:
    """Create the topics that are missing, set what differs; safe to run again."""
    for line in _told(create) or ["all topics are as declared"]:
        print(line)


@app.command("check")
def check_command() -> None:
    """Say whether the topics are as declared, and what to do where they are not."""
    _told(check)
    print("all topics are as declared")


def _told(work: Callable[[KafkaSettings], T]) -> T:
    try:
        return work(load(KafkaSettings))
    except (TopicsError, KafkaAwayError) as error:
        sys.exit(f"brigade: {error}")

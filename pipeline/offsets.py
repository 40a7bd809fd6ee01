"""`brigade offsets`: where the database stands in each partition, and the way out when that is wrong."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Final, TypeVar

import psycopg
import typer
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from pipeline import topics
from pipeline.kafka import for_librdkafka
from pipeline.settings import WorkerSettings, load
from pipeline.sites import show as show_columns

T = TypeVar("T")
SECONDS: Final = 10.0
EARLIEST: Final = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
LATEST: Final = OffsetSpec.latest()  # type: ignore[no-untyped-call]

STORED: Final = """
SELECT partition, topic_id, next_offset FROM ingest_offsets WHERE consumer_group = %s AND topic = %s"""

RESET: Final = """
INSERT INTO ingest_offsets AS o (consumer_group, topic, partition, topic_id, next_offset)
VALUES (%(group)s, %(topic)s, %(partition)s, %(topic_id)s, %(next_offset)s)
ON CONFLICT (consumer_group, topic, partition)
DO UPDATE SET topic_id = excluded.topic_id, next_offset = excluded.next_offset"""

app = typer.Typer(no_args_is_help=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One partition, by the table and by Kafka."""

    partition: int
    stored: int | None
    committed: int | None
    beginning: int
    end: int
    recreated: bool

    @property
    def wrong(self) -> str:
        if self.recreated:
            return "the topic was created again: `brigade offsets reset`"
        if self.stored is not None and self.stored > self.end:
            return "the table is ahead of the end: Kafka lost data, or the topic is another: `brigade offsets reset`"
        return ""

    @property
    def told(self) -> str:
        if self.wrong:
            return self.wrong
        if self.stored is None:
            return "nothing stored yet"
        if self.stored < self.beginning:
            return f"{self.beginning - self.stored} records were dropped by retention before they were read"
        if self.committed is not None and self.committed > self.stored:
            return "Kafka is ahead of the table: the worker goes back by itself"
        behind = self.end - self.stored
        return f"{behind} records to go" if behind else "up to date"


class Offsets:
    """What the command asks of Kafka, for the settings' topic and group."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.group = settings.consumer_group
        self.topic = topics.Topics(settings).raw
        self.topic_id = topics.topic_id(settings, self.topic)
        self._partitions = range(topics.partitions(settings))
        self._admin = AdminClient({**for_librdkafka(settings), "log_level": 0})

    def standings(self, database: psycopg.Connection) -> list[Standing]:
        stored = {p: (topic_id, offset) for p, topic_id, offset in database.execute(STORED, (self.group, self.topic))}
        committed = self._committed()
        beginning, end = self._ends(EARLIEST), self._ends(LATEST)
        return [
            Standing(
                partition=p,
                stored=stored[p][1] if p in stored else None,
                committed=committed.get(p),
                beginning=beginning[p],
                end=end[p],
                recreated=p in stored and stored[p][0] != self.topic_id,
            )
            for p in self._partitions
        ]

    def members(self) -> int:
        """Workers of the group that Kafka knows."""
        answers = self._admin.describe_consumer_groups([self.group], request_timeout=SECONDS)
        return len(answers[self.group].result().members)

    def commit(self, offsets: dict[int, int]) -> None:
        places = [TopicPartition(self.topic, p, offset) for p, offset in offsets.items()]
        request = [ConsumerGroupTopicPartitions(self.group, places)]
        self._admin.alter_consumer_group_offsets(request, request_timeout=SECONDS)[self.group].result()

    def _committed(self) -> dict[int, int]:
        request = [ConsumerGroupTopicPartitions(self.group)]
        answer = self._admin.list_consumer_group_offsets(request, request_timeout=SECONDS)[self.group].result()
        return {at.partition: at.offset for at in answer.topic_partitions if at.topic == self.topic and at.offset >= 0}

    def _ends(self, spec: OffsetSpec) -> dict[int, int]:
        asked = {TopicPartition(self.topic, p): spec for p in self._partitions}
        answers = self._admin.list_offsets(asked, request_timeout=SECONDS)
        return {place.partition: future.result().offset for place, future in answers.items()}


@app.command("show")
def show(*, as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False) -> None:
    """Each partition by the table and by Kafka; exit code 1 if a worker could not go on from there."""
    settings = load(WorkerSettings)
    offsets = _asked(lambda: Offsets(settings))
    with _connect(settings) as database:
        standings = _asked(lambda: offsets.standings(database))
    if as_json:
        for at in standings:
            print(json.dumps({**asdict(at), "told": at.told}))
    else:
        header = ("partition", "table", "Kafka committed", "beginning", "end", "")
        rows = [(at.partition, _or(at.stored), _or(at.committed), at.beginning, at.end, at.told) for at in standings]
        show_columns(header, rows)
    sys.exit(1 if any(at.wrong for at in standings) else 0)


@app.command("reset")
def reset(
    *,
    to: Annotated[str, typer.Option(help="earliest, latest, or an offset with --partition.")],
    partition: Annotated[int | None, typer.Option(min=0, help="Only this one; otherwise all.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Go on elsewhere in the topic as it is now, for one that was created again. Stop the workers first."""
    if to not in {"earliest", "latest"} and not (to.isdecimal() and partition is not None):
        raise typer.BadParameter("--to is earliest, latest, or with --partition an offset")
    settings = load(WorkerSettings)
    offsets = _asked(lambda: Offsets(settings))
    _refuse_while_workers_run(offsets)
    with _connect(settings) as database:
        chosen = [at for at in _asked(lambda: offsets.standings(database)) if partition in {None, at.partition}]
        if not chosen:
            raise typer.BadParameter(f"there is no partition {partition}")
        targets = {at.partition: _target(at, to) for at in chosen}
        for at in chosen:
            target = targets[at.partition]
            print(f"partition {at.partition}: {_or(at.stored)} → {target}; {_consequence(at, target)}")
        if not yes:
            typer.confirm("Reset?", abort=True)
        _refuse_while_workers_run(offsets)
        with database.transaction():
            for p, next_offset in targets.items():
                database.execute(RESET, {"group": offsets.group, "topic": offsets.topic, "partition": p,
                                         "topic_id": offsets.topic_id, "next_offset": next_offset})  # fmt: skip
    _commit_too(offsets, targets)
    print("done: start the workers")


def _refuse_while_workers_run(offsets: Offsets) -> None:
    if members := _asked(offsets.members):
        sys.exit(f"brigade: the group {offsets.group} has {members} active workers: stop them first")


def _target(at: Standing, to: str) -> int:
    if to == "earliest":
        return at.beginning
    if to == "latest":
        return at.end
    if not at.beginning <= int(to) <= at.end:
        raise typer.BadParameter(f"partition {at.partition} has offsets {at.beginning} to {at.end}")
    return int(to)


def _consequence(at: Standing, target: int) -> str:
    if at.stored is None or at.recreated or at.stored > at.end:
        skipped = target - at.beginning
        what = f"the first {skipped} records of the topic are never stored" if skipped else "all of the topic is read"
        return f"{what}; what is stored already is found by its key and counted as duplicate"
    if target > at.stored:
        return f"{target - max(at.stored, at.beginning)} records are never stored"
    if target < at.stored:
        return f"{at.stored - target} records are read again: counted as duplicates, their refusals as new dead letters"
    return "nothing changes"


def _commit_too(offsets: Offsets, targets: dict[int, int]) -> None:
    """The table is the truth; Kafka's own offsets follow, so that nothing is read only to be skipped."""
    try:
        offsets.commit(targets)
    except KafkaException as error:
        print(f"Kafka's committed offsets stay as they were ({error.args[0].str()}); the table's count")


def _connect(settings: WorkerSettings) -> psycopg.Connection:
    url = settings.database_url.get_secret_value()
    return psycopg.connect(url, autocommit=True, application_name="brigade", options="-c lock_timeout=5000")


def _asked(question: Callable[[], T]) -> T:
    """What Kafka answers; an error is one line."""
    try:
        return question()
    except (topics.TopicsError, topics.KafkaAwayError) as error:
        sys.exit(f"brigade: {error}")
    except KafkaException as error:
        sys.exit(f"brigade: Kafka: {error.args[0].str()}")


def _or(offset: int | None) -> str:
    return "-" if offset is None else str(offset)

"""Workers as they run: killed, frozen, restored under, hung; whatever happens, everything is stored once."""

import asyncio
import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit, urlunsplit

import httpx
import psycopg
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from faust.types import TP
from psycopg import sql

from deploy.local.stack import Stack
from pipeline import agents, packs
from pipeline.agents import App, Calm, create_app
from pipeline.packs import Message
from pipeline.settings import WorkerSettings
from pipeline.topics import Topics
from tests.conftest import disconnect, drop, execute
from tests.pipeline.bad_input import PAYLOADS, STATUSES, TOPICS
from tests.pipeline.deleted_topics import make_again
from tests.pipeline.sinks import tables
from tests.pipeline.workers import REPOSITORY, RUN, Kitchen, Worker, eventually, free_port, locked, sessions

SETTINGS = {
    "BRIGADE_SESSION_TIMEOUT_SECONDS": "6",
    "BRIGADE_LOCK_TIMEOUT_SECONDS": "1",
    "BRIGADE_STATEMENT_TIMEOUT_SECONDS": "3",
    "BRIGADE_WORKER_PACKS": "20",
    "BRIGADE_LOG_LEVEL": "INFO",
}
"""Shorter waits than a real installation has; 6 s is the shortest session that Kafka lets anyone have."""


@pytest.fixture(scope="session")
def ingest(postgres: str) -> Iterator[str]:
    """A login with a worker's rights and no more: name and password."""
    name = f"test_ingest_{secrets.token_hex(4)}"
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'secret'").format(sql.Identifier(name)))
    yield name
    execute(postgres, "DROP ROLE {}", name)


@pytest.fixture
def kitchen(
    database: str, topics: Topics, ingest: str, unique: str, postgres: str, tmp_path: Path
) -> Iterator[Kitchen]:
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute(sql.SQL("GRANT brigade_ingest TO {}").format(sql.Identifier(ingest)))
    parts = urlsplit(database)
    url = urlunsplit(parts._replace(netloc=f"{ingest}:secret@{parts.hostname}:{parts.port}"))
    settings = {
        **SETTINGS,
        "BRIGADE_DATABASE_URL": url,
        "BRIGADE_KAFKA_BOOTSTRAP_SERVERS": topics.settings.kafka_bootstrap_servers,
        "BRIGADE_TOPIC_PREFIX": topics.settings.topic_prefix,
        "BRIGADE_PARTITIONS": str(topics.settings.partitions),
        "BRIGADE_CONSUMER_GROUP": f"group-{unique}",
    }
    with tables(database) as there, Kitchen(topics, database, there, tmp_path, settings) as kitchen:
        yield kitchen
    AdminClient({"bootstrap.servers": topics.settings.kafka_bootstrap_servers, "log_level": 0}).delete_consumer_groups(
        [f"group-{unique}"]
    )


@pytest.fixture
def stack() -> Stack:
    """The running instance whose servers may be ended."""
    if "BRIGADE_TEST_INSTANCE" not in os.environ:
        pytest.skip("BRIGADE_TEST_INSTANCE is not set: scripts/test does")
    return Stack.attach(os.environ["BRIGADE_TEST_INSTANCE"])


# One worker -----------------------------------------------------------------------------------------------------


def test_what_is_fed_is_stored_and_told(kitchen: Kitchen) -> None:
    worker = kitchen.worker()
    kitchen.feed(20)
    kitchen.check_once()
    kitchen.feed(5)
    kitchen.check_once()
    for path in ("healthz", "readyz"):
        assert read(worker, path).strip() == "ok"
    metrics = read(worker, "metrics")
    assert f"pipeline_sink_rows_written_total {kitchen.count * 2:.1f}" in metrics
    assert "pipeline_worker_partitions_assigned 3.0" in metrics
    assert worker.end() == 0
    _, _, lines = worker.log().partition("{")  # after Faust's banner
    assert all(json.loads(line) for line in f"{{{lines}".splitlines()), "a line of JSON each"


def read(worker: Worker, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}/{path}", timeout=30) as answer:
        return answer.read().decode()


def test_sigterm_ends_soon_and_the_open_batch_is_read_again(kitchen: Kitchen) -> None:
    worker = kitchen.worker()
    kitchen.feed()
    kitchen.check_once()
    with locked(kitchen.url, "ledger_pending"):
        kitchen.feed(3)
        eventually(lambda: sessions(kitchen.tables, "%ledger_pending%"))
        began = time.monotonic()
        assert worker.end() == 0
        assert time.monotonic() - began < 10
    kitchen.worker()
    kitchen.check_once()


def test_a_fresh_group_begins_at_the_beginning(kitchen: Kitchen) -> None:
    kitchen.feed(3)
    worker = kitchen.worker()
    kitchen.check_once()
    assert not worker.events("records_gone")


# Bad input: the table of tests/pipeline/bad_input.py, through Kafka --------------------------------------------------


def test_bad_input_between_good_is_a_dead_letter_each_and_stops_nobody(kitchen: Kitchen) -> None:
    worker = kitchen.worker()
    kitchen.feed()
    expected = []
    for bad in (*PAYLOADS, *TOPICS, *STATUSES):
        ts = str(kitchen.next_us() // 1_000_000).encode()
        kitchen.messages([Message(bad.topic, kitchen.next_us(), bad.payload.replace(b"%TS%", ts))])
        kitchen.feed(devices=3, each=1)
        expected.append(str(bad.reason))
    records = [None, b"", b"\xc1", b'{"a":1}', b"\x91" * 100_000, packs.encode([("t", 2**62, b"")])]
    for record in records:
        kitchen.put(0, record)
        kitchen.feed(devices=3, each=1)
    expected += ["undecodable_record"] * len(records)
    kitchen.check_stored_once()
    eventually(lambda: len(kitchen.tables.reasons()) >= len(expected))
    assert Counter(kitchen.tables.reasons()) == Counter(expected)
    assert worker.running
    assert not worker.events("worker_ends")
    eventually(lambda: not kitchen.tables.documents())  # the outbox is published


def test_poison_is_a_dead_letter_and_stops_nobody(kitchen: Kitchen) -> None:
    kitchen.tables.do("ALTER TABLE readings ADD CONSTRAINT no_thirteen CHECK (value <> 13)")
    worker = kitchen.worker()
    kitchen.feed(3, devices=3)
    poison = Message("brigade/v1/seoul-1/fridge-0/readings", kitchen.next_us(), b'{"a":13,"b":1}')
    good = [Message(f"brigade/v1/seoul-1/fridge-{n}/readings", kitchen.next_us(), b'{"a":1,"b":1}') for n in range(9)]
    for message in good:
        kitchen.sent[message.topic.split("/")[3]].add(message.received_us)
    kitchen.messages([*good[:5], poison, *good[5:]])
    kitchen.feed(3, devices=3)
    kitchen.check_stored_once()
    assert [(x.reason, x.device) for x in kitchen.tables.letters()] == [("database_refused", "fridge-0")]
    assert worker.running


# Two workers, and one dies ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP], ids=lambda number: number.name)
def test_one_of_two_workers_goes_and_everything_is_stored_once(kitchen: Kitchen, number: signal.Signals) -> None:
    """SIGSTOP: for 15 s, longer than Kafka waits for it; then it goes on and believes that nothing happened."""
    victim, other = kitchen.worker(), kitchen.worker()
    with kitchen.feeding(devices=6):
        eventually(lambda: all(assigned(worker) for worker in (victim, other)))
        kitchen.wait_stored(kitchen.count)
        victim.send(number)
        if number == signal.SIGSTOP:
            time.sleep(15)
            victim.send(signal.SIGCONT)
        else:
            victim.ended()
        kitchen.wait_stored(kitchen.count)
    kitchen.check_once()
    assert other.running
    if number == signal.SIGSTOP:
        assert victim.running
        eventually(lambda: assigned(victim))
        with kitchen.feeding(devices=6):
            kitchen.wait_stored(kitchen.count + 100)
        kitchen.check_once()


def assigned(worker: Worker) -> bool:
    """Whether it owns partitions, and says so."""
    try:
        return "pipeline_worker_partitions_assigned 0" not in (told := read(worker, "metrics")) and "_assigned" in told
    except OSError:
        return False


@pytest.mark.slow
def test_workers_join_and_leave_and_nobody_crashes(kitchen: Kitchen) -> None:
    first = kitchen.worker()
    with kitchen.feeding(devices=6):
        kitchen.wait_stored(100)
        for _ in range(3):
            second = kitchen.worker()
            eventually(lambda worker=second: assigned(worker))
            kitchen.wait_stored(kitchen.count)
            assert second.end() == 0
            kitchen.wait_stored(kitchen.count)
    kitchen.check_once()
    assert first.running


@pytest.mark.slow
def test_a_worker_frozen_inside_copy_gives_way_and_writes_nothing_twice_when_it_thaws(kitchen: Kitchen) -> None:
    """Its session holds the partition's offset, and none of PostgreSQL's timeouts ends it there."""
    frozen = kitchen.worker()
    kitchen.feed()
    kitchen.check_once()
    with locked(kitchen.url, "readings", "SHARE"):
        kitchen.feed(5)
        eventually(lambda: [wait for _, wait in sessions(kitchen.tables, "COPY%") if wait == "Lock"])
        frozen.send(signal.SIGSTOP)
    began = time.monotonic()
    ((pid, _),) = eventually(lambda: [s for s in sessions(kitchen.tables, "COPY%") if s[1] == "Client"])
    owner = kitchen.worker()
    kitchen.feed(2)
    kitchen.check_once()
    assert [event["backend_pid"] for event in owner.events("frozen_worker_ended")] == [pid]
    time.sleep(max(0, began + 20 - time.monotonic()))
    frozen.send(signal.SIGCONT)
    with kitchen.feeding(devices=6):
        eventually(lambda: assigned(frozen))
        kitchen.wait_stored(kitchen.count + 50)
    kitchen.check_once()
    assert frozen.running
    assert owner.running


# Databases that are not what they were -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_restored_database_gets_what_it_misses_from_kafka(kitchen: Kitchen, postgres: str) -> None:
    worker = kitchen.worker()
    kitchen.feed(3)
    kitchen.check_once()
    assert worker.end() == 0
    name, backup = kitchen.tables.connection.info.dbname, f"test_backup_{secrets.token_hex(4)}"
    kitchen.tables.connection.close()
    disconnect(postgres, name)
    copy_database(postgres, name, backup)
    try:
        later = kitchen.worker()
        with reconnected(kitchen):
            kitchen.feed(5)
            kitchen.check_once()
        assert later.end() == 0
        disconnect(postgres, name)
        drop(postgres, name)
        copy_database(postgres, backup, name)
        back = kitchen.worker()
        with reconnected(kitchen):
            kitchen.check_once()
            assert {event["to"] for event in back.events("sought_back")} == {3}
            kitchen.feed()
            kitchen.check_once()
    finally:
        drop(postgres, backup)


def copy_database(postgres: str, name: str, copy: str) -> None:
    """TimescaleDB's own worker connects whenever it likes."""
    deadline = time.monotonic() + 30
    while True:
        disconnect(postgres, name)
        try:
            return execute(postgres, "CREATE DATABASE {} TEMPLATE {}", copy, name)
        except psycopg.errors.ObjectInUse:
            assert time.monotonic() < deadline


class reconnected:  # noqa: N801, reads as a phrase
    def __init__(self, kitchen: Kitchen) -> None:
        self._kitchen = kitchen

    def __enter__(self) -> None:
        self._tables = tables(self._kitchen.url)
        self._kitchen.tables = self._tables.__enter__()

    def __exit__(self, *error: object) -> None:
        self._tables.__exit__(*error)


@pytest.mark.slow
def test_a_database_wiped_under_a_running_worker_gets_everything_again(
    kitchen: Kitchen, postgres: str, migrated: str
) -> None:
    """The worker notices, ends, and whoever supervises it starts it again; then Kafka's offset is not believed."""
    worker = kitchen.worker()
    kitchen.feed(4)
    kitchen.check_once()
    name = kitchen.tables.connection.info.dbname
    kitchen.tables.connection.close()
    drop(postgres, name)
    execute(postgres, "CREATE DATABASE {} TEMPLATE {}", name, migrated)
    with psycopg.connect(kitchen.url, autocommit=True) as admin:
        role = urlsplit(kitchen.settings["BRIGADE_DATABASE_URL"]).username
        admin.execute(sql.SQL("GRANT brigade_ingest TO {}").format(sql.Identifier(role)))
    with reconnected(kitchen):
        kitchen.feed()
        assert worker.ended() not in (0, 3)
        assert "offset 0 comes next" in worker.log()
        kitchen.worker()
        kitchen.check_once()


def test_rows_deleted_under_a_running_worker_are_noticed(kitchen: Kitchen) -> None:
    """Somebody restored the tables in place: the offsets stand lower than the worker remembers."""
    worker = kitchen.worker()
    kitchen.feed(4)
    kitchen.check_once()
    kitchen.tables.do("UPDATE ingest_offsets SET next_offset = 2")
    late = kitchen.tables.all("SELECT partition, next_offset FROM ingest_offsets")
    assert late
    kitchen.feed()
    assert worker.ended() not in (0, 3)
    kitchen.worker()
    kitchen.wait_stored()
    eventually(lambda: set(kitchen.tables.offsets().values()) == {5})
    assert kitchen.tables.one("SELECT count(*) FROM readings") == kitchen.count * 2
    kitchen.tables.check_sums()


# Topics that are not what they were ----------------------------------------------------------------------------------


@pytest.mark.parametrize("records", [0, 10], ids=["empty", "with more records than before"])
def test_a_topic_made_again_ends_the_worker_with_what_to_do(kitchen: Kitchen, records: int) -> None:
    worker = kitchen.worker()
    kitchen.feed(4)
    kitchen.check_once()
    assert worker.end() == 0
    make_again(kitchen.topics.settings, kitchen.topics.raw)
    kitchen.feed(records)
    again = kitchen.worker()
    assert again.ended() == 4
    (event,) = again.events("worker_ends")
    assert "brigade offsets" in event["why"]
    assert kitchen.topics.raw in event["why"]


@pytest.mark.slow
def test_a_topic_away_for_a_while_ends_the_worker_when_it_is_made_again(kitchen: Kitchen) -> None:
    worker = kitchen.worker()
    kitchen.feed(4)
    kitchen.check_once()
    seen = lambda: eventually(lambda: "not found in cluster metadata" in worker.log())  # noqa: E731
    make_again(kitchen.topics.settings, kitchen.topics.raw, seen)
    assert worker.ended() == 4
    assert "brigade offsets" in worker.events("worker_ends")[0]["why"]


def test_a_topic_made_again_under_a_running_worker_ends_it(kitchen: Kitchen) -> None:
    worker = kitchen.worker()
    kitchen.feed(4)
    kitchen.check_once()
    make_again(kitchen.topics.settings, kitchen.topics.raw)
    kitchen.feed()
    assert worker.ended() == 4
    assert "brigade offsets" in worker.events("worker_ends")[0]["why"]


def test_missing_topics_are_told_at_start(kitchen: Kitchen) -> None:
    worker = kitchen.worker(topic_prefix=f"{kitchen.topics.settings.topic_prefix}none-")
    assert worker.ended() == 4
    assert "brigade topics create" in worker.events("worker_ends")[0]["why"]


def test_records_that_retention_dropped_are_counted_and_gone_on_from(kitchen: Kitchen) -> None:
    worker = kitchen.worker()
    kitchen.feed(2)
    kitchen.check_once()
    assert worker.end() == 0
    stored = {device: set(times) for device, times in kitchen.sent.items()}
    kitchen.feed(3)
    settings = kitchen.topics.settings
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers, "log_level": 0})
    dropped = [TopicPartition(kitchen.topics.raw, p, 5) for p in range(settings.partitions)]
    for future in admin.delete_records(dropped).values():
        future.result()
    kitchen.sent.clear()
    kitchen.sent.update(stored)
    kitchen.feed(2)
    back = kitchen.worker()
    kitchen.check_once()
    assert [(event["first"], event["count"]) for event in back.events("records_gone")] == [(2, 3)] * 3
    eventually(lambda: "pipeline_sink_offsets_skipped_total 9.0" in read(back, "metrics"))


# Workers that hang ---------------------------------------------------------------------------------------------------

HANG = """
import asyncio, time
from pipeline.sink import Sink
async def write(self, packs):
    {how}
Sink.write = write
"""


@pytest.mark.parametrize("how", ["await asyncio.sleep(1e6)", "time.sleep(1e6)"], ids=["agent", "event loop"])
def test_a_hung_worker_ends_by_itself(kitchen: Kitchen, how: str) -> None:
    worker = kitchen.worker(HANG.format(how=how), stuck_seconds=5)
    kitchen.feed()
    assert worker.ended() == 3
    assert "no progress" in worker.log()
    kitchen.worker()
    kitchen.check_once()


@pytest.mark.slow
def test_a_worker_with_nothing_to_do_does_not_end(kitchen: Kitchen) -> None:
    worker = kitchen.worker(stuck_seconds=10)
    kitchen.feed()
    kitchen.check_once()
    time.sleep(14)
    assert worker.running
    kitchen.feed()
    kitchen.check_once()


SLOW_SEEK = """
import asyncio
from pipeline.agents import App
async def _seek(self, *_):
    await asyncio.sleep(1e6)
App._seek = _seek
"""

INTERRUPTED_SEEK = """
from aiokafka.errors import IllegalStateError
from pipeline.agents import App
seek = App._seek
async def _seek(self, *arguments):
    App._seek = seek
    raise IllegalStateError("No current assignment for partition")
App._seek = _seek
"""

FAILING_SEEK = SLOW_SEEK.replace("await asyncio.sleep(1e6)", "raise RuntimeError('no')")


@pytest.mark.parametrize("patch", [SLOW_SEEK, FAILING_SEEK], ids=["slow", "failing"])
def test_a_seek_that_does_not_end_ends_the_worker(kitchen: Kitchen, patch: str) -> None:
    """Faust would stay in the group, consuming nothing, for ever."""
    worker = kitchen.worker(patch, seek_seconds=1)
    assert worker.ended() == 5
    assert "seek" in worker.events("worker_ends")[0]["why"]


def test_a_seek_that_a_rebalance_interrupts_is_tried_again(kitchen: Kitchen) -> None:
    kitchen.worker(INTERRUPTED_SEEK)
    kitchen.feed()
    kitchen.check_once()


class Losing:
    """A consumer that has partitions so often when it is asked, and then none any more."""

    def __init__(self, often: int) -> None:
        self.often = often

    def assignment(self) -> set[TP]:
        self.often -= 1
        return {TP("readings.raw", 0)} if self.often >= 0 else set()


@pytest.mark.parametrize("often", [0, 1], ids=["before it begins", "at that moment"])
async def test_a_seek_ends_when_a_rebalance_takes_the_last_partition(often: int) -> None:
    """Faust seeks once more, in vain, when what it fetched comes after the rebalance."""
    consumer = Losing(often)

    async def to_committed() -> None:
        raise AssertionError("No partitions are currently assigned")

    await create_app(WorkerSettings())._seek_patiently(consumer, to_committed)
    assert consumer.often < 0
    with pytest.raises(AssertionError):
        await create_app(WorkerSettings())._seek_patiently(Losing(2), to_committed)


@pytest.mark.parametrize("table", ["readings_1m", "outbox", "ledger_refusals"])
def test_a_bug_beside_the_writing_ends_the_worker(kitchen: Kitchen, table: str) -> None:
    """Closing, publishing and writing: none of them may be missing unnoticed."""
    worker = kitchen.worker(close_after_seconds=0.1)
    kitchen.feed()
    kitchen.check_once()
    kitchen.tables.do(f"ALTER TABLE {table} RENAME TO elsewhere")
    minute_ago = kitchen.next_us() - 90_000_000
    kitchen.messages([Message("brigade/v1/seoul-1/fridge-1/readings", minute_ago, b'{"a":1}')])
    kitchen.messages([Message("brigade/v1/seoul-1/fridge-1/readings", minute_ago + 8, b"nonsense")])
    assert worker.ended() not in (0, 3)
    kitchen.tables.do(f"ALTER TABLE elsewhere RENAME TO {table}")


# Outages -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.faults
def test_postgresql_is_away_for_ten_seconds(kitchen: Kitchen, stack: Stack) -> None:
    workers = [kitchen.worker(), kitchen.worker()]
    with kitchen.feeding(devices=6):
        eventually(lambda: all(assigned(worker) for worker in workers))
        kitchen.tables.connection.close()
        stack.stop("postgres")
        try:
            time.sleep(10)
            kitchen.check_running()
        finally:
            stack.start("postgres")
        began = time.monotonic()
        with reconnected(kitchen):
            kitchen.wait_stored(kitchen.count)
            assert time.monotonic() - began < 20
    with reconnected(kitchen):
        kitchen.check_once()
    assert all(worker.running for worker in workers)
    for worker in workers:
        assert {event["part"] for event in worker.events("database_away")} >= {"sink"}
        assert len(worker.events("database_away")) < 20


@pytest.mark.slow
@pytest.mark.faults
def test_kafka_is_away_for_fifteen_seconds(kitchen: Kitchen, stack: Stack) -> None:
    workers = [kitchen.worker(stuck_seconds=10), kitchen.worker(stuck_seconds=10)]
    kitchen.feed(10)
    kitchen.check_once()
    eventually(lambda: all(assigned(worker) for worker in workers))
    stack.stop("kafka")
    try:
        lines = [len(worker.log().splitlines()) for worker in workers]
        time.sleep(15)
        kitchen.check_running()
        assert all(len(w.log().splitlines()) < before + 300 for w, before in zip(workers, lines, strict=True))
    finally:
        stack.start("kafka")
    kitchen.feed(10)
    kitchen.check_once()
    kitchen.check_running()


@pytest.mark.parametrize("away", [True, False], ids=["away", "answers"])
async def test_a_rebalance_may_last_as_long_as_kafka_is_away_and_no_longer(stack: Stack, *, away: bool) -> None:
    servers = f"127.0.0.1:{free_port() if away else stack.ports['kafka']}"
    app = create_app(WorkerSettings(kafka_bootstrap_servers=servers))
    app.rebalancing = True
    app.progress._touched -= 1000
    await app.touch_when_idle()
    assert app.progress.fresh is away


async def test_a_rebalance_that_cancels_a_question_does_not_end_the_health_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It ended with the task, and a pod was restarted for each rebalance that came while Kafka was being asked."""
    port = free_port()
    app = create_app(WorkerSettings(worker_port=port))
    cancelled = asyncio.Event()

    async def question(_app: App) -> bool:
        cancelled.set()
        raise asyncio.CancelledError

    monkeypatch.setattr(App, "_idle", question)
    telling = asyncio.create_task(app.tell())
    await asyncio.wait_for(cancelled.wait(), 20)
    await asyncio.sleep(0)
    assert not telling.done()
    answer = await asyncio.to_thread(httpx.get, f"http://127.0.0.1:{port}/healthz", trust_env=False)
    assert answer.status_code == 200
    telling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await telling


# Settings ------------------------------------------------------------------------------------------------------------


def test_fausts_settings_are_the_ones_that_lose_nothing() -> None:
    """App ignores settings it does not know, silently."""
    conf = create_app(WorkerSettings(consumer_group="a-group", kafka_bootstrap_servers="a:1,b:2")).conf
    assert conf.id == "a-group"
    assert [str(url) for url in conf.broker] == ["kafka://a:1", "kafka://b:2"]
    assert conf.web_enabled is False
    assert (conf.table_standby_replicas, conf.topic_disable_leader, conf.topic_allow_declare) == (0, True, False)
    waits = (conf.broker_session_timeout, conf.broker_heartbeat_interval, conf.broker_rebalance_timeout)
    assert waits == (10, 2, 15)
    assert (conf.broker_commit_interval, conf.broker_request_timeout) == (1, 90)
    assert conf.agent_supervisor.__name__ == "CrashingSupervisor"
    assert conf.stream_wait_empty is False
    assert conf.processing_guarantee.value == "at_least_once"
    assert conf.consumer_auto_offset_reset == "earliest"
    assert conf.consumer_metadata_max_age_ms == 10_000


def test_the_agent_is_one_and_reads_bytes() -> None:
    app = create_app(WorkerSettings())
    (store,) = app.agents.values()
    assert store.concurrency == 1
    assert store.channel.value_serializer == "raw"
    assert store.channel.topics == ("readings.raw",)


def test_the_waits_are_these() -> None:
    """Tests shorten them; a real installation has these unless it says otherwise."""
    settings = WorkerSettings()
    assert settings.session_timeout_seconds == 10
    assert (settings.stuck_seconds, settings.seek_seconds) == (120, 60)
    assert settings.seek_seconds < create_app(settings).conf.broker_request_timeout
    timeouts = (settings.statement_timeout_seconds, settings.lock_timeout_seconds, settings.idle_in_transaction_seconds)
    assert timeouts == (5, 3, 10)
    assert (settings.worker_packs, settings.worker_linger_seconds, settings.close_after_seconds) == (200, 0.01, 5)
    assert (settings.future_limit_seconds, settings.past_limit_days) == (300, 30)


def test_settings_that_contradict_each_other_are_refused_at_start() -> None:
    """tests/pipeline/test_settings.py has all of them; this is the process."""
    environment = {**os.environ, "BRIGADE_PAST_LIMIT_DAYS": "30", "BRIGADE_RAW_RETENTION_DAYS": "31"}
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "BRIGADE_PAST_LIMIT_DAYS must be less than BRIGADE_RAW_RETENTION_DAYS" in done.stderr
    assert "Traceback" not in done.stderr


def test_importing_the_module_reads_no_settings() -> None:
    environment = {**os.environ, "BRIGADE_WORKER_PACKS": "nonsense"}
    command = [sys.executable, "-c", "import pipeline.agents"]
    subprocess.run(command, cwd=REPOSITORY, env=environment, timeout=60, check=True)


# Calm ----------------------------------------------------------------------------------------------------------------


def record(line: int) -> logging.LogRecord:
    return logging.LogRecord("faust", logging.WARNING, "consumer.py", line, "no broker", None, None)


def test_a_line_that_repeats_is_told_a_few_times() -> None:
    calm = Calm(burst=3, seconds=60)
    assert [calm.filter(record(1)) for _ in range(5)] == [True, True, True, False, False]
    assert calm.filter(record(2)), "another line is another matter"


def test_a_line_is_told_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(agents, "time", SimpleNamespace(monotonic=lambda: now[0]))
    calm = Calm(burst=1, seconds=10)
    assert [calm.filter(record(1)) for _ in range(2)] == [True, False]
    now[0] += 10.5
    assert calm.filter(record(1))

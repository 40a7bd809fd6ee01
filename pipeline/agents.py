"""The Faust app: packs from Kafka to the sink, acknowledged after the commit. The only home of `faust`.

    faust --quiet -A pipeline.agents worker --without-web -l warn

docs/architecture.md tells which of Faust's ways lose data and why this one does not.
"""

import asyncio
import contextlib
import gc
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import faust
import mode.loop
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError
from faust.types import TP, EventT, StreamT
from faust.types.auth import CredentialsT
from prometheus_client import Counter, Gauge

from observability import logs, tracing, web
from pipeline import topics
from pipeline.batches import Pack
from pipeline.closing import Closer
from pipeline.kafka import account, for_aiokafka
from pipeline.ledger import fold
from pipeline.outbox import Outbox
from pipeline.patience import Connection
from pipeline.positions import Positions
from pipeline.progress import Progress
from pipeline.settings import WorkerSettings, load
from pipeline.sink import Sink, TopicRecreatedError

if TYPE_CHECKING:
    from observability.otlp import Traces

ALIVE_SECONDS: Final = 3.0
CLOSE_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 10.0
"""So long Kafka may take to answer before it counts as away; less where the watchdog is quicker."""
GARBAGE: Final = (50_000, 20, 100)
"""A batch makes and drops tens of thousands of objects; fewer searches for cycles save 0.5 µs a message."""
EXIT_RECREATED: Final = 4
EXIT_SEEK: Final = 5

ASSIGNED = Gauge("pipeline_worker_partitions_assigned", "Partitions of readings.raw that are this worker's.")
REBALANCES = Counter("pipeline_worker_rebalances_total", "Assignments received.")
SOUGHT_BACK = Counter("pipeline_worker_seeks_back_total", "Partitions where the table stood behind Kafka's offset.")
log = structlog.get_logger()


class App(faust.App):
    """Faust, with the table's offsets as the truth about where reading goes on."""

    def __init__(self, settings: WorkerSettings, traces: "Traces | None" = None) -> None:
        self.worker_settings = settings
        self.names = topics.Topics(settings)
        self.progress = Progress(settings.stuck_seconds)
        self._answer_seconds = min(ANSWER_SECONDS, settings.stuck_seconds / 5)
        self.positions = Positions()
        self.sink = Sink(
            settings,
            self.positions,
            topic=self.names.raw,
            dead_topic=self.names.dead,
            topic_id=self._topic_id,
            first_record=self._first_record,
            alive=self.progress.touch,
            traces=traces,
        )
        super().__init__(
            settings.consumer_group,
            broker=[f"kafka://{server.strip()}" for server in settings.kafka_bootstrap_servers.split(",")],
            broker_credentials=_credentials(settings),
            web_enabled=False,
            table_standby_replicas=0,
            topic_disable_leader=True,
            topic_allow_declare=False,
            broker_session_timeout=settings.session_timeout_seconds,
            broker_heartbeat_interval=min(2.0, settings.session_timeout_seconds / 4),
            broker_rebalance_timeout=15,
            broker_commit_interval=1.0,
            consumer_metadata_max_age_ms=10_000,  # a topic that was deleted and made again is noticed as soon
            agent_supervisor="mode.CrashingSupervisor",
            stream_wait_empty=False,
            worker_redirect_stdouts=False,
            Worker=Quiet,
        )

    async def on_first_start(self) -> None:
        """Log as the other parts do, wait for Kafka, refuse topics that are not as declared."""
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # Faust's proxies swallow what our handlers write
        logs.configure("worker", self.worker_settings.log_level)
        for handler in logging.getLogger().handlers:
            handler.addFilter(Calm())
        gc.freeze()
        gc.set_threshold(*GARBAGE)
        self.progress.watch()
        await self._wait_for_topics()

    async def _wait_for_topics(self) -> None:
        wait_seconds = 0.2
        while True:
            try:
                return await asyncio.to_thread(topics.check, self.worker_settings)
            except topics.KafkaAwayError as error:
                log.warning("kafka_away", why=str(error))
                self.progress.touch()
                await asyncio.sleep(wait_seconds)
                wait_seconds = min(wait_seconds * 2, 2.0)
            except topics.TopicsError as error:
                await _leave(EXIT_RECREATED, str(error))

    # Where reading goes on ----------------------------------------------------------------------------------

    def _new_consumer(self) -> Any:
        consumer = super()._new_consumer()
        to_committed = consumer.perform_seek

        async def perform_seek() -> None:
            """Bounded: a seek slower than Faust's own limit leaves it in the group, consuming nothing, for ever."""
            try:
                await asyncio.wait_for(self._seek_patiently(consumer, to_committed), self.worker_settings.seek_seconds)
            except TopicRecreatedError as error:
                await _leave(EXIT_RECREATED, str(error))
            except TimeoutError:
                await _leave(EXIT_SEEK, f"seeking took over {self.worker_settings.seek_seconds:g} s; starting again")
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001, whatever it was, going on would mean reading from anywhere
                await _leave(EXIT_SEEK, f"seeking failed: {error!r}; starting again")

        consumer.perform_seek = perform_seek  # type: ignore[method-assign]
        return consumer

    async def _seek_patiently(self, consumer: Any, to_committed: Callable[[], Awaitable[None]]) -> None:
        """A rebalance may take partitions away in the middle; Faust ends this seek when it begins the next one.

        It may take all of them: when the topic is gone, or there are more workers than partitions.
        """
        while consumer.assignment():
            try:
                await self._seek(consumer, to_committed)
            except IllegalStateError:
                await asyncio.sleep(0.1)
            except AssertionError:  # so aiokafka says that none are assigned
                if consumer.assignment():
                    raise
            else:
                return

    async def _seek(self, consumer: Any, to_committed: Callable[[], Awaitable[None]]) -> None:
        """Faust's own seek, then back to the table's offset where Kafka's is ahead; never forward."""
        await to_committed()
        partitions = [tp for tp in consumer.assignment() if tp.topic == self.names.raw]
        begin = await consumer.earliest_offsets(*partitions)
        end = await consumer.highwaters(*partitions)
        next_offsets = await self.sink.next_offsets([tp.partition for tp in partitions])  # may be tried again
        for tp in partitions:
            stored = next_offsets[tp.partition]
            if stored > end[tp]:
                raise TopicRecreatedError(
                    f"partition {tp.partition} of {tp.topic} ends at {end[tp]}, the database has stored up to {stored}:"
                    " the topic was created again, or Kafka lost data. `brigade offsets show` tells more,"
                    " `brigade offsets reset` goes on with the topic as it is."
                )
            committed = consumer._committed_offset.get(tp)  # noqa: SLF001, Faust has no public way to ask
            back = max(stored, begin[tp])
            if committed is None:
                await consumer.seek(tp, back)
            elif committed > back:
                SOUGHT_BACK.inc()
                log.warning("sought_back", partition=tp.partition, kafka=committed, table=stored, to=back)
                await consumer.seek(tp, back)

    async def _topic_id(self) -> str:
        return await asyncio.to_thread(topics.topic_id, self.worker_settings, self.names.raw)

    async def _first_record(self, partition: int, offset: int) -> int:
        async with self._fresh_client() as consumer:
            tp = TopicPartition(self.names.raw, partition)
            consumer.assign([tp])
            consumer.seek(tp, offset)
            record = await asyncio.wait_for(consumer.getone(), 20)
            return int(record.offset)

    @contextlib.asynccontextmanager
    async def _fresh_client(self) -> AsyncIterator[AIOKafkaConsumer]:
        consumer = AIOKafkaConsumer(**for_aiokafka(self.worker_settings), group_id=None, auto_offset_reset="earliest")
        try:
            await asyncio.wait_for(consumer.start(), self._answer_seconds)
            yield consumer
        finally:
            await consumer.stop()

    # Beside the writing --------------------------------------------------------------------------------------

    async def tell(self) -> None:
        """Answer on the health port, and see that having nothing to do counts as progress."""
        settings = self.worker_settings
        port, host = settings.worker_port, settings.web_host
        with web.serve(port, host=host, healthy=lambda: self.healthy, ready=lambda: self.ready):
            while not self.should_stop:
                await self.touch_when_idle()
                await self.sleep(ALIVE_SECONDS)

    async def close_and_fold(self) -> None:
        """Compute what ended: minutes, hours, days; and fold the ledger."""
        async with Connection(self.worker_settings, "closer") as connection:
            closer = Closer(
                connection,
                self.positions,
                group=self.worker_settings.consumer_group,
                topic=self.names.raw,
                aggregates=self.names.aggregates_1m,
                close_after=timedelta(seconds=self.worker_settings.close_after_seconds),
            )
            while not self.should_stop:
                await closer.close_due(datetime.now(UTC))
                await fold(connection)
                await self.sleep(CLOSE_SECONDS)

    async def publish_outbox(self) -> None:
        """Publish what transactions left in the outbox, and the replays people asked for."""
        reached = for_aiokafka(self.worker_settings)
        async with (
            Connection(self.worker_settings, "outbox") as connection,
            Outbox(connection, self.positions, kafka=reached, topic=self.names.raw) as outbox,
        ):
            await outbox.run()

    # Getting on ---------------------------------------------------------------------------------------------

    async def touch_when_idle(self) -> None:
        """Having nothing to do is progress; so is an outage of Kafka, which no restart of ours would end."""
        try:
            rebalance_waits = self.rebalancing and not await self._kafka_answers()
            if rebalance_waits or await self._idle():
                self.progress.touch()
        except TopicRecreatedError as error:
            await _leave(EXIT_RECREATED, str(error))
        except topics.TopicsError as error:
            log.warning("topic_gone", why=str(error))
            self.progress.touch()
        except (KafkaError, OSError, TimeoutError) as error:
            if not await self._kafka_answers():
                log.debug("kafka_away", why=repr(error))
                self.progress.touch()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            log.debug("interrupted")  # a rebalance cancelled the question, nobody us

    async def _idle(self) -> bool:
        if self.rebalancing:
            return False
        partitions = self.consumer.assignment()
        if not partitions:  # more workers than partitions; or the topic went away, and another has come in its place
            await self.sink.check_topic()
        end = await asyncio.wait_for(self.consumer.highwaters(*partitions), self._answer_seconds) if partitions else {}
        known = self.positions.known
        committed = self.consumer._committed_offset  # type: ignore[attr-defined]  # noqa: SLF001, as above
        return all(end[tp] <= max(known.get(tp.partition, 0), committed.get(tp) or 0) for tp in partitions)

    async def _kafka_answers(self) -> bool:
        try:
            async with self._fresh_client():
                return True
        except (KafkaError, OSError, TimeoutError):
            return False

    def current(self, event: EventT[bytes]) -> bool:
        """Whether the event was fetched under this assignment. An older one comes again, and would make a hole now."""
        message = event.message
        return message.generation_id == self.consumer_generation_id and message.tp.partition in self.positions

    @property
    def ready(self) -> bool | str:
        if not self.positions:
            return "no partitions are assigned"
        return True if self.progress.fresh else f"no progress for {self.progress.age_seconds:.0f} s"

    @property
    def healthy(self) -> bool | str:
        return True if self.progress.fresh else f"no progress for {self.progress.age_seconds:.0f} s"


class Quiet(faust.Worker):
    """Without the spinner, which mixes its escapes into the lines of JSON."""

    def __init__(self, *services: Any, **settings: Any) -> None:
        super().__init__(*services, **{**settings, "quiet": True})
        self.spinner = None


class Calm(logging.Filter):
    """At most `burst` lines of one origin in ten seconds: Faust logs 85 lines a second while Kafka is away."""

    def __init__(self, burst: int = 5, seconds: float = 10.0) -> None:
        super().__init__()
        self._burst, self._seconds = burst, seconds
        self._seen: dict[tuple[str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        origin = (record.pathname, record.lineno)
        since, count = self._seen.get(origin, (0.0, 0))
        if time.monotonic() - since > self._seconds:
            since, count = time.monotonic(), 0
        self._seen[origin] = (since, count + 1)
        return count < self._burst


async def _leave(code: int, why: str) -> None:
    """End the process at once: what is not committed is read again."""
    log.error("worker_ends", why=why, code=code)
    sys.stdout.flush()
    os._exit(code)


def create_app(settings: WorkerSettings) -> App:
    """The app with its agents and tasks."""
    mode.loop.use("uvloop")
    app = App(settings, tracing.start("worker"))
    readings = app.topic(app.names.raw, value_serializer="raw", value_type=bytes, key_serializer="raw", key_type=bytes)

    @app.agent(readings, concurrency=1)
    async def store(stream: StreamT[bytes]) -> None:
        """Write packs of messages; a pack is acknowledged only when its rows are committed."""
        stream = stream.noack()  # type: ignore[attr-defined]
        async for events in stream.noack_take(settings.worker_packs, within=settings.worker_linger_seconds):  # type: ignore[attr-defined]
            try:
                await app.sink.write([_pack(event) for event in events if app.current(event)])
            except TopicRecreatedError as error:
                await _leave(EXIT_RECREATED, str(error))
            for event in events:
                if app.current(event):
                    await stream.ack(event)
            app.progress.touch()

    @app.on_partitions_assigned.connect  # type: ignore[arg-type]
    async def assigned(_: Any, assigned: set[TP], **__: Any) -> None:
        app.sink.assign(tp.partition for tp in assigned if tp.topic == app.names.raw)
        ASSIGNED.set(len(app.positions))
        REBALANCES.inc()
        app.progress.touch()

    @app.on_partitions_revoked.connect
    async def revoked(*_: Any, **__: Any) -> None:
        app.sink.assign([])
        ASSIGNED.set(0)

    for task in (app.tell, app.close_and_fold, app.publish_outbox):
        app.task(task)
    return app


def _credentials(settings: WorkerSettings) -> CredentialsT | None:
    """How Faust's own clients show who they are; None: Kafka asks nobody."""
    told = for_aiokafka(settings)
    if settings.kafka_by_account:
        user, password = account(settings)
        context, mechanism = told.get("ssl_context"), settings.kafka_sasl_mechanism
        return faust.SASLCredentials(username=user, password=password, ssl_context=context, mechanism=mechanism)
    return faust.SSLCredentials(told["ssl_context"]) if settings.kafka_by_tls else None


def _pack(event: EventT[bytes]) -> Pack:
    message = event.message
    return Pack(message.tp.partition, message.offset, message.value, int(message.timestamp * 1_000_000))


def __getattr__(name: str) -> App:
    """`pipeline.agents.app`, made when Faust asks for it: importing this module reads no settings."""
    if name != "app":
        raise AttributeError(name)
    app = globals()["app"] = create_app(load(WorkerSettings))
    return app

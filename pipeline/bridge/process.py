"""The forwarder between two servers that come and go; what ends it, and how."""

import asyncio
import gc
import random
import signal
import time
from collections.abc import Awaitable, Iterator
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

import structlog
from prometheus_client import Counter, Gauge

from observability import web
from pipeline.bridge.forwarding import Forwarder
from pipeline.bridge.producer import Records
from pipeline.bridge.tracing import Tracing
from pipeline.bridge.windows import Flush
from pipeline.mqtt import FOR_EVER, Client, OutageError
from pipeline.settings import BridgeSettings
from pipeline.topics import KafkaAwayError, Topics, TopicsError

if TYPE_CHECKING:
    from observability.otlp import Traces

STATUS: Final = "brigade/v1/+/+/status"
STOP_SECONDS: Final = 3.0
"""What Kafka gets to take the last records before we go without."""
CONNECT_SECONDS: Final = 10.0
GATHER_SECONDS: Final = 0.01
"""Between two reads of the socket: small beside the linger, and many messages at once."""
LOOK_SECONDS: Final = 2.0
"""Between two looks at Kafka."""
ALIVE_SECONDS: Final = 15.0
"""A loop that has not come round for so long hangs."""
NOT_YET: Final = "not connected yet"
LONGEST_WAIT_SECONDS: Final = 5.0
"""Between two attempts to reach the broker."""
READ_BYTES: Final = 16 << 20
"""What one read of the socket may bring on top of what is held, at the very most."""

SESSIONS_LOST = Counter("pipeline_bridge_sessions_lost_total", "Times the broker had forgotten our session.")
RECONNECTS = Counter("pipeline_bridge_reconnects_total", "Attempts to reach the broker again.")
KAFKA_OUTAGES = Counter("pipeline_bridge_kafka_outages_total", "Times Kafka went away.")
KAFKA_UP = Gauge("pipeline_bridge_kafka_up", "1 while Kafka answers and takes records.")
BROKER_UP = Gauge("pipeline_bridge_broker_up", "1 while connected and subscribed.")

log = structlog.get_logger()

T = TypeVar("T")


class _StoppedError(Exception):
    """SIGTERM came first."""


class Process:
    def __init__(self, settings: BridgeSettings, traces: "Traces | None" = None) -> None:
        self._settings = settings
        self._tracing = Tracing(traces) if traces else None
        self._client_id = f"{settings.bridge_client_id}-{settings.bridge_ordinal}"
        self._filters = [f"$share/{settings.bridge_group}/brigade/v1/#"]
        self._kafka_away: str | None = NOT_YET
        self._broker_away: str | None = NOT_YET
        self._had_session = False
        self._alive = time.monotonic()

    async def serve(self) -> int:
        """Forward until SIGTERM; then 0. Outages are waited out, the rest is raised."""
        settings = self._settings
        with web.serve(settings.bridge_port, host=settings.web_host, healthy=self._healthy, ready=self._ready):
            await self._run(self._forward)
        log.info("stopped")
        return 0

    async def leave(self) -> int:
        """Forward what the session holds and end it; 1 if SIGTERM came first."""
        self._left = False
        await self._run(self._leave)
        if self._left:
            log.info("left")
        else:
            log.warning("not_left", reason="stopped before the session was empty; it goes on")
        return 0 if self._left else 1

    async def _run(self, use: Any) -> None:
        self._stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        self._failed: asyncio.Future[None] = loop.create_future()
        loop.set_exception_handler(self._on_exception)
        records: Records[Flush] = Records(
            self._settings,
            Topics(self._settings).raw,
            client_id=self._client_id,
            queue_bytes=self._settings.bridge_held_bytes + READ_BYTES,
            arrived=lambda flushes: self._forwarder.arrived(flushes),  # noqa: PLW0108, it needs send, below
            failed=self._fail,
        )
        async with records:
            self._records = records
            self._forwarder = Forwarder(self._settings, records.send)
            with suppress(_StoppedError):
                await self._unless_stopped(self._await_kafka())
                log.info("started", topic=records.topic, client_id=self._client_id)
                gc.freeze()
                await _first(self._keep_connected(use), self._watch_kafka(), self._failed)

    # the broker

    async def _keep_connected(self, use: Any) -> None:
        waits = _waits()
        while True:
            began = time.monotonic()
            try:
                return await self._connect(use)
            except OutageError as error:
                self._set_broker(str(error))
            if time.monotonic() - began > 2 * LONGEST_WAIT_SECONDS:
                waits = _waits()
            await self._unless_stopped(asyncio.sleep(next(waits)))
            RECONNECTS.inc()

    async def _connect(self, use: Any) -> None:
        await self._unless_stopped(self._forwarder.room())
        mqtt = self._client()
        self._forwarder.join(mqtt)  # before connecting: messages may follow the CONNACK in the same breath
        async with AsyncExitStack() as stack:
            stack.callback(self._forwarder.part)
            await self._unless_stopped(stack.enter_async_context(mqtt))
            try:
                await self._unless_stopped(use(mqtt))
            except _StoppedError:
                await self._finish(mqtt)
                raise

    def _client(self) -> Client:
        settings = self._settings
        password = settings.mqtt_password
        forward = self._forwarder.forward
        return Client(
            settings.mqtt_host,
            settings.mqtt_port,
            self._client_id,
            receive=self._tracing.before(forward) if self._tracing else forward,
            user=settings.mqtt_user,
            password=password.get_secret_value() if password else None,
            tls=settings.mqtt_tls_context,
            session_expiry_seconds=FOR_EVER,
            receive_maximum=settings.bridge_receive_maximum,
            connect_seconds=CONNECT_SECONDS,
            gather_seconds=GATHER_SECONDS,
        )

    async def _forward(self, mqtt: Client) -> None:
        if not mqtt.session_present:
            self._tell_of_new_session()
        await mqtt.subscribe(*self._filters)
        if self._settings.bridge_ordinal == 0:  # retained messages do not reach shared subscriptions
            await mqtt.subscribe_retained(STATUS)
        self._had_session = True
        self._set_broker(None)
        await mqtt.ended()

    async def _leave(self, mqtt: Client) -> None:
        """A ping's answer comes behind every message the broker had room to send before it."""
        await mqtt.unsubscribe(*self._filters, STATUS)
        while True:
            await self._forwarder.empty()
            received = self._forwarder.received
            await mqtt.ping()
            if received == self._forwarder.received:
                break
        await mqtt.disconnect(end_session=True)
        self._left = True

    async def _finish(self, mqtt: Client) -> None:
        """Take no more, give Kafka a moment for what was taken, acknowledge; the session stays."""
        self._forwarder.stop_taking()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await _first(self._forwarder.empty(), mqtt.ended())
            await mqtt.disconnect()
        except TimeoutError:
            log.warning("stopped_without_kafka", messages_to_come_again=self._forwarder.in_flight)
            await mqtt.disconnect()
        except OutageError as error:
            log.warning("stopped_without_broker", reason=str(error))

    def _tell_of_new_session(self) -> None:
        if self._had_session:
            SESSIONS_LOST.inc()
            log.error(
                "session_lost",
                client_id=self._client_id,
                reason="the broker has forgotten our session, and the messages that waited in it",
            )
        else:
            log.info("session_begun", client_id=self._client_id)

    # Kafka

    async def _await_kafka(self) -> None:
        """Return when it answers; `TopicsError` if the topic is not as it has to be.

        Ordinal 0 never leaves: if Kafka has records, there was a session before this process.
        """
        while True:
            self._alive = time.monotonic()
            try:
                self._check(await self._records.partitions())
                if self._settings.bridge_ordinal == 0:
                    self._had_session = await self._records.holds_records(self._settings.partitions)
            except KafkaAwayError as error:
                self._set_kafka(str(error))
                await asyncio.sleep(LOOK_SECONDS)
            else:
                return self._set_kafka(None)

    async def _watch_kafka(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._alive = time.monotonic()
            if not self._stop.is_set():
                await self._look_at_kafka()

    async def _look_at_kafka(self) -> None:
        try:
            self._check(await self._records.partitions())
        except KafkaAwayError as error:
            if not self._forwarder.moving:
                self._set_kafka(str(error))
        else:
            self._set_kafka("it takes no records" if self._forwarder.stalled else None)

    def _check(self, partitions: int) -> None:
        wanted = self._settings.partitions
        if partitions != wanted:
            raise TopicsError(
                f"topic {self._records.topic} has {partitions} partitions, BRIGADE_PARTITIONS says {wanted}: "
                "devices would change their partition"
            )

    # what is told

    def _set_kafka(self, away: str | None) -> None:
        KAFKA_UP.set(away is None)
        was, self._kafka_away = self._kafka_away, away
        if away is None and was not in {None, NOT_YET}:
            log.info("kafka_back")
        elif away is not None and was in {None, NOT_YET}:
            KAFKA_OUTAGES.inc()
            log.warning("kafka_away", reason=away)

    def _set_broker(self, away: str | None) -> None:
        BROKER_UP.set(away is None)
        was, self._broker_away = self._broker_away, away
        if away is None:
            log.info("subscribed", filters=self._filters)
        elif was in {None, NOT_YET}:
            log.warning("broker_away", reason=away)

    def _healthy(self) -> bool | str:
        silent = time.monotonic() - self._alive
        return silent < ALIVE_SECONDS or f"the event loop has hung for {silent:.0f} s"

    def _ready(self) -> bool | str:
        if self._broker_away is not None:
            return f"MQTT: {self._broker_away}"
        if self._kafka_away is not None:
            return f"Kafka: {self._kafka_away}"
        return True

    # how it ends

    async def _unless_stopped(self, awaitable: Awaitable[T]) -> T:
        stopped = asyncio.ensure_future(self._stop.wait())
        task = asyncio.ensure_future(awaitable)
        try:
            await asyncio.wait({stopped, task}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise _StoppedError
        finally:
            stopped.cancel()
            await _cancel(task)

    def _fail(self, error: BaseException) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)

    def _on_exception(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception in a callback is a bug, and ends the process; a socket's ends its connection, no more."""
        error = context.get("exception") or RuntimeError(context["message"])
        if not (isinstance(error, OSError) and "transport" in context):
            self._fail(error)


async def _first(*awaitables: Awaitable[None]) -> None:
    """Return when one of them has; raise what it raised."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            await _cancel(task)


async def _cancel(task: asyncio.Future[Any]) -> None:
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # somebody has looked


def _waits() -> Iterator[float]:
    wait = 0.25
    while True:
        yield wait * random.uniform(0.5, 1)
        wait = min(wait * 2, LONGEST_WAIT_SECONDS)

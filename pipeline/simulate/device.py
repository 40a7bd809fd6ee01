"""A device's life: measuring by its clock, sending when it is connected, coming back when the broker went away."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Final

from pipeline.simulate.connection import OFFLINE, ONLINE, Broker, Connection
from pipeline.simulate.messages import US, Kind, Outcome, Publish, Sensor, array_of
from pipeline.simulate.tracing import Tracing

ARRAY_FROM: Final = 10
"""With so many readings waiting, they are sent as arrays."""
ARRAY: Final = 100
WAITING: Final = 20_000
"""Messages that a device keeps while it is offline; then the oldest are forgotten, as in a full flash."""
FIRST_BACK_OFF: Final = 0.5
LONGEST_BACK_OFF: Final = 5.0
DOUBTED_US: Final = 1_000_000
"""What was acknowledged so shortly before a connection broke is sent again: a broker that is killed may have told more
than it had on disk. What is stored already is stored once, by its `ts`."""
BEHIND: Final = 2.0
"""A device that is later than this gives up the measurements it missed."""


class Restaurant:
    """What all devices share: the broker, when to stop, where the outcomes go, and the counts of a progress line."""

    def __init__(
        self,
        broker: Broker,
        settled: Callable[[Publish], None],
        *,
        messages: int | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.broker = broker
        self.tracing = tracing
        self.stop = asyncio.Event()
        self.measured = 0
        self.online = 0
        self.was_online = False
        self.outcomes: dict[Outcome, int] = dict.fromkeys(Outcome, 0)
        self.trouble: str | None = None
        self._messages = messages
        self._settled = settled

    def came_online(self) -> None:
        self.online += 1
        self.was_online, self.trouble = True, None

    def settle(self, publish: Publish) -> None:
        publish.settled = True
        self.outcomes[publish.outcome] += 1
        self._settled(publish)

    def may_measure(self) -> bool:
        """Count one message more, if the bound on messages allows it; if not, everything stops."""
        if self._messages is not None and self.measured >= self._messages:
            self.stop.set()
        if self.stop.is_set():
            return False
        self.measured += 1
        return True


class Device:
    """`run` returns when the restaurant stops and every publish is settled, `goodbye` seconds later at the latest."""

    def __init__(self, restaurant: Restaurant, sensor: Sensor, random: Random, *, gap: float, goodbye: float) -> None:
        self._restaurant = restaurant
        self._sensor = sensor
        self._random = random
        self._gap = gap
        self._goodbye = goodbye
        self._every = sensor.every_us / US
        self._status_topic = f"brigade/v1/{sensor.site}/{sensor.device}/status"
        self._waiting: deque[Publish] = deque()
        self._in_flight: dict[Publish, None] = {}
        self._lately: deque[tuple[int, Publish]] = deque()
        self._connection: Connection | None = None
        self._drained = asyncio.Event()
        self._drained.set()

    async def run(self, delay: float) -> None:
        """Live, beginning after `delay` seconds."""
        tasks = [asyncio.create_task(part) for part in (self._measure(delay), self._talk(delay))]
        stopped = asyncio.create_task(self._restaurant.stop.wait())
        try:
            done, _ = await asyncio.wait({stopped, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # raises what must not have happened
            tasks[0].cancel()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._goodbye):
                    await self._drained.wait()
        finally:
            for task in (*tasks, stopped):
                task.cancel()
            await asyncio.gather(*tasks, stopped, return_exceptions=True)
            self._settle_the_rest()

    # Measuring ---------------------------------------------------------------------------------------------

    async def _measure(self, delay: float) -> None:
        await asyncio.sleep(delay)
        due = time.monotonic()
        while self._restaurant.may_measure():
            self._keep(self._sensor.measure(time.time_ns() // 1_000))
            self._send()
            due = max(due + self._every, time.monotonic() - BEHIND)
            await asyncio.sleep(due - time.monotonic())

    def _keep(self, publishes: list[Publish]) -> None:
        self._waiting.extend(publishes)
        self._drained.clear()
        while len(self._waiting) > WAITING:
            self._give_up(self._waiting.popleft())

    # Sending -----------------------------------------------------------------------------------------------

    def _send(self) -> None:
        """Send what waits, as far as the window allows. Called after a measurement and after each PUBACK."""
        connection = self._connection
        if connection is None:
            return
        while self._waiting and connection.has_room:
            self._send_one(connection, self._next())
        if not self._waiting and not self._in_flight:
            self._drained.set()

    def _next(self) -> Publish:
        waiting = self._waiting
        if len(waiting) < ARRAY_FROM or not _is_plain(waiting[0]):
            return waiting.popleft()
        together = [waiting.popleft()]
        while waiting and len(together) < ARRAY and _is_plain(waiting[0]):
            together.append(waiting.popleft())
        return together[0] if len(together) == 1 else array_of(together)

    def _send_one(self, connection: Connection, publish: Publish) -> None:
        publish.sends += 1
        if publish.sent_us is None:
            publish.sent_us = time.time_ns() // 1_000
        if not publish.settled:
            publish.outcome = Outcome.UNKNOWN
        self._in_flight[publish] = None
        tracing = self._restaurant.tracing
        trace = tracing.begin(publish.topic) if tracing else None

        def answered(refusal: str | None) -> None:
            if trace:
                trace.end()
            self._answered(publish, refusal)

        traceparent = trace.traceparent if trace else None
        connection.publish(publish.topic, publish.payload, answered, traceparent=traceparent)

    def _answered(self, publish: Publish, refusal: str | None) -> None:
        del self._in_flight[publish]
        now_us = time.time_ns() // 1_000
        if refusal is None:
            self._note(publish, now_us)
        if publish.settled:
            return
        if refusal is None:
            publish.outcome, publish.acked_us = Outcome.ACKNOWLEDGED, now_us
        else:
            publish.error = refusal
            publish.outcome = Outcome.FAILED if publish.sends == 1 else Outcome.UNKNOWN
        self._restaurant.settle(publish)

    def _note(self, publish: Publish, now_us: int) -> None:
        self._lately.append((now_us, publish))
        while self._lately[0][0] < now_us - DOUBTED_US:
            self._lately.popleft()

    # The connection ----------------------------------------------------------------------------------------

    async def _talk(self, delay: float) -> None:
        await asyncio.sleep(delay)
        back_off = FIRST_BACK_OFF
        while True:
            try:
                offline = await self._connected()
                back_off = FIRST_BACK_OFF
            except OSError as error:  # a time-out and a refusal are among them
                self._restaurant.trouble = str(error) or "no answer"
                offline, back_off = back_off, min(back_off * 2, LONGEST_BACK_OFF)
            await asyncio.sleep(self._random.uniform(0.2, 1) * offline)

    async def _connected(self) -> float:
        """One connection, from beginning to end; return how long to be away after it."""
        broker, device = self._restaurant.broker, self._sensor.device
        connection = await Connection.open(broker, device, self._status_topic, self._send)
        self._restaurant.came_online()
        try:
            connection.publish(self._status_topic, ONLINE, _ignore, retain=True)
            self._connection = connection
            self._send()
            if await connection.lost_within(self._online_for()):
                self._doubt()
                return FIRST_BACK_OFF
            if self._random.random() < 0.5:  # else it vanishes, and the broker publishes the last will
                await self._say_goodbye(connection)
            return self._random.expovariate(0.6 / self._gap)
        except asyncio.CancelledError:
            await self._say_goodbye(connection)
            raise
        finally:
            self._restaurant.online -= 1
            self._connection = None
            connection.drop()
            self._take_back()

    def _online_for(self) -> float | None:
        share = self._sensor.faults.offline
        return self._random.expovariate(share / ((1 - share) * self._gap)) if share else None

    async def _say_goodbye(self, connection: Connection) -> None:
        self._connection = None
        if connection.is_open:
            connection.publish(self._status_topic, OFFLINE, _ignore, retain=True)
            connection.close()
            await connection.lost_within(1)

    def _doubt(self) -> None:
        """What was acknowledged last is sent again, too."""
        if self._lately:
            self._waiting.extendleft(publish for _, publish in reversed(self._lately))
            self._lately.clear()
            self._drained.clear()

    def _take_back(self) -> None:
        """What was sent and not answered is sent again, before all else."""
        self._waiting.extendleft(reversed(self._in_flight))
        self._in_flight.clear()

    # The end -----------------------------------------------------------------------------------------------

    def _settle_the_rest(self) -> None:
        while self._waiting:
            self._give_up(self._waiting.popleft())

    def _give_up(self, publish: Publish) -> None:
        if publish.settled:
            return
        if publish.outcome is Outcome.FAILED:
            publish.error = "never sent"
        self._restaurant.settle(publish)


def _ignore(_refusal: str | None) -> None:
    """Nobody keeps account of status messages: the last one counts."""


def _is_plain(publish: Publish) -> bool:
    return publish.kind is Kind.READING and not publish.sends

"""The connection: one life, one window of packet ids."""

import asyncio
import ssl
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from types import TracebackType
from typing import Any, Final, Self, TypeAlias, cast

import mqtt5

from pipeline.mqtt.reader import Cut, MalformedError, Publish, Reader

FOR_EVER: Final = 0xFFFFFFFF
"""Session expiry: the broker keeps the session until its client ends it."""

RETAINED: Final = 1
"""The identifier of a subscription made for the sake of retained messages."""

_PUBLISHES_A_WRITE: Final = 500
_PUBACK: Final = 0x40020000

Receive: TypeAlias = Callable[[list[Publish | Cut]], None]


class OutageError(ConnectionError):
    """No connection, or no longer: worth another try."""


class RefusedError(RuntimeError):
    """The broker said no, and will say so again; `reason` is MQTT's code."""

    def __init__(self, text: str, reason: int) -> None:
        super().__init__(text)
        self.reason = reason


class TakenOverError(RefusedError):
    """Another client connected under our client id."""


class Client(asyncio.Protocol):
    """One connection. `receive` is a callback, not an iterator: what it decides (to pause) holds for the next read."""

    def __init__(
        self,
        host: str,
        port: int,
        client_id: str,
        *,
        receive: Receive | None = None,
        user: str | None = None,
        password: str | None = None,
        tls: ssl.SSLContext | None = None,
        clean_start: bool = False,
        session_expiry_seconds: int = 0,
        receive_maximum: int = 65_535,
        keepalive_seconds: int = 30,
        connect_seconds: float = 10,
        gather_seconds: float = 0,
    ) -> None:
        self._address = (host, port)
        self._tls = tls
        self._connect = mqtt5.ConnectPacket(
            client_id,
            username=user,
            password=None if password is None else password.encode(),
            clean_start=clean_start,
            keep_alive=keepalive_seconds,
            session_expiry_interval=session_expiry_seconds,
            receive_max=receive_maximum,
        )
        self._connect_seconds = connect_seconds
        self._gather_seconds = gather_seconds
        self._receive = receive or _refuse
        self._reader = Reader()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.acknowledged = 0
        """Messages of ours that the broker took."""
        self.refused = 0
        """Messages of ours that it answered with an error."""

    async def __aenter__(self) -> Self:
        """Connect; `OutageError` if that may work later, `RefusedError` if it never will."""
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._pongs: list[asyncio.Future[None]] = []
        self._unanswered: dict[int, _Publishing] = {}
        self._progress = asyncio.Event()
        self._last_id = 0
        self._paused = self._gathering = self._blocked = self._leaving = False
        self._reading = True
        self._connected: asyncio.Future[mqtt5.ConnAckPacket] = self._loop.create_future()
        try:
            async with asyncio.timeout(self._connect_seconds):
                await self._loop.create_connection(lambda: self, *self._address, ssl=self._tls)
                self._write(self._connect.write())
                await self._until(self._connected)
        except BaseException as error:
            await self._close()
            if isinstance(error, OSError) and not isinstance(error, OutageError):  # TimeoutError is one too
                raise OutageError(f"the MQTT broker cannot be reached: {str(error) or 'no answer'}") from error
            raise
        self._greet(self._connected.result())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    def _greet(self, answer: mqtt5.ConnAckPacket) -> None:
        self.session_present = answer.session_present
        self._window = min(answer.receive_max, 65_000)  # some ids stay free for subscriptions
        keepalive = self._connect.keep_alive
        self._keepalive = keepalive if answer.server_keep_alive is None else answer.server_keep_alive
        if self._keepalive:
            self._timer = self._loop.call_later(self._keepalive / 2, self._tick)

    async def _close(self) -> None:
        self._end(OutageError("closed"))
        self._ended.exception()  # somebody has looked: asyncio need not tell
        if self._connected.done() and not self._connected.cancelled():
            self._connected.exception()
        if self._timer:
            self._timer.cancel()
        if self._transport:
            self._transport.abort()
            await self._closed

    async def ended(self) -> None:
        """Return when `disconnect` is through; raise what else ended the connection."""
        await asyncio.wait({self._ended})
        self._ended.result()

    async def subscribe(self, *filters: str) -> None:
        """Return when the broker granted QoS 1 for every filter."""
        wanted = [mqtt5.TopicFilter(pattern, max_qos=mqtt5.QoS.AT_LEAST_ONCE) for pattern in filters]
        packet_id = self._free_id()
        answer = await self._ask(packet_id, mqtt5.SubscribePacket(packet_id, wanted))
        for pattern, code in zip(filters, answer.reason_codes, strict=True):
            if code != mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE:
                raise RefusedError(f"the MQTT broker does not grant {pattern} at QoS 1: {code.name}", code.value)

    async def subscribe_retained(self, pattern: str) -> None:
        """Ask for the retained messages of a filter; they come as `retain`, at QoS 0, with RETAINED as subscription.

        What is published there from now on comes too, without `retain`.
        """
        packet_id = self._free_id()
        wanted = mqtt5.TopicFilter(pattern, max_qos=mqtt5.QoS.AT_MOST_ONCE, retain_as_published=False)
        answer = await self._ask(packet_id, mqtt5.SubscribePacket(packet_id, [wanted], subscription_id=RETAINED))
        (code,) = answer.reason_codes
        if code.value >= 128:
            raise RefusedError(f"the MQTT broker does not grant {pattern}: {code.name}", code.value)

    async def unsubscribe(self, *filters: str) -> None:
        packet_id = self._free_id()
        answer = await self._ask(packet_id, mqtt5.UnsubscribePacket(packet_id, list(filters)))
        for pattern, code in zip(filters, answer.reason_codes, strict=True):
            if code.value >= 128:
                raise RefusedError(f"the MQTT broker does not end {pattern}: {code.name}", code.value)

    def acknowledge(self, packet_ids: Sequence[int]) -> None:
        """Say that these messages are safe; on a connection that has ended it says nothing, and they come again."""
        if not self._ended.done():
            self._write(struct.pack(f">{len(packet_ids)}I", *[_PUBACK | i for i in packet_ids]))

    def pause(self) -> None:
        """Read no more until `resume`: the broker waits."""
        self._paused = True
        self._read_or_not()

    def resume(self) -> None:
        self._paused = False
        self._heard = time.monotonic()
        self._read_or_not()

    def _read_or_not(self) -> None:
        reading = not (self._paused or self._gathering)
        if reading == self._reading or self._ended.done() or self._transport is None:
            return
        self._reading = reading
        if reading:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _gather(self) -> None:
        """Leave what comes to the kernel for a moment: a read costs 40 µs, however little it brings."""
        self._gathering = True
        self._read_or_not()
        self._loop.call_later(self._gather_seconds, self._gathered)

    def _gathered(self) -> None:
        self._gathering = False
        self._read_or_not()

    async def ping(self) -> None:
        """Return when the broker has dealt with all that was sent before."""
        pong = self._loop.create_future()
        self._pongs.append(pong)
        self._write(mqtt5.PingReqPacket().write())
        await self._until(pong)

    async def publish(self, messages: Iterable[tuple[str, bytes]], *, retain: bool = False) -> int:
        """Return how many the broker took, at QoS 1, when it has answered for all; several calls may overlap.

        `OutageError` if the connection ends before; the attributes `acknowledged` and `refused` tell how far it got.
        """
        publishing = _Publishing(self._loop.create_future())
        messages = iter(messages)
        while True:
            while self._blocked or len(self._unanswered) >= self._window:
                self._progress.clear()
                await self._until(self._progress.wait())
            room = min(self._window - len(self._unanswered), _PUBLISHES_A_WRITE)
            packets = [self._encode(publishing, *message, retain) for message in islice(messages, room)]
            if not packets:
                break
            self._write(b"".join(packets))
        publishing.all_sent()
        await self._until(publishing.answered)
        return publishing.acknowledged

    async def disconnect(self, *, end_session: bool = False) -> None:
        """Say goodbye and return when the broker closed the connection, or after a second."""
        self._leaving = True
        expiry = 0 if end_session else None
        self._write(mqtt5.DisconnectPacket(session_expiry_interval=expiry).write())
        await asyncio.wait({self._closed}, timeout=1)
        if not self._ended.done():
            self._ended.set_result(None)

    # what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._heard = time.monotonic()

    def data_received(self, data: bytes) -> None:
        self._heard = time.monotonic()
        try:
            messages, others = self._reader.feed(data)
            if messages:
                self._receive(messages)
            for packet in others:
                self._take(packet)
            if self._gather_seconds:
                self._gather()
        except MalformedError as error:
            self._end(OutageError(f"the MQTT broker sent nonsense: {error}"))
        except Exception as error:  # noqa: BLE001, asyncio would log it and carry on: `ended` raises it
            self._end(error)

    def connection_lost(self, error: Exception | None) -> None:
        if self._leaving and not self._ended.done():
            self._ended.set_result(None)
        self._end(OutageError(f"the MQTT broker closed the connection{f': {error}' if error else ''}"))
        self._closed.set_result(None)

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False
        self._progress.set()

    # what came

    def _take(self, packet: mqtt5.Packet) -> None:
        match packet:
            case mqtt5.PubAckPacket():
                self._answered(packet)
            case mqtt5.ConnAckPacket():
                self._answer_connect(packet)
            case mqtt5.SubAckPacket() | mqtt5.UnsubAckPacket():
                if (answer := self._answers.pop(packet.packet_id, None)) and not answer.done():
                    answer.set_result(packet)
            case mqtt5.PingRespPacket():
                if self._pongs and not (pong := self._pongs.pop(0)).done():
                    pong.set_result(None)
            case mqtt5.DisconnectPacket():
                self._end(_disconnected(packet.reason_code))
            case _:
                raise MalformedError(f"{type(packet).__name__} was not to be expected")

    def _answer_connect(self, packet: mqtt5.ConnAckPacket) -> None:
        if self._connected.done():
            raise MalformedError("a second CONNACK")
        if packet.reason_code == mqtt5.ConnAckReasonCode.SUCCESS:
            self._connected.set_result(packet)
        else:
            self._end(_not_connected(packet.reason_code))

    def _answered(self, packet: mqtt5.PubAckPacket) -> None:
        publishing = self._unanswered.pop(packet.packet_id, None)
        if publishing is None:
            raise MalformedError(f"PUBACK for {packet.packet_id}, which is not in flight")
        took = packet.reason_code.value < 128
        self.acknowledged += took
        self.refused += not took
        publishing.answer(took=took)
        self._progress.set()

    def _encode(self, publishing: "_Publishing", topic: str, payload: bytes, retain: bool) -> bytes:  # noqa: FBT001
        packet_id = self._free_id()
        self._unanswered[packet_id] = publishing
        publishing.sent += 1
        qos = mqtt5.QoS.AT_LEAST_ONCE
        return mqtt5.PublishPacket(topic, payload, qos=qos, retain=retain, packet_id=packet_id).write()

    def _free_id(self) -> int:
        packet_id = self._last_id % 65_535 + 1
        while packet_id in self._unanswered or packet_id in self._answers:
            packet_id = packet_id % 65_535 + 1
        self._last_id = packet_id
        return packet_id

    async def _ask(self, packet_id: int, packet: mqtt5.SubscribePacket | mqtt5.UnsubscribePacket) -> Any:
        answer = self._answers[packet_id] = self._loop.create_future()
        self._write(packet.write())
        return await self._until(answer)

    async def _until(self, awaitable: Any) -> Any:
        """Its result, or what ended the connection before."""
        task = asyncio.ensure_future(awaitable)
        try:
            await asyncio.wait({task, self._ended}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
        finally:
            task.cancel()
        self._open()
        raise AssertionError  # never here: it ended

    def _tick(self) -> None:
        """Keep the connection alive, and notice when it is not; while we do not read, only writing can tell."""
        silent = time.monotonic() - self._heard
        if silent > 1.5 * self._keepalive and not self._paused:
            self._end(OutageError(f"the MQTT broker has said nothing for {silent:.0f} s"))
            return
        if not self._ended.done():
            self._pongs.append(self._loop.create_future())
            self._write(mqtt5.PingReqPacket().write())
            self._timer = self._loop.call_later(self._keepalive / 2, self._tick)

    def _open(self) -> asyncio.Transport:
        """The transport; raise what ended it."""
        if self._ended.done():
            self._ended.result()
        if self._transport is None or self._ended.done():
            raise OutageError("the connection was ended by us")
        return self._transport

    def _write(self, data: bytes) -> None:
        self._open().write(data)

    def _end(self, error: Exception) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)
            if self._transport:
                self._transport.abort()


class _Publishing:
    """The messages of one call of `publish`."""

    def __init__(self, answered: asyncio.Future[None]) -> None:
        self.answered = answered
        self.sent = self.acknowledged = self._open = 0
        self._all_sent = False

    def answer(self, *, took: bool) -> None:
        self.acknowledged += took
        self._open += 1
        self._settle()

    def all_sent(self) -> None:
        self._all_sent = True
        self._settle()

    def _settle(self) -> None:
        if self._all_sent and self._open == self.sent and not self.answered.done():
            self.answered.set_result(None)


def _refuse(messages: list[Publish | Cut]) -> None:
    raise MalformedError(f"{len(messages)} messages nobody asked for")


def _not_connected(code: mqtt5.ConnAckReasonCode) -> OutageError | RefusedError:
    text = f"the MQTT broker refuses the connection: {code.name}"
    match code:
        case (
            mqtt5.ConnAckReasonCode.SERVER_UNAVAILABLE
            | mqtt5.ConnAckReasonCode.SERVER_BUSY
            | mqtt5.ConnAckReasonCode.CONNECTION_RATE_EXCEEDED
            | mqtt5.ConnAckReasonCode.QUOTA_EXCEEDED
            | mqtt5.ConnAckReasonCode.UNSPECIFIED_ERROR
        ):
            return OutageError(text)
    return RefusedError(text, code.value)


def _disconnected(code: mqtt5.DisconnectReasonCode) -> OutageError | RefusedError:
    text = f"the MQTT broker ended the connection: {code.name}"
    match code:
        case mqtt5.DisconnectReasonCode.SESSION_TAKEN_OVER:
            return TakenOverError(text, code.value)
        case mqtt5.DisconnectReasonCode.NOT_AUTHORIZED:
            return RefusedError(text, code.value)
    return OutageError(text)

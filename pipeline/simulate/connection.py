"""One device's MQTT 5 connection: QoS 1 publishes, and what the broker said to each.

Not aiomqtt, elsewhere our client: it takes a publish that the broker refused for acknowledged, and a publish learns
of a lost connection only by its time-out. A ledger of outcomes needs both.
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self, cast

import mqtt5

KEEP_ALIVE: Final = 60
CONNECT_TIMEOUT: Final = 10.0
IN_FLIGHT: Final = 20
"""As many publishes wait for the broker's word at once, or fewer where it says so."""
ONLINE: Final = b"online"
OFFLINE: Final = b"offline"

Acknowledged = Callable[[str | None], None]
"""Called with why the broker refused the publish, or None."""


class RefusedError(OSError):
    """The broker answered, and does not want this device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    host: str
    port: int
    user: str | None = None
    password: str | None = None
    tls: ssl.SSLContext | None = None
    credentials: Mapping[str, str] = field(default_factory=dict)
    """Devices' own passwords; who has none connects as `user`."""

    def account(self, device: str) -> tuple[str | None, str | None]:
        """User name and password."""
        return (device, self.credentials[device]) if device in self.credentials else (self.user, self.password)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Connection(asyncio.Protocol):
    """`closed` is done when the connection is gone, for whatever reason; `changed` is called when there is room."""

    def __init__(self, hello: bytes, changed: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = loop.create_future()
        self._welcome: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._hello = hello
        self._changed = changed
        self._window = IN_FLIGHT
        self._waiting: dict[int, Acknowledged] = {}
        self._packet_id = 0
        self._unread = b""
        self._heard = True
        self._ping: asyncio.TimerHandle | None = None

    @classmethod
    async def open(cls, broker: Broker, device: str, status_topic: str, changed: Callable[[], None]) -> Self:
        """Connect with a last will; `OSError` says why not."""
        will = mqtt5.Will(status_topic, payload=OFFLINE, qos=mqtt5.QoS.AT_LEAST_ONCE, retain=True)
        user, password = broker.account(device)
        hello = mqtt5.ConnectPacket(
            device,
            username=user,
            password=None if password is None else password.encode(),
            clean_start=True,
            keep_alive=KEEP_ALIVE,
            will=will,
        )
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_TIMEOUT):
            _, self = await loop.create_connection(
                lambda: cls(hello.write(), changed), broker.host, broker.port, ssl=broker.tls
            )
            try:
                await self._welcome
            except BaseException:
                self.drop()
                raise
        return self

    @property
    def is_open(self) -> bool:
        return not self._transport.is_closing()

    @property
    def has_room(self) -> bool:
        return len(self._waiting) < self._window and self.is_open

    async def lost_within(self, seconds: float | None) -> bool:
        """Whether the connection was lost before so many seconds had passed; None: wait until it is."""
        try:
            async with asyncio.timeout(seconds):
                await asyncio.shield(self.closed)
        except TimeoutError:
            return False
        return True

    def publish(
        self,
        topic: str,
        payload: bytes,
        acknowledged: Acknowledged,
        *,
        retain: bool = False,
        traceparent: str | None = None,
    ) -> None:
        packet_id = self._packet_id = self._packet_id % 65_535 + 1
        self._waiting[packet_id] = acknowledged
        packet = mqtt5.PublishPacket(
            topic,
            payload,
            qos=mqtt5.QoS.AT_LEAST_ONCE,
            packet_id=packet_id,
            retain=retain,
            user_properties=[("traceparent", traceparent)] if traceparent else [],
        )
        self._transport.write(packet.write())

    def close(self) -> None:
        """Say goodbye; the last will is not published."""
        if self.is_open:
            self._transport.write(mqtt5.DisconnectPacket().write())
            self._transport.close()

    def drop(self) -> None:
        """Vanish as when the power fails: the broker publishes the last will."""
        self._transport.abort()

    # What the event loop calls -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._hello)
        self._ping = self._loop.call_later(KEEP_ALIVE / 2, self._keep_alive)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._ping:
            self._ping.cancel()
        if not self._welcome.done():
            self._welcome.set_exception(exc or ConnectionResetError("the broker closed the connection"))
        if exc is None or isinstance(exc, OSError):
            self.closed.set_result(None)
        else:  # a bug of ours
            self.closed.set_exception(exc)

    def data_received(self, data: bytes) -> None:
        self._heard = True
        data = self._unread + data
        view, at = memoryview(data), 0
        while at < len(data):
            try:
                packet, length = mqtt5.read(view[at:])
            except IndexError:  # the rest is still to come
                break
            except ValueError as error:
                raise OSError(f"what answers does not speak MQTT 5: {error}") from error
            at += length
            self._received(packet)
        self._unread = data[at:]

    def _received(self, packet: Any) -> None:
        match packet:
            case mqtt5.PubAckPacket():
                acknowledged = self._waiting.pop(packet.packet_id, None)
                if acknowledged:
                    acknowledged(packet.reason_code.name.lower() if int(packet.reason_code) >= 128 else None)
                self._changed()
            case mqtt5.ConnAckPacket() if packet.reason_code == mqtt5.ConnAckReasonCode.SUCCESS:
                self._window = min(IN_FLIGHT, packet.receive_max)
                self._welcome.set_result(None)
            case mqtt5.ConnAckPacket():
                why = f"the broker refuses: {packet.reason_code.name.lower().replace('_', ' ')}"
                self._welcome.set_exception(RefusedError(why))
            case mqtt5.DisconnectPacket():
                self._transport.close()

    def _keep_alive(self) -> None:
        if not self._heard:
            self.drop()
            return
        self._heard = False
        self._transport.write(mqtt5.PingReqPacket().write())
        self._ping = self._loop.call_later(KEEP_ALIVE / 2, self._keep_alive)

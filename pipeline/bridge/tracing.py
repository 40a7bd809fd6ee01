"""A trace that a device began goes on through the bridge. Without traces nothing of this is called.

A device's message may bear the user property `traceparent` (MQTT 5, QoS 1). Where its trace is kept, the bridge makes a
span of it, and the span's own `traceparent` travels in the message's `extra` to the worker.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import Counter

from pipeline.mqtt import Cut, Publish, Receive

if TYPE_CHECKING:
    from observability.otlp import Traces

PROPERTY: Final = "traceparent"
TRACED_A_READ: Final = 20
"""Of one read of the socket, of which there are some hundred a second: no device can make us trace everything."""

TRACED = Counter("pipeline_bridge_messages_traced_total", "MQTT messages with a trace that is kept.")


@dataclass(frozen=True, slots=True)
class Traced:
    """A message with a trace; what the forwarder asks of a message, and its span."""

    topic: str
    payload: bytes
    packet_id: int
    span: Any
    traceparent: str
    """Of the span."""


class Tracing:
    """What stands between the broker's connection and `Forwarder.forward`."""

    def __init__(self, traces: "Traces") -> None:
        self._traces = traces

    def before(self, forward: Callable[[Sequence[Publish | Cut | Traced]], None]) -> Receive:
        def receive(messages: list[Publish | Cut]) -> None:
            forward(self.marked(messages))

        return receive

    def marked(self, messages: Sequence[Publish | Cut]) -> Sequence[Publish | Cut | Traced]:
        """The messages, those with a trace as `Traced`. This look at each costs 12 ns."""
        if not [message for message in messages if message.user_properties]:
            return messages
        left = TRACED_A_READ
        found: list[Publish | Cut | Traced] = []
        for message in messages:
            traced = self._traced(message) if left and message.user_properties else None
            left -= traced is not None
            found.append(traced or message)
        return found

    def _traced(self, message: Publish | Cut) -> Traced | None:
        parent = next((value for name, value in message.user_properties if name == PROPERTY), "")
        if message.packet_id is None or not self._traces.kept(parent):
            return None
        about = {"messaging.system": "mqtt", "messaging.destination.name": message.topic}
        span = self._traces.begin("forward", "CONSUMER", parent=parent, attributes=about)
        TRACED.inc()
        return Traced(message.topic, message.payload, message.packet_id, span, self._traces.traceparent(span))

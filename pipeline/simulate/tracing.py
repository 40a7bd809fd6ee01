"""Traces that devices begin, for a share of their messages."""

import secrets
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from observability.otlp import Traces


@dataclass(frozen=True, slots=True)
class Begun:
    """What the message bears, and its span, if anybody takes spans."""

    traceparent: str
    span: Any = None

    def end(self) -> None:
        """The broker has answered."""
        if self.span is not None:
            self.span.end()


class Tracing:
    """Of `share` of the messages. Without `traces` the devices begin them, but nobody hears of their own spans."""

    def __init__(self, share: float, traces: "Traces | None") -> None:
        self._share = share
        self._traces = traces
        self._random = Random()  # of its own: a seed has the same restaurants, traced or not

    def begin(self, topic: str) -> Begun | None:
        if self._random.random() >= self._share:
            return None
        if self._traces is None:
            return Begun(invented())
        about = {"messaging.system": "mqtt", "messaging.destination.name": topic}
        span = self._traces.begin("publish", "PRODUCER", attributes=about)
        return Begun(self._traces.traceparent(span), span)


def invented() -> str:
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"

"""What is on its way to Kafka, and what may be acknowledged to the broker when it is there."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.bridge.producer import RECORD_OVERHEAD_BYTES


class Flush:
    """The messages of one flush, until Kafka has all its records."""

    __slots__ = ("began", "held", "messages", "packet_ids", "record_bytes", "records", "spans", "waiting")

    def __init__(self, packet_ids: Sequence[int | None]) -> None:
        self.began = time.monotonic()
        self.messages = len(packet_ids)
        self.packet_ids = [i for i in packet_ids if i]  # none at QoS 0: nothing to acknowledge
        self.spans: Sequence[Any] = ()
        self.records = self.waiting = self.record_bytes = self.held = 0

    def sent(self, value: bytes) -> None:
        self.records += 1
        self.waiting += 1
        self.record_bytes += len(value)
        self.held += len(value) + RECORD_OVERHEAD_BYTES


class Window:
    """The flushes of one connection, oldest first. Packet ids mean something to that connection only."""

    def __init__(self, acknowledge: Callable[[Sequence[int]], None]) -> None:
        self._acknowledge = acknowledge
        self._flushes: deque[Flush] = deque()

    def add(self, flush: Flush) -> None:
        self._flushes.append(flush)

    def settle(self) -> None:
        """Acknowledge what Kafka has, as far as nothing before it is missing."""
        packet_ids: list[int] = []
        while self._flushes and self._flushes[0].waiting == 0:
            packet_ids += self._flushes.popleft().packet_ids
        if packet_ids:
            self._acknowledge(packet_ids)

    def close(self) -> None:
        self._flushes.clear()

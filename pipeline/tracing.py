"""The spans of a batch that held messages with a trace: made after its commit, so that until then nothing is done."""

import time
from typing import TYPE_CHECKING

from pipeline.batches import Batch

if TYPE_CHECKING:
    from observability.otlp import Traces


class Tracing:
    def __init__(self, traces: "Traces") -> None:
        self._traces = traces

    def tell(self, batch: Batch, began_ns: int) -> None:
        """A span for each traced message, in its own trace; one for the transaction, linked to all of them."""
        ended_ns = time.time_ns()
        spans = []
        for message, pack in batch.traced:
            about = {
                "messaging.system": "kafka",
                "messaging.destination.partition.id": str(pack.partition),
                "messaging.kafka.offset": pack.offset,
                "brigade.mqtt.topic": message.topic,
            }
            parent = message.extra["traceparent"] if message.extra else None
            spans.append(self._traces.begin("store", "CONSUMER", parent=parent, at_ns=began_ns, attributes=about))
        about_batch = {
            "db.system.name": "postgresql",
            "messaging.batch.message_count": batch.messages,
            "brigade.points": batch.points,
            "brigade.packs": len(batch.packs),
        }
        whole = self._traces.begin("write batch", "CLIENT", links=spans, at_ns=began_ns, attributes=about_batch)
        for span in (*spans, whole):
            span.end(ended_ns)

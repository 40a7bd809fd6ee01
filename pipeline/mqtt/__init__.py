"""An MQTT 5 client for two: the bridge, which acknowledges in its own time, and publishers in a hurry.

    async with Client(host, port, client_id, receive=forward) as mqtt:
        await mqtt.subscribe("$share/bridge/brigade/v1/#")
        await mqtt.ended()

`forward` gets lists of messages as they arrive and acknowledges them by `mqtt.acknowledge(packet ids)`, whenever
it likes, in the order of their arrival. A connection lives once: who wants another makes another client.
"""

from pipeline.mqtt.client import FOR_EVER, RETAINED, Client, OutageError, Receive, RefusedError, TakenOverError
from pipeline.mqtt.reader import CUT_BYTES, WHOLE_BYTES, Cut, MalformedError, Publish, Reader

__all__ = [
    "CUT_BYTES",
    "FOR_EVER",
    "RETAINED",
    "WHOLE_BYTES",
    "Client",
    "Cut",
    "MalformedError",
    "OutageError",
    "Publish",
    "Reader",
    "Receive",
    "RefusedError",
    "TakenOverError",
]

"""What a device's trace is made of on its way: by values, with a real receiver of spans at the end."""

import mqtt5
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

from observability.otlp import Traces
from pipeline import packs
from pipeline.bridge.forwarding import Forwarder
from pipeline.bridge.tracing import TRACED_A_READ, Traced, Tracing
from pipeline.mqtt import Cut
from pipeline.packs import Message
from pipeline.settings import BridgeSettings
from pipeline.simulate.tracing import Tracing as DeviceTracing
from pipeline.tracing import Tracing as WorkerTracing
from tests.observability.otlp_receiver import Receiver
from tests.pipeline.test_batches import DEVICES, NOW, batch_of, outcome
from tests.pipeline.test_bridge_forwarding import LONG_LINGER, FakeKafka, FakeMqtt

TRACE, PARENT = "a" * 32, "b" * 16
KEPT = f"00-{TRACE}-{PARENT}-01"
DROPPED = f"00-{TRACE}-{PARENT}-00"


@pytest.fixture
def receiver():
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def traces(receiver):
    exporter = OTLPSpanExporter(endpoint=f"{receiver.url}/v1/traces", timeout=30)
    made = Traces("here", exporter, ParentBased(ALWAYS_OFF))
    yield made
    made.shut_down()


def publish(packet_id, *properties, topic="brigade/v1/s/d/readings"):
    qos = mqtt5.QoS.AT_LEAST_ONCE if packet_id else mqtt5.QoS.AT_MOST_ONCE
    return mqtt5.PublishPacket(topic, b"{}", qos=qos, packet_id=packet_id, user_properties=[*properties])


def test_only_messages_with_a_trace_that_is_kept_are_marked(traces):
    messages = [
        publish(1),
        publish(2, ("traceparent", KEPT)),
        publish(3, ("traceparent", DROPPED)),
        publish(4, ("firmware", "7"), ("traceparent", KEPT)),
        publish(5, ("traceparent", "nonsense")),
        publish(None, ("traceparent", KEPT)),
        Cut("t", b"", 6, 300_000, "0" * 64),
    ]
    marked = Tracing(traces).marked(messages)
    assert [type(message) is Traced for message in marked] == [False, True, False, True, False, False, False]
    assert [marked[i] is messages[i] for i in (0, 2, 4, 5, 6)] == [True] * 5
    assert marked[1].traceparent.split("-")[1] == TRACE
    assert marked[1].traceparent != KEPT, "the bridge's own span is the worker's parent"


def test_no_device_can_make_us_trace_everything(traces):
    marked = Tracing(traces).marked([publish(i + 1, ("traceparent", KEPT)) for i in range(100)])
    assert sum(type(message) is Traced for message in marked) == TRACED_A_READ


async def test_the_bridge_s_span_ends_when_kafka_has_the_message_and_travels_in_its_extra(traces, receiver):
    kafka, mqtt = FakeKafka(), FakeMqtt()
    forwarder = Forwarder(BridgeSettings(bridge_linger_seconds=LONG_LINGER, partitions=1), kafka.send)
    forwarder.join(mqtt)
    Tracing(traces).before(forwarder.forward)([publish(1), publish(2, ("traceparent", KEPT)), publish(3)])
    forwarder.flush()
    ((_, (first, traced, last), _, flush),) = kafka.records
    assert first.extra is last.extra is None
    (span,) = flush.spans
    assert span.is_recording()
    forwarder.arrived([flush])
    assert not span.is_recording()
    assert mqtt.acknowledged == [[1, 2, 3]]
    traces.shut_down()
    (told,) = receiver.spans
    assert (told.name, told.trace_id, told.parent_id) == ("forward", TRACE, PARENT)
    assert traced.extra == {"traceparent": f"00-{TRACE}-{told.span_id}-01"}


def message(second, **extra):
    payload = b'{"ts":%d,"a":1.5}' % (1_764_000_000 - second)
    return Message(f"brigade/v1/s/{DEVICES[0]}/readings", NOW, payload, extra or None)


def test_a_trace_leaves_its_pack_on_the_fast_way_and_its_rows_as_they_are():
    plain = batch_of([message(i) for i in range(5)], plainly=False)
    traced = batch_of([message(i, **({"traceparent": KEPT} if i == 3 else {})) for i in range(5)], plainly=False)
    assert outcome(traced) == outcome(plain)
    assert traced.plain_packs == 0
    assert [one.payload for one, _ in traced.traced] == [message(3).payload], "once, though names had to be learned"


def test_a_trace_is_noted_on_the_plain_way_too():
    batch = batch_of([message(0, traceparent=KEPT), message(1)], plainly=True)
    assert batch.plain_packs > 0
    assert len(batch.traced) == 1


def test_anything_else_beside_a_trace_wants_the_plain_way():
    assert batch_of([message(0, traceparent=KEPT, dead_letter=7)], plainly=False).plain_packs > 0


def test_the_batch_s_span_links_to_those_of_its_messages(traces, receiver):
    batch = batch_of([message(i, **({"traceparent": KEPT} if i < 2 else {})) for i in range(5)], plainly=False)
    WorkerTracing(traces).tell(batch, 1_000)
    traces.shut_down()
    *stored, whole = sorted(receiver.spans, key=lambda span: span.name == "write batch")
    assert [(span.name, span.trace_id, span.parent_id) for span in stored] == [("store", TRACE, PARENT)] * 2
    assert whole.trace_id != TRACE
    assert set(whole.links) == {(TRACE, span.span_id) for span in stored}
    assert whole.attributes["messaging.batch.message_count"] == 5
    assert {span.start_ns for span in receiver.spans} == {1_000}


def test_a_pack_with_a_trace_is_read_as_it_was_written():
    topic, extra = "brigade/v1/s/d/readings", {"traceparent": KEPT}
    assert packs.decode(packs.encode([(topic, 5, b"{}", extra)])) == [Message(topic, 5, b"{}", extra)]


def test_devices_trace_the_share_they_are_told_with_and_without_somebody_who_takes_spans(traces):
    assert all(DeviceTracing(1, None).begin("t") for _ in range(100))
    assert not any(DeviceTracing(0, None).begin("t") for _ in range(100))
    begun = DeviceTracing(1, None).begin("t")
    assert traces.kept(begun.traceparent)
    begun.end()

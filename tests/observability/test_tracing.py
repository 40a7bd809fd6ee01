"""Traces of one process, as an OTLP receiver gets them; those of a whole stack are in tests/end_to_end."""

import subprocess
import sys

import httpx
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from structlog.contextvars import get_contextvars

from observability import tracing
from observability.otlp import Traces
from tests.observability.otlp_receiver import Receiver

TRACE, PARENT = "a" * 32, "b" * 16
KEPT = f"00-{TRACE}-{PARENT}-01"
DROPPED = f"00-{TRACE}-{PARENT}-00"


@pytest.fixture
def receiver():
    with Receiver() as receiver:
        yield receiver


def traces_to(receiver, sampler, *, seconds=30):
    return Traces("here", OTLPSpanExporter(endpoint=f"{receiver.url}/v1/traces", timeout=seconds), sampler)


@pytest.fixture
def traces(receiver):
    """Nothing that begins here is kept, what others keep is."""
    made = traces_to(receiver, ParentBased(ALWAYS_OFF))
    yield made
    made.shut_down()


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "TRUE"}, False),
    ],
)
def test_traces_are_off_until_somebody_takes_them(environment, wanted):
    assert tracing.wanted(environment) is wanted


@pytest.mark.parametrize("module", ["pipeline.bridge.__main__", "pipeline.agents", "gateway.app", "users.app"])
def test_while_they_are_off_nothing_of_them_is_imported(module):
    code = (
        f"import sys, {module}\nfrom observability import tracing\nassert tracing.start('x') is None\n"
        "print([n for n in sys.modules if n.startswith(('opentelemetry.sdk.trace', 'opentelemetry.exporter'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_a_span_goes_on_with_the_trace_it_is_given(receiver, traces):
    traces.begin("store", "CONSUMER", parent=KEPT, at_ns=5, attributes={"n": 3}).end(7)
    traces.begin("other", "CONSUMER", parent=DROPPED).end()
    traces.begin("own", "CONSUMER").end()
    traces.shut_down()
    (span,) = receiver.spans
    assert (span.service, span.name, span.trace_id, span.parent_id) == ("here", "store", TRACE, PARENT)
    assert (span.start_ns, span.end_ns, span.attributes) == (5, 7, {"n": 3})


def test_what_is_linked_to_what_is_kept_is_kept(receiver, traces):
    kept, dropped = (traces.begin("store", "CONSUMER", parent=parent) for parent in (KEPT, DROPPED))
    traces.begin("write batch", "CLIENT", links=[kept, dropped]).end()
    traces.begin("write nothing of it", "CLIENT", links=[dropped]).end()
    traces.shut_down()
    (batch,) = receiver.spans
    assert batch.name == "write batch"
    assert batch.trace_id != TRACE
    assert {trace_id for trace_id, _ in batch.links} == {TRACE}


@pytest.mark.parametrize(
    ("text", "kept"), [(KEPT, True), (DROPPED, False), ("", False), ("00-zz", False), (KEPT.replace("a", "0"), False)]
)
def test_only_a_traceparent_of_a_trace_that_is_kept_counts(traces, text, kept):
    assert traces.kept(text) is kept


def client(traces, answer):
    app = traces.answering(Starlette(routes=[Route("/things/{id}", answer)]))
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://here")


async def test_a_request_is_a_span_and_its_log_lines_bear_the_trace(receiver, traces):
    async def answer(request):
        return PlainTextResponse(get_contextvars().get("trace_id", "none"))

    async with client(traces, answer) as ask:
        for parent, told in ((KEPT, TRACE), (DROPPED, "none"), ("nonsense", "none")):
            assert (await ask.get("/things/7", headers={"traceparent": parent})).text == told
    traces.shut_down()
    (span,) = receiver.spans
    assert span.parent_id == PARENT
    assert span.attributes["http.response.status_code"] == 200
    assert not span.failed


async def test_what_an_exception_says_is_not_told(receiver, traces):
    async def answer(request):
        raise ValueError("hush-hush")

    async with client(traces, answer) as ask:
        assert (await ask.get("/things/7", headers={"traceparent": KEPT})).status_code == 500
    traces.shut_down()
    assert receiver.spans[0].failed
    assert not any(b"hush-hush" in body for body in receiver.bodies)


def test_a_call_carries_the_trace_on(receiver):
    traces = traces_to(receiver, ALWAYS_ON)
    with traces.calling("users GET", {}) as headers:
        assert headers["traceparent"].startswith("00-")
    traces.shut_down()
    assert headers["traceparent"].split("-")[1] == receiver.spans[0].trace_id


def test_a_collector_that_is_away_is_one_line_and_nothing_waits_for_it(receiver, capsys):
    receiver.__exit__()
    traces = traces_to(receiver, ALWAYS_ON, seconds=1)
    exporter = traces._provider._active_span_processor._span_processors[0]
    for _ in range(3):
        traces.begin("x", "CLIENT").end()
        exporter.force_flush(1)
    traces.shut_down()
    assert capsys.readouterr().out.count("traces_not_taken") == 1

"""The only home of OpenTelemetry. `tracing.start` imports it, when traces are wanted."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, Final, Literal, Self, TypeVar

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_ON,
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import Counter
from psycopg import AsyncConnection, AsyncCursor, AsyncServerCursor
from starlette.types import ASGIApp, Message, Receive, Scope, Send

DEFAULT_SHARE: Final = 0.01
SECONDS: Final = 2
"""A collector that does not answer holds up the end of a process for so long; the SDK's own default is 10."""
TIMEOUTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")
QUERY_CHARACTERS: Final = 2_000
SERVER_ERROR: Final = 500

EXPORTED: Final = Counter("traces_spans_exported_total", "Spans sent to the collector.", ["outcome"])

log = structlog.get_logger()

Row_co = TypeVar("Row_co", covariant=True)

Kind = Literal["CLIENT", "SERVER", "PRODUCER", "CONSUMER"]

_propagator: Final = TraceContextTextMapPropagator()


class Traces:
    """Makes spans and sends them, in the background."""

    def __init__(self, service: str, exporter: SpanExporter, sampler: Sampler | None = None) -> None:
        about = {"service.name": service, "service.namespace": "brigade", "service.version": version("brigade")}
        self._provider = TracerProvider(resource=Resource.create(about), sampler=sampler)
        self._provider.sampler = _ByLinks(self._provider.sampler)
        self._provider.add_span_processor(BatchSpanProcessor(_Told(exporter)))
        self.tracer = self._provider.get_tracer("brigade")

    @classmethod
    def of_environment(cls, service: str, *, everything: bool = False) -> Self:
        """Where to, how much, how often: OTEL_EXPORTER_OTLP_…, OTEL_TRACES_SAMPLER…, OTEL_BSP_… say."""
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # `_Told` says it once
        sampler: Sampler | None = None  # then the SDK reads the variable
        if everything:
            sampler = ALWAYS_ON
        elif "OTEL_TRACES_SAMPLER" not in os.environ:
            sampler = ParentBased(TraceIdRatioBased(_share()))
        known = any(name in os.environ for name in TIMEOUTS)
        return cls(service, OTLPSpanExporter(timeout=None if known else SECONDS), sampler)

    def begin(
        self,
        name: str,
        kind: Kind,
        *,
        parent: str | None = None,
        links: Sequence[Span] = (),
        at_ns: int | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> Span:
        """A span that its caller ends; `parent` is a `traceparent`, without one it begins a trace."""
        context = _propagator.extract({"traceparent": parent}, Context()) if parent else Context()
        linked = [Link(span.get_span_context()) for span in links]
        return self.tracer.start_span(name, context, SpanKind[kind], dict(attributes or {}), linked, start_time=at_ns)

    @staticmethod
    def traceparent(span: Span) -> str:
        headers: dict[str, str] = {}
        _propagator.inject(headers, set_span_in_context(span))
        return headers["traceparent"]

    @staticmethod
    def kept(traceparent: str) -> bool:
        """Whether this is a `traceparent`, of a trace that is kept."""
        span = trace.get_current_span(_propagator.extract({"traceparent": traceparent}, Context()))
        return span.get_span_context().trace_flags.sampled

    @contextmanager
    def calling(self, name: str, attributes: Mapping[str, Any]) -> Iterator[dict[str, str]]:
        """A span around a call to another service, and the headers by which that one goes on with the trace."""
        headers: dict[str, str] = {}
        with self._current(name, SpanKind.CLIENT, attributes):
            _propagator.inject(headers)
            yield headers

    @contextmanager
    def _current(
        self, name: str, kind: SpanKind, attributes: Mapping[str, Any], context: Context | None = None
    ) -> Iterator[Span]:
        """What an exception says is no part of a trace: it may hold what was sent to us."""
        with self.tracer.start_as_current_span(
            name,
            context,
            kind,
            dict(attributes),
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except BaseException as error:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(Status(StatusCode.ERROR))
                raise

    def answering(self, app: ASGIApp) -> ASGIApp:
        """ASGI middleware: a span for each request, with the trace's id in every log line meanwhile."""
        return _Answering(app, self)

    @property
    def connection(self) -> type[AsyncConnection[Any]]:
        """The class of connections whose statements are spans of the request they are made for."""
        return _connection(self)

    def shut_down(self) -> None:
        """Return when everything was sent, or cannot be."""
        self._provider.shutdown()


def _share() -> float:
    try:
        return float(os.environ.get("OTEL_TRACES_SAMPLER_ARG", DEFAULT_SHARE))
    except ValueError:
        return DEFAULT_SHARE


class _ByLinks(Sampler):
    """What is linked to something that is kept, is kept: a batch, for the messages in it."""

    def __init__(self, otherwise: Sampler) -> None:
        self._otherwise = otherwise

    def should_sample(  # noqa: PLR0917, the SDK calls it so
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Any = None,
        links: Sequence[Link] | None = None,
        trace_state: Any = None,
    ) -> SamplingResult:
        if any(link.context.trace_flags & TraceFlags.SAMPLED for link in links or ()):
            return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes)
        return self._otherwise.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        return f"ByLinks({self._otherwise.get_description()})"


class _Told(SpanExporter):
    """An outage of the collector is one line and a metric; the spans of it are lost, the service goes on."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._away = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        well = result is SpanExportResult.SUCCESS
        EXPORTED.labels("sent" if well else "lost").inc(len(spans))
        if not well and not self._away:
            log.warning("traces_not_taken", reason="the collector is away or refuses them", spans=len(spans))
        if well and self._away:
            log.info("traces_taken_again")
        self._away = not well
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class _Answering:
    def __init__(self, app: ASGIApp, traces: Traces) -> None:
        self._app = app
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        carried = {"traceparent": headers["traceparent"]} if "traceparent" in headers else {}
        context = _propagator.extract(carried, Context())
        method = scope["method"]
        with self._traces._current(method, SpanKind.SERVER, {"http.request.method": method}, context) as span:  # noqa: SLF001
            if not span.is_recording():
                await self._app(scope, receive, send)
                return

            async def noted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    _note(span, message["status"])
                await send(message)

            with structlog.contextvars.bound_contextvars(trace_id=_trace_id(span.get_span_context())):
                try:
                    await self._app(scope, receive, noted)
                finally:
                    route = getattr(scope.get("route"), "path", "")
                    if route:
                        span.update_name(f"{method} {route}")
                        span.set_attribute("http.route", route)


def _note(span: Span, status: int) -> None:
    span.set_attribute("http.response.status_code", status)
    if status >= SERVER_ERROR:
        span.set_status(Status(StatusCode.ERROR))


def _trace_id(context: SpanContext) -> str:
    return trace.format_trace_id(context.trace_id)


def _connection(traces: Traces) -> type[AsyncConnection[Any]]:
    @contextmanager
    def statement(query: Any) -> Iterator[None]:
        """A span, where the request has one. The text alone: values travel beside it and are not told."""
        text = " ".join(query.split())[:QUERY_CHARACTERS] if isinstance(query, str) else ""
        if not text or not trace.get_current_span().is_recording():  # without a text: the pool looks whether it lives
            yield
            return
        about = {"db.system.name": "postgresql", "db.query.text": text}
        with traces._current(f"SQL {text.partition(' ')[0]}", SpanKind.CLIENT, about):  # noqa: SLF001
            yield

    class Cursor(AsyncCursor[Row_co]):
        async def execute(self, query: Any, *arguments: Any, **options: Any) -> Self:
            with statement(query):
                return await super().execute(query, *arguments, **options)

    class ServerCursor(AsyncServerCursor[Row_co]):
        async def execute(self, query: Any, *arguments: Any, **options: Any) -> Self:
            with statement(query):
                return await super().execute(query, *arguments, **options)

    class Connection(AsyncConnection[Row_co]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.cursor_factory = Cursor
            self.server_cursor_factory = ServerCursor

    return Connection

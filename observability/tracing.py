"""Traces by OpenTelemetry: off until an OTEL_ variable says where they go. Its packages are imported only then.

    traces = tracing.start("bridge")        # None: off, and nothing of it costs anything

The variables are OpenTelemetry's own. Two defaults differ: nothing is sent until an endpoint is named, and of what
begins here one in a hundred is traced, not all.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from observability.otlp import Traces

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def wanted(environment: Mapping[str, str]) -> bool:
    disabled = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    exporter = environment.get("OTEL_TRACES_EXPORTER", "otlp")
    return not disabled and exporter == "otlp" and any(environment.get(name) for name in ENDPOINTS)


def start(service: str, *, everything: bool = False) -> "Traces | None":
    """For entry points: what this process tells its traces to; what was not sent yet is sent when it ends.

    `everything`: the process itself decides what is traced, before it begins a span.
    """
    if not wanted(os.environ):
        return None
    from observability.otlp import Traces  # noqa: PLC0415, 80 ms and 10 MB, for who wants traces

    return Traces.of_environment(service, everything=everything)

"""docs/metrics.md from the places in the code where metrics are declared."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).parents[1]
PAGE: Final = REPOSITORY / "docs" / "metrics.md"

KINDS: Final = {
    "Counter": "counter",
    "Gauge": "gauge",
    "GaugeMetricFamily": "gauge",
    "_family": "gauge",
    "Histogram": "histogram",
    "Delays": "histogram",
}
LAG_LABELS: Final = ["consumergroup", "topic", "partition"]

PROCESSES: Final = {  # by what a module's name begins with; the longest fits
    "observability": "every process",
    "observability.measuring": "gateway and users",
    "observability.otlp": "every process that traces",
    "pipeline": "worker",
    "pipeline.bridge": "bridge",
    "pipeline.broker": "broker",
    "pipeline.fleet": "maintain",
    "pipeline.lag": "lag",
    "pipeline.maintain": "maintain",
    "gateway": "gateway",
    "users": "users",
}
SECTIONS: Final = (
    "bridge",
    "worker",
    "lag",
    "maintain",
    "broker",
    "gateway",
    "users",
    "gateway and users",
    "every process",
    "every process that traces",
)

HEADER: Final = """\
# Metrics

What each process tells on `/metrics` of its own port, beside what Python's client tells of itself (`process_…`,
`python_…`). The heading is the job in Prometheus, too. A histogram has `_bucket`, `_sum` and `_count`. Labels come from
small, fixed sets, or there is one for each site: never a device, a person, a URL or an error's text.

Most of these are recorded under other names, for people and dashboards: [operations.md](operations.md) begins there.

`broker` also tells each number that Mosquitto publishes below `$SYS/broker`, as `broker_…`: `broker_clients_connected`,
`broker_publish_messages_dropped` and some forty more, under the names of sapcc's mosquitto-exporter. Those that are
totals, such as that one, have no `_total` at their end.

<!-- Written by scripts/docs from the code: change that. -->
"""


@dataclass(frozen=True, slots=True, order=True)
class Declared:
    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


def metrics_page() -> str:
    by_process = declared()
    return HEADER + "".join(_section(process, by_process[process]) for process in SECTIONS)


def declared() -> dict[str, list[Declared]]:
    """The metrics of each process, by name."""
    found: dict[str, set[Declared]] = {process: set() for process in SECTIONS}
    for package in ("pipeline", "gateway", "users", "observability"):
        for file in sorted((REPOSITORY / package).rglob("*.py")):
            found[_process(file)].update(_declared_in(file))
    return {process: sorted(metrics) for process, metrics in found.items()}


def _process(file: Path) -> str:
    module = ".".join(file.relative_to(REPOSITORY).with_suffix("").parts)
    return PROCESSES[max((prefix for prefix in PROCESSES if f"{module}.".startswith(f"{prefix}.")), key=len)]


def _declared_in(file: Path) -> Iterator[Declared]:
    source = file.read_text()
    for node in ast.walk(ast.parse(source)) if "prometheus_client" in source or "Delays(" in source else ():
        match node:
            case ast.Call(
                func=ast.Name(id=function) | ast.Attribute(attr=function),
                args=[ast.Constant(value=str(name)), ast.Constant(value=str(text)), *more],
            ) if function in KINDS and "_" in name:
                kind = KINDS[function]
                suffix = "_total" if kind == "counter" and not name.endswith("_total") else ""
                labels = LAG_LABELS if function == "_family" else _labels([*more, *_keyword(node, "labels")])
                yield Declared(name + suffix, kind, tuple(labels), text)


def _keyword(call: ast.Call, name: str) -> list[ast.expr]:
    return [keyword.value for keyword in call.keywords if keyword.arg == name]


def _labels(arguments: list[ast.expr]) -> list[str]:
    lists = [ast.literal_eval(argument) for argument in arguments if isinstance(argument, ast.List)]
    return lists[0] if lists else []


def _section(process: str, metrics: list[Declared]) -> str:
    rows = [f"| `{m.name}` | {m.kind} | {', '.join(m.labels)} | {m.text} |\n" for m in metrics]
    return f"\n## {process}\n\n| metric | type | labels | what it tells |\n|---|---|---|---|\n" + "".join(rows)

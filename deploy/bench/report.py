"""The tables of docs/performance.md, between its two marks; the text around them is written by hand."""

from collections.abc import Iterable, Iterator, Sequence

from deploy.bench.api import FanOut, Load
from deploy.bench.api import pairs as pairs_of_loads
from deploy.bench.chain import AIM, Run
from deploy.bench.cpu import OURS, SERVERS
from deploy.bench.panels import AIM_MS, RANGES
from deploy.bench.results import Results
from deploy.bench.telegraf import RivalRun
from deploy.local.layout import REPOSITORY, Broker

PAGE = REPOSITORY / "docs" / "performance.md"
BEGIN = "<!-- written by scripts/bench: begin -->"
END = "<!-- written by scripts/bench: end -->"
PICTURES = (
    "![CPU of a message by process, stacked](performance/cpu.svg)",
    "",
    "![Time from publishing to a visible row, over the rate](performance/latency.svg)",
)
CHAIN = ("mosquitto", "bridge", "kafka", "worker", "postgres", "postgres closing")
RIVAL = ("mosquitto", "telegraf", "postgres")


def write(results: Results) -> None:
    text = PAGE.read_text()
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    PAGE.write_text(f"{before}{BEGIN}\n\n{tables(results)}\n\n{after}")


def tables(results: Results) -> str:
    return "\n\n".join("\n".join(part) for part in parts(results))


def parts(results: Results) -> Iterator[Iterable[str]]:
    here = results.machine
    yield [f"Measured on {results.measured}: {here.cores} cores ({here.model}), {here.memory_gib} GiB; {here.system}."]
    if results.settings:
        yield [
            "Settings beside the defaults: "
            + ", ".join(f"`{name}={value}`" for name, value in results.settings.items())
        ]
    if results.chain:
        yield PICTURES
        yield ["### Aims", "", *table(("aim", "came out", ""), aims(results))]
    for broker, runs in results.chain.items():
        yield [f"### Rates, broker in {broker} mode", "", *table(RATES, map(rate, runs))]
    if results.chain:
        yield ["### CPU of a message, in µs", "", *table(("", *CHAIN, "telegraf", "sum", "publisher"), costs(results))]
    if results.queries:
        rows = (
            (
                q.question,
                f"{q.median_ms:.1f} ms",
                f"{q.database_ms:.1f} ms",
                f"{q.rows_read:,}",
                "; ".join(map(_used, q.used)),
            )
            for q in results.queries
        )
        head = ("asked over HTTP", "answered in", "of it database", "rows read", "by")
        yield [f"### Questions to {results.rows:,} readings", "", *table(head, rows)]
    if results.panels:
        worst = max(panel.median_ms for panel in results.panels)
        aim = _aim(f"each panel < {AIM_MS} ms for 24 h, 7 d and 90 d", f"the slowest {worst:.0f} ms", worst < AIM_MS)
        title = f"### Grafana's panels on {results.panel_rows:,} readings"
        yield [title, "", *table(("aim", "came out", ""), [aim])]
        yield [*table(("panel", *RANGES, "rows read, at the most"), panel_rows(results))]
    if results.loads:
        yield ["### Aims of the API", "", *table(("aim", "came out", ""), api_aims(results))]
        title = f"### The gateway under load, {results.api_rows:,} readings, beside a bare handler with the same SQL"
        yield [title, "", *table(LOADS, map(load, results.loads))]
    if results.streams:
        yield ["### The live stream to many", "", *table(STREAMS, map(stream, results.streams))]


def panel_rows(results: Results) -> Iterator[Sequence[str]]:
    """A line for each panel, a column for each range."""
    for name in dict.fromkeys(panel.panel for panel in results.panels):
        answers = [panel for panel in results.panels if panel.panel == name]
        times = {answer.shown: f"{answer.median_ms:.1f} ms" for answer in answers}
        yield (name, *times.values(), f"{max(answer.rows_read for answer in answers):,}")


LOADS = ("question", "server", "requests/s", "p50", "p99", "CPU µs a request", "bytes")
STREAMS = ("server", "clients", "events", "CPU µs each", "of a core", "after the commit p50", "p99", "bytes")


def load(one: Load) -> Sequence[str]:
    return (
        one.question,
        one.server,
        f"{one.rate:,.0f}",
        f"{one.p50_ms:.1f} ms",
        f"{one.p99_ms:.1f} ms",
        f"{one.cpu_us:,.0f}",
        f"{one.bytes:,}",
    )


def stream(one: FanOut) -> Sequence[str]:
    return (
        one.server,
        f"{one.clients:,}",
        f"{one.events:,}",
        f"{one.cpu_us:.0f}",
        f"{one.cpu_share:.0%}",
        f"{one.p50_ms:.0f} ms",
        f"{one.p99_ms:.0f} ms",
        f"{one.bytes:,}",
    )


def api_aims(results: Results) -> Iterator[Sequence[str]]:
    for ours, other in pairs_of_loads(results.loads):
        ratio = ours.cpu_us / other.cpu_us
        yield _aim(f"{ours.question}: ≤ 1.5 times the bare handler's CPU", f"{ratio:.2f} times", ratio <= 1.5)
    for ours in results.loads:
        if ours.server == "gateway" and ours.question == "latest, 200 a second":
            yield _aim("latest at 200 a second, p99 < 50 ms", f"{ours.p99_ms:.1f} ms", ours.p99_ms < 50)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(row)} |"


def _used(words: str) -> str:
    *how, name, chunks = words.split()
    return f"{' '.join(how).lower()} on `{name}` ({chunks} chunk{'' if chunks == '1' else 's'})"


RATES = (
    "messages/s",
    "for",
    "sent = stored",
    "sustained",
    "visible p50",
    "p99",
    "longest",
    "ours µs",
    "servers µs",
    "machine busy",
    "by others",
)


def rate(one: Run) -> Sequence[str]:
    wait = one.latency
    return (
        f"{one.rate:,}",
        f"{one.seconds:g} s",
        f"{one.sent:,} = {one.stored:,}" if one.exact else f"**{one.sent:,} ≠ {one.stored:,}**",
        "yes" if one.sustained else f"no: {one.late_seconds:.1f} s late, {one.drain_seconds:.1f} s to drain",
        f"{wait.p50:.0f} ms",
        f"{wait.p99:.0f} ms",
        f"{wait.max:.0f} ms",
        f"{used(one, OURS):.1f}",
        f"{used(one, SERVERS):.1f}",
        f"{one.busy:.0%}",
        f"{one.others:.0%}",
    )


def used(one: Run | RivalRun, groups: Iterable[str]) -> float:
    return sum(one.cpu.get(group, 0.0) for group in groups)


def best(results: Results, broker: Broker) -> Run | None:
    """The longest of the sustained runs, of those the fastest."""
    sustained = [run for run in results.chain.get(broker, ()) if run.sustained]
    return max(sustained, key=lambda run: (run.seconds, run.rate), default=None)


def full(runs: Sequence[Run], one: Run) -> dict[str, float]:
    """Its costs, those of closing minutes by the longest run: short ones end before their minutes do."""
    whole = max((run for run in runs if run.closed), key=lambda run: run.sent, default=one)
    return one.cpu if one.closed else one.cpu | {"postgres closing": whole.cpu["postgres closing"]}


def aims(results: Results) -> Iterator[Sequence[str]]:
    memory, durable = best(results, Broker.MEMORY), best(results, Broker.DURABLE)
    if memory:
        yield _aim(
            f"{AIM:,} messages/s for 60 s",
            f"{memory.rate:,}/s for {memory.seconds:g} s",
            memory.rate >= AIM and memory.seconds >= 60,
        )
        aimed = next((run for run in reversed(results.chain[Broker.MEMORY]) if run.rate == AIM), memory)
        yield _aim(
            f"visible at {aimed.rate:,}/s for {aimed.seconds:g} s, p99 < 300 ms",
            f"{aimed.latency.p99:.0f} ms",
            aimed.sustained and aimed.latency.p99 < 300,
        )
        ours, servers = used(aimed, OURS), used(aimed, SERVERS)
        yield _aim(
            "our two processes ≤ half of the servers' CPU",
            f"{ours:.1f} of {servers:.1f} µs: {ours / servers:.0%}",
            ours <= servers / 2,
        )
    ten = [run for run in results.chain.get(Broker.MEMORY, ()) if run.rate == 10_000]
    if ten:
        yield _aim(
            "visible at 10,000/s, p99 < 120 ms",
            f"{ten[0].latency.p99:.0f} ms",
            ten[0].sustained and ten[0].latency.p99 < 120,
        )
    if durable:
        yield _aim(
            "durable broker ≥ 10,000 messages/s",
            f"{durable.rate:,}/s for {durable.seconds:g} s",
            durable.rate >= 10_000,
        )
    for ours_run, rival in pairs(results):
        mine, theirs = sum(ours_run[group] for group in CHAIN), used(rival, RIVAL)
        yield _aim(
            f"fewer µs a message than Telegraf ({rival.layout}, {rival.rate:,}/s)",
            f"{mine:.1f} against {theirs:.1f}",
            mine < theirs,
        )


def _aim(aim: str, found: str, met: bool) -> Sequence[str]:  # noqa: FBT001
    return aim, found, "met" if met else "**not met**"


def pairs(results: Results) -> Iterator[tuple[dict[str, float], RivalRun]]:
    """Ours beside Telegraf at the same rate, the broker in memory mode for both."""
    runs = results.chain.get(Broker.MEMORY, [])
    for rival in results.rival:
        if ours := next((run for run in runs if run.rate == rival.rate), None):
            yield full(runs, ours), rival


def costs(results: Results) -> Iterator[Sequence[str]]:
    for broker, runs in results.chain.items():
        for one in runs:
            cpu = full(runs, one)
            cells = (f"{cpu.get(group, 0):.1f}" for group in CHAIN)
            total = sum(cpu.get(group, 0) for group in CHAIN)
            yield (
                f"{broker}, {one.rate:,}/s, {one.seconds:g} s",
                *cells,
                "",
                f"**{total:.1f}**",
                f"{cpu['publisher']:.1f}",
            )
    for rival in results.rival:
        cells = (f"{rival.cpu[group]:.1f}" if group in rival.cpu and group in RIVAL else "" for group in CHAIN)
        name = f"Telegraf {rival.layout}, {rival.rate:,}/s{'' if rival.sustained else ', not sustained'}"
        yield (
            name,
            *cells,
            f"{rival.cpu['telegraf']:.1f}",
            f"**{used(rival, RIVAL):.1f}**",
            f"{rival.cpu['publisher']:.1f}",
        )

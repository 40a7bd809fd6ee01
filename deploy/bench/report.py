"""The tables of docs/performance.md, between its two marks; the text around them is written by hand."""

from collections.abc import Iterable, Iterator, Sequence

from deploy.bench.chain import Run
from deploy.bench.cpu import OURS, SERVERS
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
    """Its costs, with closing minutes for all of its messages: by the run that closed most of its own."""
    most = max(runs, key=lambda run: run.closed * run.sent)
    closing = most.cpu["postgres closing"] / most.closed if most.closed else one.cpu["postgres closing"]
    return one.cpu | {"postgres closing": closing}


def aims(results: Results) -> Iterator[Sequence[str]]:
    memory, durable = best(results, Broker.MEMORY), best(results, Broker.DURABLE)
    if memory:
        yield _aim(
            "40,000 messages/s for 60 s",
            f"{memory.rate:,}/s for {memory.seconds:g} s",
            memory.rate >= 40_000 and memory.seconds >= 60,
        )
        yield _aim("visible at that rate, p99 < 300 ms", f"{memory.latency.p99:.0f} ms", memory.latency.p99 < 300)
        ours, servers = used(memory, OURS), used(memory, SERVERS)
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

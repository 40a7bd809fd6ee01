"""Two pictures for docs/performance.md, drawn from its results."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from deploy.bench.report import CHAIN, full
from deploy.bench.results import FOLDER, Results

COLOURS = {
    "mosquitto": "#7f8c9b",
    "kafka": "#a9b4c0",
    "postgres": "#5b6b7d",
    "postgres closing": "#3d4a59",
    "bridge": "#f28e2b",
    "worker": "#d95f02",
    "telegraf": "#4e9fd1",
    "publisher": "#e7e9ec",
}
ORDER = ("mosquitto", "kafka", "postgres", "postgres closing", "bridge", "worker", "telegraf", "publisher")
FEWEST_RATE = 5_000
"""Below, fixed costs hide what a message costs."""


def draw(results: Results, folder: Path = FOLDER) -> None:
    mpl.use("svg")
    mpl.rcParams |= {"svg.hashsalt": "brigade", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    folder.mkdir(parents=True, exist_ok=True)
    bars(results, folder / "cpu.svg")
    waits(results, folder / "latency.svg")


def bars(results: Results, file: Path) -> None:
    """CPU per message by process, stacked."""
    columns: list[tuple[str, Mapping[str, float]]] = []
    for broker, runs in results.chain.items():
        columns += [
            (f"{broker}\n{one.rate // 1000}k/s, {one.seconds:g} s", full(runs, one))
            for one in runs
            if one.sustained and one.rate >= FEWEST_RATE
        ]
    columns += [(f"Telegraf\n{one.layout}\n{one.rate // 1000}k/s", one.cpu) for one in results.rival]
    figure, axes = plt.subplots(figsize=(max(6.0, 0.85 * len(columns) + 2), 4.2))
    bottoms = [0.0] * len(columns)
    for group in ORDER:
        heights = [cpu.get(group, 0.0) if group in (*CHAIN, "telegraf", "publisher") else 0.0 for _, cpu in columns]
        if any(heights):
            axes.bar(range(len(columns)), heights, bottom=bottoms, width=0.7, label=group, color=COLOURS[group])
        bottoms = [a + b for a, b in zip(bottoms, heights, strict=True)]
    axes.set_xticks(range(len(columns)), [name for name, _ in columns], fontsize=7)
    axes.set_ylabel("CPU µs a message")
    axes.set_title("What a message of three values costs, by process", loc="left")
    if columns:
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), reverse=True)
    _save(figure, file)


def waits(results: Results, file: Path) -> None:
    """Latency over rate."""
    figure, axes = plt.subplots(figsize=(6.5, 4))
    for (broker, runs), colour in zip(results.chain.items(), ("#d95f02", "#3d4a59"), strict=False):
        kept = sorted((one for one in runs if one.sustained), key=lambda one: one.rate)
        rates: Sequence[float] = [one.rate / 1000 for one in kept]
        axes.plot(rates, [one.latency.p99 for one in kept], "o-", color=colour, label=f"{broker}, p99")
        axes.plot(rates, [one.latency.p50 for one in kept], "o--", color=colour, alpha=0.6, label=f"{broker}, p50")
    axes.set_xlabel("thousand messages/s (three values each)")
    axes.set_ylabel("ms from publishing to visible row")
    axes.set_ylim(bottom=0)
    axes.set_title("How long until a reading can be seen", loc="left")
    axes.legend(frameon=False, fontsize=8)
    _save(figure, file)


def _save(figure: Figure, file: Path) -> None:
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)

"""`scripts/bench`: how fast Brigade is on this machine, and what a message costs."""

import argparse
import time
from collections.abc import Callable

from deploy.bench import api, chain, observed, panels, plots, queries, report, results, telegraf
from deploy.bench.instance import Bench, running
from deploy.bench.results import Results
from deploy.local.layout import REPOSITORY, Broker
from deploy.local.say import say, stop

EXAMPLES = """
examples:
  scripts/bench all                       everything, about 15 minutes; writes docs/performance
  scripts/bench all --quick               everything, small; writes nothing
  scripts/bench chain --rates 10000,20000 --seconds 20 --broker durable
  scripts/bench rival --rates 20000
  scripts/bench queries --rows 5000000
  scripts/bench panels                    Grafana's panels on the same readings
  scripts/bench api --clients 500
  scripts/bench observed --rates 10000    what metrics, logs and traces cost; writes nothing
  scripts/bench report                    docs/performance.md again, from its results.json
  BRIGADE_BRIDGE_LINGER_SECONDS=0.05 scripts/bench chain        with other settings of ours

The first run builds Telegraf and loads the readings for the queries, which takes some minutes more; both are kept.
"""
WARM_UP = (15_000, 20.0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="How fast Brigade is on this machine, and what a message costs.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "what",
        choices=["all", "chain", "rival", "queries", "panels", "api", "observed", "report"],
        help="chain: devices to rows; rival: Telegraf; queries: the API's plans; panels: Grafana's SQL; "
        "api: the API under load; observed: the chain with metrics, logs and traces beside one without",
    )
    add("--quick", action="store_true", help="a few seconds each, small rates, few rows; nothing is written")
    add("--rates", type=_numbers, help="messages a second, rising, separated by commas")
    add("--seconds", type=float, help="for each rate")
    add("--long-seconds", type=float, help="for the highest rate that was sustained; 0: no such run")
    add(
        "--broker",
        choices=[*Broker, "both"],
        default="both",
        help="how Mosquitto keeps messages (default: one after the other)",
    )
    add("--devices", type=int, default=500, help="(default: %(default)s)")
    add(
        "--connections",
        type=int,
        default=4,
        help="MQTT connections they share (default: %(default)s)",
    )
    add("--rows", type=int, help="readings to ask questions of")
    add("--clients", type=int, default=500, help="of the live stream (default: %(default)s)")
    add("--save", action="store_true", help="write docs/performance also when only a part was measured")
    add("--rounds", type=int, default=2, help="of `observed`: off, on, on, off each (default: %(default)s)")
    add("--traced", type=float, default=0.01, help="share of the messages of `observed` (default: %(default)s)")
    add("--keep", action="store_true", help="leave the servers running")
    add("--instance", default="bench", help="name of the local stack's instance (default: %(default)s)")
    add("--offset", type=int, default=15_000, help="added to its ports (default: %(default)s)")
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def main() -> None:
    asked = arguments()
    began = time.monotonic()
    found = results.load()
    if asked.what == "report":
        write(found)
    else:
        measure(asked, found)
        say(f"measured in {(time.monotonic() - began) / 60:.1f} minutes")


def write(found: Results) -> None:
    results.save(found)
    report.write(found)
    plots.draw(found)
    say(f"written: {report.PAGE.relative_to(REPOSITORY)}, {results.FOLDER.relative_to(REPOSITORY)}")


def measure(asked: argparse.Namespace, found: Results) -> None:
    parts: dict[str, Callable[[argparse.Namespace, Bench, Results], None]] = {
        "chain": measure_chain,
        "rival": measure_rival,
        "queries": measure_queries,
        "panels": measure_panels,
        "api": measure_api,
    }
    if asked.what == "observed":
        with running(asked.instance, asked.offset, keep=asked.keep) as bench:
            measure_observed(asked, bench)
        return
    now = Results()
    found.machine, found.measured, found.settings = now.machine, now.measured, now.settings
    with running(asked.instance, asked.offset, keep=asked.keep) as bench:
        for part, function in parts.items():
            if asked.what in {part, "all"}:
                function(asked, bench, found)
                if asked.save or (asked.what == "all" and not asked.quick):
                    write(found)


def measure_chain(asked: argparse.Namespace, bench: Bench, found: Results) -> None:
    shape = chain.Shape(devices=asked.devices, connections=asked.connections)
    seconds = asked.seconds or (4 if asked.quick else 12)
    for broker in (Broker.DURABLE, Broker.MEMORY) if asked.broker == "both" else (Broker(asked.broker),):
        say(f"our chain, broker in {broker} mode")
        bench.begin(broker)
        if not asked.quick:
            chain.warm_up(bench, *WARM_UP, shape)
        long = asked.long_seconds if asked.long_seconds is not None else _long(broker, quick=asked.quick)
        found.chain[broker] = chain.climb(bench, asked.rates or _rates(broker, quick=asked.quick), seconds, long, shape)
    bench.end_chain()


def _rates(broker: Broker, *, quick: bool) -> list[int]:
    if quick:
        return [1_000, 5_000]
    if broker is Broker.DURABLE:
        return [1_000, 5_000, 10_000, 15_000, 20_000]
    return [1_000, 5_000, 10_000, 20_000, 30_000, 40_000, 50_000]


def _long(broker: Broker, *, quick: bool) -> float:
    if quick:
        return 0
    return 60 if broker is Broker.MEMORY else 30


def measure_rival(asked: argparse.Namespace, bench: Bench, found: Results) -> None:
    binary = telegraf.build(bench.stack.instance.cache)
    if binary is None:
        return
    shape = chain.Shape(devices=asked.devices, connections=asked.connections)
    seconds = asked.seconds or (4 if asked.quick else 12)
    rates = asked.rates or ([5_000] if asked.quick else [10_000, 20_000])
    runs = [(telegraf.Layout.WIDE, rate) for rate in rates] + [(telegraf.Layout.NARROW, min(rates[0], 5_000))]
    found.rival = [
        telegraf.run(bench, binary, layout, rate=rate, seconds=seconds, shape=shape) for layout, rate in runs
    ]


def measure_queries(asked: argparse.Namespace, bench: Bench, found: Results) -> None:
    rows = asked.rows or (2_500_000 if asked.quick else 50_000_000)
    found.rows, found.queries = queries.run(bench, rows)
    if any(answer.scans_all for answer in found.queries):
        say("a question read a whole table: no index or roll-up answers it")


def measure_panels(asked: argparse.Namespace, bench: Bench, found: Results) -> None:
    rows = asked.rows or (2_500_000 if asked.quick else 50_000_000)
    found.panel_rows, found.panels = panels.run(bench, rows)


def measure_api(asked: argparse.Namespace, bench: Bench, found: Results) -> None:
    rows = asked.rows or (2_500_000 if asked.quick else 50_000_000)
    seconds = asked.seconds or (3 if asked.quick else 12)
    found.api_rows, found.loads, found.streams = api.run(bench, rows, seconds, asked.clients)


def measure_observed(asked: argparse.Namespace, bench: Bench) -> None:
    shape = chain.Shape(devices=asked.devices, connections=asked.connections, traced=asked.traced)
    rate, seconds = (asked.rates or [10_000])[0], asked.seconds or (4 if asked.quick else 20)
    print(observed.table(observed.measure(bench, rate, seconds, 1 if asked.quick else asked.rounds, shape)))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        stop("ended before its end")

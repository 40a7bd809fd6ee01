"""`scripts/faults`: each part killed, ended and frozen at full load, longer outages too; what came out, published."""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from deploy.local.layout import REPOSITORY
from deploy.local.say import say
from tests.end_to_end import faults
from tests.end_to_end.faults import ALL_AT_ONCE, COME_AND_GO, FULL_HANDS, MATRIX, Case, Outcome
from tests.end_to_end.stacks import own_stack

CASES = {
    str(case): case for case in (*MATRIX, *FULL_HANDS, *faults.away(kafka=120, postgres=60), COME_AND_GO, ALL_AT_ONCE)
}
PAGE = REPOSITORY / "docs" / "reliability.md"
RESULTS = REPOSITORY / "docs" / "reliability" / "results.json"
BEGIN, END = "<!-- scripts/faults writes from here -->", "<!-- to here -->"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One run of one case. `failed`: why there is no account."""

    case: str
    outage_seconds: float
    sent: int = 0
    acknowledged: int = 0
    unknown: int = 0
    stored: int = 0
    missing: int = 0
    twice: int = 0
    recovery_seconds: float = 0
    right: bool = False
    failed: str | None = None
    wrong: dict[str, Any] | None = None


def main() -> None:
    asked = arguments()
    cases = [CASES[name] for name in asked.case or CASES]
    results: list[Result] = []
    # The settings are the defaults: what comes out is what an installation has.
    with (
        own_stack("faults", {}, keep_logs=lambda: any(not result.right for result in results)) as stack,
        tempfile.TemporaryDirectory() as folder,
    ):
        for number in range(asked.runs):
            for case in cases:
                result = one(lambda case=case: faults.run(stack, [case], Path(folder), rate=asked.rate), case)
                results.append(result)
                say(f"run {number + 1}  {line(result)}")
    print("\n".join(table(results)))
    if not asked.no_docs:
        publish(results, asked.rate, asked.runs)
    raise SystemExit(0 if all(result.right for result in results) else 1)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/faults", description=__doc__)
    add = parser.add_argument
    add("--runs", type=int, default=1, help="of each case")
    add("--rate", type=int, default=1_000, help="messages a second, of 120 simulated sensors")
    add("--case", action="append", choices=list(CASES), metavar="PART:HOW", help=f"may be repeated; {', '.join(CASES)}")
    add("--no-docs", action="store_true", help="leave docs/reliability.md as it is")
    return parser.parse_args()


def one(run: Any, case: Case) -> Result:
    begin = time.monotonic()
    try:
        outcome = run()
    except (AssertionError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        return Result(
            case=str(case), outage_seconds=case.seconds, failed=f"after {time.monotonic() - begin:.0f} s: {error}"
        )
    return result_of(outcome, case)


def result_of(outcome: Outcome, case: Case) -> Result:
    account = outcome.account
    return Result(
        case=str(case),
        outage_seconds=case.seconds,
        sent=account.acknowledged + account.unknown,
        acknowledged=account.acknowledged,
        unknown=account.unknown,
        stored=account.stored,
        missing=account.missing,
        twice=account.twice,
        recovery_seconds=round(outcome.recovery_seconds[str(case)], 1),
        right=outcome.right,
        failed=None if not outcome.not_returned else "not everything came back by itself",
        wrong=account.wrong or None,
    )


def line(result: Result) -> str:
    numbers = asdict(result)
    told = "  ".join(
        f"{name} {numbers[name]}" for name in ("acknowledged", "stored", "missing", "twice", "recovery_seconds")
    )
    return f"{result.case:24}{told}  {'right' if result.right else f'WRONG {result.failed or result.wrong}'}"


def table(results: list[Result]) -> Iterable[str]:
    yield (
        "| part: what | outage | sent | acknowledged | unknown | readings stored | missing | twice | recovery |"
        " runs right |"
    )
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    for case in dict.fromkeys(result.case for result in results):
        runs = [result for result in results if result.case == case]
        sums = [f"{sum(getattr(run, name) for run in runs):,}" for name in
                ("sent", "acknowledged", "unknown", "stored", "missing", "twice")]  # fmt: skip
        outage = f"{runs[0].outage_seconds:g} s" if runs[0].outage_seconds else ""
        cells = [
            case.replace(":", ": "),
            outage,
            *sums,
            recovery(runs),
            f"{sum(run.right for run in runs)} of {len(runs)}",
        ]
        yield f"| {' | '.join(cells)} |"


def recovery(runs: list[Result]) -> str:
    times = sorted(run.recovery_seconds for run in runs)
    told = [f"{seconds:.1f}" if seconds else "< 1.5" for seconds in (times[0], times[-1])]
    return f"{' to '.join(dict.fromkeys(told))} s"


def publish(results: list[Result], rate: int, runs: int) -> None:
    """Into the page, between its two marks, and the whole beside it."""
    facts = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=False
        ).stdout.strip(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "rate": rate,
        "runs": runs,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(facts | {"results": [asdict(result) for result in results]}, indent=1) + "\n")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    if not rest:
        sys.exit(f"{PAGE} lacks the line {BEGIN}")
    PAGE.write_text(before + "\n".join([BEGIN, "", *told(facts, results), "", END]) + after)


def told(facts: dict[str, Any], results: list[Result]) -> Iterable[str]:
    yield (
        f"{facts['date']}, commit {facts['commit']}, a shared virtual machine with {facts['cores']} cores and"
        f" {facts['memory_gb']} GB that ran all servers and the sensors; {facts['rate']:,} messages a second,"
        f" {facts['runs']} {'run' if facts['runs'] == 1 else 'runs'} of each case, default settings, two workers."
    )
    yield ""
    yield from table(results)
    if wrong := [result for result in results if not result.right]:
        yield ""
        yield "What went wrong:"
        yield ""
        yield from (f"- {result.case}: {result.failed or json.dumps(result.wrong)}" for result in wrong)


if __name__ == "__main__":
    main()

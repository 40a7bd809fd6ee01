"""promtool and amtool out of the Debian root, on rule files as they are, or changed for the worse."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deploy.local.layout import REPOSITORY, cache_folder

RULES = REPOSITORY / "deploy" / "prometheus" / "rules"


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What an expression gives after so many minutes: label sets and values, in any order."""

    minutes: float
    query: str
    samples: Sequence[tuple[str, float]]


def tool(name: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run it with `folder` as its working directory."""
    root = next((found.parents[2] for found in cache_folder().glob(f"roots/trixie-*/usr/bin/{name}")), None)
    if root is None:
        pytest.fail(f"no Debian root has {name}: scripts/up makes one")
    sandbox = ["bwrap", "--ro-bind", str(root), "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    command = [*sandbox, "--ro-bind", str(folder), "/data", "--chdir", "/data", name, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def try_rules(
    folder: Path,
    series: Mapping[str, str],
    expectations: Sequence[Expectation],
    *,
    rules: Path = RULES,
    every_seconds: int = 15,
) -> subprocess.CompletedProcess[str]:
    """Feed a sample every so often to all rules. `series`: promtool's notation, `0+1x40`, by series."""
    for file in rules.glob("*.yml"):
        (folder / file.name).write_text(file.read_text())
    test = {
        "rule_files": sorted(file.name for file in rules.glob("*.yml")),
        "evaluation_interval": f"{every_seconds}s",
        "tests": [
            {
                "interval": f"{every_seconds}s",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [_promql(expectation) for expectation in expectations],
            }
        ],
    }
    (folder / "test.json").write_text(json.dumps(test))
    return tool("promtool", folder, "test", "rules", "test.json")


def _promql(expectation: Expectation) -> dict[str, Any]:
    samples = [{"labels": labels, "value": value} for labels, value in expectation.samples]
    return {"expr": expectation.query, "eval_time": f"{round(expectation.minutes * 60)}s", "exp_samples": samples}

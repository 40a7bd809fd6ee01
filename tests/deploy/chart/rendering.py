"""The chart as helm renders it: once for each set of words, for all tests of a run."""

import subprocess
from functools import cache
from typing import Any

import pytest
import yaml

from deploy.local.layout import REPOSITORY

CHART = REPOSITORY / "deploy" / "helm"
SYSTEM, MONITORING = "restaurant-system", "monitoring"
VALUES = ((), *(("-f", file.name) for file in sorted(CHART.glob("values-*.yaml"))))
"""Every values file that comes with the chart, as a person gives it."""


@cache
def tools() -> str:
    """The folder of helm and kubectl; without one the test is skipped by name."""
    done = subprocess.run([REPOSITORY / "scripts" / "tools"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no helm and kubectl: scripts/tools says {done.stderr.strip()}")
    return done.stdout.strip()


def helm(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([f"{tools()}/helm", *words], cwd=CHART, capture_output=True, text=True, check=False)


@cache
def template(*words: str) -> subprocess.CompletedProcess[str]:
    return helm("template", "restaurant-management", ".", "--namespace", SYSTEM, *words)


@cache
def render(*words: str) -> tuple[dict[str, Any], ...]:
    """Every object that `helm template` gives with these words."""
    done = template(*words)
    assert not done.returncode, done.stderr
    return tuple(one for one in yaml.load_all(done.stdout, yaml.CSafeLoader) if one)


def of_kind(kind: str, *words: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in render(*words) if one["kind"] == kind}


def pod_specs(*words: str) -> dict[str, dict[str, Any]]:
    """Pod templates by kind and name of what makes them."""
    return {
        f"{one['kind']}/{one['metadata']['name']}": one["spec"]["template"]
        for one in render(*words)
        if "template" in one.get("spec", {}) and one["kind"] not in {"Certificate", "ExternalSecret"}
    }

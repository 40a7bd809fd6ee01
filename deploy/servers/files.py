"""scripts/chart-files: what the servers' charts need of the rest of the repository.

Helm reads files inside a chart alone. Rules, routes, dashboards and the collector's configuration have one home each;
the charts have copies, committed so that `helm install` works from a checkout. A test says whether they are current.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from deploy.local.layout import REPOSITORY

CHARTS = REPOSITORY / "deploy" / "helm" / "charts"
TEMPLATES = REPOSITORY / "deploy" / "servers" / "templates"


def wanted() -> dict[Path, str]:
    """Every copy, and what should be in it."""
    return {copy: _text(original) for original, copy in _pairs()}


def _text(original: Path) -> str:
    text = original.read_text()
    # The local stack's templates write `$$` where Python's would see a name.
    return text.replace("$$", "$") if original.parent.name == "templates" and original.suffix == ".yml" else text


def _pairs() -> Iterator[tuple[Path, Path]]:
    for facts in sorted(CHARTS.glob("*/Chart.yaml")):
        yield TEMPLATES / "_server.tpl", facts.parent / "templates" / "_server.tpl"
    for chart in ("kafka", "mosquitto", "postgresql", "timescaledb"):
        yield TEMPLATES / "certificate.yaml", CHARTS / chart / "templates" / "certificate.yaml"
    for postgres in (CHARTS / "postgresql", CHARTS / "timescaledb"):
        yield TEMPLATES / "postgres.yaml", postgres / "templates" / "postgres.yaml"
        yield TEMPLATES / "postgres-configuration.yaml", postgres / "templates" / "configuration.yaml"
    for source, pattern, into in (
        ("deploy/prometheus", "rules/*.yml", "prometheus"),
        ("deploy/alertmanager", "alertmanager.yml", "alertmanager"),
        ("deploy/local/templates", "kafka-metrics.yml", "kafka"),
        ("deploy/logs", "loki.yaml", "loki"),
        ("deploy/logs", "brigade.yaml", "loki"),
        ("deploy/logs", "fluent-bit-kubernetes.yaml", "loki"),
        ("grafana", "provisioning/*/*.yaml", "grafana"),
        ("grafana", "dashboards/*/*.json", "grafana"),
    ):
        folder = REPOSITORY / source
        for original in sorted(folder.glob(pattern)):
            yield original, CHARTS / into / "files" / original.relative_to(folder)


def stale(copies: dict[Path, str]) -> list[Path]:
    """Copies that are not there, not current, or of nothing any more."""
    there = {file for file in CHARTS.glob("*/files/**/*") if file.is_file()}
    differ = [file for file, text in copies.items() if not file.exists() or file.read_text() != text]
    return sorted({*differ, *(there - copies.keys())})


def main() -> None:
    copies = wanted()
    files = stale(copies)
    for file in files:
        print(file.relative_to(REPOSITORY))
    if "--check" in sys.argv[1:]:
        if files:
            raise SystemExit("not current: scripts/chart-files writes them")
        return
    for file in files:
        if file in copies:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(copies[file])
        else:
            file.unlink()


if __name__ == "__main__":
    main()

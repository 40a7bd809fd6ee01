"""`brigade settings`: every setting of the pipeline, as it is now and what it means."""

from typing import Final

import typer
from pydantic.fields import FieldInfo

from observability.settings import PREFIX
from pipeline.settings import (
    AlertSettings,
    BridgeSettings,
    BrokerSettings,
    CommandSettings,
    LagSettings,
    MaintainSettings,
    Settings,
    StatusSettings,
    WorkerSettings,
    load,
)

PARTS: Final[dict[str, type[Settings]]] = {
    "bridge": BridgeSettings,
    "worker": WorkerSettings,
    "maintain": MaintainSettings,
    "lag": LagSettings,
    "broker": BrokerSettings,
    "brigade": CommandSettings,
    "brigade alerts": AlertSettings,
    "brigade status": StatusSettings,
}

app = typer.Typer()


@app.command()
def settings() -> None:
    """Every setting of the pipeline: its variable, its value now (secrets hidden), its default, what it means.

    docs/settings.md has those of the other services too, and of `brigade install`.
    """
    told: set[str] = set()
    for part in PARTS.values():
        values = load(part)
        for name, field in part.model_fields.items():
            if name not in told:
                told.add(name)
                _show(name, field, getattr(values, name))


def _show(name: str, field: FieldInfo, value: object) -> None:
    changed = "" if value == field.default else f"   (default {field.default})"
    print(f"{PREFIX}{name.upper()}={'' if value is None else value}{changed}\n    {field.description}")

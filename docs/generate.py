"""scripts/docs: writes docs/settings.md from the settings classes of every service."""

import sys
from pathlib import Path
from typing import Any

from pydantic import AliasChoices
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from gateway.settings import GatewaySettings
from pipeline.settings_page import PARTS

PAGE = Path(__file__).parent / "settings.md"

HEADER = """\
# Settings

Environment variables, read when a process starts. A wrong one is refused then, by its name and with the reason, and the
process ends with exit code 2. `brigade settings` shows those of the pipeline as they are now.
`scripts/up` sets them for the local stack; its own options are in `scripts/up --help`.

<!-- Written by scripts/docs from the settings classes: change those. -->
"""


def settings_page() -> str:
    parts: dict[str, type[BaseSettings]] = {**PARTS, "gateway": GatewaySettings}
    readers: dict[str, list[str]] = {}
    for part, settings in parts.items():
        for name, field in settings.model_fields.items():
            readers.setdefault(_variable(settings, name, field), []).append(part)
    tables: dict[str, list[str]] = {}
    told: set[str] = set()
    for settings in parts.values():
        for name, field in settings.model_fields.items():
            variable = _variable(settings, name, field)
            if variable not in told:
                told.add(variable)
                read_by = ", ".join(readers[variable])
                tables.setdefault(read_by, []).append(_row(settings, variable, name, field))
    return HEADER + "".join(_table(read_by, rows) for read_by, rows in tables.items())


def _table(read_by: str, rows: list[str]) -> str:
    return (
        f"\n## Read by {read_by}\n\n| variable | default | values | what it means |\n|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )


def _row(settings: type[BaseSettings], variable: str, name: str, field: FieldInfo) -> str:
    default = "" if field.default in {None, ""} else f"`{_plain(field.default)}`"
    schema = settings.model_json_schema(by_alias=False)["properties"][name]
    cells = [f"`{variable}`", default, _values(schema), field.description or ""]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _variable(settings: type[BaseSettings], name: str, field: FieldInfo) -> str:
    match field.validation_alias:
        case AliasChoices(choices=choices):
            return next(str(choice) for choice in choices if str(choice).startswith("BRIGADE_"))
        case str(alias):
            return alias.upper()
        case _:
            return f"{settings.model_config['env_prefix']}{name}".upper()


def _plain(value: Any) -> Any:
    return value.get_secret_value() if hasattr(value, "get_secret_value") else value


def _values(schema: dict[str, Any]) -> str:
    """What is accepted, as far as the type says it."""
    one = schema["anyOf"][0] if "anyOf" in schema else schema
    if "enum" in one:
        return ", ".join(str(value) for value in one["enum"])
    kind = {"integer": "whole number", "number": "number", "boolean": "true or false"}.get(one["type"], "text")
    match one:
        case {"minimum": low, "maximum": high}:
            return f"{kind}, {low} to {high}"
        case {"exclusiveMinimum": 0}:
            return f"{kind} above 0"
        case {"pattern": pattern}:
            return f"`{pattern}`"
        case _:
            return kind


def main() -> None:
    page = settings_page()
    if sys.argv[1:] == ["--check"]:
        sys.exit(None if PAGE.read_text() == page else "docs/settings.md is not current: scripts/docs writes it")
    PAGE.write_text(page)


if __name__ == "__main__":
    main()

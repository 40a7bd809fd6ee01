"""scripts/docs: docs/settings.md and docs/metrics.md from the code, gateway/accounts.json from the routes of users."""

import base64
import json
import sys
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from docs import metrics_page
from gateway.settings import GatewaySettings
from observability.settings import variable
from pipeline.settings import InstallBrokerSettings, InstallDatabaseSettings, InstallTopicsSettings, InstallWaitSettings
from pipeline.settings_page import PARTS
from users.app import create
from users.settings import UsersSettings

PAGE = Path(__file__).parent / "settings.md"
ACCOUNTS = Path(__file__).parents[1] / "gateway" / "accounts.json"

HEADER = """\
# Settings

Environment variables, read when a process starts. A wrong one is refused then, by its name and with the reason, and the
process ends with exit code 2. `brigade settings` shows those of the pipeline as they are now.

Each may be a file instead, named like the variable, in the folder that `BRIGADE_SECRETS` names: mount a secret's files
there, and no password is in an environment. A newline at the end of a file is no part of the value. A folder that is
not there has no files; where a setting is in both, the environment's counts.

`scripts/up` sets them for the local stack; its own options are in `scripts/up --help`.
Traces have OpenTelemetry's own variables: [traces.md](traces.md#variables).

<!-- Written by scripts/docs from the settings classes: change those. -->
"""


def settings_page() -> str:
    parts: dict[str, type[BaseSettings]] = {
        **PARTS,
        "brigade install topics": InstallTopicsSettings,
        "brigade install wait": InstallWaitSettings,
        "brigade install database": InstallDatabaseSettings,
        "brigade install broker": InstallBrokerSettings,
        "gateway": GatewaySettings,
        "users": UsersSettings,
    }
    readers: dict[str, list[str]] = {}
    for part, settings in parts.items():
        for name, field in settings.model_fields.items():
            readers.setdefault(variable(settings, name, field), []).append(part)
    tables: dict[str, list[str]] = {}
    told: set[str] = set()
    for settings in parts.values():
        for name, field in settings.model_fields.items():
            outside = variable(settings, name, field)
            if outside not in told:
                told.add(outside)
                read_by = ", ".join(readers[outside])
                tables.setdefault(read_by, []).append(_row(settings, outside, name, field))
    return HEADER + "".join(_table(read_by, rows) for read_by, rows in tables.items())


def _table(read_by: str, rows: list[str]) -> str:
    return (
        f"\n## Read by {read_by}\n\n| variable | default | values | what it means |\n|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )


def _row(settings: type[BaseSettings], outside: str, name: str, field: FieldInfo) -> str:
    default = "must be set" if field.is_required() else _default(field.default)
    schema = settings.model_json_schema(by_alias=False)["properties"][name]
    cells = [f"`{outside}`", default, _values(schema), field.description or ""]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(value: Any) -> str:
    return "" if value in {None, ""} else f"`{_plain(value)}`"


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


def accounts_document() -> str:
    """The OpenAPI document of users: the gateway's list of what goes through, and a part of its own document."""
    nothing = "x" * 32
    sealing = base64.b64encode(nothing.encode()).decode()
    settings = UsersSettings.model_validate(
        {
            "secret": sealing,
            "internal_secret": nothing,
            "mail_url": "file:///nowhere",
            "mqtt_admin_password": nothing,
        }
    )
    return json.dumps(create(settings).openapi(), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    pages = {PAGE: settings_page(), metrics_page.PAGE: metrics_page.metrics_page(), ACCOUNTS: accounts_document()}
    if sys.argv[1:] == ["--check"]:
        stale = [str(file) for file, text in pages.items() if file.read_text() != text]
        sys.exit(f"not current: {', '.join(stale)}; scripts/docs writes them" if stale else None)
    for file, text in pages.items():
        file.write_text(text)


if __name__ == "__main__":
    main()

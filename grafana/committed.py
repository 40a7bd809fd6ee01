"""The dashboards as they are committed: what Grafana will read."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent / "dashboards"

BOARDS: Mapping[str, dict[str, Any]] = {
    file.stem: json.loads(file.read_text()) for file in sorted(FOLDER.rglob("*.json"))
}
FOLDERS: Mapping[str, str] = {file.stem: file.parent.name for file in FOLDER.rglob("*.json")}


@dataclass(frozen=True)
class Asked:
    """One query of a panel."""

    board: str
    panel: Mapping[str, Any]
    target: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.board}: {self.panel['title']} {self.target['refId']}"


def panels(board: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Without the titles of rows."""
    return (panel for panel in board["panels"] if panel["type"] != "row")


def asked(source: str) -> list[Asked]:
    """Every query to a data source."""
    return [
        Asked(uid, panel, target)
        for uid, board in BOARDS.items()
        for panel in panels(board)
        for target in panel["targets"]
        if target["datasource"]["uid"] == source
    ]


def variables(source: str) -> list[tuple[str, dict[str, Any]]]:
    """Every variable that asks a data source, with the board it is of."""
    return [
        (uid, variable)
        for uid, board in BOARDS.items()
        for variable in board["templating"]["list"]
        if variable["datasource"]["uid"] == source
    ]


def links(board: Mapping[str, Any]) -> Iterator[str]:
    """Every address that something on the board leads to."""
    yield from re.findall(r'"url": "([^"]+)"', json.dumps(board))

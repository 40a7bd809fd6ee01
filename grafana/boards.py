"""A dashboard: rows of panels, laid out, with its variables, links and annotations."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as d

from grafana.panels import WIDE, Panel

SCHEMA: Final = 41
"""Of the JSON: Grafana 12's. Newer versions bring it up to date when they load it."""


class Folder(StrEnum):
    """Their uids; the names that people see are in provisioning/dashboards."""

    OPERATIONS = "operations"
    SERVICES = "services"
    INFRASTRUCTURE = "infrastructure"
    KITCHEN = "kitchen"


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    uid: str
    folder: Folder
    title: str
    text: str
    rows: tuple[Row, ...]
    variables: tuple[d.VariableModel, ...] = ()
    links: tuple[d.DashboardLink, ...] = ()
    annotations: tuple[d.AnnotationQuery, ...] = ()
    span: str = "6h"
    refresh: str = "30s"

    def json(self) -> str:
        built = d.Dashboard(
            uid=self.uid,
            title=self.title,
            description=self.text,
            tags=["brigade", self.folder],
            editable=False,
            graph_tooltip=d.DashboardCursorSync.CROSSHAIR,
            time=d.DashboardDashboardTime(from_val=f"now-{self.span}", to="now"),
            refresh=self.refresh,
            schema_version=SCHEMA,
            version=1,
            panels=list(placed(self.rows)),
            templating=d.DashboardDashboardTemplating(list(self.variables)),
            annotations=d.AnnotationContainer(list(self.annotations)),
            links=list(self.links),
        )
        return json.dumps(built, cls=JSONEncoder, sort_keys=True, indent=1, ensure_ascii=False) + "\n"


def placed(rows: Sequence[Row]) -> Iterator[d.Panel | d.RowPanel]:
    """From left to right, a new line where the width is used up; as high as the highest of a line."""
    number, y = 0, 0
    for row in rows:
        number += 1
        yield d.RowPanel(title=row.title, id_val=number, grid_pos=d.GridPos(h=1, w=WIDE, x=0, y=y), panels=[])
        y += 1
        x, height = 0, 0
        for panel in row.panels:
            number += 1
            if x + panel.width > WIDE:
                x, y, height = 0, y + height, 0
            yield panel.place(number, x, y)
            x, height = x + panel.width, max(height, panel.height)
        y += height

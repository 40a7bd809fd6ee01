"""The panels that dashboards are made of: each tells what it shows, in which unit, from where.

Colours mean one thing everywhere: green is well, orange wants a look today, red wants somebody now; blue is a fact.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from grafana_foundation_sdk.models import barchart, bargauge, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.models import common as c
from grafana_foundation_sdk.models import dashboard as d

from grafana.queries import Query, source

WIDE: Final = 24
HALF: Final = 12
THIRD: Final = 8
QUARTER: Final = 6
SIXTH: Final = 4


class Unit(StrEnum):
    """Grafana's names."""

    COUNT = "short"
    SHARE = "percentunit"
    SECONDS = "s"
    BYTES = "bytes"
    BYTES_PER_SECOND = "Bps"
    MESSAGES_PER_SECOND = "mps"
    READINGS_PER_SECOND = "rps"
    REQUESTS_PER_SECOND = "reqps"
    ROWS_PER_SECOND = "wps"
    PER_SECOND = "cps"
    CELSIUS = "celsius"
    STATE = "bool_on_off"
    ANY = "none"
    """The metric's own, which the panel's title or its series name."""
    AGO = "dateTimeFromNow"


@dataclass(frozen=True, slots=True)
class Limits:
    """From which value on a colour holds; what is below the first is green, or red if `falling`."""

    orange: float | None = None
    red: float | None = None
    falling: bool = False

    def thresholds(self) -> d.ThresholdsConfig:
        steps = [d.Threshold(None, "red" if self.falling else "green")]
        if self.falling:
            steps += [d.Threshold(self.red, "orange")] if self.red is not None else []
            steps += [d.Threshold(self.orange, "green")] if self.orange is not None else []
        else:
            steps += [d.Threshold(self.orange, "orange")] if self.orange is not None else []
            steps += [d.Threshold(self.red, "red")] if self.red is not None else []
        return d.ThresholdsConfig(d.ThresholdsMode.ABSOLUTE, steps)


FACT: Final = d.ThresholdsConfig(d.ThresholdsMode.ABSOLUTE, [d.Threshold(None, "blue")])

Words = Mapping[str, tuple[str, str]]
"""Of a value: the text in its place, and its colour."""


@dataclass(frozen=True, slots=True)
class Link:
    title: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """How a column of a table differs from the others."""

    name: str
    unit: Unit | None = None
    limits: Limits | None = None
    words: Words | None = None
    link: Link | None = None
    decimals: int | None = None
    hidden: bool = False
    """It is there for links alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """What all of them have. `place` gives it its number and its place."""

    kind: str
    title: str
    text: str
    queries: tuple[Query, ...]
    unit: Unit
    width: int
    height: int
    options: object
    custom: object | None = None
    limits: Limits | None = None
    fact: bool = False
    words: Words | None = None
    link: Link | None = None
    columns: tuple[Column, ...] = ()
    decimals: int | None = None
    lowest: float | None = None
    highest: float | None = None
    points: int | None = None
    interval: str | None = None
    none: str | None = None
    overrides: tuple[d.DashboardFieldConfigSourceOverrides, ...] = ()

    def place(self, number: int, x: int, y: int) -> d.Panel:
        defaults = d.FieldConfig(
            unit=self.unit,
            decimals=self.decimals,
            min_val=self.lowest,
            max_val=self.highest,
            no_value=self.none,
            mappings=_mappings(self.words, self.none if self.kind == "stat" else None),
            links=[_data_link(self.link)] if self.link else None,
            thresholds=self._thresholds(),
            color=d.FieldColor(mode=self._colour()),
            custom=self.custom,
        )
        return d.Panel(
            type_val=self.kind,
            id_val=number,
            title=self.title,
            description=self.text,
            datasource=source(self.queries),
            targets=[query.target(chr(ord("A") + i)) for i, query in enumerate(self.queries)],
            grid_pos=d.GridPos(h=self.height, w=self.width, x=x, y=y),
            field_config=d.FieldConfigSource(
                defaults=defaults, overrides=[*self.overrides, *map(_override, self.columns)]
            ),
            options=self.options,
            max_data_points=self.points,
            interval=self.interval,
        )

    def _thresholds(self) -> d.ThresholdsConfig:
        if self.limits:
            return self.limits.thresholds()
        return FACT if self.fact else d.ThresholdsConfig(d.ThresholdsMode.ABSOLUTE, [d.Threshold(None, "green")])

    def _colour(self) -> d.FieldColorModeId:
        over_time = self.kind in {"timeseries", "barchart"}
        return d.FieldColorModeId.PALETTE_CLASSIC if over_time else d.FieldColorModeId.THRESHOLDS


def lines(
    title: str,
    text: str,
    *queries: Query,
    unit: Unit,
    width: int = HALF,
    stacked: bool = False,
    bars: bool = False,
    limits: Limits | None = None,
    lowest: float | None = 0,
    highest: float | None = None,
    points: int | None = None,
    interval: str | None = None,
    link: Link | None = None,
    legend: Sequence[str] = ("lastNotNull", "max"),
    band: tuple[str, str] | None = None,
    gap: bool = True,
) -> Panel:
    """Values over time; a gap in the data is a gap in the line. `band`: two series, the space between them filled."""
    custom = timeseries.FieldConfig(
        draw_style=c.GraphDrawStyle.BARS if bars else c.GraphDrawStyle.LINE,
        fill_opacity=60 if bars else 20 if stacked else 0,
        line_width=1,
        show_points=c.VisibilityMode.AUTO,
        span_nulls=not gap,
        stacking=c.StackingConfig(mode=c.StackingMode.NORMAL, group="A") if stacked else None,
        thresholds_style=c.GraphThresholdsStyleConfig(c.GraphThresholdsStyleMode.DASHED) if limits else None,
    )
    return Panel(
        kind="timeseries",
        title=title,
        text=text,
        queries=queries,
        unit=unit,
        width=width,
        height=8,
        limits=limits,
        lowest=lowest,
        highest=highest,
        points=points,
        interval=interval,
        link=link,
        custom=custom,
        options=timeseries.Options(
            legend=c.VizLegendOptions(
                display_mode=c.LegendDisplayMode.TABLE,
                placement=c.LegendPlacement.BOTTOM,
                show_legend=True,
                calcs=list(legend),
            ),
            tooltip=c.VizTooltipOptions(mode=c.TooltipDisplayMode.MULTI, sort=c.SortOrder.DESCENDING),
        ),
        overrides=_band(*band) if band else (),
    )


def number(
    title: str,
    text: str,
    query: Query,
    *,
    unit: Unit,
    width: int = SIXTH,
    limits: Limits | None = None,
    words: Words | None = None,
    link: Link | None = None,
    decimals: int | None = None,
    none: str | None = None,
) -> Panel:
    """One value, large, on the colour of its limits; without limits it is a fact."""
    return Panel(
        kind="stat",
        title=title,
        text=text,
        queries=(query,),
        unit=unit,
        width=width,
        height=4,
        limits=limits,
        fact=limits is None,
        words=words,
        link=link,
        decimals=decimals,
        none=none,
        options=stat.Options(
            graph_mode=c.BigValueGraphMode.NONE,
            color_mode=c.BigValueColorMode.BACKGROUND if limits else c.BigValueColorMode.VALUE,
            justify_mode=c.BigValueJustifyMode.AUTO,
            text_mode=c.BigValueTextMode.VALUE,
            reduce_options=_newest(),
        ),
    )


def there(title: str, text: str, query: Query) -> Panel:
    """Whether something that is needed is there: 1 or 0."""
    words = {"0": ("away", "red"), "1": ("there", "green")}
    return number(title, text, query, unit=Unit.STATE, limits=Limits(orange=1, falling=True), words=words)


def rows(
    title: str,
    text: str,
    query: Query,
    *columns: Column,
    unit: Unit = Unit.ANY,
    width: int = WIDE,
    height: int = 9,
    none: str | None = None,
) -> Panel:
    """A table."""
    return Panel(
        kind="table",
        title=title,
        text=text,
        queries=(query,),
        unit=unit,
        width=width,
        height=height,
        columns=columns,
        none=none,
        options=table.Options(show_header=True, cell_height=c.TableCellHeight.SM),
        custom={"align": "auto", "filterable": False, "cellOptions": {"type": "auto"}},
    )


def bars(
    title: str,
    text: str,
    query: Query,
    *,
    by: str,
    unit: Unit,
    width: int = HALF,
    stacked: bool = False,
    highest: float | None = None,
) -> Panel:
    """A bar for each row of a table, under the words of its column `by`."""
    return Panel(
        kind="barchart",
        title=title,
        text=text,
        queries=(query,),
        unit=unit,
        width=width,
        height=8,
        lowest=0,
        highest=highest,
        options=barchart.Options(
            x_field=by,
            orientation=c.VizOrientation.VERTICAL,
            stacking=c.StackingMode.NORMAL if stacked else c.StackingMode.NONE,
            show_value=c.VisibilityMode.AUTO,
            x_tick_label_spacing=100,
            legend=_list_below(shown=True),
            tooltip=c.VizTooltipOptions(mode=c.TooltipDisplayMode.MULTI),
        ),
        custom=barchart.FieldConfig(line_width=1, fill_opacity=80),
    )


def gauges(
    title: str,
    text: str,
    *queries: Query,
    unit: Unit,
    limits: Limits,
    width: int = HALF,
    highest: float | None = None,
) -> Panel:
    """A bar for each of a few things, on the colour of its limits."""
    return Panel(
        kind="bargauge",
        title=title,
        text=text,
        queries=queries,
        unit=unit,
        width=width,
        height=8,
        limits=limits,
        lowest=0,
        highest=highest,
        options=bargauge.Options(
            display_mode=c.BarGaugeDisplayMode.BASIC,
            orientation=c.VizOrientation.HORIZONTAL,
            reduce_options=_newest(),
        ),
    )


def states(
    title: str,
    text: str,
    query: Query,
    *,
    words: Words,
    width: int = WIDE,
    none: str | None = None,
) -> Panel:
    """What state each of several things was in over time."""
    return Panel(
        kind="state-timeline",
        title=title,
        text=text,
        queries=(query,),
        unit=Unit.STATE,
        width=width,
        height=8,
        words=words,
        none=none,
        options=statetimeline.Options(
            show_value=c.VisibilityMode.NEVER,
            merge_values=True,
            row_height=0.8,
            legend=_list_below(shown=False),
            tooltip=c.VizTooltipOptions(mode=c.TooltipDisplayMode.SINGLE),
        ),
        custom=statetimeline.FieldConfig(line_width=0, fill_opacity=80),
    )


def _newest() -> c.ReduceDataOptions:
    return c.ReduceDataOptions(values=False, calcs=["lastNotNull"], fields="")


def _list_below(*, shown: bool) -> c.VizLegendOptions:
    return c.VizLegendOptions(
        display_mode=c.LegendDisplayMode.LIST, placement=c.LegendPlacement.BOTTOM, show_legend=shown, calcs=[]
    )


def _mappings(words: Words | None, none: str | None = None) -> list[d.ValueMapping] | None:
    found: list[d.ValueMapping] = []
    if words:
        results = {
            value: d.ValueMappingResult(text=text, color=colour, index=i)
            for i, (value, (text, colour)) in enumerate(words.items())
        }
        found.append(d.ValueMap(results))
    if none:  # a quantile of nothing is no number
        nothing = d.ValueMappingResult(text=none, color="text", index=len(words or ()))
        found.append(d.SpecialValueMap(d.DashboardSpecialValueMapOptions(d.SpecialValueMatch.NULL_AND_NAN, nothing)))
    return found or None


def _data_link(link: Link) -> d.DashboardLink:
    return d.DashboardLink(title=link.title, type_val=d.DashboardLinkType.LINK, url=link.url)


def _override(column: Column) -> d.DashboardFieldConfigSourceOverrides:
    found: dict[str, object] = {}
    if column.unit:
        found["unit"] = column.unit
    if column.decimals is not None:
        found["decimals"] = column.decimals
    if column.words:
        found["mappings"] = _mappings(column.words)
    if column.limits:
        found["thresholds"] = column.limits.thresholds()
    if column.words or column.limits:
        found["custom.cellOptions"] = {"type": "color-text"}
    if column.hidden:
        found["custom.hidden"] = True
    if column.link:
        found["links"] = [_data_link(column.link)]
    return _properties(column.name, found)


def _band(low: str, high: str) -> tuple[d.DashboardFieldConfigSourceOverrides, ...]:
    pale: dict[str, object] = {"custom.lineWidth": 0}
    return (
        _properties(high, pale | {"custom.fillBelowTo": low, "custom.fillOpacity": 20}),
        _properties(low, pale),
    )


def _properties(name: str, properties: Mapping[str, object]) -> d.DashboardFieldConfigSourceOverrides:
    return d.DashboardFieldConfigSourceOverrides(
        matcher=d.MatcherConfig("byName", name),
        properties=[d.DynamicConfigValue(key, value) for key, value in properties.items()],
    )

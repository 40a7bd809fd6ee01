"""Where panels get their data: a data source, and what it is asked."""

from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import prometheus
from grafana_foundation_sdk.models.common import DataSourceRef

PROMETHEUS: Final = DataSourceRef(type_val="prometheus", uid="prometheus")
TIMESCALEDB: Final = DataSourceRef(type_val="grafana-postgresql-datasource", uid="timescaledb")


@dataclass(frozen=True, slots=True)
class Range:
    """A PromQL expression over the time that is shown, and the name of its series."""

    expr: str
    legend: str = "__auto"

    def target(self, ref: str) -> Dataquery:
        return prometheus.Dataquery(
            datasource=PROMETHEUS,
            editor_mode=prometheus.QueryEditorMode.CODE,
            expr=self.expr,
            legend_format=self.legend,
            range_val=True,
            instant=False,
            ref_id=ref,
        )


@dataclass(frozen=True, slots=True)
class Instant:
    """A PromQL expression at the end of the time that is shown; as a table, a row for each series with its labels."""

    expr: str
    legend: str = "__auto"
    table: bool = False

    def target(self, ref: str) -> Dataquery:
        return prometheus.Dataquery(
            datasource=PROMETHEUS,
            editor_mode=prometheus.QueryEditorMode.CODE,
            expr=self.expr,
            format_val=prometheus.PromQueryFormat.TABLE if self.table else prometheus.PromQueryFormat.TIME_SERIES,
            legend_format=self.legend,
            range_val=False,
            instant=True,
            ref_id=ref,
        )


@dataclass(frozen=True, slots=True)
class Series:
    """SQL whose rows are in order of a column `time`; a column `metric` names the series."""

    sql: str

    def target(self, ref: str) -> Dataquery:
        return SqlQuery(self.sql, "time_series", ref)


@dataclass(frozen=True, slots=True)
class Rows:
    """SQL whose rows are a table's."""

    sql: str

    def target(self, ref: str) -> Dataquery:
        return SqlQuery(self.sql, "table", ref)


Query = Range | Instant | Series | Rows


def rate(counter: str, where: str, legend: str, *, by: str = "") -> Range:
    """How fast a counter grows, a second."""
    return Range(f"sum{_by(by)}(rate({counter}{{{where}}}[$__rate_interval]))", legend)


def increase(counter: str, where: str, legend: str, *, by: str = "") -> Range:
    """By how much a counter grew from point to point: for what is rare."""
    return Range(f"sum{_by(by)}(increase({counter}{{{where}}}[$__rate_interval]))", legend)


def quantile(q: float, histogram: str, where: str, legend: str, *, by: str = "") -> Range:
    buckets = f"rate({histogram}_bucket{{{where}}}[$__rate_interval])"
    return Range(f"histogram_quantile({q}, sum{_by(f'le, {by}' if by else 'le')}({buckets}))", legend)


def _by(labels: str) -> str:
    return f" by ({labels}) " if labels else ""


class SqlQuery(Dataquery):
    """As Grafana's PostgreSQL data source wants it; the SDK has none."""

    def __init__(self, sql: str, form: str, ref: str) -> None:
        self.sql, self.form, self.ref = sql.strip(), form, ref

    def to_json(self) -> dict[str, object]:
        return {
            "datasource": TIMESCALEDB,
            "editorMode": "code",
            "format": self.form,
            "rawQuery": True,
            "rawSql": self.sql,
            "refId": self.ref,
        }


def source(queries: tuple[Query, ...]) -> DataSourceRef:
    """Of a panel: all of its queries go to one."""
    (kind,) = {isinstance(query, Series | Rows) for query in queries}
    return TIMESCALEDB if kind else PROMETHEUS

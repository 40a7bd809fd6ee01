"""What several dashboards have in common: variables to choose by, links from one to another, annotations."""

from typing import Final

from grafana_foundation_sdk.models import dashboard as d
from grafana_foundation_sdk.models import prometheus

from grafana.panels import Link
from grafana.queries import PROMETHEUS, TIMESCALEDB

PARTS: Final = "gateway|users|bridge|worker|lag|maintain"
"""The `job`s of our own processes."""


def to_board(title: str, uid: str, **variables: str) -> Link:
    """A link that keeps the time that is shown. `site="${__data.fields.site}"` takes it from the row clicked on."""
    chosen = "".join(f"&var-{name}={value}" for name, value in variables.items())
    return Link(title, f"/d/{uid}?${{__url_time_range}}{chosen}")


def at_the_top(title: str, uid: str, text: str) -> d.DashboardLink:
    """Beside the title; keeps the time and the variables."""
    return d.DashboardLink(
        title=title,
        type_val=d.DashboardLinkType.LINK,
        icon="dashboard",
        tooltip=text,
        url=f"/d/{uid}",
        keep_time=True,
        include_vars=True,
    )


UP: Final = at_the_top("Overview", "brigade-overview", "Is all well, and if not, where")
ALERTS_BOARD: Final = at_the_top("Alerts", "brigade-alerts", "What fires, since when, and what is left of the budgets")
SITES_BOARD: Final = at_the_top("Restaurants", "kitchen-sites", "All restaurants at a glance")


def others(folder: str) -> d.DashboardLink:
    """A menu of the dashboards of a folder."""
    return d.DashboardLink(
        title=folder.capitalize(),
        type_val=d.DashboardLinkType.DASHBOARDS,
        icon="external link",
        tooltip=f"The other dashboards of {folder}",
        tags=["brigade", folder],
        as_dropdown=True,
        keep_time=True,
    )


SITE: Final = d.VariableModel(
    type_val=d.VariableType.QUERY,
    name="site",
    label="Restaurant",
    description="Sites, by their display names.",
    datasource=TIMESCALEDB,
    query="""SELECT CASE WHEN display_name IS NULL THEN name ELSE display_name || ' (' || name || ')' END AS __text,
       name AS __value
FROM sites ORDER BY 1""",
    refresh=d.VariableRefresh.ON_DASHBOARD_LOAD,
)

DEVICES_OF_SITE: Final = """SELECT CASE WHEN d.display_name IS NULL THEN d.name
            ELSE d.display_name || ' (' || d.name || ')' END AS __text, d.name AS __value
FROM devices d JOIN sites s ON s.id = d.site_id
WHERE s.name = ${site:sqlstring} ORDER BY 1"""

DEVICE: Final = d.VariableModel(
    type_val=d.VariableType.QUERY,
    name="device",
    label="Device",
    description="Devices of the restaurant.",
    datasource=TIMESCALEDB,
    query=DEVICES_OF_SITE,
    refresh=d.VariableRefresh.ON_DASHBOARD_LOAD,
)

DEVICES: Final = d.VariableModel(
    type_val=d.VariableType.QUERY,
    name="device",
    label="Devices",
    description="Devices of the restaurant; all of them unless some are chosen.",
    datasource=TIMESCALEDB,
    query=DEVICES_OF_SITE,
    refresh=d.VariableRefresh.ON_DASHBOARD_LOAD,
    multi=True,
    include_all=True,
    current=d.VariableOption(selected=True, text=["All"], value=["$__all"]),
)

METRIC: Final = d.VariableModel(
    type_val=d.VariableType.QUERY,
    name="metric",
    label="Measurement",
    description="What the device measures.",
    datasource=TIMESCALEDB,
    query="""SELECT m.name
FROM devices d JOIN device_metrics dm ON dm.device_id = d.id JOIN metrics m ON m.id = dm.metric_id
WHERE d.name = ${device:sqlstring} ORDER BY m.name <> 'temperature_c', m.name""",
    refresh=d.VariableRefresh.ON_DASHBOARD_LOAD,
)


def labels(name: str, label: str, text: str, *, metric: str, of: str) -> d.VariableModel:
    """The values of a label of a metric in Prometheus; all of them unless some are chosen."""
    query = f"label_values({metric}, {of})"
    return d.VariableModel(
        type_val=d.VariableType.QUERY,
        name=name,
        label=label,
        description=text,
        datasource=PROMETHEUS,
        query={"query": query, "refId": f"variable-{name}", "qryType": 1},
        definition=query,
        refresh=d.VariableRefresh.ON_TIME_RANGE_CHANGED,
        sort=d.VariableSort.ALPHABETICAL_ASC,
        multi=True,
        include_all=True,
        current=d.VariableOption(selected=True, text=["All"], value=["$__all"]),
    )


SERVICE: Final = labels("service", "Service", "Parts of Brigade, by the name of their job.",
                        metric=f'up{{job=~"{PARTS}"}}', of="job")  # fmt: skip


def instances(job: str) -> d.VariableModel:
    return labels("instance", "Instance", f"Processes of {job}.", metric=f'up{{job="{job}"}}', of="instance")


def _annotation(
    name: str, colour: str, expr: str, *, title: str, text: str, at_value: bool, on: bool
) -> d.AnnotationQuery:
    return d.AnnotationQuery(
        name=name,
        datasource=PROMETHEUS,
        enable=on,
        icon_color=colour,
        target=prometheus.Dataquery(datasource=PROMETHEUS, expr=expr, range_val=True, instant=False, ref_id="Anno"),
        expr=expr,
        title_format=title,
        text_format=text,
        use_value_for_time=at_value,
        step="60s",
    )


def annotations(*, on: bool = True) -> tuple[d.AnnotationQuery, ...]:
    return (
        _annotation(
            "Alerts",
            "red",
            'ALERTS{alertstate="firing", severity=~"critical|warning"}',
            title="{{alertname}}",
            text="{{severity}} {{job}} {{site}}",
            at_value=False,
            on=on,
        ),
        # A deployment is seen by its processes, which begin: so is a crash.
        _annotation(
            "Starts and deployments",
            "blue",
            f'process_start_time_seconds{{job=~"{PARTS}"}} * 1000',
            title="{{job}} started",
            text="{{instance}}",
            at_value=True,
            on=on,
        ),
    )

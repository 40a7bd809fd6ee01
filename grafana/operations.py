"""For the engineer on call: is all well, and if not, where, since when and whom it touches; alerts and budgets."""

from typing import Final

from grafana import kitchen_sql as sql
from grafana.boards import Board, Folder, Row
from grafana.choices import ALERTS_BOARD, SERVICE, SITES_BOARD, UP, annotations, others, to_board
from grafana.infrastructure import SERVERS
from grafana.panels import (
    HALF,
    QUARTER,
    THIRD,
    Column,
    Limits,
    Link,
    Panel,
    Unit,
    Words,
    gauges,
    lines,
    number,
    rows,
    states,
)
from grafana.queries import Instant, Range, Rows

FIRING: Final = 'ALERTS{alertstate="firing", severity=~"critical|warning"}'
SEVERITIES: Final[Words] = {"critical": ("critical", "red"), "warning": ("warning", "orange"), "info": ("info", "blue")}
UP_DOWN: Final[Words] = {"0": ("down", "red"), "1": ("up", "green")}

ALERTS: Final = to_board("Alerts and budgets", "brigade-alerts")
WORKER: Final = to_board("Worker", "brigade-worker")
BRIDGE: Final = to_board("Bridge", "brigade-bridge")
GATEWAY: Final = to_board("Gateway", "brigade-gateway")
RESTAURANTS: Final = to_board("Restaurants", "kitchen-sites")
A_SITE: Final = to_board("This restaurant", "kitchen-site", site="${__data.fields.site}")


def _up(name: str, expr: str, link: Link) -> Panel:
    return number(
        name,
        f"Whether {name} answers.",
        Range(expr),
        unit=Unit.STATE,
        width=3,
        limits=Limits(orange=1, falling=True),
        words=UP_DOWN,
        link=link,
        none="not seen",
    )


def _part(job: str) -> Panel:
    return _up(job.capitalize(), f'min(up{{job="{job}"}})', to_board(job.capitalize(), f"brigade-{job}"))


def _server(name: str, expr: str) -> Panel:
    return _up(name, expr, to_board(name, f"infrastructure-{name.lower()}"))


def overview() -> Board:
    return Board(
        uid="brigade-overview",
        folder=Folder.OPERATIONS,
        title="Overview",
        text="Is all well? If not: where, since when, whom it touches. Every number leads to the dashboard "
        "that tells more.",
        links=(ALERTS_BOARD, SITES_BOARD, others(Folder.SERVICES), others(Folder.INFRASTRUCTURE)),
        variables=(SERVICE,),
        annotations=annotations(),
        rows=(
            Row(
                "Is all well?",
                (
                    number(
                        "Alerts",
                        "Critical alerts and warnings that fire now.",
                        Instant(f"count({FIRING}) or vector(0)"),
                        unit=Unit.COUNT,
                        limits=Limits(orange=1, red=3),
                        link=ALERTS,
                    ),
                    number(
                        "Oldest message not stored",
                        "Age of the first message in Kafka that is not in the database. Above a minute the "
                        "restaurants see old values.",
                        Range("max(consumergroup:kafka_consumergroup_lag_seconds:max)"),
                        unit=Unit.SECONDS,
                        limits=Limits(orange=10, red=60),
                        link=WORKER,
                        none="not known",
                    ),
                    number(
                        "From device to row, p99",
                        "From a device's time to the committed row: 99 of 100 readings are quicker. The aim is 10 s.",
                        Range("max(pipeline:event_delay_seconds:p99_5m)"),
                        unit=Unit.SECONDS,
                        limits=Limits(orange=5, red=10),
                        link=WORKER,
                        none="no readings",
                    ),
                    number(
                        "Refused",
                        "Dead letters a second: readings that could not be understood.",
                        Range("sum(reason:pipeline_refused:rate5m) or vector(0)"),
                        unit=Unit.READINGS_PER_SECOND,
                        limits=Limits(orange=0.01, red=1),
                        link=RESTAURANTS,
                    ),
                    number(
                        "API errors",
                        "Share of the gateway's requests that were answered with 5xx.",
                        Range('max(job:http_requests_errors:ratio_rate5m{job="gateway"})'),
                        unit=Unit.SHARE,
                        limits=Limits(orange=0.001, red=0.0144),
                        link=GATEWAY,
                        none="no requests",
                    ),
                    number(
                        "API, p95",
                        "Time in which the gateway answers 95 of 100 requests.",
                        Range('max(job:http_request_duration_seconds:p95_5m{job="gateway"})'),
                        unit=Unit.SECONDS,
                        limits=Limits(orange=0.5, red=2),
                        link=GATEWAY,
                        none="no requests",
                    ),
                ),
            ),
            Row(
                "What answers",
                (
                    *(_part(job) for job in ("bridge", "worker", "gateway", "users")),
                    *(_server(name, expr) for name, expr in SERVERS),
                    states(
                        "Up and down",
                        "Each process over time: when it went away, when it came back.",
                        Range('min by (job, instance) (up{job=~"$service"})', "{{job}} {{instance}}"),
                        words=UP_DOWN,
                    ),
                ),
            ),
            Row(
                "The way of a message",
                (
                    lines(
                        "Received, in Kafka, stored",
                        "Messages a second at each stage. They lie on each other; where they part, that stage "
                        "holds them up.",
                        Range("sum(pipeline:messages_received:rate5m)", "received from MQTT"),
                        Range("sum(pipeline:messages_acknowledged:rate5m)", "in Kafka"),
                        Range("sum(pipeline:messages_stored:rate5m)", "stored"),
                        unit=Unit.MESSAGES_PER_SECOND,
                        link=BRIDGE,
                    ),
                    lines(
                        "From device to row",
                        "From a device's time to the committed row.",
                        *(Range(f"max(pipeline:event_delay_seconds:p{q}_5m)", f"p{q}") for q in (50, 95, 99)),
                        unit=Unit.SECONDS,
                        limits=Limits(orange=5, red=10),
                        link=WORKER,
                    ),
                    lines(
                        "Messages behind",
                        "Messages in Kafka that are not stored, estimated.",
                        Range("sum(consumergroup:kafka_consumergroup_lag_messages:sum)", "behind"),
                        unit=Unit.COUNT,
                        link=WORKER,
                    ),
                    lines(
                        "Refused, by reason",
                        "Dead letters a second, by why.",
                        Range("sum by (reason) (reason:pipeline_refused:rate5m)", "{{reason}}"),
                        unit=Unit.READINGS_PER_SECOND,
                        stacked=True,
                        link=RESTAURANTS,
                    ),
                ),
            ),
            Row(
                "The API",
                (
                    lines(
                        "Requests",
                        "Requests a second, by service.",
                        Range("job:http_requests:rate5m", "{{job}}"),
                        unit=Unit.REQUESTS_PER_SECOND,
                        width=THIRD,
                        link=GATEWAY,
                    ),
                    lines(
                        "Errors",
                        "Share of requests answered with 5xx, by service.",
                        Range("job:http_requests_errors:ratio_rate5m", "{{job}}"),
                        unit=Unit.SHARE,
                        width=THIRD,
                        limits=Limits(orange=0.001, red=0.0144),
                        link=GATEWAY,
                    ),
                    lines(
                        "Time to answer, p95",
                        "Time in which each service answers 95 of 100 requests.",
                        Range("job:http_request_duration_seconds:p95_5m", "{{job}}"),
                        unit=Unit.SECONDS,
                        width=THIRD,
                        limits=Limits(orange=0.5, red=2),
                        link=GATEWAY,
                    ),
                ),
            ),
            Row(
                "Whom it touches",
                (
                    rows(
                        "Restaurants",
                        "Devices heard from and silent, measurements out of bounds; readings stored, refused "
                        "and late in the last 24 hours.",
                        Rows(sql.SITES),
                        Column(name="site", hidden=True),
                        Column(name="restaurant", link=A_SITE),
                        Column(name="silent", limits=Limits(orange=1, red=5)),
                        Column(name="outside", limits=Limits(red=1)),
                        Column(name="refused", limits=Limits(orange=1, red=100)),
                        Column(name="newest", unit=Unit.AGO),
                        width=HALF,
                    ),
                    rows(
                        "What runs",
                        "Every process of ours and its version.",
                        Instant("brigade_build_info", table=True),
                        Column(name="Time", hidden=True),
                        Column(name="Value", hidden=True),
                        Column(name="__name__", hidden=True),
                        width=HALF,
                    ),
                ),
            ),
        ),
    )


def alerts() -> Board:
    return Board(
        uid="brigade-alerts",
        folder=Folder.OPERATIONS,
        title="Alerts and budgets",
        text="What fires, since when, what to read; and how much of each promise's seven-day error budget is left.",
        links=(UP, SITES_BOARD, others(Folder.SERVICES), others(Folder.INFRASTRUCTURE)),
        annotations=annotations(),
        span="24h",
        rows=(
            Row(
                "Alerts",
                (
                    number(
                        "Critical",
                        "Somebody has to look now.",
                        Instant('count(ALERTS{alertstate="firing", severity="critical"}) or vector(0)'),
                        unit=Unit.COUNT,
                        width=QUARTER,
                        limits=Limits(red=1),
                    ),
                    number(
                        "Warnings",
                        "Somebody has to look today.",
                        Instant('count(ALERTS{alertstate="firing", severity="warning"}) or vector(0)'),
                        unit=Unit.COUNT,
                        width=QUARTER,
                        limits=Limits(orange=1),
                    ),
                    number(
                        "Waiting to fire",
                        "Conditions that hold, but not for long enough yet.",
                        Instant('count(ALERTS{alertstate="pending"}) or vector(0)'),
                        unit=Unit.COUNT,
                        width=QUARTER,
                    ),
                    number(
                        "Watchdog",
                        "An alert that always fires: it shows that rules are evaluated. Without it, silence "
                        "means nothing.",
                        Instant('count(ALERTS{alertname="Watchdog", alertstate="firing"}) or vector(0)'),
                        unit=Unit.STATE,
                        width=QUARTER,
                        limits=Limits(orange=1, falling=True),
                        words={"0": ("missing", "red"), "1": ("fires", "green")},
                    ),
                    rows(
                        "Firing now",
                        "Each alert with its labels; Value is when its condition began to hold. What to do is "
                        "in docs/runbooks, under the alert's name.",
                        Instant(
                            "(ALERTS_FOR_STATE * 1000) and ignoring(alertstate) "
                            'ALERTS{alertstate="firing", severity=~"critical|warning"}',
                            table=True,
                        ),
                        Column(name="Time", hidden=True),
                        Column(name="severity", words=SEVERITIES),
                        Column(name="Value", unit=Unit.AGO),
                        none="nothing fires",
                    ),
                    states(
                        "What fired",
                        "Each alert over time, but for the Watchdog.",
                        Range(
                            'max by (alertname, severity, site) (ALERTS{alertstate="firing", alertname!="Watchdog"})',
                            "{{alertname}} {{site}}",
                        ),
                        words={"1": ("fires", "red")},
                        none="nothing fired",
                    ),
                ),
            ),
            Row(
                "Budgets",
                (
                    gauges(
                        "What is left",
                        "Of each promise's error budget of seven days: 1 untouched, 0 spent, below 0 overspent.",
                        Instant("sli:error_budget_remaining:ratio_7d", "{{sli}}"),
                        unit=Unit.SHARE,
                        limits=Limits(orange=0.5, red=0.1, falling=True),
                        highest=1,
                    ),
                    lines(
                        "What was left",
                        "Of each promise's error budget over time.",
                        Range("sli:error_budget_remaining:ratio_7d", "{{sli}}"),
                        unit=Unit.SHARE,
                        highest=1,
                        lowest=None,
                    ),
                    lines(
                        "How fast it burns, over an hour",
                        "1 spends the budget in seven days. An hour at 14.4 pages; so do six hours at 6.",
                        Range("sli:error_budget_burn:ratio_rate1h", "{{sli}}"),
                        unit=Unit.COUNT,
                        width=THIRD,
                        limits=Limits(orange=3, red=14.4),
                    ),
                    lines(
                        "Over six hours",
                        "The same, slower and surer.",
                        Range("sli:error_budget_burn:ratio_rate6h", "{{sli}}"),
                        unit=Unit.COUNT,
                        width=THIRD,
                        limits=Limits(orange=3, red=6),
                    ),
                    lines(
                        "Over a day",
                        "The same; at 3 it is worth a ticket.",
                        Range("sli:error_budget_burn:ratio_rate1d", "{{sli}}"),
                        unit=Unit.COUNT,
                        width=THIRD,
                        limits=Limits(orange=1, red=3),
                    ),
                ),
            ),
            Row(
                "Promises",
                (
                    lines(
                        "Errors",
                        "Share of the events of each promise that broke it, over five minutes.",
                        Range("sli:errors:ratio_rate5m", "{{sli}}"),
                        unit=Unit.SHARE,
                        width=HALF,
                    ),
                    lines(
                        "Events",
                        "Events a second that count for each promise: readings and requests.",
                        Range("sli:events:rate5m", "{{sli}}"),
                        unit=Unit.PER_SECOND,
                        width=HALF,
                    ),
                ),
            ),
        ),
    )


BOARDS: Final = (overview(), alerts())

"""For every alert: what makes it fire, and the nearest thing to that which must not."""

from collections.abc import Mapping
from dataclasses import dataclass

CRITICAL, WARNING = "critical", "warning"
HOURS = 60


@dataclass(frozen=True, kw_only=True)
class Case:
    alert: str
    what: str
    series: Mapping[str, str]
    minutes: float
    fires: Mapping[str, str] | None = None
    """Its labels beside the name; None: it stays silent."""
    every_seconds: int = 15
    """Between two samples, and two evaluations; more where a test takes hours."""


def both(
    alert: str,
    *,
    fires: Mapping[str, str],
    silent: Mapping[str, str],
    minutes: float,
    labels: Mapping[str, str],
    what: str = "",
    calm: str = "",
    every_seconds: int = 15,
) -> list[Case]:
    return [
        Case(
            alert=alert,
            what=what or "fires",
            series=fires,
            minutes=minutes,
            fires=labels,
            every_seconds=every_seconds,
        ),
        Case(alert=alert, what=calm or "stays silent", series=silent, minutes=minutes, every_seconds=every_seconds),
    ]


def labels(severity: str, part: str, **more: str) -> dict[str, str]:
    return {"severity": severity, "part": part, **more}


def gone(alert: str, job: str) -> list[Case]:
    """Of several, one is enough; a blink is nothing; a target that discovery does not know any more is gone too."""
    one, other = f'up{{job="{job}", instance="a"}}', f'up{{job="{job}", instance="b"}}'
    fires = labels(CRITICAL, job)
    return [
        Case(alert=alert, what="all are down", series={one: "1x20 0x20", other: "0x40"}, minutes=7, fires=fires),
        Case(alert=alert, what="none is known", series={one: "1x20 stale"}, minutes=12, fires=fires),
        Case(alert=alert, what="one of two is down", series={one: "0x40", other: "1x40"}, minutes=7),
        Case(alert=alert, what="a blink", series={one: "1x20 0x2 1x20"}, minutes=5.6),
    ]


def server_down(alert: str, metric: str, severity: str, part: str, minutes: float) -> list[Case]:
    return both(
        alert,
        fires={f'{metric}{{instance="a"}}': "1x4 0x60"},
        silent={f'{metric}{{instance="a"}}': "0x4 1x60"},
        minutes=minutes,
        labels=labels(severity, part),
    )


GROUP = 'consumergroup="w", topic="t"'
LAG_RECORDS = f'kafka_consumergroup_lag{{{GROUP}, partition="0"}}'
OFFSET = f'kafka_consumergroup_current_offset{{{GROUP}, partition="0"}}'
AGE = f'kafka_consumergroup_lag_seconds{{{GROUP}, partition="0"}}'
HPA = 'namespace="restaurant-system", horizontalpodautoscaler="iot-deployment"'
ACTIVE = f'kube_horizontalpodautoscaler_status_condition{{{HPA}, condition="ScalingActive", status="true"}}'
NOW_PODS = f"kube_horizontalpodautoscaler_status_current_replicas{{{HPA}}}"
MOST_PODS = f"kube_horizontalpodautoscaler_spec_max_replicas{{{HPA}}}"
LETTERS = 'pipeline_fleet_dead_letters_unresolved{site="seoul", instance="a"}'
OFFLINE = 'pipeline_fleet_devices{site="seoul", state="offline", instance="a"}'
OFFLINE_TOO = 'pipeline_fleet_devices{site="seoul", state="offline", instance="b"}'
ONLINE = 'pipeline_fleet_devices{site="seoul", state="online", instance="a"}'
DELAYED = "pipeline_sink_event_delay_seconds_count"
IN_TIME = 'pipeline_sink_event_delay_seconds_bucket{le="10.0"}'
DISK = 'instance="n", mountpoint="/", fstype="ext4"'


def delays(samples: int, bad: int) -> dict[str, str]:
    """A hundred readings between two samples, so many of them late."""
    return {DELAYED: f"0+100x{samples}", IN_TIME: f"0+{100 - bad}x{samples}"}


CASES = [
    Case(alert="Watchdog", what="always", series={}, minutes=0, fires={"severity": "info"}),
    *gone("BridgeDown", "bridge"),
    *gone("WorkerDown", "worker"),
    *gone("GatewayDown", "gateway"),
    *gone("UsersDown", "users"),
    *gone("KafkaDown", "kafka"),
    *both(
        "BridgeBlocked",
        what="without its broker",
        fires={
            'pipeline_bridge_broker_up{job="bridge", instance="a"}': "1x4 0x40",
            'pipeline_bridge_kafka_up{job="bridge", instance="a"}': "1x44",
        },
        calm="a reconnect of a minute",
        silent={
            'pipeline_bridge_broker_up{job="bridge", instance="a"}': "1x4 0x4 1x40",
            'pipeline_bridge_kafka_up{job="bridge", instance="a"}': "1x44",
        },
        minutes=4,
        labels=labels(CRITICAL, "bridge", job="bridge", instance="a"),
    ),
    *both(
        "BridgeBlocked",
        what="without Kafka",
        fires={'pipeline_bridge_kafka_up{job="bridge", instance="a"}': "0x40"},
        silent={'pipeline_bridge_kafka_up{job="bridge", instance="a"}': "1x40"},
        minutes=4,
        labels=labels(CRITICAL, "bridge", job="bridge", instance="a"),
    ),
    *server_down("BrokerDown", "broker_up", CRITICAL, "broker", 4),
    *server_down("DatabaseDown", "pg_up", CRITICAL, "database", 4),
    Case(
        alert="DatabaseDown",
        what="one of two servers does not answer",
        series={'pg_up{instance="a"}': "1x40", 'pg_up{instance="b"}': "0x40"},
        minutes=4,
        fires=labels(CRITICAL, "database"),
    ),
    *server_down("RedisDown", "redis_up", WARNING, "redis", 5),
    *both(
        "ExporterDown",
        fires={'up{job="postgres", instance="a"}': "0x60"},
        calm="a part has alerts of its own",
        silent={'up{job="worker", instance="a"}': "0x60"},
        minutes=6,
        labels=labels(WARNING, "monitoring", job="postgres", instance="a"),
    ),
    *both(
        "LagMetricAbsent",
        what="the exporter is gone",
        fires={'kafka_consumergroup_lag_messages{consumergroup="w", topic="t", partition="0"}': "5x4 stale"},
        silent={'kafka_consumergroup_lag_messages{consumergroup="w", topic="t", partition="0"}': "0x80"},
        minutes=14,
        labels=labels(CRITICAL, "lag"),
    ),
    *both(
        "WorkerStuck",
        what="records come and none is committed",
        fires={LAG_RECORDS: "0+10x60", OFFSET: "70x60"},
        calm="a backlog that grows while it is worked on",
        silent={LAG_RECORDS: "0+10x60", OFFSET: "70+1x60"},
        minutes=9,
        labels=labels(CRITICAL, "worker", consumergroup="w", topic="t"),
    ),
    Case(alert="WorkerStuck", what="nothing comes", series={LAG_RECORDS: "0x60", OFFSET: "70x60"}, minutes=9),
    Case(
        alert="WorkerStuck",
        what="nobody has ever committed",
        series={LAG_RECORDS: "0+10x60"},
        minutes=9,
        fires=labels(CRITICAL, "worker", consumergroup="w", topic="t"),
    ),
    *both(
        "OldestMessageTooOld",
        fires={AGE: "61x40"},
        silent={AGE: "60x40"},
        minutes=3,
        labels=labels(CRITICAL, "worker", consumergroup="w", topic="t"),
    ),
    *both(
        "HpaNotActive",
        fires={ACTIVE: "0x60"},
        silent={ACTIVE: "1x60"},
        minutes=7,
        labels=labels(
            WARNING, "iot-deployment", namespace="restaurant-system", horizontalpodautoscaler="iot-deployment"
        ),
    ),
    *both(
        "HpaAtMaximum",
        fires={NOW_PODS: "5x100", MOST_PODS: "5x100"},
        calm="a peak that passes",
        silent={NOW_PODS: "5x40 4x60", MOST_PODS: "5x100"},
        minutes=17,
        labels=labels(
            WARNING, "iot-deployment", namespace="restaurant-system", horizontalpodautoscaler="iot-deployment"
        ),
    ),
    *both(
        "BrokerDroppingMessages",
        fires={'broker_publish_messages_dropped{job="broker"}': "7x20 9x20"},
        calm="what it dropped long ago",
        silent={'broker_publish_messages_dropped{job="broker"}': "7x40"},
        minutes=6,
        labels=labels(CRITICAL, "broker", job="broker"),
    ),
    *both(
        "BridgeSessionLost",
        fires={'pipeline_bridge_sessions_lost_total{job="bridge"}': "0x20 1x20"},
        silent={'pipeline_bridge_sessions_lost_total{job="bridge"}': "1x40"},
        minutes=6,
        labels=labels(CRITICAL, "bridge", job="bridge"),
    ),
    *both(
        "RecordsLost",
        fires={'pipeline_sink_offsets_skipped_total{job="worker"}': "0x20 12x20"},
        silent={'pipeline_sink_offsets_skipped_total{job="worker"}': "12x40"},
        minutes=6,
        labels=labels(CRITICAL, "worker", job="worker"),
    ),
    *both(
        "DeadLettersArriving",
        fires={LETTERS: "3x80 4x20"},
        calm="those that have been there, and some that were replayed",
        silent={LETTERS: "3x80 1x20"},
        minutes=22,
        labels=labels(WARNING, "data", site="seoul"),
    ),
    *both(
        "DevicesOffline",
        what="one device, told by two exporters",
        fires={OFFLINE: "1x80", OFFLINE_TOO: "1x80", ONLINE: "7x80"},
        calm="one that was away for five minutes",
        silent={OFFLINE: "1x20 0x60", ONLINE: "7x80"},
        minutes=12,
        labels=labels(WARNING, "devices", site="seoul"),
    ),
    *both(
        "OutboxStuck",
        fires={"pipeline_fleet_outbox_rows": "4x100", 'pipeline_outbox_last_timestamp_seconds{instance="a"}': "5x100"},
        calm="rows come and go",
        silent={
            "pipeline_fleet_outbox_rows": "4x100",
            'pipeline_outbox_last_timestamp_seconds{instance="a"}': "5+15x100",
        },
        minutes=22,
        labels=labels(WARNING, "worker"),
    ),
    *both(
        "ErrorBudgetBurnFast",
        what="a fifth of the readings is late, and has been for an hour",
        fires=delays(360, 20),
        calm="half an hour ago",
        silent=delays(240, 20) | {IN_TIME: "0+80x120 9700+100x119"},
        minutes=58,
        labels=labels(CRITICAL, "delay", sli="delay"),
    ),
    *both(
        "ErrorBudgetBurnSlow",
        what="eight of a hundred, for seven hours",
        fires=delays(7 * HOURS, 8),
        calm="five of a hundred",
        silent=delays(7 * HOURS, 5),
        minutes=7 * HOURS - 2,
        every_seconds=60,
        labels=labels(CRITICAL, "delay", sli="delay"),
    ),
    *both(
        "ErrorBudgetBurnTicket",
        what="four of a hundred, for a day",
        fires=delays(25 * HOURS, 4),
        calm="two of a hundred: more than promised, but the week has had good days",
        silent=delays(25 * HOURS, 2),
        minutes=25 * HOURS - 2,
        every_seconds=60,
        labels=labels(WARNING, "delay", sli="delay"),
    ),
    *both(
        "MaintenanceOverdue",
        fires={"pipeline_maintain_last_run_timestamp_seconds": "60x230"},
        silent={"pipeline_maintain_last_run_timestamp_seconds": "60x150 9000x80"},
        minutes=200,
        every_seconds=60,
        labels=labels(WARNING, "maintain"),
    ),
    *both(
        "DatabaseConnectionsNearLimit",
        fires={
            'pg_stat_activity_count{instance="a", datname="x"}': "81x60",
            'pg_settings_max_connections{instance="a"}': "100x60",
        },
        silent={
            'pg_stat_activity_count{instance="a", datname="x"}': "79x60",
            'pg_settings_max_connections{instance="a"}': "100x60",
        },
        minutes=7,
        labels=labels(WARNING, "database", instance="a"),
    ),
    *both(
        "DiskFillingUp",
        what="nearly full",
        fires={f"node_filesystem_avail_bytes{{{DISK}}}": "14x100", f"node_filesystem_size_bytes{{{DISK}}}": "100x100"},
        silent={f"node_filesystem_avail_bytes{{{DISK}}}": "16x100", f"node_filesystem_size_bytes{{{DISK}}}": "100x100"},
        minutes=18,
        labels=labels(WARNING, "node", instance="n", mountpoint="/"),
    ),
    *both(
        "DiskFillingUp",
        what="full by tomorrow",
        fires={
            f"node_filesystem_avail_bytes{{{DISK}}}": "380-0.4x400",
            f"node_filesystem_size_bytes{{{DISK}}}": "1000x400",
        },
        calm="full next week",
        silent={
            f"node_filesystem_avail_bytes{{{DISK}}}": "380-0.04x400",
            f"node_filesystem_size_bytes{{{DISK}}}": "1000x400",
        },
        minutes=370,
        every_seconds=60,
        labels=labels(WARNING, "node", instance="n", mountpoint="/"),
    ),
]

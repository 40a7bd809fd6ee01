"""What only the database knows, counted every half minute: devices by site, open dead letters, what waits.

Told by the maintenance process, whether it holds the lock or not: rules take the maximum of several. While the
database is away the series end.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
import structlog
from prometheus_client import REGISTRY, Gauge
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from pipeline.settings import MaintainSettings

MISSED_LOOKS: Final = 4
"""So many looks may fail before the numbers of the last good one are old news."""
LEVELS: Final = ("minute", "hour", "day")

LAST_LOOK = Gauge("pipeline_fleet_last_look_timestamp_seconds", "When the database was last looked at with success.")
log = structlog.get_logger()

STATES: Final = ("online", "offline", "silent", "unheard")

# Only its own word makes a device offline, and a reading that came after it makes it online again. Silent: nothing
# came in this hour of receipt or the one before, whatever the device last said. Unheard: nothing ever came.
DEVICES: Final = """
SELECT s.name, count(*) FILTER (WHERE state = 'online'), count(*) FILTER (WHERE state = 'offline'),
       count(*) FILTER (WHERE state = 'silent'), count(*) FILTER (WHERE state = 'unheard')
FROM devices d JOIN sites s ON s.id = d.site_id
LEFT JOIN device_status t ON t.device_id = d.id AND NOT t.online,
LATERAL (SELECT max(l.hour) AS hour FROM ledger l WHERE l.device_id = d.id) heard,
LATERAL (SELECT CASE
    WHEN t.device_id IS NOT NULL AND NOT EXISTS (
        SELECT FROM device_metrics m, LATERAL (
            SELECT FROM readings r
            WHERE r.device_id = d.id AND r.metric_id = m.metric_id AND r.ts > t.received_at LIMIT 1
        ) newer
        WHERE m.device_id = d.id
    ) THEN 'offline'
    WHEN heard.hour IS NULL THEN 'unheard'
    WHEN heard.hour < date_trunc('hour', now(), 'UTC') - INTERVAL '1 hour' THEN 'silent'
    ELSE 'online' END AS state) known
GROUP BY s.name"""

DEAD_LETTERS: Final = """
SELECT coalesce(s.name, ''), count(*)
FROM (SELECT device_id FROM dead_letters WHERE NOT resolved LIMIT 100000) l
LEFT JOIN devices d ON d.id = l.device_id LEFT JOIN sites s ON s.id = d.site_id
GROUP BY 1"""

# A day's mark may wait until the local day has ended, so a day more; workers that sleep leave marks of every level.
OVERDUE: Final = """
SELECT level, count(*) FROM marks
WHERE bucket < now() - CASE level WHEN 0 THEN INTERVAL '10 minutes' WHEN 1 THEN INTERVAL '2 hours'
                       ELSE INTERVAL '3 days' END
GROUP BY level"""

WAITING: Final = """
SELECT (SELECT count(*) FROM (SELECT FROM outbox LIMIT 100000) o),
       (SELECT count(*) FROM (SELECT FROM ledger_pending LIMIT 100000) p)"""

Families = list[GaugeMetricFamily]


class Fleet(Collector):
    """The numbers of the last look, for as long as they are recent."""

    def __init__(self, every_seconds: float) -> None:
        self._recent_seconds = every_seconds * MISSED_LOOKS
        self._families: Families = []
        self._looked_at = 0.0

    def tell(self, families: Families) -> None:
        self._families = families
        self._looked_at = time.monotonic()
        LAST_LOOK.set_to_current_time()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        recent = time.monotonic() - self._looked_at < self._recent_seconds
        return self._families if recent else _families()


def look(connection: psycopg.Connection) -> Families:
    devices, letters, overdue, outbox, pending = families = _families()
    for site, *counts in _rows(connection, DEVICES):
        for state, count in zip(STATES, counts, strict=True):
            devices.add_metric([site, state], count)
    for site, count in _rows(connection, DEAD_LETTERS):
        letters.add_metric([site], count)
    found = dict(_rows(connection, OVERDUE))
    for level, name in enumerate(LEVELS):
        overdue.add_metric([name], found.get(level, 0))
    ((rows, accounts),) = _rows(connection, WAITING)
    outbox.add_metric([], rows)
    pending.add_metric([], accounts)
    return families


def _families() -> Families:
    return [
        GaugeMetricFamily(
            "pipeline_fleet_devices", "Devices of a site by what is known of them.", labels=["site", "state"]
        ),
        GaugeMetricFamily(
            "pipeline_fleet_dead_letters_unresolved",
            "Dead letters without a good end, 100,000 at the most; site empty: no device could be told.",
            labels=["site"],
        ),
        GaugeMetricFamily("pipeline_fleet_marks_overdue", "Buckets that should be computed by now.", labels=["level"]),
        GaugeMetricFamily("pipeline_fleet_outbox_rows", "Rows that wait to be published to Kafka.", labels=[]),
        GaugeMetricFamily("pipeline_fleet_ledger_pending_rows", "Accounts that wait to be folded.", labels=[]),
    ]


def _rows(connection: psycopg.Connection, query: Any) -> list[tuple[Any, ...]]:
    return connection.execute(query).fetchall()


def connect(url: str) -> psycopg.Connection:
    """Read-only, and brief: these numbers are worth no more than that."""
    options = "-c default_transaction_read_only=on -c statement_timeout=10s -c jit=off -c timezone=UTC"
    return psycopg.connect(url, autocommit=True, application_name="brigade-fleet", connect_timeout=5, options=options)


@contextmanager
def watching(settings: MaintainSettings) -> Iterator[None]:
    """Look from a thread, again and again; outages are waited out."""
    fleet, stopped = Fleet(settings.fleet_every_seconds), threading.Event()
    REGISTRY.register(fleet)
    thread = threading.Thread(target=_watch, args=(settings, fleet, stopped), name="fleet", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        REGISTRY.unregister(fleet)


def _watch(settings: MaintainSettings, fleet: Fleet, stopped: threading.Event) -> None:
    away = False
    while not stopped.is_set():
        try:
            with connect(settings.database_url.get_secret_value()) as connection:
                while not stopped.is_set():
                    fleet.tell(look(connection))
                    away = False
                    stopped.wait(settings.fleet_every_seconds)
        except psycopg.Error as error:
            if not away:
                log.warning("fleet_unknown", why=str(error).strip())
            away = True
            stopped.wait(min(settings.fleet_every_seconds, 5))

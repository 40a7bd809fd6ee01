"""Retention, and compression where this TimescaleDB has it: one process at a time, whoever holds the lock.

    python -m pipeline.maintain [--once]

Raw readings and minutes are dropped by age, a chunk at a time. Hours, days, the ledger and dead letters stay.
"""

import argparse
import random
import signal
import sys
import threading
import time
from datetime import timedelta
from typing import Final, LiteralString

import psycopg
import structlog
from prometheus_client import Counter, Gauge

from observability import logs, web
from pipeline import fleet
from pipeline.settings import MaintainSettings, load

LOCK: Final = "SELECT pg_try_advisory_lock(hashtext('brigade maintain'))"
LICENSE: Final = "SHOW timescaledb.license"
DROP: Final = "SELECT drop_chunks(%s::regclass, older_than => now() - %s)"
COMPRESSIBLE: Final = """
SELECT compression_enabled FROM timescaledb_information.hypertables
WHERE hypertable_schema = current_schema AND hypertable_name = %s
"""
# Queries name a device and a metric and walk through time; the key stays unique across compressed chunks.
COMPRESS: Final[dict[str, LiteralString]] = {
    "readings": """
        ALTER TABLE readings SET (
            timescaledb.compress,
            timescaledb.compress_segmentby = 'device_id, metric_id', timescaledb.compress_orderby = 'ts')
    """,
    "readings_1m": """
        ALTER TABLE readings_1m SET (
            timescaledb.compress,
            timescaledb.compress_segmentby = 'device_id, metric_id', timescaledb.compress_orderby = 'bucket')
    """,
}
OPEN_CHUNKS: Final = """
SELECT format('%%I.%%I', chunk_schema, chunk_name) FROM timescaledb_information.chunks
WHERE hypertable_schema = current_schema AND hypertable_name = %s AND NOT is_compressed AND range_end < now() - %s
ORDER BY range_end
"""
COMPRESS_CHUNK: Final = "SELECT compress_chunk(%s::regclass, if_not_compressed => true)"

RUNS = Counter("pipeline_maintain_runs_total", "Runs that ended well.")
FAILURES = Counter("pipeline_maintain_run_failures_total", "Runs ended by an outage of the database.")
LAST_RUN = Gauge("pipeline_maintain_last_run_timestamp_seconds", "When a run last ended well.")
SECONDS = Gauge("pipeline_maintain_run_seconds", "How long that run took.")
ACTIVE = Gauge("pipeline_maintain_active", "1 while this process holds the lock, 0 while it waits for it.")
DROPPED = Counter("pipeline_maintain_chunks_dropped_total", "Chunks dropped for their age.", ["table"])
COMPRESSED = Counter("pipeline_maintain_chunks_compressed_total", "Chunks compressed.", ["table"])

log = structlog.get_logger()


class Maintenance:
    """What is done to the database; the caller connects, and holds the lock."""

    def __init__(self, settings: MaintainSettings) -> None:
        self._kept = {
            "readings": timedelta(days=settings.raw_retention_days),
            "readings_1m": timedelta(days=settings.minute_retention_days),
        }
        self._compress_after = timedelta(days=settings.compress_after_days)
        self._said_why_not = False

    def run(self, connection: psycopg.Connection) -> None:
        for table, kept in self._kept.items():
            dropped = connection.execute(DROP, (table, kept)).fetchall()
            DROPPED.labels(table).inc(len(dropped))
            if dropped:
                log.info("chunks_dropped", table=table, chunks=len(dropped), older_than_days=kept.days)
        if self._can_compress(connection):
            for table in COMPRESS:
                self._compress(connection, table)

    def _can_compress(self, connection: psycopg.Connection) -> bool:
        (edition,) = connection.execute(LICENSE).fetchone() or ("",)
        if edition != "timescale" and not self._said_why_not:
            self._said_why_not = True
            log.info("compression_skipped", why="this edition of TimescaleDB has none", license=edition)
        return bool(edition == "timescale")

    def _compress(self, connection: psycopg.Connection, table: str) -> None:
        (enabled,) = connection.execute(COMPRESSIBLE, (table,)).fetchone() or (False,)
        if not enabled:
            connection.execute(COMPRESS[table])
        for (chunk,) in connection.execute(OPEN_CHUNKS, (table, self._compress_after)).fetchall():
            connection.execute(COMPRESS_CHUNK, (chunk,))
            COMPRESSED.labels(table).inc()
            log.info("chunk_compressed", table=table, chunk=chunk)


class Keeper:
    """Does it again and again, waits for the lock and waits out outages, until it is stopped."""

    def __init__(self, settings: MaintainSettings) -> None:
        self._url = settings.database_url.get_secret_value()
        self._every_seconds = settings.maintain_every_seconds
        self._maintenance = Maintenance(settings)
        self._stopped = threading.Event()
        self._trouble = "nothing has run yet"
        self._beat = time.monotonic()

    def keep(self) -> None:
        while not self._stopped.is_set():
            try:
                with connect(self._url) as connection:
                    self._wait_for_lock(connection)
                    self._run_again_and_again(connection)
            except psycopg.OperationalError as error:
                FAILURES.inc()
                self._say_once(str(error).strip())
                self._pause(5)
            finally:
                ACTIVE.set(0)

    def stop(self) -> None:
        self._stopped.set()

    def healthy(self) -> bool | str:
        silent = time.monotonic() - self._beat
        return silent < self._every_seconds + 3600 or f"what began {silent:.0f} s ago has not ended"

    def ready(self) -> bool | str:
        return self._trouble or True

    def _wait_for_lock(self, connection: psycopg.Connection) -> None:
        waiting = False
        while not self._stopped.is_set() and not locked(connection):
            self._trouble = ""
            if not waiting:
                log.info("waiting", why="another process maintains this database")
            waiting = True
            self._pause(10)

    def _run_again_and_again(self, connection: psycopg.Connection) -> None:
        while not self._stopped.is_set():
            ACTIVE.set(1)
            began = time.monotonic()
            self._maintenance.run(connection)
            SECONDS.set(time.monotonic() - began)
            RUNS.inc()
            LAST_RUN.set_to_current_time()
            self._trouble = ""
            self._pause(self._every_seconds)

    def _say_once(self, trouble: str) -> None:
        if trouble != self._trouble:
            log.warning("database_away", error=trouble)
        self._trouble = trouble

    def _pause(self, seconds: float) -> None:
        self._beat = time.monotonic()
        self._stopped.wait(seconds * random.uniform(0.5, 1))


def connect(url: str) -> psycopg.Connection:
    """A lock we cannot get within 3 s is an outage: waiting longer would queue the workers behind us."""
    return psycopg.connect(
        url, autocommit=True, application_name="brigade-maintain", connect_timeout=5, options="-c lock_timeout=3s"
    )


def locked(connection: psycopg.Connection) -> bool:
    """Whether this connection now holds the lock; it does until it is closed."""
    return connection.execute(LOCK).fetchone() == (True,)


def once(settings: MaintainSettings) -> None:
    with connect(settings.database_url.get_secret_value()) as connection:
        if not locked(connection):
            sys.exit("another process maintains this database: nothing was done")
        Maintenance(settings).run(connection)


def run(settings: MaintainSettings) -> None:
    keeper = Keeper(settings)
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: keeper.stop())
    with (
        web.serve(settings.maintain_port, host=settings.web_host, healthy=keeper.healthy, ready=keeper.ready) as server,
        fleet.watching(settings),
    ):
        log.info("started", port=server.port)
        keeper.keep()
    log.info("stopped")


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m pipeline.maintain", description=(__doc__ or "").split("\n")[0])
    options.add_argument("--once", action="store_true", help="one run, then end")
    arguments = options.parse_args()
    settings = load(MaintainSettings)
    logs.configure("maintain", settings.log_level)
    try:
        (once if arguments.once else run)(settings)
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction):
        sys.exit("the database has no tables yet: `brigade migrate` makes them")
    except psycopg.errors.InsufficientPrivilege as error:
        sys.exit(f"maintenance needs the tables' owner, the role that ran `brigade migrate`: {error}")


if __name__ == "__main__":
    main()

"""Whether everything was stored: what the ledger says, and what is in the tables."""

import time
from dataclasses import dataclass

import psycopg

LEDGER = """
SELECT coalesce(sum(l.received), 0)::bigint, coalesce(sum(l.stored), 0)::bigint, coalesce(sum(l.points), 0)::bigint
FROM ledger_now l JOIN devices d ON d.id = l.device_id JOIN sites s ON s.id = d.site_id WHERE s.name = %s"""

COUNT = """
SELECT count(*) FROM readings
WHERE device_id = ANY (ARRAY(SELECT d.id FROM devices d JOIN sites s ON s.id = d.site_id WHERE s.name = %s))"""

CLOSED = """
SELECT coalesce(sum(n), 0)::bigint FROM readings_1m
WHERE device_id = ANY (ARRAY(SELECT d.id FROM devices d JOIN sites s ON s.id = d.site_id WHERE s.name = %s))"""


@dataclass(frozen=True, slots=True)
class Ledger:
    received: int
    stored: int
    points: int


def ledger(connection: psycopg.Connection, site: str) -> Ledger:
    row = connection.execute(LEDGER, (site,)).fetchone()
    return Ledger(*row) if row else Ledger(0, 0, 0)


def count(connection: psycopg.Connection, site: str) -> int:
    """Rows of `readings`."""
    row = connection.execute(COUNT, (site,)).fetchone()
    return row[0] if row else 0


def closed(connection: psycopg.Connection, site: str) -> int:
    """Rows of `readings` that are counted in closed minutes."""
    row = connection.execute(CLOSED, (site,)).fetchone()
    return row[0] if row else 0


def wait_stored(connection: psycopg.Connection, site: str, messages: int, seconds: float) -> Ledger:
    """Return when the ledger has received them all, or with what it has by then."""
    end = time.monotonic() + seconds
    while (found := ledger(connection, site)).received < messages and time.monotonic() < end:
        time.sleep(0.1)
    return found

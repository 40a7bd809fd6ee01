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

OPEN = """
SELECT EXISTS (SELECT FROM marks m JOIN devices d ON d.id = m.device_id JOIN sites s ON s.id = d.site_id
               WHERE m.level = 0 AND s.name LIKE 'bench-%')"""


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


def wait_closed(connection: psycopg.Connection, seconds: float) -> bool:
    """Return when no minute of ours is left to be computed, or after so many seconds; say whether that is so."""
    end = time.monotonic() + seconds
    while (is_open := connection.execute(OPEN).fetchone() == (True,)) and time.monotonic() < end:
        time.sleep(0.5)
    return not is_open


def wait_stored(connection: psycopg.Connection, site: str, messages: int, seconds: float) -> Ledger:
    """Return when the ledger has received them all, or with what it has by then."""
    end = time.monotonic() + seconds
    while (found := ledger(connection, site)).received < messages and time.monotonic() < end:
        time.sleep(0.1)
    return found

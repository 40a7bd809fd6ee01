"""`brigade sites`: the restaurants, their names and time zones."""

import re
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Final, LiteralString
from zoneinfo import available_timezones

import psycopg
import typer

from pipeline import topics
from pipeline.packs import partition_of
from pipeline.settings import CommandSettings, load

LIST: Final = """
SELECT s.name, s.time_zone, count(d.id), coalesce(s.display_name, '')
FROM sites s LEFT JOIN devices d ON d.site_id = s.id
GROUP BY s.id ORDER BY s.name
"""

ADD: Final = "INSERT INTO sites (name, time_zone, display_name) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
FIND: Final = "SELECT id, time_zone FROM sites WHERE name = %s FOR NO KEY UPDATE"
NAME: Final = "UPDATE sites SET display_name = %s WHERE id = %s"
ZONE: Final = "UPDATE sites SET time_zone = %s WHERE id = %s"
DEVICES: Final = "SELECT id, name FROM devices WHERE site_id = %s"

# No worker writes or closes while the days change: both hold their partition's row here.
HOLD: Final = "SELECT FROM ingest_offsets ORDER BY consumer_group, topic, partition FOR UPDATE"

# The days to count again, as the old zone began them. Days whose minutes retention has dropped stay as they are:
# the hours are kept for good, so hours older than the oldest chunk of minutes tell that some are gone.
OLD_DAYS: Final = """
CREATE TEMP TABLE old_days ON COMMIT DROP AS
WITH oldest AS (
    SELECT min(range_start) AS minute FROM timescaledb_information.chunks
    WHERE hypertable_schema = current_schema AND hypertable_name = 'readings_1m'
), kept AS (
    SELECT d.id AS device_id, d.partition,
           CASE WHEN EXISTS (SELECT FROM readings_1h h WHERE h.device_id = d.id AND h.bucket < oldest.minute)
                THEN oldest.minute ELSE '-infinity' END AS since
    FROM unnest(%(devices)s::int[], %(partitions)s::int[]) AS d (id, partition), oldest
), days AS (
    SELECT device_id, bucket FROM readings_1d WHERE device_id = ANY(%(devices)s)
    UNION
    SELECT device_id, bucket FROM marks WHERE level = 2 AND device_id = ANY(%(devices)s)
)
SELECT device_id, partition, bucket, since FROM days JOIN kept USING (device_id) WHERE bucket >= since
"""
FORGET_DAYS: Final = (
    "DELETE FROM readings_1d c USING old_days o WHERE (c.device_id, c.bucket) = (o.device_id, o.bucket)"
)
FORGET_MARKS: Final = """
DELETE FROM marks m USING old_days o WHERE m.level = 2 AND (m.device_id, m.bucket) = (o.device_id, o.bucket)
"""
# An old day, 23 to 25 hours long, touches up to three of the new ones.
MARK_DAYS: Final = """
INSERT INTO marks (level, device_id, bucket, partition)
SELECT DISTINCT 2, device_id, day, partition
FROM old_days, LATERAL (
    SELECT local_day(bucket + hours * INTERVAL '1 hour', %(zone)s) AS day FROM unnest(ARRAY[0, 12, 24.999]) AS hours
) AS new_days
WHERE day >= since
ON CONFLICT DO NOTHING
"""


app = typer.Typer(no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="As in the MQTT topic.")]
TimeZone = Annotated[str | None, typer.Option(help="IANA name, such as Asia/Seoul; days are counted in it.")]
DisplayName = Annotated[str | None, typer.Option(help="What people call it.")]


@app.command("list")
def list_sites() -> None:
    """Every site with its time zone and the number of its devices."""
    with connect(load(CommandSettings)) as connection:
        show(("site", "time zone", "devices", "name"), connection.execute(LIST))


@app.command("add")
def add_site(name: Name, time_zone: TimeZone = "UTC", display_name: DisplayName = None) -> None:
    """Make a site known before its first reading, to choose its time zone in time."""
    _refuse_unless(re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name), "a site's name is 1 to 64 of A-Z a-z 0-9 . _ -")
    _refuse_unless(time_zone in available_timezones(), f"{time_zone} is not a time zone, such as Asia/Seoul or UTC")
    with connect(load(CommandSettings)) as connection:
        must_count_days(connection, time_zone or "UTC")
        if not connection.execute(ADD, (name, time_zone, display_name)).rowcount:
            sys.exit(f"brigade: there is a site {name} already: `brigade sites set {name}` changes it")


@app.command("set")
def set_site(name: Name, time_zone: TimeZone = None, display_name: DisplayName = None) -> None:
    """Change a site's name for people, or its time zone: then its days are counted again from the minutes kept."""
    _refuse_unless(time_zone or display_name, "nothing to set: --time-zone or --display-name")
    _refuse_unless(
        time_zone is None or time_zone in available_timezones(),
        f"{time_zone} is not a time zone, such as Asia/Seoul or UTC",
    )
    settings = load(CommandSettings)
    with connect(settings) as connection:
        site, old_zone = found(connection, FIND, name, f"no site {name}: `brigade sites list` shows them")
        if display_name is not None:
            connection.execute(NAME, (display_name, site))
        if time_zone not in {None, old_zone}:
            must_count_days(connection, str(time_zone))
            partitions = partitions_of(settings)
            change_zone(connection, site, str(time_zone))
            devices = connection.execute(DEVICES, (site,)).fetchall()
            days = count_days_again(connection, devices, str(time_zone), partitions=partitions)
            print(f"{days} days of {len(devices)} devices are being counted again")


def must_count_days(connection: psycopg.Connection, time_zone: str) -> None:
    """The database has a list of its own; a day in a zone that is not on it would stop the workers."""
    try:
        connection.execute("SELECT now() AT TIME ZONE %s", (time_zone,))
    except psycopg.errors.InvalidParameterValue:
        sys.exit(f"brigade: the database does not know the time zone {time_zone}; take a name such as Asia/Seoul")


def change_zone(connection: psycopg.Connection, site: int, time_zone: str) -> None:
    connection.execute(HOLD)
    connection.execute(ZONE, (time_zone, site))


def count_days_again(
    connection: psycopg.Connection, devices: Sequence[tuple[int, str]], time_zone: str, *, partitions: int
) -> int:
    """Have the days of these devices (id and name) computed anew from their minutes, as `time_zone` begins them.

    Part of the caller's transaction. The owners of the partitions do it, within seconds.
    """
    connection.execute(HOLD)
    ids = [device for device, _ in devices]
    owners = [partition_of(name, partitions) for _, name in devices]
    connection.execute(OLD_DAYS, {"devices": ids, "partitions": owners})
    connection.execute(FORGET_DAYS)
    connection.execute(FORGET_MARKS)
    return connection.execute(MARK_DAYS, {"zone": time_zone}).rowcount


def connect(settings: CommandSettings) -> psycopg.Connection:
    """One transaction, committed when the context is left without an error."""
    return psycopg.connect(settings.database_url.get_secret_value(), application_name="brigade")


def partitions_of(settings: CommandSettings) -> int:
    """As Kafka says: a mark under another partition would find no owner."""
    try:
        return topics.partitions(settings)
    except (topics.TopicsError, topics.KafkaAwayError) as error:
        sys.exit(f"brigade: {error}")


def found(connection: psycopg.Connection, query: LiteralString, name: str, otherwise: str) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = connection.execute(query, (name,)).fetchone()
    return row or sys.exit(f"brigade: {otherwise}")


def show(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Aligned columns, the last one free."""
    lines = [header, *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _refuse_unless(right: object, otherwise: str) -> None:
    if not right:
        raise typer.BadParameter(otherwise)  # exit code 2

"""Every statement of every panel and variable, sent to TimescaleDB as Grafana's role, answers in its panel's shape."""

import re
from datetime import timedelta
from zoneinfo import ZoneInfo

import psycopg
import pytest

from grafana import kitchen_sql
from grafana.committed import Asked, asked, variables
from grafana.expanding import Chosen, Shown, milliseconds, sql
from tests.grafana.conftest import RANGES, SEOUL, now

NUMBERS = {"int2", "int4", "int8", "float4", "float8", "numeric"}
STATEMENTS = asked("timescaledb")
CHOICES = {
    "kitchen-device": {"site": Chosen("seoul-1"), "device": Chosen("fridge-1"), "metric": Chosen("temperature_c")},
    "kitchen-site": {
        "site": Chosen("seoul-1"),
        "device": Chosen(["fridge-1", "fridge-2", "table-1", "table-2", "new-1"], multi=True),
    },
}
every_statement = pytest.mark.parametrize("statement", STATEMENTS, ids=lambda statement: statement.name)
every_range = pytest.mark.parametrize("back", RANGES.values(), ids=RANGES)


def shown(statement: Asked, back: timedelta, **choices: Chosen) -> Shown:
    panel = statement.panel
    return Shown(
        now() - back,
        now() + timedelta(seconds=1),
        CHOICES.get(statement.board, {}) | choices,
        points=panel.get("maxDataPoints", 1_000),
        least_ms=milliseconds(panel.get("interval") or "1m"),
    )


def types(connection: psycopg.Connection, cursor: psycopg.Cursor) -> dict[str, str]:
    """Of the columns, by name."""
    assert len({column.name for column in cursor.description}) == len(cursor.description)
    return {column.name: connection.adapters.types[column.type_code].name for column in cursor.description}


def check_shape(statement: Asked, columns: dict[str, str], rows: list[tuple]) -> None:
    panel = statement.panel
    if statement.target["format"] == "time_series":
        assert columns.pop("time") == "timestamptz"
        text = [name for name, kind in columns.items() if kind == "text"]
        assert text in ([], ["metric"])
        assert {kind for name, kind in columns.items() if name not in text} <= NUMBERS
        times = [row[0] for row in rows]
        assert times == sorted(times), "Grafana refuses series that are not in order of time"
        if text:
            assert len(columns) == 2, "the metric alone names a series only beside one value"
            assert len({(row[0], row[1]) for row in rows}) == len(rows)
        else:
            assert len(set(times)) == len(times)
    elif panel["type"] == "stat":
        assert [*columns] == ["value"]
        assert columns["value"] in NUMBERS
        assert len(rows) <= 1
    elif panel["type"] == "barchart":
        assert columns.pop(panel["options"]["xField"]) == "text"
        assert columns
        assert set(columns.values()) <= NUMBERS
    else:
        assert panel["type"] == "table"
        named = {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]}
        assert named <= set(columns)
        assert set(re.findall(r"__data\.fields\.(\w+)", str(panel))) <= set(columns)


@every_range
@every_statement
def test_with_data(full, statement, back):
    cursor = full.execute(sql(statement.target["rawSql"], shown(statement, back)))
    columns, rows = types(full, cursor), cursor.fetchall()
    assert rows
    check_shape(statement, columns, rows)
    assert len(rows) <= 40_000


@every_range
@every_statement
def test_without_data(empty, statement, back):
    cursor = empty.execute(sql(statement.target["rawSql"], shown(statement, back)))
    check_shape(statement, types(empty, cursor), cursor.fetchall())


@pytest.mark.parametrize("devices", [[], ""], ids=["none", "empty"])
@every_statement
def test_a_site_without_devices(full, statement, devices):
    choices = {"site": Chosen("empty-1"), "device": Chosen(devices, multi=True), "metric": Chosen("")}
    if statement.board == "kitchen-device":
        choices["device"] = Chosen("")
    cursor = full.execute(sql(statement.target["rawSql"], shown(statement, timedelta(days=1), **choices)))
    check_shape(statement, types(full, cursor), cursor.fetchall())


@every_statement
def test_a_name_with_a_quote_is_no_sql(full, statement):
    bad = "x' OR 1/0 = 1 --"
    device = Chosen(bad) if statement.board == "kitchen-device" else Chosen([bad, "fridge-1"], multi=True)
    choices = {"site": Chosen(bad), "device": device, "metric": Chosen(bad)}
    full.execute(sql(statement.target["rawSql"], shown(statement, timedelta(days=1), **choices)))


@pytest.mark.parametrize(("board", "variable"), variables("timescaledb"), ids=lambda value: str(value)[:30])
@pytest.mark.parametrize("data", ["full", "empty"])
def test_variables(request, data, board, variable):
    connection = request.getfixturevalue(data)
    cursor = connection.execute(sql(variable["query"], Shown(now() - timedelta(hours=1), now(), CHOICES[board])))
    columns, rows = types(connection, cursor), cursor.fetchall()
    assert [*columns] in (["__text", "__value"], ["name"])
    assert set(columns.values()) == {"text"}
    assert bool(rows) == (data == "full")
    texts = [row[0] for row in rows]
    assert len(set(texts)) == len(texts), "Grafana shows the first of two with one text alone"


# What the answers mean ----------------------------------------------------------------------------------


def answer(connection, statement: str, back: timedelta, **choices: Chosen):
    chosen = CHOICES["kitchen-site"] | choices
    cursor = connection.execute(
        sql(statement, Shown(now() - back, now() + timedelta(seconds=1), chosen, least_ms=60_000))
    )
    names = [column.name for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


ONE = {"device": Chosen("fridge-1"), "metric": Chosen("temperature_c")}


def test_days_begin_at_the_sites_midnight(full):
    rows = answer(full, kitchen_sql.TEMPERATURES, timedelta(days=90))
    assert {row["time"].astimezone(ZoneInfo(SEOUL)).hour for row in rows} == {0}
    days = answer(full, kitchen_sql.DAYS, timedelta(days=7), **ONE)
    today = now().astimezone(ZoneInfo(SEOUL)).date()
    assert [row["day"] for row in days] == [str(today - timedelta(days=back)) for back in range(7, -1, -1)]


def test_the_ledgers_days_are_the_sites_too(full):
    rows = answer(full, kitchen_sql.accounts(kitchen_sql.CHOSEN), timedelta(days=90))
    assert {row["time"].astimezone(ZoneInfo(SEOUL)).hour for row in rows} == {0}
    whole = rows[1:-1]
    assert {(row["stored"], row["refused"]) for row in whole} == {(24 * 4 * 7, 24 * 4 * 2)}


def test_hours_of_the_day_are_the_restaurants(full):
    rows = answer(full, kitchen_sql.TABLES_BY_HOUR, timedelta(days=7))
    assert {row["hour"] for row in rows if row["taken"] > 0.9} == {"12:00", "13:00", "14:00"}
    assert len(rows) == 24


@pytest.mark.parametrize(("back", "hours"), [(timedelta(days=1), 24), (timedelta(days=7), 163)], ids=["1 d", "7 d"])
def test_a_door_that_is_open_half_the_time(full, back, hours):
    rows = {row["id"]: row for row in answer(full, kitchen_sql.DOORS_IN_ALL, back)}
    assert rows["fridge-1"]["share"] == pytest.approx(0.5, abs=0.05)
    assert rows["fridge-1"]["open"] == pytest.approx(hours * 1800, rel=0.08)
    assert rows["fridge-2"]["open"] == 0


@pytest.mark.parametrize("days", [7, 14])
def test_a_silence_is_found(full, days):
    rows = {row["id"]: row for row in answer(full, kitchen_sql.GAPS, timedelta(days=days))}
    assert rows["fridge-1"]["longest"] == pytest.approx(5 * 3600, abs=1300)
    assert rows["fridge-1"]["silences"] in (1, 2), "the short one shows if an hour began meanwhile"
    assert rows["fridge-1"]["incomplete"] >= 1
    assert rows["table-1"]["silences"] == 0


def test_silences_of_one_device_are_told_to_the_second(full):
    longest, *_ = answer(full, kitchen_sql.SILENCES, timedelta(hours=24), **ONE)
    assert longest["silence"] == 1200
    assert longest["until"] - longest["since"] == timedelta(minutes=20)


def test_states_of_devices(full):
    rows = {row["id"]: row for row in answer(full, kitchen_sql.DEVICES, timedelta(hours=1))}
    assert rows["fridge-1"]["state"] == "online", "a reading came after it said that it goes"
    assert rows["fridge-2"]["state"] == "offline"
    assert rows["new-1"]["state"] == "silent"
    assert rows["table-1"]["door"] is None
    assert rows["fridge-1"]["temperature"] == pytest.approx(4, abs=1.1)


def test_sites_are_counted(full):
    rows = {row["site"]: row for row in answer(full, kitchen_sql.SITES, timedelta(hours=1))}
    assert [*rows] == ["paris-1", "seoul-1", "empty-1"], "those that need somebody first"
    assert rows["paris-1"]["outside"] == 1
    seoul = rows["seoul-1"]
    assert (seoul["restaurant"], seoul["devices"], seoul["heard"], seoul["silent"]) == ("Joe's", 5, 3, 2)
    assert seoul["refused"] in (24 * 4 * 2, 25 * 4 * 2)
    assert (rows["empty-1"]["devices"], rows["empty-1"]["silent"]) == (0, 0)


def test_the_newest_minute_of_a_device_is_there_before_it_is_computed(full):
    rows = answer(full, kitchen_sql.VALUES, timedelta(hours=24), **ONE)
    assert rows[-1]["time"] == now().replace(second=0)
    assert rows[-1]["lowest"] <= rows[-1]["value"] <= rows[-1]["highest"]
    assert rows[-1]["upper bound"] == 8


# The role -----------------------------------------------------------------------------------------------


def test_the_role_reads_and_nothing_else(full):
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        full.execute("INSERT INTO sites (name) VALUES ('x')")
    full.execute("SET default_transaction_read_only = off")
    try:
        for statement in ("INSERT INTO sites (name) VALUES ('x')", "DELETE FROM readings", "CREATE TABLE x (y int)"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                full.execute(statement)
    finally:
        full.execute("RESET default_transaction_read_only")


@pytest.mark.parametrize(
    "what", ["payload FROM dead_letters", "* FROM outbox", "* FROM ingest_offsets", "* FROM marks"]
)
def test_the_role_does_not_see(full, what):
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        full.execute(f"SELECT {what}")


def test_what_takes_too_long_is_ended(full):
    settings = dict(
        full.execute(
            "SELECT name, setting FROM pg_settings WHERE name IN ('statement_timeout', 'default_transaction_read_only')"
        ).fetchall()
    )
    assert settings == {"statement_timeout": "10000", "default_transaction_read_only": "on"}
    full.execute("SET statement_timeout = '50ms'")
    try:
        with pytest.raises(psycopg.errors.QueryCanceled):
            full.execute("SELECT pg_sleep(5)")
    finally:
        full.execute("RESET statement_timeout")

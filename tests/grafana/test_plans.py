"""Panels read few rows, by index, whichever time is shown: a small set of what `scripts/bench panels` measures."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from deploy.bench import dataset, panels
from grafana.kitchen_sql import MOST_MINUTES
from tests.conftest import drop, execute, with_database
from tests.grafana.conftest import as_panels

DEVICES = 30
DAYS = 2
EVERY_SECONDS = 60
ENDS = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def loaded(postgres, migrated, role, devices):
    """To every statement for every range, on 8,640 readings of each device."""
    name = f"{migrated}_crowd_{devices}"
    execute(postgres, "CREATE DATABASE {} TEMPLATE {}", name, migrated)
    with psycopg.connect(with_database(postgres, name), autocommit=True) as connection:
        cursor = psycopg.ClientCursor(connection)
        cursor.execute(dataset.THINGS, {"site": dataset.SITE, "devices": devices})
        for back in range(DAYS, 0, -1):
            day = {"begin": ENDS - timedelta(days=back), "end": ENDS - timedelta(days=back - 1)}
            cursor.execute(dataset.READINGS, day | {"readings": 86_400 // EVERY_SECONDS, "every": EVERY_SECONDS})
            cursor.execute(dataset.MINUTES, day)
        for statement in (dataset.HOURS, dataset.DAYS, dataset.LEDGER):
            cursor.execute(statement)
        cursor.execute(dataset.MARKS, {"end": ENDS})
        connection.execute("VACUUM (ANALYZE)")
        chunks = dict(
            connection.execute("SELECT chunk_name, hypertable_name FROM timescaledb_information.chunks").fetchall()
        )
    with as_panels(postgres, name, role) as connection:
        yield list(panels.measured(connection, ENDS, chunks))
    drop(postgres, name)


@pytest.fixture(scope="module")
def answers(postgres, migrated, panels_role):
    yield from loaded(postgres, migrated, panels_role, DEVICES)


@pytest.fixture(scope="module")
def many(postgres, migrated, panels_role):
    yield from loaded(postgres, migrated, panels_role, DEVICES + 5)


def test_all_were_asked(answers):
    assert {answer.shown for answer in answers} == set(panels.RANGES)
    assert len(answers) == len(panels.RANGES) * len(panels.asked("timescaledb"))


def test_no_panel_reads_a_whole_table(answers):
    assert [panels.line(answer) for answer in answers if answer.scans_all] == []


def test_the_rows_that_are_read_do_not_grow_with_the_time(answers):
    """Minutes of thirty devices' day are the most."""
    assert [panels.line(answer) for answer in answers if answer.rows_read > MOST_MINUTES * 1.1] == []


def test_a_day_of_many_devices_is_hours(many):
    (temperatures,) = (answer for answer in many if answer.shown == "24 h" and answer.panel.endswith("Temperatures"))
    assert not [words for words in temperatures.used if words.split()[-2] == "readings_1d"]
    assert temperatures.rows_read < MOST_MINUTES / 3


@pytest.mark.parametrize(("shown", "table"), [("24 h", "readings_1m"), ("7 d", "readings_1h"), ("90 d", "readings_1d")])
def test_the_time_that_is_shown_chooses_the_table(answers, shown, table):
    (temperatures,) = (
        answer for answer in answers if (answer.shown, answer.panel) == (shown, "kitchen-site: Temperatures")
    )
    assert table in {words.split()[-2] for words in temperatures.used}

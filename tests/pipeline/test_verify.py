"""`brigade verify` finds what is wrong, each thing by its name, and nothing where nothing is."""

import asyncio
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import psycopg
import pytest
from psycopg import conninfo
from typer.testing import CliRunner

from pipeline.simulate.command import Plan, sensors
from pipeline.simulate.messages import US, Faults, Outcome, Publish
from pipeline.simulate.restaurant import Hours
from pipeline.verify import app
from pipeline.verify.command import Report, examine
from tests.conftest import disconnect, drop, execute, with_database
from tests.pipeline.storing import store

FAULTS = Faults(malformed=0.03, duplicates=0.05, late=0.05)
PLAN = Plan(sites=("seoul", "busan"), devices=12, every=7.0, faults=FAULTS)

COLUMNS = "device_id, metric_id, bucket, n, sum, min, max, first, last, first_ts, last_ts"
ROLL_UP = f"""
INSERT INTO readings_1m ({COLUMNS}) SELECT * FROM readings_1m_now;
INSERT INTO readings_1h ({COLUMNS}) SELECT * FROM readings_1h_now;
INSERT INTO readings_1d ({COLUMNS}) SELECT * FROM readings_1d_now;
DELETE FROM marks
"""


def publishes(now_us: int) -> list[Publish]:
    """What the plan's sensors have sent in the last half hour, all of it acknowledged."""
    sent = []
    for sensor, _ in sensors(PLAN, Hours()):
        for second in range(1800, 0, -7):
            sent += sensor.measure(now_us - second * US)
    for index, publish in enumerate(sent):
        publish.sent_us, publish.acked_us = now_us + index, now_us + index + 500
        publish.outcome = Outcome.ACKNOWLEDGED
    return sent


def ledger_file(path: Path, sent: list[Publish]) -> Path:
    path.write_bytes(b"".join(orjson.dumps(p.line(), option=orjson.OPT_APPEND_NEWLINE) for p in sent))
    return path


def change(database: str, statement: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        assert connection.execute(statement.encode()).rowcount != 0, "the test changes something"


def found(report: Report) -> set[str]:
    return {answer.check.name for answer in report.answers if answer.count}


@pytest.fixture(scope="module")
def template(postgres: str, migrated: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A database with half an hour of twelve devices, to be copied, and the file that tells of it."""
    name = f"test_verify_{secrets.token_hex(4)}"
    execute(postgres, "CREATE DATABASE {} TEMPLATE {}", name, migrated)
    now_us = time.time_ns() // 1000
    sent = publishes(now_us)
    asyncio.run(store(with_database(postgres, name), [(p.topic, p.payload) for p in sent], now_us))
    execute(postgres, "ALTER DATABASE {} ALLOW_CONNECTIONS false", name)
    disconnect(postgres, name)
    yield name, ledger_file(tmp_path_factory.mktemp("verify") / "ledger.jsonl", sent)
    drop(postgres, name)


@pytest.fixture
def stored(postgres: str, template: tuple[str, Path], tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A copy of both, to be changed."""
    name = f"test_{secrets.token_hex(4)}"
    execute(postgres, "CREATE DATABASE {} TEMPLATE {}", name, template[0])
    yield with_database(postgres, name), Path(shutil.copy(template[1], tmp_path))
    drop(postgres, name)


def test_what_is_stored_as_it_was_sent_is_clean(stored: tuple[str, Path]) -> None:
    database, file = stored
    report = examine(database, file)
    assert not found(report), [answer for answer in report.answers if answer.count]
    assert report.sent is not None
    assert report.sent.points > 8_000
    assert report.marks_open > 0
    with psycopg.connect(database) as connection:
        duplicates = connection.execute("SELECT sum(duplicate) > 50, sum(refused) > 30 FROM ledger_now").fetchone()
    assert duplicates == (True, True), "repeats and dead letters were among it"


def test_computed_minutes_hours_and_days_are_clean(stored: tuple[str, Path]) -> None:
    database, file = stored
    change(database, ROLL_UP)
    report = examine(database, file)
    assert not found(report), [answer for answer in report.answers if answer.count]
    assert report.marks_open == 0


ONE_ROW = "WHERE (device_id, metric_id, ts) = (SELECT device_id, metric_id, ts FROM readings ORDER BY ts LIMIT 1)"


@pytest.mark.parametrize(
    ("statement", "names"),
    [
        (f"DELETE FROM readings {ONE_ROW}", {"acknowledged and not stored", "ledger's points against rows"}),
        (f"UPDATE readings SET value = value + 1 {ONE_ROW}", {"stored with another value"}),
        (
            (
                "INSERT INTO readings SELECT ts + INTERVAL '1 us', received_at, value, seq, device_id, metric_id"
                f" FROM readings {ONE_ROW}"
            ),
            {"stored and not sent", "ledger's points against rows"},
        ),
        (
            "DELETE FROM dead_letters WHERE id = (SELECT min(id) FROM dead_letters)",
            {"malformed and not a dead letter", "ledger's refusals against dead letters"},
        ),
        (
            (
                "UPDATE dead_letters SET payload = '{}' WHERE id = (SELECT min(id) FROM dead_letters"
                " WHERE mqtt_topic LIKE '%readings')"
            ),
            {"malformed and not a dead letter", "well-formed and refused"},
        ),
        (
            (
                "UPDATE dead_letters SET reason = 'conflicts_with_stored'"
                " WHERE id = (SELECT min(id) FROM dead_letters WHERE mqtt_topic LIKE '%readings')"
            ),
            {"conflicts"},
        ),
        (
            "UPDATE ledger_pending SET received[1] = received[1] + 1 WHERE id = (SELECT min(id) FROM ledger_pending)",
            {"ledger out of balance"},
        ),
        (
            "DELETE FROM ledger_pending WHERE id = (SELECT min(id) FROM ledger_pending)",
            {"ledger short of what was sent", "ledger's points against rows", "ledger's refusals against dead letters"},
        ),
    ],
)
def test_a_change_is_found(stored: tuple[str, Path], statement: str, names: set[str]) -> None:
    database, file = stored
    change(database, statement)
    assert found(examine(database, file)) == names


@pytest.mark.parametrize(
    ("statement", "names"),
    [
        ("UPDATE readings_1m SET n = n + 1", {"minutes against their rows"}),
        ("UPDATE readings_1h SET max = max + 1", {"hours against their rows"}),
        ("UPDATE readings_1d SET sum = sum * 1.00001 + 0.01", {"days against their rows"}),
        ("UPDATE readings_1h SET last_ts = last_ts + INTERVAL '1 s'", {"hours against their rows"}),
        ("DELETE FROM readings_1m", {"minutes against their rows"}),
    ],
)
@pytest.mark.parametrize("with_file", [True, False])
def test_a_wrong_roll_up_is_found(
    stored: tuple[str, Path], statement: str, names: set[str], *, with_file: bool
) -> None:
    database, file = stored
    change(database, ROLL_UP)
    change(database, statement)
    assert found(examine(database, file if with_file else None)) == names


def test_a_lost_mark_is_found(stored: tuple[str, Path]) -> None:
    database, file = stored
    change(database, "DELETE FROM marks WHERE (device_id, bucket) = (SELECT device_id, bucket FROM marks LIMIT 1)")
    assert "minutes against their rows" in found(examine(database, file))


def test_days_are_those_of_the_site(stored: tuple[str, Path]) -> None:
    database, file = stored
    change(database, "UPDATE sites SET time_zone = 'Asia/Seoul' WHERE name = 'seoul'")
    change(database, "UPDATE sites SET time_zone = 'America/St_Johns' WHERE name = 'busan'")
    change(database, ROLL_UP)
    assert not found(examine(database, file))


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.UNKNOWN])
async def test_what_was_not_acknowledged_may_be_stored_or_not(database: str, tmp_path: Path, outcome: Outcome) -> None:
    now_us = time.time_ns() // 1000
    sent = publishes(now_us)
    await store(database, [(p.topic, p.payload) for p in sent[::2]], now_us)
    for index, publish in enumerate(sent):
        if index % 4:
            publish.outcome = outcome
    assert not found(examine(database, ledger_file(tmp_path / "ledger.jsonl", sent)))


def test_a_replayed_dead_letter_is_clean(stored: tuple[str, Path]) -> None:
    database, _ = stored
    change(database, "UPDATE dead_letters SET resolved = true, outcome = 'duplicate' WHERE device_id > 0")
    change(
        database,
        "INSERT INTO ledger_pending (hour, device_ids, received, stored, duplicate, refused, late, points)"
        " SELECT hour, ARRAY[device_id], '{0}', '{0}', ARRAY[refused], ARRAY[-refused], '{0}', '{0}'"
        " FROM ledger_now WHERE device_id > 0 AND refused > 0",
    )
    assert not found(examine(database))


async def test_wait_until_it_has_arrived(database: str, tmp_path: Path) -> None:
    now_us = time.time_ns() // 1000
    sent = publishes(now_us)
    file = ledger_file(tmp_path / "ledger.jsonl", sent)
    assert "acknowledged and not stored" in found(examine(database, file))
    half = len(sent) // 2
    await store(database, [(p.topic, p.payload) for p in sent[:half]], now_us)
    began = time.monotonic()
    report = examine(database, file, wait=1)
    assert time.monotonic() - began >= 1
    assert "acknowledged and not stored" in found(report)
    await store(database, [(p.topic, p.payload) for p in sent[half:]], now_us + half)
    began = time.monotonic()
    assert not found(examine(database, file, wait=60))
    assert time.monotonic() - began < 30


def test_a_database_that_is_away_is_waited_for_and_then_told(stored: tuple[str, Path]) -> None:
    database, file = stored
    nowhere = conninfo.make_conninfo(database, port=1)
    began = time.monotonic()
    with pytest.raises(psycopg.OperationalError):
        examine(nowhere, file, wait=1)
    assert time.monotonic() - began >= 1


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, [*arguments])
    return result.exit_code, " ".join(result.output.split())


def test_the_command_tells_and_exits(stored: tuple[str, Path]) -> None:
    database, file = stored
    assert run("--database-url", database)[0] == 0
    code, output = run(str(file), "--database-url", database)
    assert (code, "Nothing is wrong." in output) == (0, True)
    change(database, f"DELETE FROM readings {ONE_ROW}")
    code, output = run(str(file), "--database-url", database)
    assert code == 1
    assert "acknowledged and not stored: 1. The broker accepted these points" in output
    code, output = run(str(file), "--database-url", database, "--json")
    assert code == 1
    assert orjson.loads(output)["checks"]["acknowledged and not stored"]["count"] == 1


def line(change_it: Callable[[dict[str, object]], object]) -> bytes:
    fields: dict[str, object] = {
        "device": "d", "site": "s", "kind": "reading", "outcome": "acknowledged", "sent_us": 1, "acked_us": 2,
        "readings": [],
    }  # fmt: skip
    change_it(fields)
    return orjson.dumps(fields) + b"\n"


@pytest.mark.parametrize(
    "content",
    [b"hello\n", b"\xff\n", b"{}\n", b"[]\n", line(lambda f: f.pop("device")), line(lambda f: f.update(readings=1))],
)
def test_a_file_that_is_no_ledger_is_a_wrong_use(stored: tuple[str, Path], tmp_path: Path, content: bytes) -> None:
    database, _ = stored
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_bytes(content)
    code, output = run(str(wrong), "--database-url", database)
    assert (code, "line 1" in output) == (2, True)


def test_a_file_that_is_not_there_is_a_wrong_use() -> None:
    assert run("/no/such/file")[0] == 2


def test_a_cut_last_line_is_told_and_left_out(stored: tuple[str, Path]) -> None:
    database, file = stored
    with file.open("ab") as opened:
        opened.write(b'{"device":"seoul.fri')
    code, output = run(str(file), "--database-url", database)
    assert (code, "last line is cut" in output) == (0, True)

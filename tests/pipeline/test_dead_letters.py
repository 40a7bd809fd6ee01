"""`brigade dead-letters`, as a person would call it; the workers' part of a replay is played by SQL."""

import io
import json
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from pipeline import packs
from tests.pipeline.storing import PARTITIONS, store

RECEIVED_US = 1_795_176_000_000_000
READINGS = "brigade/v1/seoul-1/fridge-1/readings"


@pytest.fixture
async def letters(database: str) -> Iterator[psycopg.Connection]:
    """Three dead letters, by the real sink: malformed, a value of text, and one without a device."""
    await store(
        database,
        [(READINGS, b"{"), (READINGS, '{"temperature_c": "3\x9b31m"}'.encode()), ("brigade/v1/elsewhere", b"\xff\x00")],
        RECEIVED_US,
    )
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def dead(brigade, letters, database):
    def run(*arguments):
        return brigade("dead-letters", *arguments, BRIGADE_DATABASE_URL=database)

    return run


def ids(letters, where="true"):
    return [str(row[0]) for row in letters.execute(f"SELECT id FROM dead_letters WHERE {where} ORDER BY id")]


def test_list_shows_the_newest_first_and_filters(dead, letters):
    done = dead("list")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 4
    by_json = [json.loads(line) for line in dead("list", "--json").stdout.splitlines()]
    assert [str(letter["id"]) for letter in by_json] == ids(letters)[::-1]
    assert {letter["reason"] for letter in by_json} == {"malformed_json", "value_not_a_number", "misplaced_topic"}

    def told(*arguments):
        return [json.loads(line)["reason"] for line in dead("list", "--json", *arguments).stdout.splitlines()]

    assert told("--reason", "malformed_json") == ["malformed_json"]
    assert sorted(told("--device", "fridge-1")) == ["malformed_json", "value_not_a_number"]
    assert sorted(told("--site", "seoul-1")) == ["malformed_json", "value_not_a_number"]
    assert len(told("--limit", "1")) == 1
    assert told("--since", "2027-01-01") == []
    assert len(told("--until", "2027-01-01")) == 3
    letters.execute("UPDATE dead_letters SET resolved = true, outcome = 'stored' WHERE reason = 'malformed_json'")
    assert len(told()) == 2
    assert len(told("--resolved")) == 3
    assert dead("list", "--reason", "nonsense").returncode == 2


def test_show_prints_the_payload_without_what_a_terminal_would_obey(dead, letters):
    [text] = ids(letters, "reason = 'value_not_a_number'")
    done = dead("show", text)
    assert done.returncode == 0
    assert "\x9b" not in done.stdout
    assert "temperature_c" in done.stdout
    [binary] = ids(letters, "reason = 'misplaced_topic'")
    assert r"b'\xff\x00'" in dead("show", binary).stdout
    assert json.loads(dead("show", binary, "--json").stdout)["payload_base64"] == "/wA="
    assert dead("show", "99999").returncode == 1


def test_replay_requests_and_says_what_it_did_not(dead, letters):
    first, second, third = ids(letters)
    letters.execute("UPDATE dead_letters SET payload_sha256 = '00' WHERE id = %s", (third,))
    done = dead("replay", first, second, third, "99999")
    assert done.returncode == 1
    assert f"{third}: not replayed, only the beginning of its payload was kept" in done.stdout
    assert "99999: there is no such dead letter" in done.stdout
    assert "2 requested" in done.stdout
    assert ids(letters, "replay_requested_at IS NOT NULL AND replay_published_at IS NULL") == [first, second]
    done = dead("replay", first)
    assert (done.returncode, f"{first}: not replayed, a replay is under way" in done.stdout) == (1, True)


def test_replay_by_filter_asks_first(dead, letters, monkeypatch):
    assert dead("replay").returncode == 2
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert dead("replay", "--all").returncode == 1
    assert ids(letters, "replay_requested_at IS NOT NULL") == []
    assert "2 requested" in dead("replay", "--device", "fridge-1", "--yes").stdout
    assert len(ids(letters, "replay_requested_at IS NOT NULL")) == 2


def outcome_comes(database, outcome):
    """Play the worker: tell this outcome as soon as a replay is requested."""

    def play():
        with psycopg.connect(database, autocommit=True) as connection:
            for _ in range(200):
                done = connection.execute(
                    "UPDATE dead_letters SET replayed_at = clock_timestamp(), outcome = %s"
                    " WHERE replay_requested_at > coalesce(replayed_at, '-infinity')",
                    (outcome,),
                )
                if done.rowcount:
                    return
                time.sleep(0.05)

    thread = threading.Thread(target=play)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("outcome", "code", "told"),
    [("stored", 0, "1 stored"), ("duplicate", 0, "1 duplicate"), ("ts_invalid", 1, "1 refused again: ts_invalid")],
)
def test_replay_waits_for_the_outcome(dead, letters, database, outcome, code, told):
    thread = outcome_comes(database, outcome)
    done = dead("replay", ids(letters)[0], "--wait")
    thread.join()
    assert (done.returncode, told in done.stdout) == (code, True), done.stdout


def test_without_a_worker_waiting_ends(dead, letters):
    done = dead("replay", ids(letters)[0], "--wait", "--timeout", "0.3")
    assert done.returncode == 1
    assert "is a worker running?" in done.stderr


def test_the_partitions_of_these_letters_are_those_of_their_topics(letters):
    for topic, partition in letters.execute("SELECT mqtt_topic, kafka_partition FROM dead_letters"):
        assert partition == packs.partition_of(packs.partition_key(topic), PARTITIONS)

"""Outages are waited out, bugs are raised, and a frozen worker does not hold a partition for ever."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time

import psycopg
import pytest
from psycopg import errors

from pipeline import patience
from pipeline.patience import Answer, Connection, judge
from pipeline.settings import WorkerSettings


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (errors.ConnectionFailure(), Answer.WAIT),
        (errors.DiskFull(), Answer.WAIT),
        (errors.TooManyConnections(), Answer.WAIT),
        (errors.AdminShutdown(), Answer.WAIT),
        (errors.CrashShutdown(), Answer.WAIT),
        (errors.CannotConnectNow(), Answer.WAIT),
        (errors.SerializationFailure(), Answer.WAIT),
        (errors.DeadlockDetected(), Answer.WAIT),
        (errors.LockNotAvailable(), Answer.WAIT),
        (errors.IdleInTransactionSessionTimeout(), Answer.WAIT),
        (errors.ReadOnlySqlTransaction(), Answer.WAIT),
        (psycopg.OperationalError("server closed the connection unexpectedly"), Answer.WAIT),
        (psycopg.InterfaceError("the cursor is closed"), Answer.WAIT),
        (ConnectionRefusedError(), Answer.WAIT),
        (TimeoutError(), Answer.WAIT),
        (errors.QueryCanceled(), Answer.SPLIT),
        (errors.NumericValueOutOfRange(), Answer.SPLIT),
        (errors.UniqueViolation(), Answer.SPLIT),
        (errors.ProgramLimitExceeded(), Answer.SPLIT),
        (errors.UndefinedTable(), Answer.BUG),
        (errors.InsufficientPrivilege(), Answer.BUG),
        (errors.DatabaseDropped(), Answer.BUG),
        (psycopg.ProgrammingError("the query has 1 placeholder"), Answer.BUG),
        (KeyError(), Answer.BUG),
        (asyncio.CancelledError(), Answer.BUG),
    ],
    ids=lambda case: type(case).__name__ if isinstance(case, BaseException) else case.name,
)
def test_errors_are_judged_by_sqlstate(error, answer):
    assert judge(error) is answer


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(patience, "FIRST_WAIT_SECONDS", 0.001)


@pytest.fixture
def settings(database):
    return WorkerSettings(database_url=database, lock_timeout_seconds=0.3, statement_timeout_seconds=5)


async def fails(connection, failures, *, same_error=None):
    """Run a body that raises these one after the other, then succeeds; return the number of its runs."""
    failures = list(failures)
    async for attempt in connection.attempts(same_error=same_error):
        async with attempt as database:
            await database.execute("SELECT 1")
            if failures:
                raise failures.pop(0)
            return attempt.number
    return None


async def test_outages_are_waited_out(settings, quick):
    async with Connection(settings, "test") as connection:
        assert await fails(connection, [errors.DeadlockDetected(), psycopg.OperationalError("lost"), OSError()]) == 4


async def test_a_bug_is_raised_at_once(settings, quick):
    async with Connection(settings, "test") as connection:
        with pytest.raises(errors.UndefinedTable):
            await fails(connection, [errors.UndefinedTable()])


async def test_what_could_lie_in_the_batch_is_raised_the_third_time(settings, quick):
    async with Connection(settings, "test") as connection:
        assert await fails(connection, [errors.QueryCanceled()] * 2, same_error=3) == 3
        for error in (errors.QueryCanceled, errors.OutOfMemory, psycopg.OperationalError):
            with pytest.raises(error):
                await fails(connection, [error()] * 3, same_error=3)


async def test_what_no_smaller_batch_would_mend_is_waited_out_for_ever(settings, quick):
    async with Connection(settings, "test") as connection:
        for error in (errors.DiskFull, errors.AdminShutdown, errors.IdleInTransactionSessionTimeout):
            assert await fails(connection, [error()] * 5, same_error=3) == 6


async def test_different_errors_are_not_the_same_error(settings, quick):
    async with Connection(settings, "test") as connection:
        mixed = [errors.QueryCanceled(), errors.DeadlockDetected()] * 3
        assert await fails(connection, mixed, same_error=3) == 7


async def test_a_session_ended_under_way_is_opened_again(settings, database, quick):
    ended = []
    async with Connection(settings, "test") as connection:
        async for attempt in connection.attempts():
            async with attempt as session, session.transaction():
                if not ended:
                    ended.append(session.info.backend_pid)
                    with psycopg.connect(database, autocommit=True) as other:
                        other.execute("SELECT pg_terminate_backend(%s, 5000)", (session.info.backend_pid,))
                await session.execute("SELECT 1")
        assert attempt.number == 2
        assert (await connection.get()).info.backend_pid not in ended


async def test_a_cancelled_statement_ends_its_connection(settings):
    async with Connection(settings, "test") as connection:

        async def sleep():
            async for attempt in connection.attempts():
                async with attempt as session, session.transaction():
                    await session.execute("SELECT pg_sleep(5)")

        first = await connection.get()
        task = asyncio.create_task(sleep())
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await (await connection.get()).execute("SELECT 1")).rowcount == 1
        assert first.closed or first.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


async def test_nobody_answering_is_an_outage_with_one_line_and_metrics(settings, quick, capsys):
    touched = []
    away = WorkerSettings(database_url="postgresql://nobody@127.0.0.1:1/none")
    connection = Connection(away, "away", retrying=lambda: touched.append(1))
    waiting = asyncio.create_task(fails(connection, []))
    async with asyncio.timeout(60):
        while len(touched) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert patience.UP.labels("away")._value.get() == 0
    connection.conninfo = patience.conninfo(settings)
    assert await waiting == 1
    assert patience.UP.labels("away")._value.get() == 1
    assert patience.RETRIES.labels("away")._value.get() >= 3
    await connection.drop()
    told = capsys.readouterr().out
    assert (told.count("database_away"), told.count("database_back")) == (1, 1)


async def test_each_session_is_prepared_and_has_our_timeouts(settings):
    async def prepare(session):
        await session.execute("CREATE TEMP TABLE staged (n int)")

    async with Connection(settings, "test", prepare=prepare) as connection:
        for _ in range(2):
            session = await connection.get()
            shown = {}
            for name in (
                "statement_timeout",
                "lock_timeout",
                "idle_in_transaction_session_timeout",
                "application_name",
            ):
                shown[name] = (await (await session.execute(f"SHOW {name}")).fetchone())[0]
            assert shown == {
                "statement_timeout": "5s",
                "lock_timeout": "300ms",
                "idle_in_transaction_session_timeout": "10s",
                "application_name": "brigade-worker",
            }
            await session.execute("SELECT n FROM staged")
            await connection.drop()


FROZEN = """
import os, psycopg, signal, sys
from psycopg import sql
connection = psycopg.connect(sys.argv[1], application_name=sys.argv[2], autocommit=True)
with connection.transaction(), connection.cursor() as cursor:
    cursor.execute("UPDATE ingest_offsets SET next_offset = 7 WHERE partition = 0")
    cursor.execute(f"SET LOCAL idle_in_transaction_session_timeout = {sys.argv[3]}")
    cursor.execute(f"SET LOCAL statement_timeout = {sys.argv[3]}")
    with cursor.copy("COPY readings (ts, received_at, value, device_id, metric_id) FROM STDIN") as copy:
        copy.write("2026-11-23 00:00Z\\t2026-11-23 00:00Z\\t1\\t1\\t1\\n")
        print("inside", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
print("thawed and committed", flush=True)
"""


@contextlib.contextmanager
def frozen_inside_copy(database, application, timeout_ms):
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("INSERT INTO ingest_offsets VALUES ('group', 'topic', 0, 'id', 1)")
    arguments = [sys.executable, "-c", FROZEN, database, application, str(timeout_ms)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "inside\n"
            while os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT | os.WNOHANG) is None:
                time.sleep(0.01)
            yield process
        finally:
            process.kill()


async def advance(connection):
    async for attempt in connection.attempts():
        async with attempt as session, session.transaction():
            await session.execute("UPDATE ingest_offsets SET next_offset = 2 WHERE partition = 0 AND next_offset = 1")
    return attempt.number


async def test_a_worker_frozen_inside_copy_is_ended_by_who_waits_for_it(settings, database):
    with frozen_inside_copy(database, patience.APPLICATION, 500) as process:
        async with Connection(settings, "test") as connection:
            number = await asyncio.wait_for(advance(connection), 60)
        assert number >= patience.LOCK_TIMEOUTS + 1
        with psycopg.connect(database) as other:
            assert other.execute("SELECT next_offset FROM ingest_offsets").fetchone() == (2,)
        process.send_signal(signal.SIGCONT)
        told, trouble = process.communicate(timeout=120)
        assert told == ""
        assert "OperationalError" in trouble or "AdminShutdown" in trouble
        with psycopg.connect(database) as other:
            assert other.execute("SELECT count(*) FROM readings").fetchone() == (0,)


async def test_another_programs_session_is_never_ended(settings, database):
    with frozen_inside_copy(database, "somebody's psql", 0) as process:
        async with Connection(settings, "test") as connection:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(advance(connection), 3)
        process.send_signal(signal.SIGCONT)
        told, trouble = process.communicate(timeout=120)
        assert told == "thawed and committed\n", trouble

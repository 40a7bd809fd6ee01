"""Sites, devices and metrics become known by their first message, within limits; whose topic it is, and whose not."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.pipeline.sinks import NOW, A, B, Log, Tables, devices_of, message, reading, sink, tables


@pytest.fixture
def there(database: str) -> Iterator[Tables]:
    with tables(database) as opened:
        yield opened
        opened.check_sums()


async def test_a_first_reading_makes_its_site_device_and_metrics_known(database: str, there: Tables) -> None:
    log = Log()
    async with sink(database, log, site_time_zone="Asia/Seoul") as it:
        await it.write(log.put(message({"temperature_c": 3, "door_open": True})))
    assert there.all("SELECT d.name, s.name, s.time_zone FROM devices d JOIN sites s ON s.id = d.site_id") == [
        (A, "seoul", "Asia/Seoul")
    ]
    assert there.all("SELECT name, unit FROM metrics ORDER BY 1") == [("door_open", None), ("temperature_c", "°C")]
    assert there.one("SELECT count(*) FROM device_metrics") == 2


async def test_a_status_makes_its_device_known_too(database: str, there: Tables) -> None:
    log = Log()
    async with sink(database, log) as it:
        await it.write(log.put(message(b"online", kind="status")))
    assert there.all("SELECT name FROM devices") == [(A,)]


async def test_known_names_are_not_asked_for_again(database: str, there: Tables) -> None:
    log = Log()
    async with sink(database, log) as it:
        await it.write(log.put(reading(0)))
        numbers = there.all("SELECT last_value FROM devices_id_seq")
        before = it.directory.layouts.copy()
        await it.write(log.put(reading(1)))
        assert it.directory.layouts == before
        it.forget()
        await it.write(log.put(reading(2)))
    assert there.all("SELECT last_value FROM devices_id_seq") == numbers, "no number is used up by looking"


async def test_a_device_has_so_many_metrics(database: str, there: Tables) -> None:
    log = Log()
    async with sink(database, log, metrics_per_device=3) as it:
        await it.write(log.put(message({"a": 1, "b": 1}), message({"c": 1}), message({"d": 1})))
        await it.write(log.put(message({"a": 1, "e": 1}), message({"a": 1, "b": 1, "c": 1, "d": 1}), reading(9, B)))
        await it.write(log.put(message({"ts": NOW // 1000 + 1, "c": 2, "a": 2})))
    assert there.reasons() == ["too_many_metrics"] * 3
    assert there.ledger_of() == (6, 3, 0, 3)
    assert "BRIGADE_METRICS_PER_DEVICE" in there.letters()[0].detail


async def test_a_device_that_invents_names_does_not_use_up_the_installations(database: str, there: Tables) -> None:
    log = Log()
    array = [{"ts": NOW // 1000 + n, f"m{n}": 1} for n in range(50)]
    async with sink(database, log, metrics_per_device=4, metric_names=20) as it:
        await it.write(log.put(message(array)))
        await it.write(log.put(*(message({f"n{n}": 1}) for n in range(50))))
        await it.write(log.put(reading(0, B)))
    assert there.one("SELECT count(*) FROM metrics") == 5
    assert there.ledger_of() == (100, 4, 0, 96)
    assert there.ledger_of(B) == (1, 1, 0, 0)


async def test_the_installation_has_so_many_metric_names(database: str, there: Tables) -> None:
    log = Log()
    async with sink(database, log, metric_names=2) as it:
        await it.write(log.put(message({"a": 1}), message({"b": 1}, B)))
        await it.write(log.put(message({"a": 1, "c": 1}), message({"a": 1}, B)))
    assert there.reasons() == ["too_many_metric_names"]
    assert "BRIGADE_METRIC_NAMES" in there.letters()[0].detail
    assert there.one("SELECT count(*) FROM device_metrics") == 3


async def test_a_site_has_so_many_devices(database: str, there: Tables) -> None:
    log = Log()
    names = devices_of(0, 5)
    async with sink(database, log, devices_per_site=3) as it:
        await it.write(log.put(*(reading(0, name) for name in names)))
        await it.write(log.put(message({"a": 1}, names[4], site="busan")))
    assert there.one("SELECT count(*) FROM devices WHERE site_id = 1") == 3
    assert there.reasons() == ["too_many_devices"] * 2
    assert there.ledger_of("") == (2, 0, 0, 2)


async def test_a_moved_device_is_welcome_soon(database: str, there: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when nothing else is new, so that nothing else is looked up."""
    log = Log()
    async with sink(database, log) as it:
        await it.write(log.put(reading(0)))
        await it.write(log.put(message({"a": 1}, site="busan")))
        there.do("INSERT INTO sites (name) VALUES ('busan')")
        there.do("UPDATE devices SET site_id = (SELECT id FROM sites WHERE name = 'busan')")
        monkeypatch.setattr("pipeline.directory.REFUSALS_KEPT_SECONDS", 0)
        await it.write(log.put(message({"a": 1}, site="busan")))
    assert there.reasons() == ["wrong_site"]
    assert there.values("a") == [(A, 1)]


async def test_another_site_is_refused_and_does_not_become_known(database: str, there: Tables) -> None:
    log = Log()
    async with sink(database, log) as it:
        await it.write(log.put(reading(0)))
        await it.write(log.put(message({"a": 1}, site="busan"), reading(1)))
    assert there.reasons() == ["wrong_site"]
    assert "brigade devices move" in there.letters()[0].detail
    assert there.all("SELECT name FROM sites") == [("seoul",)]
    assert there.ledger_of("") == (1, 0, 0, 1)


async def test_the_first_topic_names_the_site(database: str, there: Tables) -> None:
    log = Log()
    sites = [f"site-{n}" for n in range(8)]
    async with sink(database, log) as it:
        await it.write(log.put(*(message({"a": 1}, site=site) for site in sites)))
    assert there.all("SELECT name FROM sites") == [("site-0",)]
    assert there.reasons() == ["wrong_site"] * 7


async def test_a_moved_devices_backlog_is_welcome_for_the_past_limit(database: str, there: Tables) -> None:
    log = Log()
    async with sink(database, log) as it:
        await it.write(log.put(reading(0), reading(0, B)))
        there.do("INSERT INTO sites (name) VALUES ('busan')")
        there.do(
            "UPDATE devices SET previous_site_id = site_id, site_id = (SELECT id FROM sites WHERE name = 'busan'),"
            " moved_at = now() - CASE name WHEN %s THEN interval '29 days' ELSE interval '31 days' END",
            A,
        )
        it.forget()
        backlog = [message({"a": 1}), message({"a": 1}, site="busan"), message({"a": 2, "b": 1}, B)]
        await it.write(log.put(*backlog, message({"a": 1}, B, site="busan", received_us=NOW + 1)))
    assert there.ledger_of(A) == (3, 2, 1, 0)
    assert there.reasons() == ["wrong_site"]
    assert there.ledger_of(B) == (2, 2, 0, 0)


async def test_two_workers_learn_the_same_names_at_once(database: str, there: Tables) -> None:
    """Of different partitions, but of one site and with the same metrics."""
    log = Log()
    names = [devices_of(p, 20) for p in range(2)]
    metrics = {f"m{n}": n for n in range(30)}
    batches = [log.put(*(message(metrics, name) for name in of)) for of in names]
    async with sink(database, log, [0]) as one, sink(database, log, [1]) as other:
        await asyncio.gather(one.write(batches[0]), other.write(batches[1]))
    assert there.one("SELECT count(*) FROM sites") == 1
    assert there.one("SELECT count(*) FROM readings") == 40 * 30
    assert there.one("SELECT count(*) FROM metrics") == 30


@pytest.mark.parametrize(
    "payload", [{"new": "warm"}, {"new": []}, {"new": 1, "B": 1}, {"new": 1, "ts": 1}, {"new": 1, "seq": "one"}]
)
async def test_a_refused_reading_makes_no_metric_known(
    database: str, there: Tables, payload: dict[str, object]
) -> None:
    log = Log()
    async with sink(database, log) as it:
        await it.write(log.put(message(payload)))
        await it.write(log.put(message(payload), reading(0)))
    assert there.all("SELECT name FROM metrics") == [("temperature_c",)]
    assert there.ledger_of() == (3, 1, 0, 2)

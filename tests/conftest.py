"""The real servers the tests speak to, addressed by environment variables, and what is made fresh on them.

A test that needs a server it has no address of is skipped, and the run's header says so; with
BRIGADE_TEST_ALL=1, as scripts/test has it, it fails instead.
"""

import os
import secrets
from collections.abc import Iterator
from typing import NamedTuple, Self
from urllib.parse import unquote, urlsplit, urlunsplit

import hypothesis
import psycopg
import pytest
from confluent_kafka.admin import AdminClient
from psycopg import sql

from observability.settings import FOLDER, PREFIX
from pipeline import topics as kafka_topics
from pipeline.migrate import migrate
from pipeline.settings import KafkaSettings
from pipeline.settings_page import PARTS
from tests.process_logs import Logs

hypothesis.settings.register_profile("patient", hypothesis.settings(), deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("patient")

SERVERS = {
    "BRIGADE_TEST_MQTT": "the MQTT broker, mqtt://user:password@host:port, as who may do everything",
    "BRIGADE_TEST_MQTT_USERS": "the MQTT broker, as who may change its accounts",
    "BRIGADE_TEST_MQTT_MONITOR": "the MQTT broker, as who may read what it tells of itself",
    "BRIGADE_TEST_KAFKA": "Kafka, host:port",
    "BRIGADE_TEST_POSTGRES": "PostgreSQL with TimescaleDB, a superuser's URL",
    "BRIGADE_TEST_REDIS": "Redis, host:port",
    "BRIGADE_TEST_ALERTMANAGER": "Alertmanager, http://host:port",
}


def pytest_report_header() -> list[str]:
    lines = [f"{variable}={_shown(os.environ[variable])}" for variable in SERVERS if variable in os.environ]
    missing = [f"{name} ({what})" for name, what in SERVERS.items() if name not in os.environ]
    if missing:
        lines.append(f"skipped are the tests that need {', '.join(missing)}: scripts/test starts all of them")
    return lines


def _shown(address: str) -> str:
    """Without its password: this goes into logs."""
    parts = urlsplit(address)
    return address.replace(f":{parts.password}@", ":…@") if parts.password else address


def pytest_configure() -> None:
    """The tests' settings are their own, whatever the shell has."""
    os.environ.pop(FOLDER, None)
    for part in PARTS.values():
        for name in part.model_fields:
            os.environ.pop(f"{PREFIX}{name.upper()}", None)
    for name in [name for name in os.environ if name.startswith(("BRIGADE_USERS_", "BRIGADE_INSTALL_"))]:
        del os.environ[name]


# A test that fails shows what its processes wrote -------------------------------------------------------------------

LOGS = pytest.StashKey[Logs]()


def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[LOGS] = Logs.from_now_on(item.config._tmp_path_factory.getbasetemp())  # what the fixture of that name is


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed and LOGS in item.stash:
        report.sections += item.stash[LOGS].written()
    return report


def address(variable: str) -> str:
    if variable in os.environ:
        return os.environ[variable]
    missing = f"{variable} is not set: {SERVERS[variable]}"
    if os.environ.get("BRIGADE_TEST_ALL") == "1":
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.fixture
def unique() -> str:
    """For names that no other test has."""
    return secrets.token_hex(4)


class Mqtt(NamedTuple):
    """A broker, and an account on it."""

    host: str
    port: int
    user: str
    password: str

    @classmethod
    def of(cls, url: str) -> Self:
        parts = urlsplit(url)
        return cls(parts.hostname or "", parts.port or 0, unquote(parts.username or ""), unquote(parts.password or ""))


@pytest.fixture(scope="session")
def mqtt() -> Mqtt:
    """The broker, as who may be any device and hear everything."""
    return Mqtt.of(address("BRIGADE_TEST_MQTT"))


@pytest.fixture(scope="session")
def mqtt_users() -> Mqtt:
    """The broker, as the users service."""
    return Mqtt.of(address("BRIGADE_TEST_MQTT_USERS"))


@pytest.fixture(scope="session")
def mqtt_monitor() -> Mqtt:
    """The broker, as the process that reads its `$SYS` topics."""
    return Mqtt.of(address("BRIGADE_TEST_MQTT_MONITOR"))


@pytest.fixture(scope="session")
def redis() -> tuple[str, int]:
    host, _, port = address("BRIGADE_TEST_REDIS").rpartition(":")
    return host, int(port)


@pytest.fixture(scope="session")
def alertmanager_url() -> str:
    return address("BRIGADE_TEST_ALERTMANAGER")


@pytest.fixture(scope="session")
def kafka() -> str:
    """The bootstrap servers."""
    return address("BRIGADE_TEST_KAFKA")


@pytest.fixture
def topics(kafka: str, request: pytest.FixtureRequest) -> Iterator[kafka_topics.Topics]:
    """Topics of this test alone, `.settings` beside their names; 3 partitions.

    Another number: `@pytest.mark.parametrize("topics", [1], indirect=True)`.
    """
    settings = KafkaSettings(
        kafka_bootstrap_servers=kafka,
        topic_prefix=f"test-{secrets.token_hex(4)}-",
        partitions=getattr(request, "param", 3),
    )
    kafka_topics.create(settings)
    declared = kafka_topics.Topics(settings)
    yield declared
    admin = AdminClient({"bootstrap.servers": kafka, "log_level": 0})
    for future in admin.delete_topics([topic.name for topic in declared.declared()]).values():
        future.result()


@pytest.fixture(scope="session")
def postgres() -> str:
    """The superuser's URL."""
    return address("BRIGADE_TEST_POSTGRES")


@pytest.fixture
def empty_database(postgres: str) -> Iterator[str]:
    """The URL of a database without a table, dropped afterwards."""
    name = f"test_{secrets.token_hex(4)}"
    execute(postgres, "CREATE DATABASE {}", name)
    yield with_database(postgres, name)
    drop(postgres, name)


@pytest.fixture(scope="session")
def migrated(postgres: str) -> Iterator[str]:
    """A migrated database that nobody can connect to, so that it can be copied at any time."""
    name = f"test_template_{secrets.token_hex(4)}"
    execute(postgres, "CREATE DATABASE {}", name)
    migrate(with_database(postgres, name))
    execute(postgres, "ALTER DATABASE {} ALLOW_CONNECTIONS false", name)
    disconnect(postgres, name)  # TimescaleDB's own worker
    yield name
    drop(postgres, name)


@pytest.fixture
def database(postgres: str, migrated: str) -> Iterator[str]:
    """The URL, as superuser, of a migrated database of this test alone, dropped afterwards."""
    name = f"test_{secrets.token_hex(4)}"
    execute(postgres, "CREATE DATABASE {} TEMPLATE {}", name, migrated)
    yield with_database(postgres, name)
    drop(postgres, name)


def with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def drop(postgres: str, name: str) -> None:
    execute(postgres, "DROP DATABASE IF EXISTS {} WITH (FORCE)", name)


def disconnect(postgres: str, name: str) -> None:
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (name,))


def execute(postgres: str, statement: str, *names: str) -> None:
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

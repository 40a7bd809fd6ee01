"""What a person or a job types."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import psycopg
import typer

from observability.settings import where
from pipeline import topics as kafka
from pipeline.install import broker, database
from pipeline.install.database import of_users
from pipeline.install.waiting import InstallError, NotYetError, patiently
from pipeline.migrate import lacking
from pipeline.settings import (
    InstallBrokerSettings,
    InstallDatabaseSettings,
    InstallTopicsSettings,
    InstallWaitSettings,
    KafkaSettings,
    load,
)
from pipeline.topics import KafkaAwayError, TopicsError

app = typer.Typer(no_args_is_help=True)


@contextmanager
def told() -> Iterator[None]:
    """What cannot be done is a line on stderr, and exit code 1."""
    try:
        yield
    except InstallError as error:
        sys.exit(f"brigade: {error}")


@app.command("database")
def database_command() -> None:
    """The databases, their login roles with their passwords, the tables of this version.

    Needs BRIGADE_INSTALL_DATABASE_URL and a BRIGADE_INSTALL_PASSWORD_… for each role; another password than before is
    set. Safe to run again, and by several at once.
    """
    settings = load(InstallDatabaseSettings)
    with told():
        for line in database.install(settings):
            print(line, flush=True)


@app.command("topics")
def topics_command() -> None:
    """The Kafka topics: like `brigade topics create`, but it waits for Kafka."""
    settings = load(InstallTopicsSettings)
    with told():
        for line in patiently(lambda: _created(settings), settings.install_wait_seconds):
            print(line)


@app.command("broker")
def broker_command(
    file: Annotated[Path, typer.Option(help="What Mosquitto's dynamic security has as plugin_opt_config_file.")],
) -> None:
    """The MQTT accounts of our own services, in Mosquitto's file; devices' accounts in it stay as they are.

    Needs a BRIGADE_INSTALL_MQTT_PASSWORD_… for each; another password than before is set. Run it while Mosquitto is
    down, which reads the file at its start alone; as Mosquitto's user, or as root.
    """
    settings = load(InstallBrokerSettings)
    with told():
        for line in broker.install(file, broker.passwords(settings)):
            print(line)


@app.command("wait")
def wait_command(
    *,
    database: Annotated[bool, typer.Option("--database", help="For the tables, at BRIGADE_DATABASE_URL.")] = False,
    users: Annotated[bool, typer.Option("--users", help="For those of users, at BRIGADE_USERS_DATABASE_URL.")] = False,
    topics: Annotated[bool, typer.Option("--topics", help="For the Kafka topics.")] = False,
) -> None:
    """Return when what is named is as this version needs it, or newer: before a part that would fail without it."""
    settings = load(InstallWaitSettings)
    asked = {_tables_there: database, _tables_of_users_there: users, _topics_there: topics}
    with told():
        for there in (there for there, wanted in asked.items() if wanted):
            patiently(partial(there, settings), settings.install_wait_seconds)


def _created(settings: KafkaSettings) -> list[str]:
    try:
        return kafka.create(settings)
    except KafkaAwayError as error:
        raise NotYetError(str(error)) from error
    except TopicsError as error:
        raise InstallError(str(error)) from error


def _topics_there(settings: InstallWaitSettings) -> None:
    try:
        kafka.check(settings)
    except (KafkaAwayError, TopicsError) as error:
        raise NotYetError(str(error)) from error


def _tables_there(settings: InstallWaitSettings) -> None:
    try:
        missing = lacking(settings.database_url.get_secret_value())
    except (psycopg.OperationalError, psycopg.errors.InsufficientPrivilege) as error:  # the role gets its rights last
        raise NotYetError(f"the database of {where('BRIGADE_DATABASE_URL')}: {error}") from error
    if missing:
        raise NotYetError(f"the database of {where('BRIGADE_DATABASE_URL')} lacks migration {', '.join(missing)}")


def _tables_of_users_there(_settings: InstallWaitSettings) -> None:
    done = of_users("migrate", "--check")
    if done.returncode:
        raise NotYetError(done.stderr.strip().removeprefix("brigade: "))

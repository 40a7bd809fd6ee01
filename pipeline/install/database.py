"""The databases and the login roles; what a service may do is the migrations' business."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg
from psycopg import Connection, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from observability.settings import where
from pipeline.install.waiting import InstallError, NotYetError, patiently
from pipeline.migrate import MigrationError, migrate
from pipeline.settings import InstallDatabaseSettings

OWNER: Final = "brigade"
"""Owns the pipeline's database, of the same name, and runs its migrations, which make the services' roles."""

USERS: Final = "brigade_users"
"""The same for users, whose database is nobody else's business."""

MONITOR: Final = "brigade_monitor"
"""For PostgreSQL's exporter: statistics, and no row of anybody's."""

GRAFANA: Final = "brigade_grafana"
MEMBERSHIPS: Final = {"brigade_worker": "brigade_ingest", "brigade_api": "brigade_gateway"}

LOCK: Final = "SELECT pg_advisory_lock(hashtext('brigade install'))"
IS_SUPERUSER: Final = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
IS_ROLE: Final = "SELECT FROM pg_roles WHERE rolname = %s"
OWNED_BY: Final = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s"

CONNECT_SECONDS: Final = 5


@dataclass(frozen=True, kw_only=True)
class Server:
    """A PostgreSQL server, as who may make roles and databases on it."""

    variable: str
    url: str
    wait_seconds: float

    def conninfo(self, **other: str) -> str:
        known: dict[str, Any] = {"connect_timeout": CONNECT_SECONDS} | conninfo_to_dict(self.url)
        return make_conninfo("", **(known | other))

    @contextmanager
    def connected(self, **other: str) -> Iterator[Connection]:
        """Wait until it answers; what its role may not do is told."""
        with patiently(lambda: self._connect(**other), self.wait_seconds) as connection:
            try:
                yield connection
            except psycopg.errors.InsufficientPrivilege as error:
                raise InstallError(
                    f"{where(self.variable)} names role {connection.info.user}, which may not do what is needed: "
                    f"{error}. It must be a superuser, or have CREATEROLE and CREATEDB and have made "
                    "Brigade's roles itself"
                ) from error
            except psycopg.OperationalError as error:
                raise InstallError(f"the server of {where(self.variable)} is gone: {error}") from error

    def _connect(self, **other: str) -> Connection:
        try:
            return psycopg.connect(self.conninfo(**other), autocommit=True, application_name="brigade-install")
        except psycopg.OperationalError as error:
            if _refused(error):
                raise InstallError(f"the server of {where(self.variable)} refuses: {error}") from error
            raise NotYetError(f"the server of {where(self.variable)} does not answer: {error}") from error


def _refused(error: psycopg.OperationalError) -> bool:
    """Whether it asked for a password before it said no: one that still starts would not."""
    return error.pgconn is not None and (error.pgconn.used_password or error.pgconn.needs_password)


def install(settings: InstallDatabaseSettings) -> Iterator[str]:
    """Make what is missing, set the passwords, migrate; tell each step. `InstallError` when it cannot be done."""
    pipelines = Server(
        variable="BRIGADE_INSTALL_DATABASE_URL",
        url=settings.install_database_url.get_secret_value(),
        wait_seconds=settings.install_wait_seconds,
    )
    yield from _pipelines(pipelines, settings)
    theirs = pipelines
    if settings.install_users_database_url is not None:
        theirs = Server(
            variable="BRIGADE_INSTALL_USERS_DATABASE_URL",
            url=settings.install_users_database_url.get_secret_value(),
            wait_seconds=settings.install_wait_seconds,
        )
    yield from _users(theirs, settings)


def _pipelines(server: Server, settings: InstallDatabaseSettings) -> Iterator[str]:
    with server.connected() as connection:
        connection.execute(LOCK)  # until this connection ends
        yield _login(connection, OWNER, settings.install_password_owner, "CREATEROLE")
        yield _login(connection, "brigade_worker", settings.install_password_worker)
        yield _login(connection, "brigade_api", settings.install_password_api)
        yield from _monitor(connection, settings)
        yield from _database(connection, OWNER)
        with server.connected(dbname=OWNER) as inside:
            _extension(inside, server)
        yield from _migrated(server, settings.install_password_owner)
        for login, role in MEMBERSHIPS.items():
            connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), sql.Identifier(login)))
        yield _login(connection, GRAFANA, settings.install_password_grafana)


def _users(server: Server, settings: InstallDatabaseSettings) -> Iterator[str]:
    with server.connected() as connection:
        connection.execute(LOCK)
        yield _login(connection, USERS, settings.install_password_users)
        yield from _monitor(connection, settings)  # once more if it is the same server
        yield from _database(connection, USERS)
        connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(USERS)))
        yield from _migrated_users(server, settings.install_password_users)


def _login(connection: Connection, role: str, password: SecretStr, attributes: LiteralString = "") -> str:
    """The role may log in with that password, whether it is there already or not."""
    there = connection.execute(IS_ROLE, (role,)).fetchone() is not None
    statement = "ALTER ROLE {} LOGIN {} PASSWORD {}" if there else "CREATE ROLE {} LOGIN {} PASSWORD {}"
    connection.execute(
        sql.SQL(statement).format(
            sql.Identifier(role), sql.SQL(attributes), sql.Literal(_hashed(connection, role, password))
        )
    )
    return f"role {role}: {'its password is set' if there else 'made'}"


def _hashed(connection: Connection, role: str, password: SecretStr) -> str:
    """As PostgreSQL would keep it, so that the password itself is in no statement and no log of the server's."""
    text = password.get_secret_value().encode()
    return connection.pgconn.encrypt_password(text, role.encode(), b"scram-sha-256").decode()


def _monitor(connection: Connection, settings: InstallDatabaseSettings) -> Iterator[str]:
    yield _login(connection, MONITOR, settings.install_password_monitor)
    grant = f"GRANT pg_monitor TO {MONITOR}"
    try:
        connection.execute(grant.encode())
    except psycopg.errors.InsufficientPrivilege:  # on a managed server; nothing else needs it
        yield f"role {MONITOR}: sees little until somebody who may does: {grant}"


def _database(connection: Connection, name: str) -> Iterator[str]:
    """There is the database, and it belongs to the role of its name."""
    owner = connection.execute(OWNED_BY, (name,)).fetchone()
    if owner is not None and owner[0] != name:
        raise InstallError(
            f"database {name} belongs to {owner[0]}: as who may, run ALTER DATABASE {name} OWNER TO {name}"
        )
    if connection.execute(IS_SUPERUSER).fetchone() != (True,):  # who made the role may give itself its rights
        connection.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(sql.Identifier(name)))
    if owner is None:
        connection.execute(sql.SQL("CREATE DATABASE {0} OWNER {0}").format(sql.Identifier(name)))
        yield f"database {name}: made"


def _extension(connection: Connection, server: Server) -> None:
    connection.execute("SET client_min_messages = warning")
    try:
        connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
    except psycopg.Error as error:
        raise InstallError(
            f"the server of {where(server.variable)} has no TimescaleDB that can be used: {error}. Install it there, "
            "with shared_preload_libraries = 'timescaledb'; on a managed server enable it, and have its administrator "
            f"run CREATE EXTENSION timescaledb in database {OWNER}"
        ) from error


def _migrated(server: Server, password: SecretStr) -> Iterator[str]:
    try:
        for name in migrate(server.conninfo(user=OWNER, password=password.get_secret_value(), dbname=OWNER)):
            yield f"database {OWNER}: migrated, {name}"
    except MigrationError as error:
        raise InstallError(str(error)) from error
    except psycopg.OperationalError as error:
        raise InstallError(f"role {OWNER} cannot migrate: {error}") from error


def _migrated_users(server: Server, password: SecretStr) -> Iterator[str]:
    url = server.conninfo(user=USERS, password=password.get_secret_value(), dbname=USERS)
    done = of_users("migrate", BRIGADE_USERS_DATABASE_URL=url)
    if done.returncode:
        raise InstallError(f"`brigade users migrate` failed: {done.stderr.strip()}")
    for name in done.stdout.splitlines():
        if name != "nothing to do":
            yield f"database {USERS}: migrated, {name}"


def of_users(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """`brigade users …`, with these settings beside the environment's: the services share no code."""
    command = [sys.executable, "-m", "pipeline.cli", "users", *words]
    return subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)

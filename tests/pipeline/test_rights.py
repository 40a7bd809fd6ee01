"""No part needs a superuser: the owner migrates and maintains, the worker's role writes and counts days again."""

from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from pipeline.maintain import Maintenance, connect
from pipeline.migrate import MIGRATIONS, migrate, migrations
from pipeline.settings import MaintainSettings
from pipeline.sites import change_zone, count_days_again


def as_role(url, name):
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{name}:secret@{parts.hostname}:{parts.port}"))


@pytest.fixture
def roles(postgres, empty_database, unique):
    """An owner who may make roles, and a member of brigade_ingest; gone when the database is."""
    owner, worker = f"test_owner_{unique}", f"test_worker_{unique}"
    with psycopg.connect(postgres, autocommit=True) as admin, psycopg.connect(empty_database, autocommit=True) as here:
        name = sql.Identifier(here.info.dbname)
        here.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
        for role in (owner, worker):
            admin.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEROLE PASSWORD 'secret'").format(sql.Identifier(role)))
        admin.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(name, sql.Identifier(owner)))
        migrate(as_role(empty_database, owner))
        admin.execute(sql.SQL("GRANT brigade_ingest TO {}").format(sql.Identifier(worker)))
        yield as_role(empty_database, owner), as_role(empty_database, worker)
        for role in (owner, worker):
            here.execute(sql.SQL("REASSIGN OWNED BY {} TO CURRENT_USER").format(sql.Identifier(role)))
            here.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
            admin.execute(sql.SQL("ALTER DATABASE {} OWNER TO CURRENT_USER").format(name))
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def test_the_owner_migrates_again_and_maintains(roles):
    owner, _ = roles
    with connect(owner) as connection:
        for migration in migrations(MIGRATIONS):
            connection.execute(migration.sql)
        Maintenance(MaintainSettings(database_url=owner)).run(connection)


def test_the_workers_role_changes_a_sites_zone(roles):
    _, worker = roles
    with psycopg.connect(worker) as connection:
        connection.execute("INSERT INTO sites (name) VALUES ('seoul-1')")
        connection.execute("INSERT INTO devices (name, site_id) VALUES ('fridge-1', 1)")
        connection.execute("INSERT INTO marks VALUES ('2026-05-02', 0, 1, 2)")
        change_zone(connection, 1, "Asia/Seoul")
        assert count_days_again(connection, [(1, "fridge-1")], "Asia/Seoul", partitions=12) == 2


def test_the_workers_role_cannot_maintain(roles):
    _, worker = roles
    with connect(worker) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        Maintenance(MaintainSettings(database_url=worker)).run(connection)

"""`brigade install database`, on a PostgreSQL of these tests alone: roles belong to the whole server."""

import os
import secrets
import subprocess
import sys

import psycopg
import pytest
from psycopg import sql
from psycopg.errors import InsufficientPrivilege

from deploy.local.layout import database_url
from tests.pipeline.bridge_servers import OwnServer, own_instance

ROLES = ("owner", "worker", "api", "monitor", "grafana", "users")
MADE = (
    *("brigade_worker", "brigade_api", "brigade_monitor", "brigade_grafana", "brigade_users"),
    *("brigade_gateway", "brigade_ingest", "brigade_read", "brigade", "managed"),
)


class Postgres(OwnServer):
    def __init__(self, folder, *, preload="timescaledb"):
        instance = own_instance(folder)
        file = instance.config / "postgresql.conf"
        file.write_text(file.read_text().replace("'timescaledb'", f"'{preload}'").replace("512MB", "64MB"))
        super().__init__("postgres", instance)
        self.log = instance.state / "postgres.log"
        self.start()

    @property
    def superuser(self):
        return database_url(self.instance, "postgres", "postgres")

    def url(self, role, password, name="brigade"):
        return f"postgresql://{role}:{password}@127.0.0.1:{self.instance.ports['postgres']}/{name}"

    def connect(self, role, password, name="brigade"):
        return psycopg.connect(self.url(role, password, name), autocommit=True)

    def execute(self, statement, name="postgres"):
        with psycopg.connect(database_url(self.instance, "postgres", name), autocommit=True) as connection:
            return connection.execute(statement)

    def empty(self):
        for name in ("brigade", "brigade_users"):
            self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        with psycopg.connect(self.superuser, autocommit=True) as connection:
            for role in MADE:
                if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (role,)).fetchone() is not None:
                    connection.execute(f"DROP OWNED BY {role}")
            for role in MADE:
                connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    server = Postgres(tmp_path_factory.mktemp("postgres"))
    yield server
    server.end()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A server on which TimescaleDB cannot be used, as that of the users may be."""
    server = Postgres(tmp_path_factory.mktemp("plain"), preload="")
    yield server
    server.end()


@pytest.fixture
def postgres(whole):
    whole.empty()
    return whole


@pytest.fixture
def passwords():
    return {f"BRIGADE_INSTALL_PASSWORD_{role.upper()}": secrets.token_hex(8) for role in ROLES}


def beside(**settings):
    """`brigade install database` in a process of its own, not waited for."""
    command = [sys.executable, "-m", "pipeline.cli", "install", "database"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=os.environ | settings, stdout=pipe, stderr=pipe, text=True)


def well(process):
    _, told = process.communicate(timeout=60)
    assert process.returncode == 0, told


def managed(server):
    """The administrator of a managed server, who is no superuser."""
    server.execute("CREATE ROLE managed LOGIN CREATEROLE CREATEDB PASSWORD 'managed!'")
    return server.url("managed", "managed!", "postgres")


def password(passwords, role):
    return passwords[f"BRIGADE_INSTALL_PASSWORD_{role.upper()}"]


def may_what_they_should(server, passwords, users_server=None):
    with server.connect("brigade_worker", password(passwords, "worker")) as worker:
        worker.execute("INSERT INTO sites (name) VALUES ('seoul-1') ON CONFLICT DO NOTHING")
        with pytest.raises(InsufficientPrivilege):
            worker.execute("CREATE TABLE mine (x int)")
    with server.connect("brigade_api", password(passwords, "api")) as api:
        assert api.execute("SELECT name FROM sites").fetchall() == [("seoul-1",)]
        with pytest.raises(InsufficientPrivilege):
            api.execute("DELETE FROM sites")
    with server.connect("brigade_grafana", password(passwords, "grafana")) as grafana:
        assert grafana.execute("SELECT name FROM sites").fetchall() == [("seoul-1",)]
        assert grafana.execute("SHOW statement_timeout").fetchone() == ("10s",)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            grafana.execute("DELETE FROM sites")
    with server.connect("brigade_monitor", password(passwords, "monitor")) as monitor:
        with pytest.raises(InsufficientPrivilege):
            monitor.execute("SELECT name FROM sites")
        assert monitor.execute("SELECT count(*) > 0 FROM pg_stat_activity").fetchone() == (True,)
    with server.connect("brigade", password(passwords, "owner")) as owner:
        owner.execute("CREATE TABLE mine (x int)")
        owner.execute("DROP TABLE mine")
        with pytest.raises(InsufficientPrivilege):
            owner.execute("CREATE ROLE boss SUPERUSER")
    theirs = users_server or server
    with theirs.connect("brigade_users", password(passwords, "users"), "brigade_users") as users:
        assert users.execute("SELECT count(*) FROM people").fetchone() == (0,)
    if users_server is None:
        for role in ("worker", "api", "grafana", "monitor"):
            with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                server.connect(f"brigade_{role}", password(passwords, role), "brigade_users").close()


def test_everything_is_made_and_made_again(brigade, postgres, passwords):
    done = brigade("install", "database", BRIGADE_INSTALL_DATABASE_URL=postgres.superuser, **passwords)
    assert done.returncode == 0, done.stderr
    assert "role brigade_worker: made" in done.stdout
    assert "database brigade: migrated, 0001_readings" in done.stdout
    assert "database brigade_users: migrated, 0001_accounts" in done.stdout
    may_what_they_should(postgres, passwords)
    statistics = "SELECT pg_has_role('brigade_monitor', 'pg_monitor', 'USAGE')"
    assert postgres.execute(statistics).fetchone() == (True,)
    again = brigade("install", "database", BRIGADE_INSTALL_DATABASE_URL=postgres.superuser, **passwords)
    assert again.returncode == 0, again.stderr
    assert "made" not in again.stdout
    assert "migrated" not in again.stdout
    may_what_they_should(postgres, passwords)


def test_another_password_is_set_and_the_old_one_is_refused(brigade, postgres, passwords):
    settings = {"BRIGADE_INSTALL_DATABASE_URL": postgres.superuser}
    assert brigade("install", "database", **settings, **passwords).returncode == 0
    other = {name: secrets.token_hex(8) for name in passwords}
    done = brigade("install", "database", **settings, **other)
    assert done.returncode == 0, done.stderr
    may_what_they_should(postgres, other)
    for role in ("worker", "api", "monitor", "grafana"):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            postgres.connect(f"brigade_{role}", password(passwords, role)).close()


def test_no_password_is_in_a_statement(brigade, postgres, passwords):
    postgres.execute("ALTER SYSTEM SET log_statement = 'all'")
    postgres.execute("SELECT pg_reload_conf()")
    done = brigade("install", "database", BRIGADE_INSTALL_DATABASE_URL=postgres.superuser, **passwords)
    postgres.execute("ALTER SYSTEM RESET log_statement")
    postgres.execute("SELECT pg_reload_conf()")
    assert done.returncode == 0, done.stderr
    log = postgres.log.read_text()
    assert "CREATE ROLE" in log
    assert not [role for role in ROLES if password(passwords, role) in log + done.stdout]


def test_several_at_once(postgres, passwords):
    settings = {"BRIGADE_INSTALL_DATABASE_URL": postgres.superuser, **passwords}
    for process in [beside(**settings) for _ in range(2)]:
        well(process)
    may_what_they_should(postgres, passwords)


def test_a_managed_servers_administrator_is_enough(brigade, postgres, passwords):
    settings = {"BRIGADE_INSTALL_DATABASE_URL": managed(postgres)}
    done = brigade("install", "database", **settings, **passwords)
    assert done.returncode == 0, done.stderr
    assert "until somebody who may does: GRANT pg_monitor TO brigade_monitor" in done.stdout
    may_what_they_should(postgres, passwords)
    other = {name: secrets.token_hex(8) for name in passwords}
    done = brigade("install", "database", **settings, **other)
    assert done.returncode == 0, done.stderr
    may_what_they_should(postgres, other)


def test_the_users_server_may_be_another_without_timescaledb(brigade, postgres, plain, passwords):
    plain.empty()
    done = brigade(
        "install",
        "database",
        BRIGADE_INSTALL_DATABASE_URL=postgres.superuser,
        BRIGADE_INSTALL_USERS_DATABASE_URL=managed(plain),
        **passwords,
    )
    assert done.returncode == 0, done.stderr
    may_what_they_should(postgres, passwords, plain)
    assert postgres.execute("SELECT FROM pg_database WHERE datname = 'brigade_users'").fetchone() is None
    assert plain.execute("SELECT FROM pg_database WHERE datname = 'brigade'").fetchone() is None
    assert plain.execute("SELECT FROM pg_roles WHERE rolname = 'brigade'").fetchone() is None


def refusal(done):
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_server_without_timescaledb_is_told(brigade, plain, passwords):
    plain.empty()
    told = refusal(brigade("install", "database", BRIGADE_INSTALL_DATABASE_URL=plain.superuser, **passwords))
    assert "the server of BRIGADE_INSTALL_DATABASE_URL has no TimescaleDB that can be used" in told
    assert "shared_preload_libraries = 'timescaledb'" in told


def test_a_database_of_somebody_else_is_told(brigade, postgres, passwords):
    postgres.execute("CREATE DATABASE brigade")
    told = refusal(brigade("install", "database", BRIGADE_INSTALL_DATABASE_URL=postgres.superuser, **passwords))
    assert "ALTER DATABASE brigade OWNER TO brigade" in told


def test_who_may_not_make_roles_is_told(brigade, postgres, passwords):
    postgres.execute("CREATE ROLE managed LOGIN CREATEDB PASSWORD 'managed!'")
    url = postgres.url("managed", "managed!", "postgres")
    told = refusal(brigade("install", "database", BRIGADE_INSTALL_DATABASE_URL=url, **passwords))
    assert told.startswith("brigade: BRIGADE_INSTALL_DATABASE_URL names role managed, which may not do what is needed")
    assert "CREATEROLE" in told


def test_who_may_not_make_databases_is_told(brigade, postgres, passwords):
    postgres.execute("CREATE ROLE managed LOGIN CREATEROLE PASSWORD 'managed!'")
    url = postgres.url("managed", "managed!", "postgres")
    told = refusal(brigade("install", "database", BRIGADE_INSTALL_DATABASE_URL=url, **passwords))
    assert "CREATEDB" in told


def test_a_wrong_password_is_told_at_once_and_by_its_file(brigade, postgres, passwords, tmp_path):
    (tmp_path / "BRIGADE_INSTALL_DATABASE_URL").write_text(postgres.url("postgres", "guess", "postgres"))
    settings = {"BRIGADE_SECRETS": str(tmp_path), "BRIGADE_INSTALL_WAIT_SECONDS": "600"}
    told = refusal(brigade("install", "database", **settings, **passwords))
    assert f"the server of {tmp_path}/BRIGADE_INSTALL_DATABASE_URL refuses" in told
    assert "guess" not in told


def test_a_server_that_is_away_is_waited_for(brigade, postgres, passwords):
    settings = {"BRIGADE_INSTALL_DATABASE_URL": postgres.superuser, **passwords}
    postgres.end()
    patient = beside(**settings)
    told = refusal(brigade("install", "database", **settings, BRIGADE_INSTALL_WAIT_SECONDS="0.1"))
    postgres.start()
    well(patient)
    assert "the server of BRIGADE_INSTALL_DATABASE_URL does not answer" in told
    assert "BRIGADE_INSTALL_WAIT_SECONDS" in told


@pytest.mark.parametrize("role", ROLES)
def test_a_missing_password_is_told_by_its_variable(brigade, role, passwords):
    name = f"BRIGADE_INSTALL_PASSWORD_{role.upper()}"
    del passwords[name]
    done = brigade("install", "database", BRIGADE_INSTALL_DATABASE_URL="postgresql://x@127.0.0.1:1/x", **passwords)
    assert done.returncode == 2
    assert done.stderr.startswith(f"{name}: must be set")


def test_wait_returns_when_the_tables_are_there_or_newer_ones(brigade, postgres, passwords):
    settings = {
        "BRIGADE_DATABASE_URL": postgres.url("brigade_worker", password(passwords, "worker")),
        "BRIGADE_USERS_DATABASE_URL": postgres.url("brigade_users", password(passwords, "users"), "brigade_users"),
        "BRIGADE_INSTALL_WAIT_SECONDS": "0.1",
    }
    assert "the database of BRIGADE_DATABASE_URL" in refusal(brigade("install", "wait", "--database", **settings))
    assert "the database at BRIGADE_USERS_DATABASE_URL" in refusal(brigade("install", "wait", "--users", **settings))
    installing = beside(BRIGADE_INSTALL_DATABASE_URL=postgres.superuser, **passwords)
    settings["BRIGADE_INSTALL_WAIT_SECONDS"] = "60"
    done = brigade("install", "wait", "--database", "--users", **settings)
    assert done.returncode == 0, done.stderr
    well(installing)
    settings["BRIGADE_INSTALL_WAIT_SECONDS"] = "0.1"
    postgres.execute("REVOKE brigade_ingest FROM brigade_worker", "brigade")
    assert "permission denied" in refusal(brigade("install", "wait", "--database", **settings))
    postgres.execute("GRANT brigade_ingest TO brigade_worker", "brigade")
    postgres.execute("DELETE FROM schema_migrations WHERE number = 7", "brigade")
    assert "lacks migration 0007_panels" in refusal(brigade("install", "wait", "--database", **settings))
    postgres.execute("INSERT INTO schema_migrations VALUES (7, '0007_panels', 'x'), (8, '0008_newer', 'x')", "brigade")
    assert brigade("install", "wait", "--database", **settings).returncode == 0

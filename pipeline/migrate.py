"""Numbered SQL files, each applied once, by one command at a time."""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg
import typer

from pipeline.settings import DatabaseSettings, load

MIGRATIONS: Final = Path(__file__).parent / "migrations"

LOCK: Final = "SELECT pg_advisory_lock(hashtext('brigade migrate'))"

TABLE: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    number     int PRIMARY KEY,
    name       text NOT NULL,
    sha256     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""

APPLIED: Final = "SELECT number, name, sha256 FROM schema_migrations ORDER BY number"
RECORD: Final = "INSERT INTO schema_migrations (number, name, sha256) VALUES (%s, %s, %s)"


class MigrationError(RuntimeError):
    """The files and the database do not fit together; the text says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    number: int
    name: str
    sql: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql).hexdigest()


def migrate(url: str, *, folder: Path = MIGRATIONS) -> list[str]:
    """Apply what is missing, in order, and return the names; each file is one transaction.

    Waits while another one is at it. `MigrationError` when an applied file has changed since.
    """
    files = migrations(folder)
    with psycopg.connect(url, autocommit=True, application_name="brigade-migrate") as connection:
        connection.execute(LOCK)  # until this connection ends
        connection.execute(TABLE)
        missing = _missing(connection, files)
        for migration in missing:
            _apply(connection, migration)
    return [migration.name for migration in missing]


def lacking(url: str, *, folder: Path = MIGRATIONS) -> list[str]:
    """The names of the migrations that the database has not, as any role that reads its tables."""
    with psycopg.connect(url, autocommit=True, application_name="brigade-migrate") as connection:
        try:
            applied = {number for number, _, _ in connection.execute(APPLIED)}
        except psycopg.errors.UndefinedTable:
            applied = set()
    return [migration.name for migration in migrations(folder) if migration.number not in applied]


def migrations(folder: Path) -> list[Migration]:
    """The files of the folder, `0001_a_name.sql` first, without a gap."""
    files = [
        Migration(number=int(path.name[:4]), name=path.stem, sql=path.read_bytes())
        for path in sorted(folder.glob("[0-9][0-9][0-9][0-9]_*.sql"))
    ]
    if [file.number for file in files] != list(range(1, len(files) + 1)):
        raise MigrationError(
            f"the numbers in {folder} must be 0001, 0002, … each once: {[file.name for file in files]}"
        )
    return files


def _missing(connection: psycopg.Connection, files: list[Migration]) -> list[Migration]:
    applied = connection.execute(APPLIED).fetchall()
    if len(applied) > len(files):
        raise MigrationError(
            f"the database has migration {applied[-1][1]}, this version of Brigade ends at {files[-1].name}: "
            "run the newer version, or restore a backup from before it"
        )
    for file, (_, name, sha256) in zip(files, applied, strict=False):
        if file.sha256 != sha256:
            raise MigrationError(
                f"migration {name} was applied with another text than {file.name} has now: "
                "put the old text back and write the change as a new file with the next number"
            )
    return files[len(applied) :]


def _apply(connection: psycopg.Connection, migration: Migration) -> None:
    try:
        with connection.transaction():
            connection.execute(migration.sql)
            connection.execute(RECORD, (migration.number, migration.name, migration.sha256))
    except psycopg.OperationalError:
        raise  # an outage: nothing was applied, try again
    except psycopg.Error as error:
        raise MigrationError(f"migration {migration.name} failed and was rolled back: {error}") from error


app = typer.Typer()


@app.command("migrate")
def migrate_command() -> None:
    """Bring the database to the tables of this version; safe to run again, and by several at once."""
    try:
        applied = migrate(load(DatabaseSettings).database_url.get_secret_value())
    except MigrationError as error:
        sys.exit(f"brigade: {error}")
    for name in applied or ["nothing to do"]:
        print(name)

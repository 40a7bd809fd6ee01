"""The numbered SQL files of users, each applied once, by one command at a time."""

import hashlib
from pathlib import Path
from typing import Final

import psycopg

MIGRATIONS: Final = Path(__file__).parent / "migrations"

LOCK: Final = "SELECT pg_advisory_lock(hashtext('brigade users migrate'))"
TABLE: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    number     int PRIMARY KEY,
    name       text NOT NULL,
    sha256     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""
APPLIED: Final = "SELECT name, sha256 FROM schema_migrations ORDER BY number"
RECORD: Final = "INSERT INTO schema_migrations (number, name, sha256) VALUES (%s, %s, %s)"


class MigrationError(RuntimeError):
    """The files and the database do not fit together; the text says what to do."""


def migrate(url: str, *, folder: Path = MIGRATIONS) -> list[str]:
    """Apply what is missing, in order, and return the names; each file is one transaction.

    Waits while another one is at it. `MigrationError` when an applied file has changed since.
    """
    files = sorted(folder.glob("[0-9][0-9][0-9][0-9]_*.sql"))
    with psycopg.connect(url, autocommit=True, application_name="brigade-users-migrate") as connection:
        connection.execute(LOCK)  # until this connection ends
        connection.execute(TABLE)
        missing = _missing(files, connection.execute(APPLIED).fetchall())
        for file in missing:
            with connection.transaction():
                connection.execute(file.read_bytes())
                connection.execute(RECORD, (int(file.name[:4]), file.stem, _sha256(file)))
    return [file.stem for file in missing]


def lacking(url: str, *, folder: Path = MIGRATIONS) -> list[str]:
    """The names of the migrations that the database has not."""
    with psycopg.connect(url, autocommit=True, application_name="brigade-users-migrate") as connection:
        try:
            applied = {name for name, _ in connection.execute(APPLIED)}
        except psycopg.errors.UndefinedTable:
            applied = set()
    return [file.stem for file in sorted(folder.glob("[0-9][0-9][0-9][0-9]_*.sql")) if file.stem not in applied]


def _missing(files: list[Path], applied: list[tuple[str, str]]) -> list[Path]:
    if len(applied) > len(files):
        raise MigrationError(f"the database has {applied[-1][0]}, which this version does not know: run the newer one")
    for file, (name, sha256) in zip(files, applied, strict=False):
        if (file.stem, _sha256(file)) != (name, sha256):
            raise MigrationError(f"{name} was applied with another text than {file.name} has now: put the old one back")
    return files[len(applied) :]


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()

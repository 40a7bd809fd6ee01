"""Numbered files, each applied once."""

from concurrent.futures import ThreadPoolExecutor
from shutil import copytree

import psycopg
import pytest

from users.migrate import MIGRATIONS, MigrationError, migrate


def test_they_are_applied_once_also_by_several_at_once(empty_database):
    with ThreadPoolExecutor(3) as pool:
        applied = [name for names in pool.map(lambda _: migrate(empty_database), range(3)) for name in names]
    assert applied == [file.stem for file in sorted(MIGRATIONS.glob("*.sql"))]


def test_a_file_that_changed_since_is_refused(empty_database, tmp_path):
    folder = copytree(MIGRATIONS, tmp_path / "migrations")
    migrate(empty_database, folder=folder)
    first = min(folder.glob("*.sql"))
    first.write_text(first.read_text() + "-- more")
    with pytest.raises(MigrationError, match="another text"):
        migrate(empty_database, folder=folder)


def test_an_older_version_says_so(empty_database, tmp_path):
    migrate(empty_database)
    with pytest.raises(MigrationError, match="run the newer one"):
        migrate(empty_database, folder=tmp_path)


def test_a_file_that_fails_leaves_nothing(empty_database, tmp_path):
    (tmp_path / "0001_bad.sql").write_text("CREATE TABLE good (); SELECT nonsense;")
    with pytest.raises(psycopg.Error):
        migrate(empty_database, folder=tmp_path)
    with psycopg.connect(empty_database) as connection:
        assert connection.execute("SELECT to_regclass('good')").fetchone() == (None,)

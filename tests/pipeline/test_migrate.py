import hashlib
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from pipeline.migrate import MIGRATIONS, MigrationError, migrate, migrations

EVERYTHING = """
SELECT 'column', table_name || '.' || column_name || ' ' || data_type || ' ' || coalesce(column_default, '')
FROM information_schema.columns WHERE table_schema = 'public'
UNION ALL SELECT 'index', indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL SELECT 'view', viewname || ' ' || definition FROM pg_views WHERE schemaname = 'public'
UNION ALL SELECT 'right', grantee || ' ' || table_name || ' ' || privilege_type
FROM information_schema.role_table_grants WHERE table_schema = 'public'
UNION ALL SELECT 'hypertable', hypertable_name || num_dimensions FROM timescaledb_information.hypertables
ORDER BY 1, 2
"""


def rows(url, query):
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(query).fetchall()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "0001_first.sql").write_text("CREATE TABLE first (n int)")
    (tmp_path / "0002_second.sql").write_text("CREATE TABLE second (n int); INSERT INTO first VALUES (1)")
    return tmp_path


def test_our_migrations_are_applied_once(empty_database):
    names = [migration.name for migration in migrations(MIGRATIONS)]
    assert migrate(empty_database) == names
    assert migrate(empty_database) == []
    assert rows(empty_database, "SELECT name FROM schema_migrations ORDER BY number") == [(name,) for name in names]


@pytest.mark.parametrize("migration", migrations(MIGRATIONS), ids=lambda migration: migration.name)
def test_each_of_our_files_is_safe_to_run_twice(database, migration):
    before = rows(database, EVERYTHING)
    with psycopg.connect(database, autocommit=True) as connection:
        for later in migrations(MIGRATIONS)[migration.number - 1 :]:
            connection.execute(later.sql)
    assert rows(database, EVERYTHING) == before


def test_files_are_applied_in_order_and_recorded(empty_database, folder):
    assert migrate(empty_database, folder=folder) == ["0001_first", "0002_second"]
    digest = hashlib.sha256(b"CREATE TABLE first (n int)").hexdigest()
    ((number, name, sha256, recent), _) = rows(
        empty_database,
        "SELECT number, name, sha256, applied_at > now() - INTERVAL '1 minute' FROM schema_migrations ORDER BY number",
    )
    assert (number, name, sha256, recent) == (1, "0001_first", digest, True)


def test_only_what_is_new_is_applied(empty_database, folder):
    migrate(empty_database, folder=folder)
    (folder / "0003_third.sql").write_text("INSERT INTO first VALUES (3)")
    assert migrate(empty_database, folder=folder) == ["0003_third"]
    assert rows(empty_database, "SELECT n FROM first ORDER BY n") == [(1,), (3,)]


def test_a_failed_file_leaves_nothing_behind_and_is_named(empty_database, folder):
    (folder / "0003_third.sql").write_text("INSERT INTO first VALUES (3); SELECT 1/0")
    with pytest.raises(MigrationError, match="migration 0003_third failed and was rolled back: division by zero"):
        migrate(empty_database, folder=folder)
    assert rows(empty_database, "SELECT n FROM first") == [(1,)]
    (folder / "0003_third.sql").write_text("INSERT INTO first VALUES (4)")
    assert migrate(empty_database, folder=folder) == ["0003_third"]


def test_a_changed_file_is_an_error_that_says_what_to_do(empty_database, folder):
    migrate(empty_database, folder=folder)
    (folder / "0001_first.sql").write_text("CREATE TABLE first (n bigint)")
    with pytest.raises(MigrationError, match=r"0001_first was applied with another text .* put the old text back"):
        migrate(empty_database, folder=folder)


def test_a_database_from_a_newer_version_is_left_alone(empty_database, folder):
    migrate(empty_database, folder=folder)
    (folder / "0002_second.sql").unlink()
    with pytest.raises(MigrationError, match=r"the database has migration 0002_second, this version .* 0001_first"):
        migrate(empty_database, folder=folder)


def test_a_gap_in_the_numbers_is_refused(folder):
    (folder / "0004_fourth.sql").write_text("SELECT 1")
    with pytest.raises(MigrationError, match="0001, 0002, … each once"):
        migrations(folder)


def test_several_at_once_apply_each_file_once(empty_database, folder):
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda _: migrate(empty_database, folder=folder), range(4)))
    assert sorted(done, key=len) == [[], [], [], ["0001_first", "0002_second"]]
    assert rows(empty_database, "SELECT n FROM first") == [(1,)]

"""What only TimescaleDB's community edition has, on a WebAssembly build of it: one connection, and no COPY."""

import os
import secrets
import shutil
import subprocess
from pathlib import Path

import psycopg
import pytest

from pipeline.maintain import Maintenance, connect, locked
from pipeline.migrate import MIGRATIONS, migrate, migrations
from pipeline.settings import MaintainSettings
from tests.pipeline.test_maintain import FILL, FILL_MINUTES, values

SOURCE = Path(__file__).parent / "community"

pytestmark = pytest.mark.slow


def installed() -> Path:
    """The packages in the cache folder, put there once for every version of package.json."""
    cache = os.environ.get("BRIGADE_CACHE") or f"{os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'}/brigade"
    wanted = (SOURCE / "package.json").read_bytes()
    folder = Path(cache) / "community-edition"
    if (folder / "node_modules").exists() and (folder / "package.json").read_bytes() == wanted:
        return folder
    fresh = folder.with_name(f"community-edition-{secrets.token_hex(4)}")
    fresh.mkdir(parents=True)
    shutil.copy(SOURCE / "package.json", fresh)
    done = subprocess.run(
        ["npm", "install", "--package-lock=false", "--no-audit", "--no-fund", "--ignore-scripts"],
        cwd=fresh,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        shutil.rmtree(fresh)
        pytest.skip(f"the community edition is not tested: npm install failed: {done.stderr.strip()[-300:]}")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    return folder


@pytest.fixture(scope="module")
def community():
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("the community edition is not tested: node and npm are not installed")
    folder = installed()
    shutil.copy(SOURCE / "server.mjs", folder)
    with subprocess.Popen(["node", "server.mjs"], cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        port = int(server.stdout.readline())
        url = f"postgresql://postgres:any@127.0.0.1:{port}/postgres?sslmode=disable"
        migrate(url)
        yield url
        server.kill()


def test_our_migrations_are_safe_to_run_twice_on_it_too(community):
    assert migrate(community) == []
    with psycopg.connect(community, autocommit=True) as connection:
        assert values(connection, "SHOW timescaledb.license") == ["timescale"]
        for migration in migrations(MIGRATIONS):
            connection.execute(migration.sql)


def test_chunks_past_their_age_are_compressed_and_still_read(community):
    with connect(community) as connection:
        assert locked(connection)
        connection.execute(FILL, {"days": [0, 10, 43, 47, 60, 100]})
        connection.execute(FILL_MINUTES, {"days": [0, 10, 60, 800]})
        maintenance = Maintenance(MaintainSettings(database_url=community))
        maintenance.run(connection)
        maintenance.run(connection)  # a second run finds nothing to do
        chunks = connection.execute(
            "SELECT hypertable_name, count(*) FILTER (WHERE is_compressed), count(*)"
            " FROM timescaledb_information.chunks WHERE hypertable_name ~ '^readings' GROUP BY 1 ORDER BY 1"
        ).fetchall()
        assert chunks == [("readings", 2, 5), ("readings_1m", 1, 3)]
        assert values(connection, "SELECT value FROM readings ORDER BY value") == [0, 10, 43, 47, 60]

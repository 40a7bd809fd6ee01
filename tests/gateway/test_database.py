"""Reading the database for an answer."""

from urllib.parse import urlsplit

from gateway.database import FETCH_ROWS, Database
from gateway.settings import GatewaySettings
from tests.gateway.conftest import gateway_url


async def test_a_reader_who_leaves_in_the_middle_leaves_no_cursor_open(postgres, database, role):
    url = gateway_url(postgres, urlsplit(database).path[1:], role)
    async with Database(GatewaySettings(database_url=url, internal_secret="s" * 32), None) as reading:
        async with reading.streaming() as stream:
            batches = stream.rows("SELECT generate_series(1, %(rows)s)", {"rows": 3 * FETCH_ROWS})
            assert len(await anext(batches)) == FETCH_ROWS
        assert stream._cursor.closed
        await batches.aclose()

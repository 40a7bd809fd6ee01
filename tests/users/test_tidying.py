"""What nobody needs any more is thrown away, and nothing else."""

import asyncio

from tests.users.conftest import INTERNAL, SECRET
from users.database import Database
from users.settings import UsersSettings
from users.tidying import once


def test_old_events_go_and_younger_ones_stay(world, users_database, organisation, site):
    for days in (9, 11):
        world.connection.execute(
            "INSERT INTO audit_events (organisation, what, site, ip, request_id, at) "
            "VALUES (%s, 'x', %s, %s, '', now() - make_interval(days => %s))",
            (organisation, site, str(days), days),
        )

    async def go():
        settings = UsersSettings(
            database_url=users_database,
            secret=SECRET,
            internal_secret=INTERNAL,
            mail_url="file:///nowhere",
            mqtt_admin_password="of no broker",
        )
        async with Database(settings) as database:
            await once(database, audit_days=10)

    asyncio.run(go())
    assert [event["ip"] for event in world.events("x", site=site)] == ["9"]

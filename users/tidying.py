"""Once an hour, what nobody needs any more is thrown away; several processes at once do no harm."""

import asyncio
from typing import Final

import psycopg
import structlog

from users import audit
from users.database import Database

log = structlog.get_logger(__name__)

EVERY_SECONDS: Final = 3600

EXPIRED_TOKENS: Final = "DELETE FROM mailed_tokens WHERE expires_at < now()"
CLOSED_INVITATIONS: Final = """
DELETE FROM invitations WHERE least(accepted_at, revoked_at, expires_at) < now() - interval '30 days'
"""


async def tidy(database: Database, *, audit_days: int) -> None:
    """Until it is cancelled; an outage only makes it later."""
    while True:
        try:
            await once(database, audit_days=audit_days)
        except (psycopg.OperationalError, TimeoutError) as error:
            log.info("tidying_later", error=type(error).__name__)
        await asyncio.sleep(EVERY_SECONDS)


async def once(database: Database, *, audit_days: int) -> None:
    async with database.transaction() as connection:
        await connection.execute(EXPIRED_TOKENS)
        await connection.execute(CLOSED_INVITATIONS)
        await connection.execute(audit.FORGET, (audit_days,))

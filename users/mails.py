"""Mails wait in the database until a mail server took them: queued with what they tell, sent by one at a time."""

import asyncio
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, make_msgid
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit
from uuid import UUID

import aiosmtplib
import msgspec
import psycopg
import structlog
from prometheus_client import Counter

from users.database import Connection, Database
from users.letters import Letter
from users.sealing import Sealer, SealError

log = structlog.get_logger(__name__)

EVERY_SECONDS: Final = 1
SERVER_SECONDS: Final = 10
WHOLE_SECONDS: Final = 40
PERMANENT: Final = 500
GIVEN_UP_AFTER: Final = 40
"""Tries: the pauses between them grow to an hour, so that it is given up after more than a day."""

QUEUE: Final = "INSERT INTO mails (organisation, sealed) VALUES (%s, %s)"
NEXT: Final = """
SELECT id, sealed, tries FROM mails WHERE next_try <= now() ORDER BY next_try LIMIT 1 FOR UPDATE SKIP LOCKED
"""
DONE: Final = "DELETE FROM mails WHERE id = %s"
LATER: Final = """
UPDATE mails
SET tries = tries + 1, next_try = now() + least(interval '1 hour', interval '2 s' * power(2, least(tries, 12)))
WHERE id = %s
"""

SENT: Final = Counter("users_mails_total", "Mails, by what became of a try to send one.", ["result"])


class RefusedError(Exception):
    """The mail server will never take this one."""


class Mail(msgspec.Struct):
    to: str
    subject: str
    text: str


async def queue(connection: Connection, sealer: Sealer, organisation: UUID, to: str, letter: Letter) -> None:
    """It is sent if the transaction is committed."""
    plain = msgspec.json.encode(Mail(to=to, subject=letter.subject, text=letter.text))
    await connection.execute(QUEUE, (organisation, sealer.seal(plain, "mail")))


class Postman:
    """`carry` sends what waits, until it is cancelled; outages of either side are waited out."""

    def __init__(self, database: Database, sealer: Sealer, *, url: str, sender: str) -> None:
        self._database = database
        self._sealer = sealer
        self._url = url
        self._sender = sender

    async def carry(self) -> None:
        while True:
            try:
                while await self.carry_one():
                    pass
            except (psycopg.Error, TimeoutError):
                pass  # health tells it
            await asyncio.sleep(EVERY_SECONDS)

    async def carry_one(self) -> bool:
        """False when none is waiting. The row is locked meanwhile, so that no other process sends it too."""
        async with self._database.patient_transaction() as connection:
            row = await (await connection.execute(NEXT)).fetchone()
            if row is None:
                return False
            await connection.execute(DONE if await self._is_done(row) else LATER, (row["id"],))
            return True

    async def _is_done(self, row: Mapping[str, Any]) -> bool:
        try:
            async with asyncio.timeout(WHOLE_SECONDS):
                await self._send(self._written(row["sealed"]))
        except (RefusedError, SealError) as error:
            return self._lost(row, error)
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            return self._failed(row, error)
        SENT.labels("sent").inc()
        return True

    def _failed(self, row: Mapping[str, Any], error: Exception) -> bool:
        if row["tries"] >= GIVEN_UP_AFTER:
            return self._lost(row, error)
        SENT.labels("failed").inc()
        log.warning("mail_not_sent", mail=str(row["id"]), tries=row["tries"] + 1, error=type(error).__name__)
        return False

    def _lost(self, row: Mapping[str, Any], error: Exception) -> bool:
        SENT.labels("lost").inc()
        log.error("mail_lost", mail=str(row["id"]), tries=row["tries"] + 1, error=type(error).__name__)
        return True

    def _written(self, sealed: bytes) -> EmailMessage:
        mail = msgspec.json.decode(self._sealer.open(sealed, "mail"), type=Mail)
        message = EmailMessage(policy=SMTP)
        try:
            message["From"], message["To"], message["Subject"] = self._sender, mail.to, mail.subject
        except ValueError as error:
            raise RefusedError from error
        message["Date"] = formatdate(usegmt=True)
        message["Message-ID"] = make_msgid(domain=self._sender.rpartition("@")[2].strip("> "))
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(mail.text, cte="8bit" if self._url.startswith("file:") else None)  # people open the files
        return message

    async def _send(self, message: EmailMessage) -> None:
        where = urlsplit(self._url)
        if where.scheme == "file":
            await asyncio.to_thread(into_folder, Path(unquote(where.path)), message)
            return
        try:
            await aiosmtplib.send(
                message,
                hostname=where.hostname,
                port=where.port or (465 if where.scheme == "smtps" else 587),
                username=unquote(where.username) if where.username else None,
                password=unquote(where.password) if where.password else None,
                use_tls=where.scheme == "smtps",
                timeout=SERVER_SECONDS,
            )
        except aiosmtplib.SMTPRecipientsRefused as error:
            if all(refused.code >= PERMANENT for refused in error.recipients):
                raise RefusedError from error
            raise


def into_folder(folder: Path, message: EmailMessage) -> None:
    """A file that nobody else can read: the links in it are as good as passwords."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}.eml"
    file.touch(mode=0o600, exist_ok=False)
    file.write_bytes(message.as_bytes())
    log.info("mail_written", file=str(file))

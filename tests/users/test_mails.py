"""Mails reach a mail server, or a folder; while it is away they wait."""

import asyncio
import uuid
from datetime import timedelta

import psycopg
import pytest

from tests.conftest import drop, execute, with_database
from tests.users.conftest import INTERNAL, SECRET
from users import letters, mails
from users.database import Database
from users.letters import Letter
from users.mails import Postman
from users.migrate import migrate
from users.sealing import Sealer
from users.settings import UsersSettings

SEALER = Sealer(b"k" * 32)
LETTER = Letter("저녁 식사", "Hello\n\n    https://brigade.example/reset#secret-token\n")


@pytest.fixture
def own_database(postgres, unique):
    """Where no other postman looks."""
    name = f"test_mails_{unique}"
    execute(postgres, "CREATE DATABASE {}", name)
    migrate(with_database(postgres, name))
    yield with_database(postgres, name)
    drop(postgres, name)


class MailServer:
    """Speaks as much SMTP as it takes to be given a mail; its answers can be changed."""

    def __init__(self):
        self.mails = []
        self.to_recipient = "250 ok"

    async def serve(self, reader, writer):
        writer.write(b"220 here\r\n")
        while line := (await reader.readline()).decode():
            match line.split()[0].upper():
                case "EHLO":
                    answer = "250 here"
                case "RCPT":
                    answer = self.to_recipient
                case "DATA":
                    writer.write(b"354 go on\r\n")
                    self.mails.append((await reader.readuntil(b"\r\n.\r\n")).decode())
                    answer = "250 taken"
                case _:
                    answer = "250 ok"
            writer.write(f"{answer}\r\n".encode())
        writer.close()


def carried(own_database, url, *, times=1, queue=True):
    """Queue one, let the postman try so often, and return what still waits."""

    async def go():
        settings = UsersSettings(
            database_url=own_database,
            secret=SECRET,
            internal_secret=INTERNAL,
            mail_url="file:///nowhere",
            mqtt_admin_password="of no broker",
        )
        async with Database(settings) as database:
            if queue:
                async with database.transaction() as connection:
                    await mails.queue(connection, SEALER, uuid.UUID(int=1), "cook@example.com", LETTER)
            postman = Postman(database, SEALER, url=url, sender="Brigade <brigade@example.com>")
            for _ in range(times):
                await postman.carry_one()
            async with database.transaction() as connection:
                return await (await connection.execute("SELECT * FROM mails")).fetchall()

    return go()


async def test_a_mail_server_is_given_it(own_database):
    box = MailServer()
    async with await asyncio.start_server(box.serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await carried(own_database, f"smtp://127.0.0.1:{port}") == []
    [mail] = box.mails
    assert "To: cook@example.com" in mail
    assert "From: Brigade <brigade@example.com>" in mail
    assert "https://brigade.example/reset#secret-token" in mail
    assert "Auto-Submitted: auto-generated" in mail


async def test_while_it_is_away_the_mail_waits(own_database):
    [row] = await carried(own_database, "smtp://127.0.0.1:1")
    assert row["tries"] == 1
    assert timedelta(0) < row["next_try"] - row["created_at"] < timedelta(seconds=10)


async def test_what_it_refuses_for_now_is_tried_again_and_for_good_is_not(own_database):
    box = MailServer()
    async with await asyncio.start_server(box.serve, "127.0.0.1", 0) as server:
        url = f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        box.to_recipient = "450 later"
        assert len(await carried(own_database, url)) == 1
        with psycopg.connect(own_database) as connection:
            connection.execute("UPDATE mails SET next_try = now()")
        box.to_recipient = "550 nobody here"
        assert await carried(own_database, url, queue=False) == []


async def test_a_waiting_mail_is_sealed(own_database):
    [row] = await carried(own_database, "smtp://127.0.0.1:1")
    assert b"secret-token" not in row["sealed"]


async def test_a_folder_takes_it_and_nobody_else_reads_it(own_database, tmp_path):
    folder = tmp_path / "a folder"
    assert await carried(own_database, folder.as_uri()) == []
    [file] = folder.glob("*.eml")
    assert (folder.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)
    assert b"secret-token" in file.read_bytes()


async def test_a_letter_cannot_add_headers(own_database, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.users.test_mails.LETTER", Letter("Hi\r\nBcc: all@example.com", "text"))
    assert await carried(own_database, tmp_path.as_uri()) == []
    assert list(tmp_path.glob("*.eml")) == []


def test_both_languages_have_every_letter():
    for language in ("en", "ko"):
        texts = [
            letters.reset(language, "LINK"),
            letters.new_address(language, "LINK"),
            *(letters.invitation(language, site="S", inviter="I", role=r, link="LINK") for r in letters.ROLES["en"]),
        ]
        assert all("LINK" in letter.text for letter in texts)
        assert all(letters.changed(language, what).text for what in letters.WHAT["en"])

"""The second factor: codes of an authenticator, each good once, and recovery codes for the day the phone is lost."""

import base64
import secrets
import time
from typing import Final
from uuid import UUID

import pyotp

from users.database import Connection
from users.sealing import Sealer

STEP_SECONDS: Final = 30
RECOVERY_CODES: Final = 10
ISSUER: Final = "Brigade"

SECRET: Final = """
SELECT totp_secret, totp_since IS NOT NULL AS on FROM people WHERE organisation = %s AND id = %s
"""
PREPARE: Final = """
UPDATE people SET totp_secret = %s WHERE organisation = %s AND id = %s AND totp_since IS NULL RETURNING email
"""
USE_STEP: Final = """
UPDATE people SET totp_last_step = %(step)s
WHERE organisation = %(organisation)s AND id = %(person)s AND totp_last_step < %(step)s
RETURNING id
"""
TURN_ON: Final = "UPDATE people SET totp_since = now() WHERE organisation = %s AND id = %s AND totp_since IS NULL"
TURN_OFF: Final = """
UPDATE people SET totp_secret = NULL, totp_since = NULL WHERE organisation = %s AND id = %s AND totp_since IS NOT NULL
RETURNING id
"""
FORGET_CODES: Final = "DELETE FROM recovery_codes WHERE organisation = %s AND person = %s"
KEEP_CODES: Final = "INSERT INTO recovery_codes (organisation, person, mac) SELECT %s, %s, unnest(%s::bytea[])"
USE_CODE: Final = """
UPDATE recovery_codes SET used_at = now()
WHERE organisation = %s AND person = %s AND mac = %s AND used_at IS NULL
RETURNING person
"""


async def prepare(connection: Connection, sealer: Sealer, organisation: UUID, person: UUID) -> tuple[str, str] | None:
    """A secret and its otpauth:// address; nothing changes until it is confirmed. None if a factor is on already."""
    secret = pyotp.random_base32()
    sealed = sealer.seal(secret.encode(), _about(person))
    row = await (await connection.execute(PREPARE, (sealed, organisation, person))).fetchone()
    if row is None:
        return None
    return secret, pyotp.TOTP(secret).provisioning_uri(name=row["email"], issuer_name=ISSUER)


async def confirm(
    connection: Connection, sealer: Sealer, organisation: UUID, person: UUID, code: str
) -> list[str] | None:
    """Turn it on if the code is right, and return the recovery codes, this once."""
    if not await _right(connection, sealer, organisation, person, code, on=False):
        return None
    await connection.execute(TURN_ON, (organisation, person))
    codes = [_recovery_code() for _ in range(RECOVERY_CODES)]
    await connection.execute(FORGET_CODES, (organisation, person))
    await connection.execute(KEEP_CODES, (organisation, person, [_mac(sealer, person, code) for code in codes]))
    return codes


async def turn_off(connection: Connection, organisation: UUID, person: UUID) -> bool:
    await connection.execute(FORGET_CODES, (organisation, person))
    return await (await connection.execute(TURN_OFF, (organisation, person))).fetchone() is not None


async def passes(connection: Connection, sealer: Sealer, organisation: UUID, person: UUID, code: str) -> bool:
    """Whether it is the authenticator's code or a recovery code; it is used up then."""
    if code.isascii() and code.isdigit():
        return await _right(connection, sealer, organisation, person, code, on=True)
    used = await connection.execute(USE_CODE, (organisation, person, _mac(sealer, person, code)))
    return await used.fetchone() is not None


async def _right(
    connection: Connection, sealer: Sealer, organisation: UUID, person: UUID, code: str, *, on: bool
) -> bool:
    """A step that was used once, and those before it, are over: who watched a code being typed cannot use it."""
    row = await (await connection.execute(SECRET, (organisation, person))).fetchone()
    if row is None or row["totp_secret"] is None or row["on"] is not on:
        return False
    step = matching_step(sealer.open(row["totp_secret"], _about(person)).decode(), code, time.time())
    if step is None:
        return False
    parameters = {"step": step, "organisation": organisation, "person": person}
    return await (await connection.execute(USE_STEP, parameters)).fetchone() is not None


def matching_step(secret: str, code: str, now: float) -> int | None:
    """The time step whose code it is: the present one, or one beside it."""
    present = int(now) // STEP_SECONDS
    totp = pyotp.TOTP(secret)
    for step in (present, present - 1, present + 1):
        if secrets.compare_digest(totp.generate_otp(step).encode(), code.encode()):
            return step
    return None


def _recovery_code() -> str:
    text = base64.b32encode(secrets.token_bytes(10)).decode().lower()
    return "-".join(text[i : i + 4] for i in range(0, 16, 4))


def _mac(sealer: Sealer, person: UUID, code: str) -> bytes:
    plain = code.lower().replace("-", "").replace(" ", "")
    return sealer.mac("recovery", person.bytes, plain.encode())


def _about(person: UUID) -> str:
    return f"second-factor {person}"

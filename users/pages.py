"""What the routes have in common: models, the pages of a list, the shapes of names."""

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Final, TypeVar
from zoneinfo import available_timezones

import msgspec
from email_validator import EmailNotValidError, validate_email
from fastapi import Path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from users.problems import BadRequestError

SITE_PATTERN: Final = r"^[a-z0-9][a-z0-9._-]{0,63}$"
NO_CONTROLS: Final = r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*$"
"""Nor what ends a line, or turns the direction of what follows: names stand in the subjects of mails."""

C = TypeVar("C")
Row = Mapping[str, Any]


class Model(BaseModel):
    """A field it does not know is refused by its name."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Page(Model):
    limit: int = Field(100, ge=1, le=1000, description="Entries of a page.")
    cursor: str | None = Field(None, max_length=1000, description="`next` of the page before; opaque.")


class Language(StrEnum):
    EN = "en"
    KO = "ko"


def _email(text: str) -> str:
    try:
        return validate_email(text, check_deliverability=False).normalized
    except EmailNotValidError as error:
        raise ValueError(f"is no e-mail address: {error}") from None


def _time_zone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError("is no time zone such as Asia/Seoul")
    return name


SiteName = Annotated[str, StringConstraints(pattern=SITE_PATTERN)]
SitePath = Annotated[SiteName, Path(description="The site's name, as in MQTT topics.", examples=["seoul-1"])]
Email = Annotated[str, StringConstraints(max_length=254, pattern=NO_CONTROLS), AfterValidator(_email)]
SomeEmail = Annotated[str, StringConstraints(max_length=254, pattern=NO_CONTROLS)]
"""To look an account up by: one that cannot exist is refused like one that does not."""

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100, pattern=NO_CONTROLS)]
TimeZone = Annotated[str, StringConstraints(max_length=64, pattern=NO_CONTROLS), AfterValidator(_time_zone)]
Token = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Code = Annotated[str, StringConstraints(max_length=32)]
GivenPassword = Annotated[str, StringConstraints(max_length=256)]
NewPassword = Annotated[
    str, Field(min_length=12, max_length=256, description="At least 12 characters; a sentence is best.")
]


def cut(rows: Sequence[Row], limit: int, key: Callable[[Row], object]) -> tuple[Sequence[Row], str | None]:
    """A page of rows that were asked for with one more than `limit`, and the cursor of the next page."""
    shown = rows[:limit]
    return shown, encode(key(shown[-1])) if len(rows) > limit else None


def encode(key: object) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).decode().rstrip("=")


def decode(cursor: str | None, kind: type[C]) -> C | None:
    """Where the page begins; `BadRequestError` when it is no cursor of this list."""
    if cursor is None:
        return None
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), type=kind)
    except (msgspec.DecodeError, binascii.Error, ValueError):
        raise BadRequestError("cursor", "is no cursor of this list; take it from `next` of a page") from None

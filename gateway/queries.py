"""What the queries of several routes have in common."""

from typing import Annotated, Any, Final, TypeAlias

from fastapi import Depends, Path, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema

from gateway import times
from gateway.problems import BadQueryError

PREFIX: Final = "/api/v1"

DEVICE_PATTERN: Final = r"^[A-Za-z0-9._:-]{1,128}$"
SITE_PATTERN: Final = r"^[A-Za-z0-9._-]{1,64}$"

SEVERAL: Final = frozenset({"metric", "agg"})
"""The parameters that may come more than once."""
SEVERAL_SITES: Final = f"{PREFIX}/stream"
"""The route whose `site` may, too."""


def split(values: Any) -> Any:
    """`a,b` and `a&…=b` are the same."""
    return [part for value in values for part in value.split(",")] if isinstance(values, list) else values


def _moment_schema(example: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "examples": [example, "2026-11-23T03:40:00+09:00"]})


def _moment(value: Any) -> times.Moment:
    return value if isinstance(value, times.Moment) else times.moment(str(value))


From: TypeAlias = Annotated[times.Moment, PlainValidator(_moment), _moment_schema("-24h")]
To: TypeAlias = Annotated[times.Moment, PlainValidator(_moment), _moment_schema("now")]


def several(kind: Any) -> Any:
    return Annotated[list[kind], BeforeValidator(split)]


class Query(BaseModel):
    """A route's parameters; another one is refused by its name."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Nothing(Query):
    """No parameters."""


class Page(Query):
    limit: int = Field(100, ge=1, le=1000, description="Entries of a page.")
    cursor: str | None = Field(None, max_length=1000, description="`next` of the page before; opaque.")


async def once(request: Request) -> None:
    """Refuse a parameter that came twice, as nobody can tell which one was meant."""
    seen = set()
    for name, _ in request.query_params.multi_items():
        if name in seen and name not in SEVERAL and (name, request.url.path) != ("site", SEVERAL_SITES):
            raise BadQueryError(name, "was given more than once")
        seen.add(name)


Once: Final = Depends(once)

DeviceName: TypeAlias = Annotated[
    str, Path(description="The device's name, as in its MQTT topic.", examples=["fridge-0001"])
]

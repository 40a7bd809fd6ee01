"""What the gateway answers when it cannot answer: RFC 9457 problem documents, one class a case, one handler."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar, Final

import orjson
import psycopg
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from psycopg import errors
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

log = structlog.get_logger(__name__)

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_SECONDS: Final = 2


class Wrong(BaseModel):
    """One field of a request, and why it was refused."""

    model_config = ConfigDict(extra="forbid")

    field: str = Field(examples=["from"])
    reason: str = Field(examples=["must be before 'to'"])


class Problem(BaseModel):
    """RFC 9457, with `errors` naming the fields where there are any."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(examples=["urn:brigade:problem:bad-query"])
    title: str
    status: int
    detail: str
    instance: str
    errors: list[Wrong] = Field(default_factory=list)


class ApiError(Exception):
    """A refusal. Its class says which status it gets; `detail` says what would be right."""

    status: ClassVar[HTTPStatus]
    kind: ClassVar[str]

    def __init__(
        self, detail: str, *, fields: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.wrong = [Wrong(field=field, reason=reason) for field, reason in (fields or {}).items()]
        self.headers = headers or {}


class BadQueryError(ApiError):
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    kind = "bad-query"

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}", fields={field: reason})


class UnknownError(ApiError):
    status = HTTPStatus.NOT_FOUND
    kind = "unknown"

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason, fields={field: reason})


class NotReplayableError(ApiError):
    status = HTTPStatus.CONFLICT
    kind = "not-replayable"


class NotAcceptableError(ApiError):
    status = HTTPStatus.NOT_ACCEPTABLE
    kind = "not-acceptable"


class DatabaseAwayError(ApiError):
    status = HTTPStatus.SERVICE_UNAVAILABLE
    kind = "database-away"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


class TooSlowError(ApiError):
    status = HTTPStatus.GATEWAY_TIMEOUT
    kind = "too-slow"


_RESPONSES: Final = (
    (BadQueryError, "The query cannot be right; `errors` names the fields and says what would be.", "bad-query"),
    (UnknownError, "No such device, site or dead letter.", "unknown"),
    (NotReplayableError, "Cut, resolved already, or a replay of it is under way.", "not-replayable"),
    (NotAcceptableError, "Answers come as JSON or CSV.", "not-acceptable"),
    (DatabaseAwayError, "The database is away or busy; `Retry-After` says when to try again.", "database-away"),
    (TooSlowError, "The query took longer than the statement timeout; `detail` says how to ask for less.", "too-slow"),
)  # fmt: skip


def documented(*classes: type[ApiError]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route: these problems, and those every route can have."""
    wanted = {*classes, BadQueryError, DatabaseAwayError, TooSlowError}
    return {
        int(error.status): {
            "description": text,
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "example": {
                        "type": f"urn:brigade:problem:{kind}",
                        "title": error.status.phrase,
                        "status": int(error.status),
                        "detail": text,
                        "instance": "/api/v1/readings",
                        "errors": [],
                    },
                }
            },
        }
        for error, text, kind in _RESPONSES
        if error in wanted
    }


def install(app: FastAPI) -> None:
    """Render every refusal of `app`, whoever raises it, as a problem document."""
    for kind, handler in (
        (ApiError, _api_error),
        (RequestValidationError, _validation),
        (HTTPException, _http),
        (psycopg.Error, _database),
        (TimeoutError, _frozen),
        (Exception, _bug),
    ):
        app.add_exception_handler(kind, handler)


def render(
    request: Request,
    status: int,
    *,
    kind: str,
    detail: str,
    wrong: Sequence[Wrong] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    problem = Problem(
        type=f"urn:brigade:problem:{kind}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=_printable(detail),
        instance=_printable(request.url.path),
        errors=[Wrong(field=_printable(w.field), reason=_printable(w.reason)) for w in wrong],
    )
    return Response(orjson.dumps(problem.model_dump()), status, media_type=MEDIA_TYPE, headers=dict(headers or {}))


async def _api_error(request: Request, error: Any) -> Response:
    return render(request, error.status, kind=error.kind, detail=error.detail, wrong=error.wrong, headers=error.headers)


async def _validation(request: Request, error: Any) -> Response:
    wrong = [Wrong(field=_field(e["loc"]), reason=_reason(e)) for e in error.errors()]
    detail = "; ".join(f"{w.field}: {w.reason}" for w in wrong[:5])
    return render(request, HTTPStatus.UNPROCESSABLE_ENTITY, kind="bad-query", detail=detail, wrong=wrong)


def _field(location: Sequence[int | str]) -> str:
    return ".".join(str(part) for part in location[1:] if not isinstance(part, int)) or str(location[0])


def _reason(error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "no such parameter"
    return str(error["msg"]).removeprefix("Value error, ")


async def _http(request: Request, error: Any) -> Response:
    match error.status_code:
        case HTTPStatus.NOT_FOUND:
            kind, detail = "no-such-page", "no such path; /api/v1/openapi.json lists them all"
        case HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = (error.headers or {}).get("Allow", "")
            kind, detail = "method-not-allowed", f"{request.method} is not possible here, only {allowed}"
        case _:
            kind, detail = "refused", str(error.detail)
    return render(request, error.status_code, kind=kind, detail=detail, headers=error.headers)


async def _database(request: Request, error: Any) -> Response:
    """An outage asks to try again, a query beyond the timeout to ask for less; refused data is the query's fault."""
    if (known := _known(error)) is None:
        return await _bug(request, error)
    return await _api_error(request, known)


def _known(error: psycopg.Error) -> ApiError | None:
    match error:
        case errors.QueryCanceled():
            return TooSlowError(
                "the query took too long: ask for a shorter range, fewer metrics or a coarser bucket "
                "(bucket=auto chooses one), or narrow the filter"
            )
        case errors.UndefinedTable() | errors.UndefinedFunction():
            return DatabaseAwayError("the database has not got the tables of this version yet (`brigade migrate`)")
        case psycopg.OperationalError():
            return DatabaseAwayError("the database is away or has no connection free; try again")
        case errors.NumericValueOutOfRange():
            return BadQueryError("bucket", "the values are so large that their sum is no number; use bucket=raw")
        case psycopg.DataError():
            return BadQueryError("query", f"the database refused it: {error.diag.message_primary}")
        case _:
            return None


async def _frozen(request: Request, _: Exception) -> Response:
    return await _api_error(request, DatabaseAwayError("the database does not answer; try again"))


async def _bug(request: Request, error: Exception) -> Response:
    log.error("request_failed", path=request.url.path, error=repr(error), exc_info=error)
    return render(
        request,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        kind="bug",
        detail="this is a fault of the gateway; its log has the details",
    )


def _printable(text: str) -> str:
    """JSON knows no lone surrogates, which a request can hold."""
    return text.encode(errors="replace").decode()[:1000]

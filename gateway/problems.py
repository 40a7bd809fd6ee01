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


class NoTokenError(ApiError):
    status = HTTPStatus.UNAUTHORIZED
    kind = "no-token"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": "Bearer"})


class NoSuchTokenError(NoTokenError):
    kind = "token-invalid"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.headers = {"WWW-Authenticate": 'Bearer error="invalid_token"'}


class TokenExpiredError(NoSuchTokenError):
    kind = "token-expired"


class NotAllowedError(ApiError):
    status = HTTPStatus.FORBIDDEN
    kind = "not-allowed"


class ForeignPageError(ApiError):
    status = HTTPStatus.FORBIDDEN
    kind = "csrf"


class HeadTooLargeError(ApiError):
    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    kind = "head-too-large"


class TooLargeError(ApiError):
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    kind = "too-large"


class TwoLengthsError(ApiError):
    """A proxy before us may have believed the other one: what follows could be a request of somebody else's."""

    status = HTTPStatus.BAD_REQUEST
    kind = "two-lengths"


class TooManyError(ApiError):
    status = HTTPStatus.TOO_MANY_REQUESTS
    kind = "too-many-requests"


class SlowRequestError(ApiError):
    status = HTTPStatus.REQUEST_TIMEOUT
    kind = "slow-request"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"Connection": "close"})


class UsersAwayError(ApiError):
    status = HTTPStatus.SERVICE_UNAVAILABLE
    kind = "users-away"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


class UsersSlowError(ApiError):
    status = HTTPStatus.GATEWAY_TIMEOUT
    kind = "users-slow"


class LimitsAwayError(ApiError):
    status = HTTPStatus.SERVICE_UNAVAILABLE
    kind = "limits-away"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


class UnknownError(ApiError):
    status = HTTPStatus.NOT_FOUND
    kind = "unknown"

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason, fields={field: reason})


class NotReplayableError(ApiError):
    status = HTTPStatus.CONFLICT
    kind = "not-replayable"


class SiteInUseError(ApiError):
    status = HTTPStatus.CONFLICT
    kind = "site-in-use"


class ZoneInUseError(ApiError):
    status = HTTPStatus.CONFLICT
    kind = "zone-in-use"


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


_TEXTS: Final[Mapping[type[ApiError], str]] = {
    BadQueryError: "The query cannot be right; `errors` names the fields and says what would be.",
    UnknownError: "There is no such thing in your sites.",
    NotReplayableError: "Cut, resolved already, or a replay of it is under way.",
    SiteInUseError: "Devices of that site have been heard already; `detail` says who can give it an owner.",
    ZoneInUseError: "Days are counted in another time zone already; `detail` says what counts them again.",
    NotAcceptableError: "Answers come as JSON or CSV.",
    NoTokenError: "Neither token nor API key nor cookie.",
    NoSuchTokenError: "The token or key is none of ours, or no longer.",
    TokenExpiredError: "Get another by `/api/v1/auth/refresh`.",
    NotAllowedError: "Your role may see it, not do it.",
    ForeignPageError: "A call by cookie that did not prove that it came from our own page.",
    SlowRequestError: "The body took too long.",
    HeadTooLargeError: "Path, query and headers are too large together.",
    TooLargeError: "The body is too large.",
    TooManyError: "Too many requests; `Retry-After` says when to try again.",
    DatabaseAwayError: "The database is away or busy; `Retry-After` says when to try again.",
    UsersAwayError: "Accounts, keys and new tokens cannot be looked up now; `Retry-After` says when to try again.",
    LimitsAwayError: "Log-ins cannot be counted now, so none is let in.",
    TooSlowError: "The query took longer than the statement timeout; `detail` says how to ask for less.",
    UsersSlowError: "Users did not answer in time.",
}


def documented(*classes: type[ApiError]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route: these problems, and those every route can have."""
    return _responses(*classes, BadQueryError, DatabaseAwayError, TooSlowError)


def of_accounts() -> dict[int | str, dict[str, Any]]:
    """What a call that goes through to users may get on the way."""
    return _responses(
        SlowRequestError,
        SiteInUseError,
        ZoneInUseError,
        TooLargeError,
        BadQueryError,
        UsersAwayError,
        DatabaseAwayError,
        UsersSlowError,
    )


def of_the_door(*, counted: bool, closed: bool) -> dict[int | str, dict[str, Any]]:
    """What a route's caller may get before the route is asked; of routes that are counted or closed, more."""
    if closed:
        return _responses(
            NoTokenError, NoSuchTokenError, TokenExpiredError, NotAllowedError, ForeignPageError, HeadTooLargeError,
            TooLargeError, TooManyError, UsersAwayError,
        )  # fmt: skip
    if counted:
        return _responses(ForeignPageError, HeadTooLargeError, TooLargeError, TooManyError, LimitsAwayError)
    return _responses(HeadTooLargeError, TooLargeError)


def _responses(*classes: type[ApiError]) -> dict[int | str, dict[str, Any]]:
    by_status: dict[int | str, list[type[ApiError]]] = {}
    for error in classes:
        by_status.setdefault(int(error.status), []).append(error)
    return {status: _response(errors) for status, errors in by_status.items()}


def _response(classes: Sequence[type[ApiError]]) -> dict[str, Any]:
    example = {
        "type": f"urn:brigade:problem:{classes[0].kind}",
        "title": classes[0].status.phrase,
        "status": int(classes[0].status),
        "detail": _TEXTS[classes[0]],
        "instance": "/api/v1/readings",
        "errors": [],
    }
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        "description": " ".join(f"`{error.kind}`: {_TEXTS[error]}" for error in classes),
        "content": {MEDIA_TYPE: {"schema": schema, "example": example}},
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


def api_error(request: Request, error: ApiError) -> Response:
    return render(request, error.status, kind=error.kind, detail=error.detail, wrong=error.wrong, headers=error.headers)


async def _api_error(request: Request, error: Any) -> Response:
    return api_error(request, error)


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
        return bug(request, error)
    return api_error(request, known)


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
    return api_error(request, DatabaseAwayError("the database does not answer; try again"))


async def _bug(request: Request, error: Exception) -> Response:
    return bug(request, error)


def bug(request: Request, error: Exception) -> Response:
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

"""What users answers when it cannot: RFC 9457 problem documents, one class a case, one handler."""

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
from redis import exceptions as redis_errors
from starlette.exceptions import HTTPException

log = structlog.get_logger(__name__)

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_SECONDS: Final = 2

REDIS_AWAY: Final = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.ReadOnlyError,
    redis_errors.OutOfMemoryError,
)


class Wrong(BaseModel):
    """One field of a request, and why it was refused."""

    model_config = ConfigDict(extra="forbid")

    field: str = Field(examples=["email"])
    reason: str = Field(examples=["is no e-mail address"])


class Problem(BaseModel):
    """RFC 9457, with `errors` naming the fields where there are any."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(examples=["urn:brigade:problem:bad-credentials"])
    title: str
    status: int
    detail: str
    instance: str
    errors: list[Wrong] = Field(default_factory=list)


class ApiError(Exception):
    """A refusal. Its class says which status and kind it gets; `detail` says what would be right."""

    status: ClassVar[HTTPStatus]
    kind: ClassVar[str]
    text: ClassVar[str]
    """What it means; the detail of a refusal that has nothing to add."""

    def __init__(
        self, detail: str = "", *, fields: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail or self.text)
        self.detail = detail or self.text
        self.wrong = [Wrong(field=field, reason=reason) for field, reason in (fields or {}).items()]
        self.headers = headers or {}


class BadBodyError(ApiError):
    status = HTTPStatus.BAD_REQUEST
    kind = "bad-body"
    text = "the body is no JSON"


class NotFromGatewayError(ApiError):
    status = HTTPStatus.UNAUTHORIZED
    kind = "not-from-gateway"
    text = "only the gateway may call this; its token is missing, expired or not its own"


class TokenMissingError(ApiError):
    status = HTTPStatus.UNAUTHORIZED
    kind = "token-missing"
    text = "this needs an access token or an API key"


class BadCredentialsError(ApiError):
    status = HTTPStatus.UNAUTHORIZED
    kind = "bad-credentials"
    text = "e-mail and password do not belong together"


class SecondFactorNeededError(ApiError):
    status = HTTPStatus.UNAUTHORIZED
    kind = "second-factor-needed"
    text = "give `code` too: six digits of the authenticator, or a recovery code"


class SessionEndedError(ApiError):
    status = HTTPStatus.UNAUTHORIZED
    kind = "session-ended"
    text = "this session has ended; log in again"


class BadTokenError(ApiError):
    status = HTTPStatus.UNAUTHORIZED
    kind = "bad-token"
    text = "this link was used already, has expired or was never made"


class BadKeyError(ApiError):
    status = HTTPStatus.UNAUTHORIZED
    kind = "bad-key"
    text = "this API key is unknown, expired or revoked"


class ForbiddenError(ApiError):
    status = HTTPStatus.FORBIDDEN
    kind = "forbidden"
    text = "your role in this site does not allow it"


class UnknownError(ApiError):
    status = HTTPStatus.NOT_FOUND
    kind = "unknown"
    text = "there is no such thing in your sites"


class ConflictError(ApiError):
    status = HTTPStatus.CONFLICT
    kind = "conflict"
    text = "this contradicts what is there"


class LastOwnerError(ConflictError):
    kind = "last-owner"
    text = "a site keeps at least one owner: make somebody else one first"


class TooLargeError(ApiError):
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    kind = "too-large"
    text = "the body has more than 64 kB"


class BadRequestError(ApiError):
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    kind = "bad-request"
    text = "`errors` names the fields and says what would be right"

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}", fields={field: reason})


class ThrottledError(ApiError):
    status = HTTPStatus.TOO_MANY_REQUESTS
    kind = "throttled"
    text = "too many attempts; `Retry-After` says when to try again"

    def __init__(self, seconds: int) -> None:
        super().__init__(headers={"Retry-After": str(seconds)})


class AwayError(ApiError):
    """Something that users needs is away, or it has too much to do."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    kind = "away"
    text = "something needed is away; `Retry-After` says when to try again"

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


class DatabaseAwayError(AwayError):
    kind = "database-away"
    text = "the database is away or busy; try again"


class SessionsAwayError(AwayError):
    kind = "sessions-away"
    text = "the store of sessions is away; try again"


class BusyError(AwayError):
    kind = "busy"
    text = "too many passwords are being checked; try again"


EVERYWHERE: Final[tuple[type[ApiError], ...]] = (
    BadBodyError,
    NotFromGatewayError,
    TooLargeError,
    BadRequestError,
    AwayError,
)


def documented(*classes: type[ApiError]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route: these problems, and those every route can have."""
    by_status: dict[int | str, list[type[ApiError]]] = {}
    for error in (*classes, *EVERYWHERE):
        by_status.setdefault(int(error.status), []).append(error)
    return {status: _response(errors) for status, errors in by_status.items()}


def _response(classes: Sequence[type[ApiError]]) -> dict[str, Any]:
    examples = {error.kind: {"value": _example(error)} for error in classes}
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        "description": "; ".join(f"`{error.kind}`: {error.text}" for error in classes),
        "content": {MEDIA_TYPE: {"schema": schema, "examples": examples}},
    }


def _example(error: type[ApiError]) -> dict[str, Any]:
    return {
        "type": f"urn:brigade:problem:{error.kind}",
        "title": error.status.phrase,
        "status": int(error.status),
        "detail": error.text,
        "instance": "/me",
        "errors": [],
    }


def install(app: FastAPI) -> None:
    """Render every refusal of `app`, whoever raises it, as a problem document."""
    for kind, handler in (
        (ApiError, api_error),
        (RequestValidationError, _validation),
        (HTTPException, _http),
        (psycopg.Error, _database),
        (redis_errors.RedisError, _redis),
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


async def api_error(request: Request, error: Any) -> Response:
    return render(request, error.status, kind=error.kind, detail=error.detail, wrong=error.wrong, headers=error.headers)


async def _validation(request: Request, error: Any) -> Response:
    wrong = [Wrong(field=_field(e["loc"]), reason=_reason(e)) for e in error.errors()]
    detail = "; ".join(f"{w.field}: {w.reason}" for w in wrong[:5])
    kind = BadRequestError.kind
    return render(request, HTTPStatus.UNPROCESSABLE_ENTITY, kind=kind, detail=detail, wrong=wrong)


def _field(location: Sequence[int | str]) -> str:
    return ".".join(str(part) for part in location[1:] if not isinstance(part, int)) or str(location[0])


def _reason(error: Mapping[str, Any]) -> str:
    match error["type"]:
        case "extra_forbidden":
            return "no such field"
        case "json_invalid":
            return "is no JSON"
        case _:
            return str(error["msg"]).removeprefix("Value error, ")


async def _http(request: Request, error: Any) -> Response:
    match error.status_code:
        case HTTPStatus.NOT_FOUND:
            kind, detail = "no-such-page", "no such path; /api/v1/openapi.json lists them all"
        case HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = (error.headers or {}).get("Allow", "")
            kind, detail = "method-not-allowed", f"{request.method} is not possible here, only {allowed}"
        case HTTPStatus.BAD_REQUEST:
            kind, detail = BadBodyError.kind, BadBodyError.text
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            kind, detail = TooLargeError.kind, TooLargeError.text
        case _:
            kind, detail = "refused", str(error.detail)
    return render(request, error.status_code, kind=kind, detail=detail, headers=error.headers)


async def _database(request: Request, error: Any) -> Response:
    match error:
        case errors.UndefinedTable() | errors.UndefinedColumn():
            return await api_error(request, DatabaseAwayError("the tables are not there yet (`brigade users migrate`)"))
        case psycopg.OperationalError():
            return await api_error(request, DatabaseAwayError())
        case psycopg.DataError():
            reason = f"the database refused it: {error.diag.message_primary or error}"
            return await api_error(request, BadRequestError("request", reason))
        case _:
            return await _bug(request, error)


async def _redis(request: Request, error: Exception) -> Response:
    return await (api_error(request, SessionsAwayError()) if isinstance(error, REDIS_AWAY) else _bug(request, error))


async def _frozen(request: Request, _: Exception) -> Response:
    return await api_error(request, DatabaseAwayError("the database does not answer; try again"))


async def _bug(request: Request, error: Exception) -> Response:
    log.error("request_failed", path=request.url.path, error=type(error).__name__, exc_info=error)
    return render(
        request,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        kind="bug",
        detail="this is a fault of users; its log has the details",
    )


def _printable(text: str) -> str:
    """JSON knows no lone surrogates, which a request can hold."""
    return text.encode(errors="replace").decode()[:1000]

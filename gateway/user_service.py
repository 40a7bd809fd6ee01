"""Users, over HTTP: deadlines, one careful retry, and a signed word about who asks."""

import asyncio
import time
import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import httpx
import jwt
import structlog
from prometheus_client import Counter

from gateway.problems import UsersAwayError, UsersSlowError
from gateway.settings import GatewaySettings
from gateway.tokens import Principal

if TYPE_CHECKING:
    from observability.otlp import Traces

log = structlog.get_logger(__name__)

CONNECT_SECONDS: Final = 0.5
TOTAL_SECONDS: Final = 3.0
CONNECTIONS: Final = 100
INTERNAL_SECONDS: Final = 30
INTERNAL_HEADER: Final = "X-Brigade-Internal"
SAFE: Final = frozenset({"GET", "HEAD"})
"""What may be asked twice. A DELETE that is repeated after a lost answer would be told 404."""
UNAVAILABLE: Final = frozenset({502, 503, 504})

CALLS: Final = Counter("gateway_users_calls_total", "Requests to users.", ["outcome"])
RETRIES: Final = Counter("gateway_users_retries_total", "Requests to users made a second time.")


class Budget:
    """Retries are one in ten calls at the most, so that a struggling users is not asked twice as much."""

    def __init__(self, share: float = 0.1, most: float = 10) -> None:
        self._share = share
        self._most = most
        self._left = most

    def called(self) -> None:
        self._left = min(self._most, self._left + self._share)

    def take(self) -> bool:
        if self._left < 1:
            return False
        self._left -= 1
        return True


class UserService:
    """A client with connections kept open; opened with `async with`."""

    def __init__(self, settings: GatewaySettings, traces: "Traces | None" = None) -> None:
        self._traces = traces
        self._url = settings.users_url
        self._secret = settings.internal_secret.get_secret_value()
        self._budget = Budget()

    async def __aenter__(self) -> Self:
        self._client = httpx.AsyncClient(
            base_url=self._url,
            timeout=httpx.Timeout(TOTAL_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=20, keepalive_expiry=4),
            follow_redirects=False,
            trust_env=False,  # no proxy of the environment sees what passes here
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def call(
        self,
        method: str,
        target: str,
        *,
        who: Principal | None = None,
        address: str,
        request_id: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> httpx.Response:
        """Users' answer, whatever it is; `UsersAwayError` or `UsersSlowError` where there is none."""
        request = self._client.build_request(
            method,
            target,
            content=body,
            headers={
                **(headers or {}),
                "X-Request-Id": request_id,
                INTERNAL_HEADER: internal_token(self._secret, who, address, request_id),
            },
        )
        self._budget.called()
        try:
            async with asyncio.timeout(TOTAL_SECONDS):
                answer = await self._send(request)
        except TimeoutError:
            CALLS.labels("slow").inc()
            raise UsersSlowError(f"users did not answer within {TOTAL_SECONDS:g} s") from None
        except httpx.HTTPError as error:
            CALLS.labels("away").inc()
            log.warning("users_away", error=repr(error))
            if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
                raise UsersSlowError(f"users did not answer within {TOTAL_SECONDS:g} s") from error
            raise UsersAwayError("accounts are not to be had now; try again") from error
        CALLS.labels("answered").inc()
        return answer

    async def key_set(self) -> Mapping[str, Any]:
        """The JWKS document."""
        try:
            answer = await self._ask("GET", "/.well-known/jwks.json")
            document = answer.json() if answer.status_code == httpx.codes.OK else None
        except (UsersSlowError, ValueError) as error:
            raise UsersAwayError(f"users has no keys for us: {error}") from error
        if not isinstance(document, dict):
            raise UsersAwayError(f"users has no keys for us: {answer.status_code}")
        return document

    async def exchange(self, key: str, address: str, request_id: str) -> str | None:
        """An access token for an API key; None where the key is none, or no longer."""
        answer = await self.call(
            "POST",
            "/internal/keys/exchange",
            address=address,
            request_id=request_id,
            headers={"Content-Type": "application/json"},
            body=f'{{"key": "{key}"}}'.encode(),
        )
        if answer.status_code == httpx.codes.OK:
            return str(answer.json()["access_token"])
        if answer.is_server_error or answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
            raise UsersAwayError("API keys cannot be looked up now; try again")
        return None

    async def _ask(self, method: str, target: str) -> httpx.Response:
        return await self.call(method, target, address="0.0.0.0", request_id=uuid.uuid4().hex)

    async def _send(self, request: httpx.Request) -> httpx.Response:
        if self._traces is None:
            return await self._sent(request)
        about = {"http.request.method": request.method, "server.address": str(request.url.host)}
        with self._traces.calling(f"users {request.method}", about) as headers:
            request.headers.update(headers)
            return await self._sent(request)

    async def _sent(self, request: httpx.Request) -> httpx.Response:
        try:
            answer = await self._client.send(request)
        except (httpx.ConnectError, httpx.ConnectTimeout):  # it was not sent
            if not self._may_repeat():
                raise
        except httpx.TransportError as error:
            if isinstance(error, httpx.TimeoutException) or request.method not in SAFE or not self._may_repeat():
                raise
        else:
            if answer.status_code not in UNAVAILABLE or request.method not in SAFE or not self._may_repeat():
                return answer
        return await self._client.send(request)

    def _may_repeat(self) -> bool:
        if not self._budget.take():
            return False
        RETRIES.inc()
        return True


def internal_token(secret: str, who: Principal | None, address: str, request_id: str) -> str:
    """What users believes of who asks: nothing that the client itself said."""
    now = int(time.time())
    claims: dict[str, Any] = {
        "iss": "brigade-gateway",
        "aud": "brigade-users",
        "iat": now,
        "exp": now + INTERNAL_SECONDS,
        "kind": who.kind if who else "anonymous",
        "ip": address,
        "rid": request_id,
    }
    if who:
        claims |= {"sub": who.subject, "org": who.organisation, "sid": who.session, "sites": dict(who.sites)}
    return jwt.encode(claims, secret, algorithm="HS256")

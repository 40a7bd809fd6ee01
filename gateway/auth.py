"""Who asks: a token or an API key in the Authorization header, or a browser's cookie."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from fastapi import Depends, Request

from gateway import browser
from gateway.api_keys import ApiKeys, is_key
from gateway.key_set import KeySet
from gateway.limits import Allowance, Limits, RouteClass
from gateway.problems import LimitsAwayError, NoSuchTokenError, NoTokenError, TooManyError
from gateway.tokens import Kind, Principal, Tokens, bearer
from gateway.user_service import UserService

CLASSES: Final = {Kind.PERSON: RouteClass.PEOPLE, Kind.KEY: RouteClass.MACHINES}


@dataclass(slots=True, kw_only=True)
class Visit:
    """A request, as the door knows it; in the ASGI scope's state."""

    method: str
    path: str
    request_id: str
    address: str
    headers: Mapping[str, str]
    authorizations: list[str]
    jar: Mapping[str, str]
    principal: Principal | None = None
    allowance: Allowance | None = None
    cookies: list[str] = field(default_factory=list)
    """Set-Cookie headers of the answer."""


class Authentication:
    def __init__(self, users: UserService, keys: KeySet, limits: Limits, *, secret: str) -> None:
        self.tokens = Tokens(keys)
        self._api_keys = ApiKeys(self.tokens.principal)
        self._users = users
        self._limits = limits
        self._secret = secret
        self._guessing: dict[str, float] = {}
        """Until when (monotonic) an address that had too many keys refused may show us no new ones."""

    async def principal(self, visit: Visit) -> Principal:
        """Raises one of the 401s, 403 for a foreign page's call by cookie, or 503 where nobody can tell."""
        if secret := bearer(visit.authorizations):
            return await (self._of_key(secret, visit) if is_key(secret) else self.tokens.principal(secret))
        if token := visit.jar.get(browser.ACCESS):
            principal = await self.tokens.principal(token)
            browser.must_be_ours(
                visit.method, visit.headers, visit.jar, secret=self._secret, session=principal.session or ""
            )
            return principal
        raise NoTokenError("send 'Authorization: Bearer' and a token or an API key; /api/v1/auth/login gives one")

    async def _of_key(self, key: str, visit: Visit) -> Principal:
        asking = not self._api_keys.knows(key)
        if asking and self._guessing.get(visit.address, 0) > time.monotonic():
            raise TooManyError("too many API keys from this address were refused", headers={"Retry-After": "10"})
        try:
            return await self._api_keys.principal(
                key, lambda key: self._users.exchange(key, visit.address, visit.request_id)
            )
        except NoSuchTokenError:
            if asking:
                await self._guessed(visit.address)
            raise

    async def _guessed(self, address: str) -> None:
        try:
            await self._limits.take(RouteClass.LOGIN, f"key {address}")
        except TooManyError as error:
            if len(self._guessing) > 10_000:
                self._guessing.clear()
            self._guessing[address] = time.monotonic() + int(error.headers["Retry-After"])
            raise
        except LimitsAwayError:
            return


async def _of_request(request: Request) -> Any:
    return request.state.visit.principal


PrincipalOf = Annotated[Principal, Depends(_of_request)]
"""Of a route that the door lets nobody in without."""

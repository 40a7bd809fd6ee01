"""The public keys that users signs access tokens with, remembered: tokens are verified while users is away."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import jwt
import structlog
from prometheus_client import Counter, Gauge

from gateway.problems import UsersAwayError

log = structlog.get_logger(__name__)

REFETCH_SECONDS: Final = 10
"""An unknown `kid` makes us ask again, so often at the most: a forger's invention must not become users' load."""
EVERY_SECONDS: Final = 600
AGAIN_SECONDS: Final = 1
"""After a look that failed; whoever comes with a token asks sooner."""
AT_ONCE_SECONDS: Final = 0.2

KEYS: Final = Gauge("gateway_signing_keys", "Public keys of users that are known.")
LOOKS: Final = Counter("gateway_signing_keys_looks_total", "Times that users was asked for them.", ["outcome"])

Fetch = Callable[[], Awaitable[Mapping[str, Any]]]
"""The JWKS document; `UsersAwayError` where there is none to be had."""


class KeySet:
    """`watch` keeps it fresh; `find` answers from memory, and asks once more for a `kid` it does not know."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._keys: dict[str, jwt.PyJWK] = {}
        self._looked = float("-inf")
        self._failed = True
        self._looking = asyncio.Lock()
        self.generation = 0
        """Grows when a key is gone: what was verified with it counts no more."""

    async def find(self, kid: str) -> jwt.PyJWK | None:
        if key := self._keys.get(kid):
            return key
        async with self._looking:
            pause = AT_ONCE_SECONDS if self._failed else REFETCH_SECONDS
            if kid not in self._keys and time.monotonic() - self._looked >= pause:
                await self._look()
        if kid not in self._keys and self._failed:
            raise UsersAwayError("the keys that tokens are signed with are not to be had now; try again")
        return self._keys.get(kid)

    async def watch(self) -> None:
        while True:
            async with self._looking:
                await self._look()
            await asyncio.sleep(AGAIN_SECONDS if self._failed else EVERY_SECONDS)

    async def _look(self) -> None:
        self._looked = time.monotonic()
        try:
            found = _usable(await self._fetch())
        except UsersAwayError as error:
            if not self._failed:
                log.warning("signing_keys_not_to_be_had", error=error.detail)
            self._failed = True
            LOOKS.labels("failed").inc()
            return
        if set(self._keys) - set(found):
            self.generation += 1
        if set(self._keys) != set(found):
            log.info("signing_keys", kids=sorted(found))
        self._keys = found
        self._failed = False
        KEYS.set(len(found))
        LOOKS.labels("found").inc()


def _usable(document: Mapping[str, Any]) -> dict[str, jwt.PyJWK]:
    """By `kid`: Ed25519 keys for signatures, whatever else the document may hold."""
    found = {}
    for key in document.get("keys", ()):
        if isinstance(key, dict) and (key.get("kty"), key.get("crv")) == ("OKP", "Ed25519") and key.get("kid"):
            try:
                found[str(key["kid"])] = jwt.PyJWK(key, algorithm="EdDSA")
            except jwt.PyJWTError as error:
                log.warning("signing_key_unusable", kid=str(key["kid"]), error=repr(error))
    return found

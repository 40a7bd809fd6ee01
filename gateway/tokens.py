"""An access token into who it is: Ed25519, `at+jwt`, ours, in its time, and nothing else."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import jwt

from gateway.key_set import KeySet
from gateway.problems import NoSuchTokenError, NotAllowedError, TokenExpiredError
from gateway.roles import PERMISSIONS, Permission

ISSUER: Final = "brigade-users"
AUDIENCE: Final = "brigade"
ALGORITHM: Final = "EdDSA"
TYPE: Final = "at+jwt"
LEEWAY_SECONDS: Final = 5
LONGEST: Final = 8_192
REMEMBERED: Final = 10_000
CLAIMS: Final = ("iss", "aud", "sub", "kind", "org", "sites", "iat", "nbf", "exp", "jti")


class Kind(StrEnum):
    PERSON = "person"
    KEY = "key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who asks, and as what at which sites."""

    kind: Kind
    subject: str
    organisation: str
    session: str | None
    sites: Mapping[str, str]
    expires_at: float

    def at(self, permission: Permission) -> list[str]:
        """The sites where the role has it."""
        return [site for site, role in self.sites.items() if permission in PERMISSIONS.get(role, ())]

    def must(self, permission: Permission, site: str | None = None) -> list[str]:
        """The sites where it may; `NotAllowedError` where it may be seen only, or nowhere at all."""
        sites = self.at(permission)
        if not sites:
            raise NotAllowedError(f"none of your roles has the permission {permission}")
        if site in self.sites and site not in sites:
            raise NotAllowedError(f"your role at {site} has not got the permission {permission}")
        return sites


class Tokens:
    """Verifies them; one that was seen before costs a look into a dictionary."""

    def __init__(self, keys: KeySet) -> None:
        self._keys = keys
        self._generation = keys.generation
        self._seen: dict[str, Principal] = {}

    async def principal(self, token: str) -> Principal:
        """Raises one of the 401s, or `UsersAwayError` where no key is known yet."""
        if self._generation != self._keys.generation:
            self._generation = self._keys.generation
            self._seen.clear()
        found = self._seen.get(token)
        if found is None:
            found = _principal(await self._verified(token))
            self._remember(token, found)
        if found.expires_at + LEEWAY_SECONDS <= time.time():
            raise TokenExpiredError("the token has expired; get another by /api/v1/auth/refresh")
        return found

    def _remember(self, token: str, principal: Principal) -> None:
        if len(self._seen) >= REMEMBERED:
            for oldest in list(self._seen)[: REMEMBERED // 2]:
                del self._seen[oldest]
        self._seen[token] = principal

    async def _verified(self, token: str, *, also_expired: bool = False) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token) if len(token) <= LONGEST else {}
            match header:
                case {"alg": "EdDSA", "typ": "at+jwt", "kid": str(kid)} if key := await self._keys.find(kid):
                    return jwt.decode(
                        token,
                        key,
                        algorithms=[ALGORITHM],
                        audience=AUDIENCE,
                        issuer=ISSUER,
                        leeway=LEEWAY_SECONDS,
                        options={"require": list(CLAIMS), "verify_exp": not also_expired},
                    )
        except jwt.ExpiredSignatureError:
            raise TokenExpiredError("the token has expired; get another by /api/v1/auth/refresh") from None
        except (jwt.PyJWTError, ValueError):  # what it is exactly is a forger's business
            pass
        raise NoSuchTokenError("the token is none of ours, or was signed with a key that is no longer valid")

    async def session(self, token: str) -> str | None:
        """The session that a token of ours belongs to, expired or not."""
        try:
            return _principal(await self._verified(token, also_expired=True)).session
        except NoSuchTokenError:
            return None


def _principal(claims: Mapping[str, Any]) -> Principal:
    match claims:
        case {"kind": "person" | "key" as kind, "sub": str(sub), "org": str(org), "sites": dict(sites), "exp": exp} if (
            all(isinstance(text, str) for pair in sites.items() for text in pair)
        ):
            session = claims.get("sid")
            return Principal(
                kind=Kind(kind),
                subject=sub,
                organisation=org,
                session=session if isinstance(session, str) else None,
                sites=sites,
                expires_at=float(exp),
            )
    raise NoSuchTokenError("the token's claims are not those of this version")


def bearer(authorizations: Sequence[str]) -> str | None:
    """Of `Authorization: Bearer …`; `NoSuchTokenError` where the header says something else."""
    if not authorizations:
        return None
    scheme, _, token = authorizations[0].partition(" ")
    if len(authorizations) > 1 or scheme.lower() != "bearer" or not token.strip():
        raise NoSuchTokenError("the header must be 'Authorization: Bearer' and a token or an API key")
    return token.strip()

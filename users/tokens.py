"""Access tokens as users signs them, and the gateway's internal tokens as users checks them. Pure."""

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Self
from uuid import UUID

import jwt

from users.problems import NotFromGatewayError
from users.roles import Role
from users.signing import Signer

ISSUER: Final = "brigade-users"
AUDIENCE: Final = "brigade"
ACCESS_SECONDS: Final = 600

GATEWAY: Final = "brigade-gateway"
LEEWAY_SECONDS: Final = 5


class Kind(StrEnum):
    PERSON = "person"
    KEY = "key"
    ANONYMOUS = "anonymous"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What an access token says."""

    kind: Kind
    subject: UUID
    organisation: UUID
    sites: Mapping[str, Role]
    session: UUID | None = None
    seconds: int = ACCESS_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Whom the gateway passed a call for. What they may do is not in here: users knows it better."""

    kind: Kind
    subject: UUID | None
    organisation: UUID | None
    session: UUID | None
    ip: str
    request_id: str

    @classmethod
    def of(cls, claims: Mapping[str, Any]) -> Self:
        kind = Kind(claims["kind"])
        known = kind is not Kind.ANONYMOUS
        return cls(
            kind=kind,
            subject=UUID(claims["sub"]) if known else None,
            organisation=UUID(claims["org"]) if known else None,
            session=UUID(claims["sid"]) if kind is Kind.PERSON else None,
            ip=str(claims["ip"])[:64],
            request_id=str(claims["rid"])[:128],
        )


def sign(access: Access, signer: Signer) -> str:
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": str(access.subject),
        "kind": access.kind,
        "org": str(access.organisation),
        "sites": access.sites,
        "iat": now,
        "nbf": now,
        "exp": now + access.seconds,
        "jti": str(uuid.uuid4()),
    }
    if access.session:
        claims["sid"] = str(access.session)
    return jwt.encode(claims, signer.private, algorithm="EdDSA", headers={"typ": "at+jwt", "kid": signer.kid})


def checked(token: str, secret: str) -> Origin:
    """What an internal token says, if the gateway signed it just now; else `NotFromGatewayError`."""
    try:
        claims = jwt.decode(
            token,
            secret,
            algorithms=["HS256"],
            audience=ISSUER,
            issuer=GATEWAY,
            leeway=LEEWAY_SECONDS,
            options={"require": ["exp", "aud", "iss", "kind", "ip", "rid"]},
        )
        return Origin.of(claims)
    except (jwt.InvalidTokenError, KeyError, TypeError, ValueError, AttributeError):
        raise NotFromGatewayError from None

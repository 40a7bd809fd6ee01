"""Sessions of browsers: tokens in cookies that no script can read, and proof that a call came from our own pages."""

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import urlsplit

from gateway.problems import ForeignPageError

ACCESS: Final = "__Host-brigade-access"
REFRESH: Final = "__Secure-brigade-refresh"
CSRF: Final = "__Host-brigade-csrf"

REFRESH_PATH: Final = "/api/v1/auth"
SECONDS: Final = 90 * 86_400
"""Cookies outlive what is in them: an access token that has expired still tells whose session it was."""

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def cookies(headers: Iterable[str]) -> dict[str, str]:
    """By name; a header that is no list of cookies has none."""
    found: dict[str, str] = {}
    for header in headers:
        for part in header.split(";"):
            name, _, value = part.strip().partition("=")
            found.setdefault(name, value)
    return found


def csrf_token(secret: str, session: str) -> str:
    """Bound to the session: another one's is of no use."""
    proof = hmac.new(secret.encode(), f"csrf {session}".encode(), hashlib.sha256).hexdigest()
    return f"{session}.{proof}"


def session_of(secret: str, token: str) -> str | None:
    """The session that we made this CSRF token for; None where we did not make it."""
    session, _, _ = token.rpartition(".")
    return session if hmac.compare_digest(csrf_token(secret, session).encode(), token.encode()) else None


def must_be_ours(
    method: str, headers: Mapping[str, str], jar: Mapping[str, str], *, secret: str, session: str | None
) -> None:
    """`ForeignPageError` unless a call by cookie came from our own page.

    `session` is the one of the access token; None where none is told, as when that has expired: then the CSRF token
    must be one that we made.
    """
    if method in SAFE_METHODS:
        return
    must_be_own_origin(headers)
    sent = headers.get("x-csrf-token", "")
    if not sent or not hmac.compare_digest(sent.encode(), jar.get(CSRF, "").encode()):
        raise ForeignPageError(f"a call by cookie needs the header X-CSRF-Token with what the cookie {CSRF} says")
    made_for = session_of(secret, sent)
    if made_for is None or session not in {None, made_for}:
        raise ForeignPageError("the CSRF token belongs to another session; log in again")


def must_be_own_origin(headers: Mapping[str, str]) -> None:
    """Where a browser says from which page a call came, it must be one of this host's."""
    origin = headers.get("origin")
    if origin is not None and (origin == "null" or urlsplit(origin).netloc != headers.get("host")):
        raise ForeignPageError("the call came from another site's page")


def begin(access: str, refresh: str, *, secret: str, session: str) -> list[str]:
    """The Set-Cookie headers of a session."""
    return [
        _cookie(ACCESS, access, "/", http_only=True),
        _cookie(REFRESH, refresh, REFRESH_PATH, http_only=True),
        _cookie(CSRF, csrf_token(secret, session), "/", http_only=False),
    ]


def end() -> list[str]:
    return [
        _cookie(ACCESS, "", "/", http_only=True, seconds=0),
        _cookie(REFRESH, "", REFRESH_PATH, http_only=True, seconds=0),
        _cookie(CSRF, "", "/", http_only=False, seconds=0),
    ]


def _cookie(name: str, value: str, path: str, *, http_only: bool, seconds: int = SECONDS) -> str:
    flags = "; HttpOnly" if http_only else ""
    return f"{name}={value}; Max-Age={seconds}; Path={path}; Secure; SameSite=Strict{flags}"

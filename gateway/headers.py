"""The headers of every answer that tell a browser what it must not do."""

from collections.abc import Iterable
from typing import Final

Headers = list[tuple[bytes, bytes]]

ALWAYS: Final = (
    (b"strict-transport-security", b"max-age=31536000; includeSubDomains"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)

DATA_POLICY: Final = b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
"""Of data: a browser that takes them for a page loads and runs nothing."""

PAGE_POLICY: Final = (
    b"default-src 'self'; object-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
"""Of our pages: all they load and call is on this host; no inline script, no inline style."""

_UNLESS_TOLD: Final = (
    (b"content-security-policy", DATA_POLICY),
    (b"cache-control", b"no-store"),
)


def completed(headers: Iterable[tuple[bytes, bytes]], request_id: str, more: Iterable[tuple[str, str]]) -> Headers:
    """An answer's headers with these; what it says of itself about policy and caching stays."""
    found = [*headers]
    named = {name.lower() for name, _ in found}
    found.extend((name, value) for name, value in _UNLESS_TOLD if name not in named)
    found.extend(ALWAYS)
    found.append((b"x-request-id", request_id.encode()))
    found.extend((name.lower().encode(), value.encode()) for name, value in more)
    return found

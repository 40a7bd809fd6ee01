"""Whose request it is, by address. Pure."""

import ipaddress
from collections.abc import Iterable

UNKNOWN = "0.0.0.0"


def of_client(peer: str | None, forwarded_for: Iterable[str], trusted_hops: int) -> str:
    """The address that the outermost of our own proxies saw; the peer's own where there are none.

    Only the last `trusted_hops` entries of X-Forwarded-For were written by our proxies: what stands before them may be
    anything. Where the header is shorter than that, or no address, nobody but the peer is known.
    """
    entries = [entry.strip() for line in forwarded_for for entry in line.split(",")] if trusted_hops else []
    if 0 < trusted_hops <= len(entries) and (address := _address(entries[-trusted_hops])):
        return address
    return _address(peer or "") or UNKNOWN


def neighbourhood(address: str) -> str:
    """What a limit by address counts as one: an IPv6 customer has a whole /64."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv4Address):
        return address
    return str(ipaddress.ip_network((found, 64), strict=False))


def _address(text: str) -> str | None:
    """Of `192.0.2.1`, `192.0.2.1:1234`, `2001:db8::1` and `[2001:db8::1]:1234`; an IPv4 address inside IPv6 is that."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    inner = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(inner or found)

"""Opaque cursors of keyset pagination: where the next page begins, in a form nobody should take apart."""

import base64
import binascii
from typing import TypeVar

import msgspec

from gateway.problems import BadQueryError

C = TypeVar("C", bound=msgspec.Struct)


def encode(cursor: msgspec.Struct) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(cursor)).decode().rstrip("=")


def decode(text: str, kind: type[C]) -> C:
    """`BadQueryError` when it is no cursor of this listing."""
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=kind)
    except (msgspec.DecodeError, binascii.Error, ValueError):
        raise BadQueryError("cursor", "is no cursor of this listing; take it from `next` of a page") from None

"""The keys that access tokens can be checked with."""

from typing import Any

from fastapi import APIRouter

from users.pages import Model
from users.problems import documented
from users.resources import ResourcesOf

router = APIRouter(tags=["keys"])


class KeySet(Model):
    keys: list[dict[str, Any]]


@router.get("/.well-known/jwks.json", summary="Two live keys (RFC 7517)", responses=documented())
async def key_set(resources: ResourcesOf) -> KeySet:
    signer = await resources.keys.signer()
    return KeySet(**signer.jwks)

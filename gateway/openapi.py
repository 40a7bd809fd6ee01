"""The document of the whole public API: the gateway's routes, users' routes, and how one gets in."""

import json
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from gateway import accounts, browser, problems
from gateway.door import LOGIN, is_api
from gateway.queries import PREFIX

SECURITY: Final = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "An access token of `/api/v1/auth/login`; good for ten minutes, then `/api/v1/auth/refresh`.",
    },
    "key": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "bk_…",
        "description": "A machine's API key of `POST /api/v1/keys`.",
    },
    "cookie": {
        "type": "apiKey",
        "in": "cookie",
        "name": browser.ACCESS,
        "description": "A browser's, after a log-in with `X-Brigade-Session: cookie`. Calls that change something need "
        f"the header `X-CSRF-Token` with what the cookie `{browser.CSRF}` says.",
    },
}
ANY: Final[list[dict[str, list[str]]]] = [{"token": []}, {"key": []}, {"cookie": []}]
SCHEMAS: Final = "#/components/schemas/"


def document(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, with the problem that every refusal is, and what users says of itself."""
    if not app.openapi_schema:
        found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schema = problems.Problem.model_json_schema(ref_template=SCHEMAS + "{model}")
        found["components"]["schemas"] |= schema.pop("$defs") | {"Problem": schema}
        _add_accounts(found)
        found["components"]["securitySchemes"] = SECURITY
        for path, verbs in found["paths"].items():
            for operation in verbs.values():
                _add_the_door(path, operation)
        app.openapi_schema = found
    return app.openapi_schema


def _add_accounts(found: dict[str, Any]) -> None:
    theirs = accounts.document()
    schemas = theirs.get("components", {}).get("schemas", {})
    ours = found["components"]["schemas"]
    text = json.dumps(theirs)
    for name in schemas:
        if name in ours:
            text = text.replace(f'"{SCHEMAS}{name}"', f'"{SCHEMAS}{_other(name)}"')
    theirs = json.loads(text)
    for name, schema in theirs.get("components", {}).get("schemas", {}).items():
        ours[_other(name) if name in schemas and name in ours else name] = schema
    for path, verb, operation in accounts.operations(theirs):
        for status, told in list(operation["responses"].items()):
            if int(status) >= 400 and problems.MEDIA_TYPE not in told.get("content", {}):
                del operation["responses"][status]  # FastAPI's own, which users never answers
        for code, response in problems.of_accounts().items():
            operation["responses"].setdefault(str(code), response)
        operation.pop("security", None)
        found["paths"].setdefault(PREFIX + path, {})[verb] = operation


def _other(name: str) -> str:
    return name if name in {"Problem", "Wrong"} else f"Account{name}"


def _add_the_door(path: str, operation: dict[str, Any]) -> None:
    """What the door may answer before the route does."""
    operation["security"] = ANY if is_api(path) and path not in LOGIN else []
    closed = bool(operation["security"])
    for code, response in problems.of_the_door(counted=is_api(path), closed=closed).items():
        operation["responses"].setdefault(str(code), response)

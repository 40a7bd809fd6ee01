"""Kubernetes' own schemas, strict, as `kubernetes-validate --strict` has them, which reads 3 MB for each object."""

import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema.validators import Draft202012Validator
from referencing import Registry, Resource

UNKNOWN = "there is no schema of it"
_FOLDER = files("kubernetes_validate") / "kubernetes-json-schema"
_found: dict[str, list[str]] = {}


def faults(one: dict[str, Any], version: str) -> list[str]:
    """What Kubernetes of that version would not take; each object is looked at once, however often it is rendered."""
    key = version + json.dumps(one, sort_keys=True)
    if key not in _found:
        validator = _validator(
            one["kind"].lower(), re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", one["apiVersion"]), version
        )
        _found[key] = [UNKNOWN] if validator is None else [_told(one, fault) for fault in validator.iter_errors(one)]
    return _found[key]


def _told(one: dict[str, Any], fault: Any) -> str:
    path = ".".join(str(part) for part in fault.absolute_path)
    return f"{one['kind']}/{one['metadata']['name']} {path}: {fault.message}"


@cache
def _definitions(version: str) -> "Registry[Any]":
    text = (_FOLDER / f"v{version}.0-local-strict" / "_definitions.json").read_text()
    return (Resource.from_contents(json.loads(text)) @ Registry()).crawl()


@cache
def _validator(kind: str, api_version: str, version: str) -> Any:
    file = _FOLDER / f"v{version}.0-local-strict" / f"{kind}-{api_version}.json"
    if not file.is_file():
        return None
    schema = json.loads(file.read_text())
    return Draft202012Validator(schema, registry=Resource.from_contents(schema) @ _definitions(version))

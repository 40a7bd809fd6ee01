"""The document that describes the API."""

import pytest

from gateway import accounts
from gateway.door import LOGIN, OPENAPI, is_api
from tests.gateway.test_auth import routes

PROBLEM = "application/problem+json"


@pytest.fixture(scope="module")
def document(api):
    return api.get("/api/v1/openapi.json").json()


def operations(document):
    return [(path, verb, op) for path, verbs in document["paths"].items() for verb, op in verbs.items()]


def test_every_route_is_described(document):
    own = {
        "/health", "/api/v1/sites", "/api/v1/devices", "/api/v1/devices/{device}", "/api/v1/devices/{device}/latest",
        "/api/v1/latest", "/api/v1/recent", "/api/v1/readings", "/api/v1/devices/{device}/ledger",
        "/api/v1/dead-letters", "/api/v1/dead-letters/{id}", "/api/v1/dead-letters/{id}/replay",
        "/api/v1/dead-letters/replay", "/api/v1/stream", "/api/v1/system",
    }  # fmt: skip
    through = {f"/api/v1{path}" for path, _, _ in accounts.operations(accounts.document())}
    assert set(document["paths"]) == own | through
    assert {"/api/v1/auth/login", "/api/v1/me", "/api/v1/keys", "/api/v1/people"} <= through
    for path, verb, operation in operations(document):
        assert operation["summary"], (path, verb)


def test_every_refusal_is_a_problem(document):
    for path, verb, operation in operations(document):
        refusals = {code: r for code, r in operation["responses"].items() if code >= "400"}
        assert {"422", "503", "504"} <= set(refusals), (path, verb)
        for response in refusals.values():
            content = response["content"][PROBLEM]
            examples = (
                [content["example"]] if "example" in content else [e["value"] for e in content["examples"].values()]
            )
            assert all(example["status"] >= 400 for example in examples)
            assert response["content"][PROBLEM]["schema"] == {"$ref": "#/components/schemas/Problem"}


def test_every_parameter_says_what_it_means(document):
    theirs = {f"/api/v1{path}" for path, _, _ in accounts.operations(accounts.document())}
    for path, verb, operation in operations(document):
        for parameter in operation.get("parameters", []) if path not in theirs else ():
            assert parameter.get("description"), (path, verb, parameter["name"])


def test_every_reference_leads_somewhere(document):
    def references(node):
        match node:
            case {"$ref": reference}:
                yield reference
            case dict():
                for value in node.values():
                    yield from references(value)
            case list():
                for value in node:
                    yield from references(value)

    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]


def test_answers_have_examples(document):
    answer = document["paths"]["/api/v1/readings"]["get"]["responses"]["200"]["content"]
    assert answer["application/json"]["example"]["series"]
    assert answer["text/csv"]["example"].startswith("device,metric,unit,ts")


def test_every_operation_says_how_one_gets_in(document):
    schemes = document["components"]["securitySchemes"]
    assert set(schemes) == {"token", "key", "cookie"}
    for path, verb, operation in operations(document):
        ways = {name for way in operation["security"] for name in way}
        assert ways == (set(schemes) if is_api(path) and path not in LOGIN else set()), (path, verb)
        assert ("401" in operation["responses"]) or not ways


def test_every_route_there_is_stands_in_the_document(api, document):
    served = {(method.lower(), path) for method, path in routes(api.app) if path != OPENAPI and method != "HEAD"}
    assert served == {(verb, path) for path, verb, _ in operations(document)}

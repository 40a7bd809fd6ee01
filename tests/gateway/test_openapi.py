"""The document that describes the API."""

import pytest

PROBLEM = "application/problem+json"


@pytest.fixture(scope="module")
def document(api):
    return api.get("/api/v1/openapi.json").json()


def operations(document):
    return [(path, verb, op) for path, verbs in document["paths"].items() for verb, op in verbs.items()]


def test_every_route_is_described(document):
    assert set(document["paths"]) == {
        "/health", "/api/v1/sites", "/api/v1/devices", "/api/v1/devices/{device}", "/api/v1/devices/{device}/latest",
        "/api/v1/latest", "/api/v1/readings", "/api/v1/devices/{device}/ledger", "/api/v1/dead-letters",
        "/api/v1/dead-letters/{id}", "/api/v1/dead-letters/{id}/replay", "/api/v1/dead-letters/replay",
    }  # fmt: skip
    for path, verb, operation in operations(document):
        assert operation["summary"], (path, verb)


def test_every_refusal_is_a_problem(document):
    for path, verb, operation in operations(document):
        refusals = {code: r for code, r in operation["responses"].items() if code >= "400"}
        assert {"422", "503", "504"} <= set(refusals), (path, verb)
        for response in refusals.values():
            assert response["content"][PROBLEM]["example"]["status"] >= 400
            assert response["content"][PROBLEM]["schema"] == {"$ref": "#/components/schemas/Problem"}


def test_every_parameter_says_what_it_means(document):
    for path, verb, operation in operations(document):
        for parameter in operation.get("parameters", []):
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

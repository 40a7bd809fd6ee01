"""Whatever is sent: no 5xx, and no answer that the document of the API does not know."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from gateway import accounts
from tests.gateway import people
from tests.gateway.people import bearing

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
    response_schema_conformance,
]  # fmt: skip
PASSED_ON = [f"/api/v1{path}" for path, _, _ in accounts.operations(accounts.document()) if path != "/sites"]
"""Users tests its own."""
ENDLESS = "/api/v1/stream"


@pytest.fixture(scope="module")
def operations(api):
    document = schemathesis.openapi.from_url(f"{api.base_url}/api/v1/openapi.json")
    own = document.exclude(path=[*PASSED_ON, ENDLESS]).exclude(method=["POST", "PATCH"], path_regex="^/api/v1/sites")
    return [operation.ok() for operation in own.get_all_operations()]


@pytest.mark.parametrize(
    ("sites", "examples"),
    [(people.SITES, 60), ({"seoul-1": "staff"}, 15), ({"seoul-1": "auditor"}, 15), ({}, 5), (None, 5)],
    ids=["owner", "staff", "auditor", "nowhere", "stranger"],
)
def test_every_answer_is_a_documented_one(operations, sites, examples):
    headers = {} if sites is None else bearing(people.everyday().token(sites))
    assert len(operations) == 14
    for operation in operations:

        @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def asked(case):
            case.call_and_validate(headers=headers, checks=CHECKS)

        asked()

"""Whatever is asked, the answer is right or says what is wrong."""

import socket
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.problems import Problem


def problem(answer):
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    found = Problem.model_validate_json(answer.content)
    assert found.status == answer.status_code
    return found


@pytest.mark.parametrize(
    "path",
    ["/", "/api", "/api/v1", "/api/v1/", "/api/v1/devices/", "/api/v2/devices", "/docs", "/metrics", "/%00", "/%ff"],
)
def test_an_unknown_path_is_not_found(api, path):
    answer = api.get(path)
    assert answer.status_code == 404
    assert problem(answer).type == "urn:brigade:problem:no-such-page"


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/api/v1/devices"), ("DELETE", "/health"), ("PUT", "/api/v1/readings"), ("BREW", "/health")],
)
def test_another_method_is_told_which_are_allowed(api, method, path):
    answer = api.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET"
    problem(answer)


@pytest.mark.parametrize(
    "path",
    ["/health", "/api/v1/sites", "/api/v1/devices", "/api/v1/devices/fridge-1", "/api/v1/devices/fridge-1/latest",
     "/api/v1/latest?site=seoul-1", "/api/v1/readings?device=fridge-1", "/api/v1/devices/fridge-1/ledger",
     "/api/v1/dead-letters"],
)  # fmt: skip
def test_an_unknown_parameter_is_named(api, path):
    answer = api.get(path, params={**dict(httpx.URL(path).params), "buckets": "1h"})
    assert answer.status_code == 422
    assert [(w.field, w.reason) for w in problem(answer).errors] == [("buckets", "no such parameter")]


def test_a_parameter_given_twice_is_named(api):
    answer = api.get("/api/v1/readings?device=fridge-1&bucket=1h&bucket=1d")
    assert [w.field for w in problem(answer).errors] == ["bucket"]


def test_everything_wrong_is_named_at_once(api):
    answer = api.get("/api/v1/readings?from=x&to=y&bucket=z&what=1")
    assert {w.field for w in problem(answer).errors} == {"device", "from", "to", "bucket", "what"}


PATHS = ["/api/v1/sites", "/api/v1/devices", "/api/v1/latest", "/api/v1/readings", "/api/v1/dead-letters", "/health",
         "/api/v1/devices/fridge-1", "/api/v1/devices/fridge-1/latest", "/api/v1/devices/fridge-1/ledger"]  # fmt: skip
NAMES = ["site", "online", "limit", "cursor", "device", "metric", "from", "to", "bucket", "agg", "fill", "tz",
         "max_points",
         "format", "reason", "resolved"]  # fmt: skip
VALUES = st.one_of(
    st.sampled_from([
        "fridge-1", "seoul-1", "temperature_c", "raw", "1m", "1h", "1d", "auto", "avg,min", "null", "linear",
        "previous",
        "Asia/Seoul", "Asia/Kolkata", "-1h", "-24h", "-60d", "now", "2026-11-23T03:40:00+09:00",
        "9999999-01-01T00:00:00Z",
        "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "+999999999w", "-999999999d", "1", "0", "-1",
        "8", "1000",
        "9" * 400, "1e400", "NaN", "Infinity", "true", "csv", "json", "\0", "%00", "\ufffd",
        "eyJhZnRlciI6ImZyaWRnZS0xIn0", "eyJiZWZvcmUiOjN9", "eyJiZWZvcmUiOjk5OTk5OTk5OTk5OTk5OTk5OTk5fQ", "e30",
        "A" * 2000,
    ]),
    st.text(max_size=30),
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(PATHS),
    parameters=st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=6, unique_by=lambda p: p[0]),
)
def test_no_query_is_the_gateways_fault(api, path, parameters):
    accepted(api.get(path, params=parameters))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=VALUES,
    end=VALUES,
    bucket=st.sampled_from(["raw", "1m", "1h", "1d", "auto"]),
    rest=st.lists(
        st.tuples(st.sampled_from(["metric", "agg", "fill", "tz", "max_points", "limit"]), VALUES), max_size=3
    ),
)
def test_no_range_is_the_gateways_fault(api, start, end, bucket, rest):
    accepted(
        api.get(
            "/api/v1/readings", params=[("device", "fridge-1"), ("from", start), ("to", end), ("bucket", bucket), *rest]
        )
    )


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(max_size=40),
    st.sampled_from(["devices/{}", "devices/{}/latest", "devices/{}/ledger", "dead-letters/{}", "{}"]),
)
def test_no_path_is_the_gateways_fault(api, name, path):
    accepted(api.get("/api/v1/" + path.format(httpx.QueryParams({"x": name}).__str__()[2:])))


@pytest.mark.parametrize(
    "target",
    [
        b"/api/v1/devices/%ff%fe", b"/api/v1/devices?site=%ff%00%zz", b"/api/v1/readings?device=%c0%80&from=%",
        b"/api/v1/%u0041",
        b"/api/v1/devices/..%2f..%2fetc", b"/api/v1/readings?" + b"metric=x&" * 3000,
        b"/api/v1/dead-letters/99999999999999999999999",
        b"/api/v1/dead-letters/-1", b"/api/v1/dead-letters/%D9%A3", b"//api/v1/devices", b"/api/v1/devices?=&&==",
        b"http://[::1/api/v1/devices", b"*",
    ],
)  # fmt: skip
def test_bytes_no_client_library_sends_are_answered(api, target):
    base = urlsplit(str(api.base_url))
    bearer = f"Authorization: {api.headers['authorization']}\r\n".encode()
    with socket.create_connection((base.hostname, base.port), timeout=60) as connection:
        connection.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n" + bearer + b"Connection: close\r\n\r\n")
        answer = b""
        while part := connection.recv(65536):
            answer += part
    status = int(answer.split()[1])
    assert 200 <= status < 500, answer


def accepted(answer):
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        problem(answer)
    else:
        answer.read()

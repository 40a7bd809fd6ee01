"""Calls that go through to users: what is passed on, what is not, and users away."""

import time
from urllib.parse import unquote, urlsplit

import httpx
import jwt
import pytest

from gateway import user_service
from tests.gateway import people
from tests.gateway.conftest import gateway_url, serving, until_ready
from tests.gateway.people import SECRET, bearing


@pytest.fixture
def users():
    with people.FakeUsers() as users:
        yield users


@pytest.fixture
def front(postgres, restaurant, role, users):
    with serving(gateway_url(postgres, urlsplit(restaurant).path[1:], role), users, trusted_hops=1) as api:
        until_ready(api)
        users.calls.clear()
        yield api


def told(answer):
    """What the fake users says that it was asked."""
    assert answer.status_code == 200, answer.text
    return answer.json()


def internal(call):
    return jwt.decode(
        call["headers"]["x-brigade-internal"],
        SECRET,
        algorithms=["HS256"],
        audience="brigade-users",
        issuer="brigade-gateway",
        options={"require": ["exp", "iat"]},
    )


def test_a_call_goes_through_with_query_and_body(front):
    call = told(
        front.post("/api/v1/keys", content=b'{"name": "\xc3\xa9"}', headers={"Content-Type": "application/json"})
    )
    assert (call["method"], call["path"], call["body"]) == ("POST", "/keys", '{"name": "é"}')
    assert call["headers"]["content-type"] == "application/json"
    assert told(front.get("/api/v1/people?site=a&x=%2F..%2F"))["path"] == "/people?site=a&x=%2F..%2F"


def test_who_asks_is_told_by_our_word_alone(front, users):
    sites = {"seoul-1": "manager"}
    token = users.token(sites, sub="2b1c1e7e-94a6-4f4e-8b94-0c1ac6a0b111", sid="9a1c1e7e-94a6-4f4e-8b94-0c1ac6a0b222")
    call = told(front.get("/api/v1/me", headers=bearing(token) | {"X-Forwarded-For": "6.6.6.6, 203.0.113.7"}))
    word = internal(call)
    assert word["kind"] == "person"
    assert word["sub"] == "2b1c1e7e-94a6-4f4e-8b94-0c1ac6a0b111"
    assert word["sid"] == "9a1c1e7e-94a6-4f4e-8b94-0c1ac6a0b222"
    assert (word["org"], word["sites"], word["ip"]) == (people.ORGANISATION, sites, "203.0.113.7")
    assert word["rid"] == call["headers"]["x-request-id"]
    assert 0 < word["exp"] - time.time() <= 30


def test_what_a_client_says_of_itself_is_left_behind(front):
    lies = {
        "X-Brigade-Internal": "x", "X-Brigade-Session": "x", "X-User-Id": "1", "X-User-Roles": "owner",
        "X-Forwarded-For": "1.2.3.4", "X-Forwarded-Host": "evil", "X-Forwarded-Proto": "https", "Forwarded": "for=1",
        "X-Real-IP": "1.1.1.1", "Cookie": "a=b", "TE": "trailers", "Connection": "keep-alive, X-Mine", "X-Mine": "1",
        "Proxy-Authorization": "x", "Accept-Language": "ko",
    }  # fmt: skip
    headers = told(front.get("/api/v1/me", headers=lies))["headers"]
    usual = {"host", "accept-encoding", "connection", "accept", "accept-language", "user-agent"}
    assert set(headers) <= usual | {"x-request-id", "x-brigade-internal", "content-length"}
    assert headers["accept-language"] == "ko"
    assert headers["x-brigade-internal"] != "x"


@pytest.mark.parametrize(("sent", "kept"), [("abc-123.X_", True), ("a b", False), ("x" * 65, False), ("é", False)])
def test_a_request_id_comes_in_or_is_made_and_goes_out(front, sent, kept):
    answer = front.get("/api/v1/me", headers={"X-Request-Id": sent.encode()})
    assert (answer.headers["x-request-id"] == sent) is kept
    assert told(answer)["headers"]["x-request-id"] == answer.headers["x-request-id"]


def test_without_a_token_one_may_log_in_as_nobody(front):
    with httpx.Client(base_url=front.base_url) as stranger:
        assert internal(told(stranger.post("/api/v1/auth/login", json={})))["kind"] == "anonymous"
        assert internal(told(stranger.post("/api/v1/auth/logout", json={"refresh_token": "x"})))["kind"] == "anonymous"


def test_an_answer_keeps_what_it_says_and_nothing_more(front, users):
    users.answers["GET", "/me"] = (
        418,
        {"Retry-After": "3", "Set-Cookie": "a=b", "X-Brigade-Secret": "x", "Server": "y", "ETag": '"1"'},
        {"a": 1},
    )
    answer = front.get("/api/v1/me")
    assert (answer.status_code, answer.json()) == (418, {"a": 1})
    assert (answer.headers["retry-after"], answer.headers["etag"]) == ("3", '"1"')
    assert not {"set-cookie", "x-brigade-secret", "server"} & set(answer.headers)


def test_a_refusal_names_the_path_that_was_asked(front, users):
    problem = {"type": "urn:brigade:problem:forbidden", "title": "x", "status": 403, "detail": "x", "instance": "/keys"}
    users.answers["POST", "/keys"] = 403, {"Content-Type": "application/problem+json"}, problem
    assert front.post("/api/v1/keys", json={}).json()["instance"] == "/api/v1/keys"


def test_a_secret_that_differs_is_the_operators_trouble_not_the_clients(front, users):
    problem = {"type": "urn:brigade:problem:not-from-gateway", "status": 401}
    users.answers["GET", "/me"] = 401, {"Content-Type": "application/problem+json"}, problem
    assert front.get("/api/v1/me").status_code == 503


@pytest.mark.parametrize(
    "path",
    ["/api/v1/internal/keys/exchange", "/api/v1/.well-known/jwks.json", "/api/v1/openapi.json/..", "/api/v1/keys/a/b",
     "/api/v1/keys/..%2f..%2finternal", "/api/v1/keys/%2e%2e/health"],
)  # fmt: skip
def test_what_is_inside_stays_inside(front, users, path):
    users.calls.clear()
    assert front.post(path).status_code in (404, 405)
    assert users.calls == []


def test_a_name_in_a_path_stays_a_name(front):
    call = told(front.delete("/api/v1/keys/%2e%2e%3Fx=1%23y"))
    assert call["path"] == "/keys/..%3Fx%3D1%23y"


def test_the_gateways_own_sites_are_not_users(front, users):
    assert "sites" in front.get("/api/v1/sites").json()
    assert users.calls == []
    assert told(front.post("/api/v1/sites", json={}))["path"] == "/sites"


# Users away ----------------------------------------------------------------------------------------------


def away(answer, kind="users-away", status=503):
    assert answer.status_code == status, answer.text
    assert answer.json()["type"] == f"urn:brigade:problem:{kind}"


def test_users_away_is_said_at_once(front, users):
    users.stop()
    began = time.monotonic()
    away(front.get("/api/v1/me"))
    away(front.post("/api/v1/auth/login", json={}))
    assert time.monotonic() - began < 2
    assert front.get("/api/v1/devices").status_code == 200


def test_users_that_is_slow_is_not_waited_for(front, users, monkeypatch):
    monkeypatch.setattr(user_service, "TOTAL_SECONDS", 0.3)
    users.delay = 1
    away(front.get("/api/v1/me"), "users-slow", 504)
    users.delay = 0


def test_a_lost_answer_is_asked_for_once_more_where_that_is_safe(front, users):
    users.breaks = 1
    assert told(front.get("/api/v1/me"))
    assert len(users.calls) == 2
    users.breaks = 2
    away(front.get("/api/v1/me"))
    for method in ("POST", "DELETE"):
        users.calls.clear()
        users.breaks = 1
        away(front.request(method, "/api/v1/keys" + ("/x" if method == "DELETE" else "")))
        assert len(users.calls) == 1
        users.breaks = 0


def test_an_unavailable_users_is_asked_once_more(front, users):
    users.answers["GET", "/me"] = 503, {}, {}
    assert front.get("/api/v1/me").status_code == 503
    assert len(users.calls) == 2


def test_retries_are_one_in_ten_calls():
    budget = user_service.Budget(share=0.1, most=2)
    assert [budget.take() for _ in range(3)] == [True, True, False]
    for _ in range(9):
        budget.called()
    assert not budget.take()
    budget.called()
    budget.called()
    assert budget.take()
    assert not budget.take()


# Bodies --------------------------------------------------------------------------------------------------


def test_a_body_that_is_too_large_is_refused(front, users):
    big = b"x" * 65_537
    away(front.post("/api/v1/auth/login", content=big), "too-large", 413)
    away(front.post("/api/v1/auth/login", content=iter([big[:60_000], big[:6_000]])), "too-large", 413)
    away(front.request("GET", "/api/v1/devices", content=big), "too-large", 413)
    assert users.calls == []
    assert told(front.post("/api/v1/auth/login", content=big[:-1]))


@pytest.mark.parametrize("part", [".", "..", "...", "%2e", "a.b"])
def test_dots_in_a_path_are_a_name(front, part):
    sent = part.replace(".", "%2E") if "%" not in part else "%252e"
    call = told(front.post(f"/api/v1/credentials/{sent}/rotate"))
    assert unquote(call["path"]) == f"/credentials/{part}/rotate"

"""Browsers' sessions: cookies that no script reads, and calls that only our own pages can make."""

from urllib.parse import urlsplit

import httpx
import pytest

from gateway import browser
from tests.gateway import people
from tests.gateway.conftest import gateway_url, serving, until_ready
from tests.gateway.people import SECRET, bearing

SESSION = "0d6f9f0a-3a0c-4a5e-9f5c-1f4b8e3f7a10"
COOKIE = {"X-Brigade-Session": "cookie"}


@pytest.fixture
def users():
    with people.FakeUsers() as users:
        yield users


@pytest.fixture
def front(postgres, restaurant, role, users):
    with serving(gateway_url(postgres, urlsplit(restaurant).path[1:], role), users) as api:
        until_ready(api)
        with httpx.Client(base_url=api.base_url) as stranger:
            yield stranger


def tokens(users, **claims):
    access = users.token(sid=SESSION, **claims)
    return {"access_token": access, "token_type": "Bearer", "expires_in": 600, "refresh_token": "r-1"}


def log_in(front, users, **claims):
    """The browser's cookie jar after it, by hand: httpx keeps no Secure cookie of a plain connection."""
    users.answers["POST", "/auth/login"] = 200, {}, tokens(users, **claims)
    answer = front.post("/api/v1/auth/login", json={}, headers=COOKIE)
    assert answer.status_code == 200
    return answer, dict(part.split(";")[0].split("=", 1) for part in answer.headers.get_list("set-cookie"))


def cookie(jar):
    return {"Cookie": "; ".join(f"{name}={value}" for name, value in jar.items())}


def proof(jar, **more):
    return cookie(jar) | {"X-CSRF-Token": jar[browser.CSRF]} | more


def test_a_log_in_by_cookie_tells_the_script_no_token(front, users):
    answer, jar = log_in(front, users)
    assert answer.json() == {"expires_in": 600}
    flags = {part.split("=")[0]: part.split("; ")[1:] for part in answer.headers.get_list("set-cookie")}
    assert {"Secure", "SameSite=Strict", "HttpOnly", "Path=/"} <= set(flags["__Host-brigade-access"])
    assert {"Secure", "SameSite=Strict", "HttpOnly", "Path=/api/v1/auth"} <= set(flags["__Secure-brigade-refresh"])
    assert {"Secure", "SameSite=Strict", "Path=/"} <= set(flags["__Host-brigade-csrf"])
    assert "HttpOnly" not in flags["__Host-brigade-csrf"]
    assert answer.headers["cache-control"] == "no-store"
    assert jar["__Secure-brigade-refresh"] == "r-1"


def test_a_log_in_without_the_header_tells_tokens_and_sets_no_cookie(front, users):
    users.answers["POST", "/auth/login"] = 200, {}, tokens(users)
    answer = front.post("/api/v1/auth/login", json={})
    assert answer.json()["refresh_token"] == "r-1"
    assert "set-cookie" not in answer.headers


def test_a_refused_log_in_sets_no_cookie(front, users):
    users.answers["POST", "/auth/login"] = 401, {}, {"type": "x"}
    answer = front.post("/api/v1/auth/login", json={}, headers=COOKIE)
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


def test_cookies_are_enough_to_look_and_not_to_change(front, users):
    _, jar = log_in(front, users)
    assert front.get("/api/v1/devices", headers=cookie(jar)).status_code == 200
    answer = front.post("/api/v1/keys", json={}, headers=cookie(jar))
    assert answer.status_code == 403
    assert answer.json()["type"] == "urn:brigade:problem:csrf"
    assert front.post("/api/v1/keys", json={}, headers=proof(jar)).status_code == 200


@pytest.mark.parametrize(
    "method_path",
    ["POST /api/v1/keys", "DELETE /api/v1/keys/x", "POST /api/v1/dead-letters/1/replay", "POST /api/v1/auth/refresh",
     "POST /api/v1/auth/logout"],
)  # fmt: skip
def test_a_foreign_page_can_change_nothing(front, users, method_path):
    method, path = method_path.split()
    _, jar = log_in(front, users)
    users.calls.clear()
    another = browser.csrf_token(SECRET, "another session")
    forged = f"{SESSION}.{'0' * 64}"
    for headers in (
        cookie(jar),
        cookie(jar) | {"X-CSRF-Token": ""},
        cookie(jar) | {"X-CSRF-Token": "x"},
        cookie(jar | {browser.CSRF: "x"}) | {"X-CSRF-Token": "x"},
        cookie(jar | {browser.CSRF: forged}) | {"X-CSRF-Token": forged},
        cookie(jar | {browser.CSRF: another}) | {"X-CSRF-Token": another},
        cookie({k: v for k, v in jar.items() if k != browser.CSRF}) | {"X-CSRF-Token": jar[browser.CSRF]},
        proof(jar, Origin="https://evil.example"),
        proof(jar, Origin="null"),
    ):
        answer = front.request(method, path, headers=headers)
        assert answer.status_code == 403, headers
        assert answer.json()["type"] == "urn:brigade:problem:csrf"
    assert users.calls == []


def test_our_own_origin_is_ours(front, users):
    _, jar = log_in(front, users)
    own = str(front.base_url).rstrip("/")
    assert front.post("/api/v1/keys", json={}, headers=proof(jar, Origin=own)).status_code == 200


def test_a_foreign_page_cannot_log_one_in(front):
    answer = front.post("/api/v1/auth/login", json={}, headers=COOKIE | {"Origin": "https://evil.example"})
    assert answer.status_code == 403


def test_a_token_in_the_header_needs_no_proof(front, users):
    assert front.post("/api/v1/keys", json={}, headers=bearing(users.token())).status_code == 200


def test_an_expired_cookie_is_told_and_refreshed(front, users):
    _, jar = log_in(front, users)
    jar[browser.ACCESS] = users.token(sid=SESSION, exp=1_700_000_000)
    answer = front.get("/api/v1/devices", headers=cookie(jar))
    assert answer.json()["type"] == "urn:brigade:problem:token-expired"
    users.answers["POST", "/auth/refresh"] = 200, {}, tokens(users) | {"refresh_token": "r-2"}
    users.calls.clear()
    answer = front.post("/api/v1/auth/refresh", headers=proof(jar))
    assert answer.status_code == 200
    assert answer.json() == {"expires_in": 600}
    assert '"refresh_token":"r-1"' in users.calls[0]["body"]
    fresh = dict(part.split(";")[0].split("=", 1) for part in answer.headers.get_list("set-cookie"))
    assert fresh["__Secure-brigade-refresh"] == "r-2"
    assert fresh[browser.CSRF] == jar[browser.CSRF]
    assert front.get("/api/v1/devices", headers=cookie(fresh)).status_code == 200


def test_a_session_that_has_ended_takes_its_cookies_away(front, users):
    _, jar = log_in(front, users)
    users.answers["POST", "/auth/refresh"] = 401, {}, {"type": "urn:brigade:problem:session-ended"}
    answer = front.post("/api/v1/auth/refresh", headers=proof(jar))
    assert answer.status_code == 401
    assert len([part for part in answer.headers.get_list("set-cookie") if "Max-Age=0" in part]) == 3


def test_logging_out_ends_the_session_and_takes_the_cookies_away(front, users):
    _, jar = log_in(front, users)
    users.answers["POST", "/auth/logout"] = 204, {}, None
    users.calls.clear()
    answer = front.post("/api/v1/auth/logout", headers=proof(jar))
    assert answer.status_code == 204
    assert len([part for part in answer.headers.get_list("set-cookie") if "Max-Age=0" in part]) == 3
    assert '"refresh_token":"r-1"' in users.calls[0]["body"]


def test_cookies_of_nonsense_are_none():
    assert browser.cookies(["a=1; a=2;;=; b", "c=d=e"]) == {"a": "1", "": "", "b": "", "c": "d=e"}

"""What every request and answer passes: headers, sizes, slow clients, other origins."""

import re
import socket
import threading
import time
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
import structlog

from gateway import devices, problems
from tests.gateway import people
from tests.gateway.conftest import gateway_url, serving, until_ready
from tests.gateway.people import bearing

SECURITY = {
    "strict-transport-security": "max-age=31536000; includeSubDomains",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
}


@pytest.fixture(scope="module")
def database_url(postgres, restaurant, role):
    return gateway_url(postgres, urlsplit(restaurant).path[1:], role)


def test_a_body_with_two_lengths_brings_no_second_request(api):
    address = urlsplit(str(api.base_url))
    head = b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=60) as client:
        client.sendall(head + b"0\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        told = b"".join(iter(lambda: client.recv(65_536), b""))
    assert told.startswith(b"HTTP/1.1 400 ")
    assert told.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/health", 200), ("/api/v1/devices", 200), ("/api/v1/devices/nobody", 404), ("/api/v1/nothing", 404),
        ("/nothing", 404), ("/api/v1/openapi.json", 200), ("/api/v1/readings?device=fridge-1&bucket=raw", 200),
        ("/api/v1/me", 200), ("/api/v1/latest?site=seoul-1&x=1", 422),
    ],
)  # fmt: skip
def test_every_answer_tells_browsers_what_they_must_not_do(api, path, status):
    answer = api.get(path)
    assert answer.status_code == status
    assert SECURITY.items() <= answer.headers.items()
    policy = answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
    assert "server" not in answer.headers


def test_refusals_at_the_door_have_them_too(api):
    answer = httpx.get(f"{api.base_url}/api/v1/devices")
    assert answer.status_code == 401
    assert SECURITY.items() <= answer.headers.items()
    assert answer.headers["cache-control"] == "no-store"


def test_a_fault_of_ours_has_them_too_and_tells_nothing(database_url, monkeypatch):
    monkeypatch.setattr(problems, "log", structlog.testing.CapturingLogger())  # a traceback takes it seconds to draw
    monkeypatch.setattr(devices, "SITES", "SELECT 1 AS secret_column_of_ours, %(sites)s, %(after)s, %(limit)s")
    with serving(database_url) as api:
        until_ready(api)
        answer = api.get("/api/v1/sites")
        assert answer.status_code == 500
        assert answer.json()["type"] == "urn:brigade:problem:bug"
        assert "secret" not in answer.text
        assert SECURITY.items() <= answer.headers.items()


def test_data_are_kept_by_nobody_but_what_says_so(api):
    assert api.get("/api/v1/devices").headers["cache-control"] == "no-store"
    assert api.get("/api/v1/latest?site=seoul-1").headers["cache-control"] == "private, no-cache"


@pytest.mark.parametrize("path", ["/metrics", "/docs", "/redoc", "/openapi.json", "/healthz", "/readyz"])
def test_what_is_ours_alone_is_not_on_the_public_port(api, path):
    assert api.get(path).status_code == 404


# Other origins -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_friends(database_url):
    with serving(database_url, allowed_origins="https://kitchen.example.org") as api:
        until_ready(api)
        yield api


def preflight(api, origin):
    asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "Authorization"}
    return api.options("/api/v1/devices", headers={"Origin": origin, **asked})


def test_another_origin_is_allowed_by_name_and_without_cookies(with_friends):
    friend = preflight(with_friends, "https://kitchen.example.org")
    assert friend.status_code == 200
    assert friend.headers["access-control-allow-origin"] == "https://kitchen.example.org"
    assert "access-control-allow-credentials" not in friend.headers
    answer = with_friends.get("/api/v1/devices", headers={"Origin": "https://kitchen.example.org"})
    assert answer.headers["access-control-allow-origin"] == "https://kitchen.example.org"
    refused = httpx.get(f"{with_friends.base_url}/api/v1/devices", headers={"Origin": "https://kitchen.example.org"})
    assert refused.headers["access-control-allow-origin"] == "https://kitchen.example.org"  # the page may read why


@pytest.mark.parametrize("origin", ["https://evil.example", "https://kitchen.example.org.evil.example", "null"])
def test_any_other_is_not(with_friends, origin):
    assert "access-control-allow-origin" not in preflight(with_friends, origin).headers


def test_without_the_setting_no_origin_is_allowed(api):
    answer = api.get("/api/v1/devices", headers={"Origin": "https://kitchen.example.org"})
    assert "access-control-allow-origin" not in answer.headers


# Heads and bodies ----------------------------------------------------------------------------------------


@contextmanager
def connected(api):
    base = urlsplit(str(api.base_url))
    with socket.create_connection((base.hostname, base.port), timeout=60) as connection:
        yield connection


def everything(connection):
    answer = b""
    try:
        while part := connection.recv(65536):
            answer += part
    except ConnectionResetError:
        pass
    return answer


@pytest.mark.parametrize(
    "head",
    [
        b"X-Big: " + b"x" * 20_000, b"X-Big: " + b"x" * 2_000_000, b"Bad Name: 1",
        b"\r\n".join(b"X-%d: 1" % n for n in range(3000)),
        b"X-Fold: a\r\n b\0c", b"X-A: b\x00c", b"Content-Length: -1", b"Content-Length: 1\r\nContent-Length: 2",
        b"Transfer-Encoding: chunked, identity",
    ],
)  # fmt: skip
def test_a_head_that_is_too_large_or_none_is_refused(api, head):
    with connected(api) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n" + head + b"\r\nConnection: close\r\n\r\n")
        answer = everything(connection)
    assert answer.split()[1] in (b"400", b"431"), answer
    assert b"application/problem+json" in answer
    assert b'"urn:brigade:problem:bad-request"' in answer or b'"urn:brigade:problem:head-too-large"' in answer


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nX-Evil: 1", "é", "a%0d%0aX-Evil: 1", "\t"])
def test_nothing_that_comes_in_becomes_a_header(api, value):
    with connected(api) as connection:
        connection.sendall(
            b"GET /api/v1/devices?limit=1 HTTP/1.1\r\nHost: x\r\nX-Request-Id: "
            + value.encode()
            + b"\r\nAuthorization: "
            + api.headers["authorization"].encode()
            + b"\r\nConnection: close\r\n\r\n"
        )
        head = everything(connection).partition(b"\r\n\r\n")[0].lower()
    assert b"\r\nx-evil:" not in head


def test_a_query_does_not_become_a_header(api):
    answer = api.get("/api/v1/devices?limit=1&site=seoul-1%0d%0aX-Evil:1")
    assert answer.status_code == 404
    answer = api.get("/api/v1/dead-letters?limit=1&from=1970-01-01T00:00:00Z%0d%0aX-Evil:%201")
    assert "x-evil" not in answer.headers


# Slow clients --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def impatient(database_url):
    with serving(database_url, slow_request_seconds=1, stalled_client_seconds=1) as api:
        until_ready(api)
        yield api


def trickle(connection, data, stop):
    """A byte every tenth of a second, for as long as the other side takes them."""
    for byte in data:
        if stop.wait(0.1):
            return
        try:
            connection.send(bytes((byte,)))
        except OSError:
            return


@pytest.mark.parametrize(
    ("at_once", "slowly", "status"),
    [
        (b"", b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: " + b"y" * 100, b"408"),
        (b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n", b"z" * 500, b"408"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n", b"z" * 500, b"200"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /health HTTP/1.1\r\nX-Slow: " + b"y" * 100, b"200"),
        (b"", b"", None),
    ],
)
def test_a_client_that_sends_a_byte_now_and_then_is_left(impatient, at_once, slowly, status):
    stop = threading.Event()
    with connected(impatient) as connection:
        connection.sendall(at_once)
        slow = threading.Thread(target=trickle, args=(connection, slowly, stop))
        slow.start()
        began = time.monotonic()
        answer = everything(connection)
        lasted = time.monotonic() - began
        stop.set()
        slow.join()
    assert lasted < 8
    assert answer.split()[1:2] == ([status] if status else [])


def test_a_client_that_does_not_take_its_answer_is_left(impatient, database_url):
    """What is left to send waits in the kernel, which counts the time."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        base = urlsplit(str(impatient.base_url))
        connection.connect((base.hostname, base.port))
        request = b"GET /api/v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
        connection.sendall(request * 40)  # several megabytes to take
        until(lambda: len(open_connections(impatient)) == 0, 15, lambda: open_connections(impatient))


def open_connections(api):
    """Of the server, as the system sees them; our own client's idle ones left out."""
    port = urlsplit(str(api.base_url)).port
    api.close_idle = api._transport.close()
    return [
        c for c in psutil.Process().net_connections("tcp")
        if c.laddr and c.laddr.port == port and c.status == psutil.CONN_ESTABLISHED
    ]  # fmt: skip


def until(true, seconds, what):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, what()
        time.sleep(0.1)


def test_a_token_is_not_in_any_header_of_an_answer(api):
    token = people.everyday().token()
    answer = api.get("/api/v1/devices?limit=1", headers=bearing(token))
    assert token not in str(answer.headers)

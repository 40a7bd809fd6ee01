"""Only the gateway gets in, with its own token of this moment, and with a body of a sane size."""

import base64
import json
import socket
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.users.conftest import INTERNAL, internal_token, refused


def unsigned(**claims):
    def part(document):
        return base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")

    said = jwt.decode(internal_token(**claims), options={"verify_signature": False})
    return f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(said)}."


PERSON = "00000000-0000-0000-0000-000000000001"

FORGED = {  # made when they are sent: an expired one would be refused for that
    "nothing": lambda: "",
    "rubbish": lambda: "a.b.c",
    "another secret": lambda: internal_token("another-secret-of-32-characters-or-so"),
    "alg none": unsigned,
    "another algorithm": lambda: internal_token(INTERNAL + INTERNAL, algorithm="HS512"),
    "a key pair": lambda: jwt.encode({"iss": "brigade-gateway"}, Ed25519PrivateKey.generate(), algorithm="EdDSA"),
    "expired": lambda: internal_token(exp=time.time() - 60),
    "never expires": lambda: internal_token(exp=None),
    "of another issuer": lambda: internal_token(iss="brigade-users"),
    "of no issuer": lambda: internal_token(iss=None),
    "for another audience": lambda: internal_token(aud="brigade"),
    "for no audience": lambda: internal_token(aud=None),
    "not yet": lambda: internal_token(nbf=time.time() + 3600),
    "of an unknown kind": lambda: internal_token(kind="root"),
    "of no kind": lambda: internal_token(kind=None),
    "a person without a name": lambda: internal_token(kind="person"),
    "a person whose name is no id": lambda: internal_token(kind="person", sub="1 OR 1=1", org=PERSON, sid=PERSON),
    "a person without a session": lambda: internal_token(kind="person", sub=PERSON, org=PERSON),
    "no address": lambda: internal_token(ip=None),
}


@pytest.mark.parametrize("how", FORGED)
@pytest.mark.parametrize("path", ["/me", "/people", "/internal/keys/exchange", "/no-such-path"])
def test_what_the_gateway_did_not_sign_is_refused(api, how, path):
    answer = api.http.get(path, headers={"X-Brigade-Internal": FORGED[how]()})
    refused(answer, 401, "not-from-gateway")


def test_an_expired_one_has_the_leeway_of_clocks(api):
    answer = api.http.get("/me", headers={"X-Brigade-Internal": internal_token(exp=int(time.time()) - 2)})
    refused(answer, 401, "token-missing")


def test_an_access_token_is_no_internal_one(api, owner, person):
    token = api.log_in(person["email"]).json()["access_token"]
    refused(api.http.get("/me", headers={"X-Brigade-Internal": token}), 401, "not-from-gateway")
    refused(api.http.get("/me", headers={"Authorization": f"Bearer {token}"}), 401, "not-from-gateway")


@pytest.mark.parametrize("path", ["/.well-known/jwks.json", "/openapi.json", "/health"])
def test_these_are_open_inside(api, path):
    assert api.http.get(path).status_code == 200


def test_claims_about_roles_are_not_believed(api, as_role, site):
    staff = as_role("staff")
    staff.claims["sites"] = {site: "owner"}
    refused(api("GET", f"/keys?site={site}", staff), 403, "forbidden")


def test_a_person_of_another_organisation_is_nobody(api, owner):
    owner.claims["org"] = "00000000-0000-0000-0000-00000000000f"
    refused(api("GET", "/me", owner), 401, "session-ended")


def test_anothers_session_is_none(api, owner, as_role):
    owner.claims["sid"] = as_role("staff").claims["sid"]
    refused(api("GET", "/me", owner), 401, "session-ended")


def test_a_body_over_64_kb_is_refused(api):
    fits = {"email": "a@example.com", "password": "x" * 60_000}
    refused(api("POST", "/auth/login", json=fits), 422, "bad-request")
    refused(api("POST", "/auth/login", json=fits | {"password": "x" * 66_000}), 413, "too-large")


def test_a_body_over_64_kb_of_undeclared_length_is_refused(api):
    chunks = (b" " * 10_000 for _ in range(10))
    answer = api("POST", "/auth/login", content=chunks, headers={"Content-Type": "application/json"})
    refused(answer, 413, "too-large")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"a"', b"\xff\xfe", b'{"email": "\\ud800", "password": "x"}', b"[" * 20_000]
)
def test_a_body_that_is_none_is_a_problem(api, body):
    answer = api("POST", "/auth/login", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in {400, 422}
    refused(answer, answer.status_code, "bad-body" if answer.status_code == 400 else "bad-request")


def test_what_does_not_exist_is_a_problem(api):
    refused(api("GET", "/no-such-path"), 404, "no-such-page")
    refused(api("PUT", "/auth/login"), 405, "method-not-allowed")


def test_metrics_are_elsewhere(api):
    refused(api("GET", "/metrics"), 404, "no-such-page")
    with socket.create_connection(("127.0.0.1", api.app.state.metrics_port)) as connection:
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert b"users_logins_total" in b"".join(iter(lambda: connection.recv(65536), b""))

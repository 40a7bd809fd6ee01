"""Who is let in, and who is not: tokens of every wrong kind, on every route."""

import base64
import json
import time
from urllib.parse import urlsplit

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway import key_set
from gateway.door import PUBLIC, is_api
from gateway.tokens import LEEWAY_SECONDS
from tests.gateway import people
from tests.gateway.conftest import gateway_url, serving, until_ready
from tests.gateway.people import SigningKey, bearing

PATH = "/api/v1/devices"


@pytest.fixture(scope="module")
def users():
    with people.FakeUsers() as users:
        yield users


@pytest.fixture(scope="module")
def guarded(postgres, restaurant, role, users):
    with serving(gateway_url(postgres, urlsplit(restaurant).path[1:], role), users) as api:
        until_ready(api)
        yield api


def asked(api, token, path=PATH):
    return api.get(path, headers=bearing(token))


def refused(answer, kind):
    assert answer.status_code == 401, answer.text
    assert answer.json()["type"] == f"urn:brigade:problem:{kind}"
    assert answer.headers["www-authenticate"].startswith("Bearer")


def unsigned(claims, **header):
    """`alg` none, as a library would write it that allows it."""
    parts = ({"alg": "none", "typ": "at+jwt", **header}, claims)
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + "."


def test_a_good_token_opens(guarded, users):
    assert asked(guarded, users.token()).status_code == 200


def test_no_token_is_told_how_to_get_one(guarded):
    answer = httpx.get(f"{guarded.base_url}{PATH}")
    refused(answer, "no-token")
    assert "/api/v1/auth/login" in answer.json()["detail"]


def test_an_expired_token_is_told_so(guarded, users):
    refused(asked(guarded, users.token(exp=int(time.time()) - 60)), "token-expired")


def test_a_clock_that_is_five_seconds_off_is_forgiven(guarded, users, clock):
    now = clock.now = int(clock.now)
    assert asked(guarded, users.token(exp=now - 4)).status_code == 200
    refused(asked(guarded, users.token(exp=now - 5)), "token-expired")
    assert asked(guarded, users.token(nbf=now + 5, iat=now + 5)).status_code == 200
    refused(asked(guarded, users.token(nbf=now + 6, iat=now + 6)), "token-invalid")


def test_a_token_that_was_good_expires_though_it_is_remembered(guarded, users, clock):
    token = users.token(exp=int(clock.now) + 60)
    assert asked(guarded, token).status_code == 200
    clock.now += 60 + LEEWAY_SECONDS
    refused(asked(guarded, token), "token-expired")


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "another"}, {"aud": None}, {"iss": "another"}, {"iss": None}, {"exp": None}, {"nbf": None},
        {"nbf": int(time.time()) + 864_000}, {"sub": None}, {"sub": 7}, {"kind": "root"}, {"kind": None}, {"org": None},
        {"sites": "seoul-1"}, {"sites": {"seoul-1": 1}}, {"sites": ["seoul-1"]}, {"jti": None}, {"exp": "soon"},
    ],
)  # fmt: skip
def test_claims_that_are_not_right_are_refused(guarded, users, claims):
    sites = claims.pop("sites", None) if "sites" in claims else None
    refused(asked(guarded, users.token(sites, **claims)), "token-invalid")


@pytest.mark.parametrize(
    "header", [{"typ": "JWT"}, {"typ": None}, {"typ": "rt+jwt"}, {"kid": None}, {"kid": "another"}]
)
def test_headers_that_are_not_right_are_refused(guarded, users, header):
    refused(asked(guarded, users.token(headers=header)), "token-invalid")


def test_alg_none_is_refused(guarded, users):
    kid = users.signing[0].kid
    refused(asked(guarded, unsigned(people.claims(), kid=kid)), "token-invalid")
    refused(asked(guarded, users.token().rsplit(".", 1)[0] + "."), "token-invalid")


def test_a_forged_signature_is_refused(guarded, users):
    forger = SigningKey()
    forger.kid = users.signing[0].kid
    refused(asked(guarded, users.token(key=forger)), "token-invalid")


def test_a_changed_claim_is_refused(guarded, users):
    head, _, signature = users.token({"seoul-1": "staff"}).split(".")
    body = base64.urlsafe_b64encode(json.dumps(people.claims({"seoul-1": "owner"})).encode()).decode().rstrip("=")
    refused(asked(guarded, f"{head}.{body}.{signature}"), "token-invalid")


def test_the_public_key_is_no_shared_secret(guarded, users):
    """The confusion of algorithms: HMAC with the public key as its secret."""
    key = users.signing[0]
    public = key.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    forged = jwt.encode(
        people.claims(), public.ljust(32, b"\0"), algorithm="HS256", headers={"typ": "at+jwt", "kid": key.kid}
    )
    refused(asked(guarded, forged), "token-invalid")


@pytest.mark.parametrize(
    "header",
    ["Bearer", "Basic dXNlcjpwYXNz", "Bearer a b", "Bearer x.y.z", "Bearer é", "token", "Bearer " + "x" * 9000,
     "Bearer bk_", "Bearer bk_12345678_short"],
)  # fmt: skip
def test_what_is_no_token_is_refused(guarded, header):
    answer = httpx.get(f"{guarded.base_url}{PATH}", headers={"Authorization": header.encode()})
    assert answer.status_code == 401
    assert answer.json()["type"] == "urn:brigade:problem:token-invalid"


def test_two_authorizations_are_none(guarded, users):
    headers = [("Authorization", f"Bearer {users.token()}")] * 2
    refused(httpx.get(f"{guarded.base_url}{PATH}", headers=headers), "token-invalid")


def routes(app):
    """Method and path of every route there is."""
    for route in app.routes:
        for inner in route.original_router.routes if hasattr(route, "original_router") else [route]:
            for method in sorted(inner.methods):
                yield method, inner.path


def test_every_protected_route_is_closed(guarded):
    found = [(method, path) for method, path in routes(guarded.app) if is_api(path) and path not in PUBLIC]
    assert {("GET", "/api/v1/latest"), ("GET", "/api/v1/stream"), ("POST", "/api/v1/keys")} < set(found)
    assert len(found) >= 30
    with httpx.Client(base_url=guarded.base_url) as stranger:
        for method, path in found:
            concrete = path.replace("{", "").replace("}", "")
            refused(stranger.request(method, concrete), "no-token")


def test_a_path_of_the_api_that_does_not_exist_is_closed_too(guarded):
    refused(httpx.get(f"{guarded.base_url}/api/v1/nothing"), "no-token")


def test_what_is_public_is_little(guarded):
    open_paths = {path for _, path in routes(guarded.app) if not is_api(path) or path in PUBLIC}
    assert open_paths - {"/health"} <= PUBLIC


def test_a_rotated_key_is_fetched_and_the_old_one_ends(guarded, users, monkeypatch):
    monkeypatch.setattr(key_set, "REFETCH_SECONDS", 0)
    before = users.token()
    assert asked(guarded, before).status_code == 200
    old, new = users.signing[0], SigningKey()
    users.signing = [new, old]
    assert asked(guarded, users.token()).status_code == 200
    assert asked(guarded, before).status_code == 200
    users.signing = [new]
    refused(asked(guarded, users.token(key=SigningKey())), "token-invalid")  # makes it look again
    refused(asked(guarded, before), "token-invalid")


def test_an_unknown_kid_is_asked_for_once_in_ten_seconds(guarded, users):
    asked(guarded, users.token(key=SigningKey()))
    looked = len(users.looks)
    for _ in range(5):
        refused(asked(guarded, users.token(key=SigningKey())), "token-invalid")
    assert len(users.looks) == looked


def test_keys_of_other_kinds_in_the_key_set_are_left_alone():
    usable = SigningKey()
    documents = [
        {"keys": [{"kty": "RSA", "kid": "rsa"}, {"kty": "OKP", "crv": "Ed448", "kid": "x"}, usable.jwk(), 7]},
        {"keys": [{**usable.jwk(), "x": "?"}]},
    ]
    assert [set(key_set._usable(document)) for document in documents] == [{usable.kid}, set()]


def test_tokens_are_verified_while_users_is_away(postgres, restaurant, role):
    url = gateway_url(postgres, urlsplit(restaurant).path[1:], role)
    with people.FakeUsers() as users, serving(url, users) as api:
        until_ready(api)
        assert asked(api, users.token()).status_code == 200
        users.stop()
        assert asked(api, users.token()).status_code == 200
        refused(asked(api, users.token(exp=int(time.time()) - 60)), "token-expired")


def test_without_a_key_ever_seen_it_says_that_it_cannot_tell(postgres, restaurant, role):
    with serving(gateway_url(postgres, urlsplit(restaurant).path[1:], role), users_url="http://127.0.0.1:1") as api:
        until_ready(api)
        answer = api.get(PATH)
        assert answer.status_code == 503
        assert answer.json()["type"] == "urn:brigade:problem:users-away"
        assert int(answer.headers["retry-after"]) > 0


def test_ed25519_is_what_the_key_is(guarded, users):
    """A key of the same `kid` but another algorithm is not looked for."""
    private = Ed25519PrivateKey.generate()
    token = jwt.encode(people.claims(), private, algorithm="EdDSA", headers={"typ": "at+jwt", "kid": "../../etc"})
    refused(asked(guarded, token), "token-invalid")

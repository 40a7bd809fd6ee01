"""A password for tokens: who gets in, what the others learn, and how soon they may try again."""

import math
import secrets
import time
from concurrent.futures import ThreadPoolExecutor

import jwt
import pytest
from argon2 import PasswordHasher
from jwt.algorithms import OKPAlgorithm
from prometheus_client import REGISTRY

from tests.users.conftest import HASHED, PASSWORD, Who, refused, some_ip, token_of


def hashed() -> float:
    return REGISTRY.get_sample_value("users_passwords_hashed_total") or 0


def test_a_password_gives_tokens(api, person, organisation, site):
    answer = api.log_in(person["email"])
    body = answer.json()
    assert (answer.status_code, body["token_type"], body["expires_in"]) == (200, "Bearer", 600)
    [key, _] = api.http.get("/.well-known/jwks.json").json()["keys"]
    header = jwt.get_unverified_header(body["access_token"])
    assert header == {"alg": "EdDSA", "typ": "at+jwt", "kid": key["kid"]}
    said = jwt.decode(
        body["access_token"],
        OKPAlgorithm.from_jwk(key),
        algorithms=["EdDSA"],
        audience="brigade",
        issuer="brigade-users",
    )
    assert said["sub"] == str(person["id"])
    assert said["org"] == str(organisation)
    assert said["sites"] == {site: "owner"}
    assert said["kind"] == "person"
    assert said["exp"] - said["iat"] == 600
    assert {"nbf", "jti", "sid"} <= said.keys()


def test_an_address_is_known_in_any_case(api, person):
    assert api.log_in(person["email"].upper()).status_code == 200


def test_the_answer_to_an_unknown_account_is_that_to_a_wrong_password(api, person, unique):
    emails = (person["email"], f"nobody-{unique}@example.com", f"no address {unique}")
    answers = [api.log_in(email, "not the password").json() for email in emails]
    assert answers[0]["type"] == "urn:brigade:problem:bad-credentials"
    assert all(answer == answers[0] for answer in answers)


def test_and_so_is_the_work_behind_it(api, world, person):
    def work(email):
        before = hashed(), world.one("SELECT count(*) AS n FROM audit_events")["n"]
        api.log_in(email, "not the password")
        return hashed() - before[0], world.one("SELECT count(*) AS n FROM audit_events")["n"] - before[1]

    assert work(person["email"]) == work(f"{secrets.token_hex(6)}@example.com") == (1, 1)


def test_hashes_are_as_slow_as_agreed_and_old_ones_are_made_so(api, world, person):
    assert HASHED.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    weak = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash(PASSWORD)
    world.connection.execute("UPDATE people SET password = %s WHERE id = %s", (weak, person["id"]))
    assert api.log_in(person["email"]).status_code == 200
    now = world.one("SELECT password FROM people WHERE id = %s", person["id"])["password"]
    assert now.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert api.log_in(person["email"]).status_code == 200


@pytest.mark.parametrize(
    "text", ["' OR '1'='1", "x'; DROP TABLE people; --", "%", "a\\", "$1", "{}", "%(email)s", "한국"]
)
def test_sql_is_only_text(api, world, text, unique):
    answer = api.log_in(unique + text, text)
    refused(answer, 401, "bad-credentials")
    assert world.one("SELECT count(*) AS n FROM people")["n"] > 0


@pytest.mark.parametrize("field", ["email", "password"])
@pytest.mark.parametrize("value", [None, 1, [], {}, "x" * 300])
def test_a_wrong_field_is_named(api, field, value):
    answer = api("POST", "/auth/login", json={"email": "a@example.com", "password": "p"} | {field: value})
    assert refused(answer, 422, "bad-request").json()["errors"][0]["field"] == field


def test_a_nul_is_no_address(api):
    refused(api.log_in("a\0@example.com"), 422, "bad-request")


def test_guesses_get_slower(api, person):
    waits = []
    for _ in range(4):
        refused(api.log_in(person["email"], "wrong"), 401, "bad-credentials")
    answer = refused(api.log_in(person["email"], "wrong"), 429, "throttled")
    waits.append(int(answer.headers["retry-after"]))
    time.sleep(1.05)
    refused(api.log_in(person["email"], "wrong"), 401, "bad-credentials")
    waits.append(int(api.log_in(person["email"], "wrong").headers["retry-after"]))
    assert waits == [1, 2]


def test_a_right_password_waits_too(api, person):
    for _ in range(4):
        api.log_in(person["email"], "wrong")
    refused(api.log_in(person["email"]), 429, "throttled")


def test_a_hundred_at_once_are_no_better_than_one_after_another(api, person):
    began = time.monotonic()
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: api.log_in(person["email"], "wrong").status_code, range(30)))
    waited_for = int(math.log2(1 + time.monotonic() - began))  # after 1 s one more is let in, after 2 more the next
    assert 4 <= answers.count(401) <= 4 + waited_for
    assert answers.count(401) + answers.count(429) == 30


def test_accounts_that_do_not_exist_are_throttled_alike(api):
    email = f"{secrets.token_hex(6)}@example.com"
    answers = [api.log_in(email, "wrong").status_code for _ in range(5)]
    assert answers == [401, 401, 401, 401, 429]


def test_strangers_do_not_lock_out_who_has_been_here_before(api, person):
    home = some_ip()
    assert api.log_in(person["email"], ip=home).status_code == 200
    for _ in range(5):
        api.log_in(person["email"], "wrong")
    refused(api.log_in(person["email"]), 429, "throttled")
    assert api.log_in(person["email"], ip=home).status_code == 200


def test_an_address_that_tries_many_accounts_gets_slower_too(api):
    ip = some_ip()
    answers = [api.log_in(f"{secrets.token_hex(6)}@example.com", "wrong", ip=ip).status_code for _ in range(22)]
    assert answers == [401] * 21 + [429]
    same_network = ip.removesuffix("::1") + ":0:1:2:3"
    refused(api.log_in("another@example.com", "wrong", ip=same_network), 429, "throttled")


def test_a_right_one_is_forgotten(api, person):
    ip = some_ip()
    answers = [api.log_in(person["email"], ip=ip).status_code for _ in range(25)]
    assert answers == [200] * 25


def test_every_login_and_refusal_is_written_down(api, world, person):
    api.log_in(person["email"], "wrong", ip="198.51.100.7")
    api.log_in(person["email"])
    [refusal] = world.events("login.refused", who=person["id"])
    assert (refusal["ip"], refusal["request_id"], refusal["detail"]) == (
        "198.51.100.7",
        "request-1",
        {"wrong": "password"},
    )
    assert len(world.events("login", who=person["id"])) == 1


def test_a_forgotten_password_is_set_by_a_mailed_link(api, person, owner, letter):
    assert api("POST", "/auth/password/forgot", json={"email": person["email"]}).status_code == 202
    text = letter(person["email"], "https://brigade.example/reset#")
    body = {"token": token_of(text), "password": "another good sentence"}
    assert api("POST", "/auth/password/reset", json=body).status_code == 204
    refused(api("POST", "/auth/password/reset", json=body), 401, "bad-token")
    refused(api.log_in(person["email"]), 401, "bad-credentials")
    assert api.log_in(person["email"], body["password"]).status_code == 200
    refused(api.refresh(owner.refresh_token), 401, "session-ended")
    refused(api("GET", "/me", owner), 401, "session-ended")


def test_a_newer_link_ends_the_older_one(api, world, person, letter, mails):
    first = None
    for _ in range(2):
        api("POST", "/auth/password/forgot", json={"email": person["email"]})
        text = letter(person["email"], "/reset#")
        while first == token_of(text):
            text = letter(person["email"], "/reset#")
        first, second = token_of(text), first
    refused(
        api("POST", "/auth/password/reset", json={"token": second, "password": "a good sentence"}), 401, "bad-token"
    )
    assert api("POST", "/auth/password/reset", json={"token": first, "password": "a good sentence"}).status_code == 204


def test_an_expired_link_is_none(api, world, person, letter):
    api("POST", "/auth/password/forgot", json={"email": person["email"]})
    token = token_of(letter(person["email"], "/reset#"))
    world.connection.execute("UPDATE mailed_tokens SET expires_at = now() WHERE person = %s", (person["id"],))
    refused(api("POST", "/auth/password/reset", json={"token": token, "password": "a good sentence"}), 401, "bad-token")


def test_nobody_learns_who_has_an_account(api, person, unique):
    known = api("POST", "/auth/password/forgot", json={"email": person["email"]})
    unknown = api("POST", "/auth/password/forgot", json={"email": f"nobody-{unique}@example.com"})
    assert (known.status_code, known.content) == (unknown.status_code, unknown.content) == (202, b"")


def test_a_mailbox_is_not_flooded(api, world, person):
    for _ in range(6):
        assert api("POST", "/auth/password/forgot", json={"email": person["email"]}).status_code == 202
    deadline = time.monotonic() + 30
    while len(world.events("password.forgotten", who=person["id"])) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(world.events("password.forgotten", who=person["id"])) == 4


def test_a_made_up_token_costs_no_hash(api):
    before = hashed()
    body = {"token": "made-up", "password": "another good sentence"}
    refused(api("POST", "/auth/password/reset", json=body), 401, "bad-token")
    assert hashed() == before


def test_a_logout_ends_the_session(api, owner):
    assert api("POST", "/auth/logout", json={"refresh_token": owner.refresh_token}).status_code == 204
    refused(api.refresh(owner.refresh_token), 401, "session-ended")
    refused(api("GET", "/me", owner), 401, "session-ended")
    assert api("POST", "/auth/logout", json={"refresh_token": owner.refresh_token}).status_code == 204


def test_a_logout_without_a_token_ends_the_callers(api, owner):
    assert api("POST", "/auth/logout", owner).status_code == 204
    refused(api("GET", "/me", owner), 401, "session-ended")
    assert api("POST", "/auth/logout").status_code == 204


def test_who_is_logged_in_knows_themselves(api, owner, person, site):
    assert api("GET", "/me", owner).json() == {
        "id": str(person["id"]), "email": person["email"], "name": "Some One", "language": "en", "totp": False,
        "memberships": [{"site": site, "site_name": site.title(), "role": "owner", "time_zone": "Asia/Seoul"}],
    }  # fmt: skip


def test_when_too_many_wait_the_next_are_told_so(api, person):
    """A burst of log-ins cannot take more memory than the pool's threads do."""
    from users.passwords import WAITING

    with ThreadPoolExecutor(WAITING + 30) as pool:
        answers = list(
            pool.map(lambda n: api.log_in(f"{n}-{person['email']}", "wrong").status_code, range(WAITING + 30))
        )
    assert set(answers) <= {401, 503}
    assert Who.of(api.log_in(person["email"])).id == str(person["id"])


def test_a_new_password_ends_links_to_set_one(api, person, owner, letter):
    api("POST", "/auth/password/forgot", json={"email": person["email"]})
    link = {"token": token_of(letter(person["email"], "/reset#")), "password": "another good sentence"}
    body = {"current": PASSWORD, "password": PASSWORD + " and more"}
    assert api("POST", "/me/password", owner, json=body).status_code == 204
    refused(api("POST", "/auth/password/reset", json=link), 401, "bad-token")


def test_a_new_address_ends_links_in_the_old_mailbox(api, person, owner, letter):
    api("POST", "/auth/password/forgot", json={"email": person["email"]})
    link = {"token": token_of(letter(person["email"], "/reset#")), "password": "another good sentence"}
    new = f"{secrets.token_hex(6)}@example.com"
    assert api("POST", "/me/email", owner, json={"password": PASSWORD, "email": new}).status_code == 202
    assert api("POST", "/me/email/confirm", owner, json={"token": token_of(letter(new))}).status_code == 204
    refused(api("POST", "/auth/password/reset", json=link), 401, "bad-token")

"""One's own account: name, password, address, second factor."""

import secrets
import time
from types import SimpleNamespace

import pyotp
import pytest

from tests.users.conftest import PASSWORD, Who, refused, token_of
from users import second_factor

NEW = "another good sentence"


@pytest.fixture
def totp(api, owner):
    """The second factor of `owner`, on."""
    secret = api("POST", "/me/totp", owner).json()["secret"]
    answer = api("POST", "/me/totp/confirm", owner, json={"code": pyotp.TOTP(secret).now()})
    assert answer.status_code == 200, answer.text
    return secret, answer.json()["recovery_codes"]


@pytest.fixture
def later(monkeypatch):
    """Time goes on by so many steps of an authenticator."""

    def steps(count):
        clock = SimpleNamespace(time=lambda: time.time() + 30 * count)
        monkeypatch.setattr(second_factor, "time", clock)
        return clock.time()

    return steps


def test_a_name_and_a_language(api, owner):
    changed = api("PATCH", "/me", owner, json={"name": "  김철수 ", "language": "ko"}).json()
    assert (changed["name"], changed["language"]) == ("김철수", "ko")
    assert api("PATCH", "/me", owner, json={}).json() == changed


@pytest.mark.parametrize(
    "body",
    [
        {"name": ""},
        {"name": "a\nb"},
        {"name": "a\u2028b"},
        {"name": "a\u202eb"},
        {"name": "x" * 101},
        {"language": "fr"},
        {"role": "owner"},
    ],
)
def test_what_cannot_be_is_named(api, owner, body):
    answer = refused(api("PATCH", "/me", owner, json=body), 422, "bad-request")
    assert answer.json()["errors"][0]["field"] in body


def test_a_new_password_ends_other_sessions(api, world, owner, person, letter):
    """Twice over: Redis forgets them, and the account's epoch is another one."""
    other = Who.of(api.log_in(person["email"]))
    body = {"current": PASSWORD, "password": NEW}
    assert api("POST", "/me/password", owner, json=body).status_code == 204
    assert len(api("GET", "/me/sessions", owner).json()["sessions"]) == 1
    assert world.one("SELECT epoch FROM people WHERE id = %s", owner.id)["epoch"] == 2
    assert api.refresh(owner.refresh_token).status_code == 200
    refused(api("GET", "/me", other), 401, "session-ended")
    refused(api.refresh(other.refresh_token), 401, "session-ended")
    refused(api.log_in(person["email"]), 401, "bad-credentials")
    assert api.log_in(person["email"], NEW).status_code == 200
    assert "Your password was changed" in letter(person["email"], "changed")


def test_a_session_that_redis_still_had_is_over_with_its_epoch(api, world, owner):
    world.connection.execute("UPDATE people SET epoch = epoch + 1 WHERE id = %s", (owner.id,))
    refused(api("GET", "/me", owner), 401, "session-ended")
    refused(api.refresh(owner.refresh_token), 401, "session-ended")


def test_a_new_password_takes_the_old_one(api, owner):
    body = {"current": "wrong", "password": NEW}
    refused(api("POST", "/me/password", owner, json=body), 401, "bad-credentials")


def test_guessing_inside_a_session_gets_slower_too(api, owner):
    answers = [
        api("POST", "/me/password", owner, json={"current": "wrong", "password": NEW}).status_code for _ in range(5)
    ]
    assert answers == [401] * 4 + [429]


@pytest.mark.parametrize("password", ["short", "aaaaaaaaaaaaaaaa", "x" * 257])
def test_a_password_that_is_guessed_first_is_refused(api, owner, password):
    answer = api("POST", "/me/password", owner, json={"current": PASSWORD, "password": password})
    assert refused(answer, 422, "bad-request").json()["errors"][0]["field"] == "password"


def test_ones_address_is_no_password(api, owner, person):
    body = {"current": PASSWORD, "password": person["email"].partition("@")[0] + "1"}
    refused(api("POST", "/me/password", owner, json=body), 422, "bad-request")


def test_a_new_address_is_confirmed_by_mail(api, owner, person, letter):
    new = f"{secrets.token_hex(6)}@example.com"
    assert api("POST", "/me/email", owner, json={"password": PASSWORD, "email": new}).status_code == 202
    assert api("GET", "/me", owner).json()["email"] == person["email"]
    token = token_of(letter(new, "https://brigade.example/email#"))
    assert api("POST", "/me/email/confirm", owner, json={"token": token}).status_code == 204
    assert api("GET", "/me", owner).json()["email"] == new
    refused(api("POST", "/me/email/confirm", owner, json={"token": token}), 401, "bad-token")
    assert api.log_in(new).status_code == 200
    assert "another e-mail address" in letter(person["email"], "changed")


def test_anothers_token_confirms_nothing(api, owner, as_role, letter):
    new = f"{secrets.token_hex(6)}@example.com"
    api("POST", "/me/email", owner, json={"password": PASSWORD, "email": new})
    token = token_of(letter(new))
    refused(api("POST", "/me/email/confirm", as_role("staff"), json={"token": token}), 401, "bad-token")
    assert api("POST", "/me/email/confirm", owner, json={"token": token}).status_code == 204


def test_an_address_that_was_taken_meanwhile_is_a_conflict(api, world, owner, organisation, letter):
    new = f"{secrets.token_hex(6)}@example.com"
    api("POST", "/me/email", owner, json={"password": PASSWORD, "email": new})
    token = token_of(letter(new))
    other = world.person(organisation)
    world.connection.execute("UPDATE people SET email = %s WHERE id = %s", (new.upper(), other["id"]))
    refused(api("POST", "/me/email/confirm", owner, json={"token": token}), 409, "conflict")


def test_anothers_address_is_answered_like_a_free_one(api, world, owner, as_role):
    taken = as_role("staff").email
    assert api("POST", "/me/email", owner, json={"password": PASSWORD, "email": taken}).status_code == 202
    assert world.connection.execute("SELECT FROM mailed_tokens WHERE person = %s", (owner.id,)).fetchall() == []


@pytest.mark.parametrize("email", ["", "a", "a@b@c.com", "a@example.com\r\nBcc: b@example.com", "a\0@example.com"])
def test_what_is_no_address_is_refused(api, owner, email):
    answer = api("POST", "/me/email", owner, json={"password": PASSWORD, "email": email})
    assert refused(answer, 422, "bad-request").json()["errors"][0]["field"] == "email"


def test_a_second_factor_is_asked_for(api, owner, person, totp, later):
    refused(api.log_in(person["email"]), 401, "second-factor-needed")
    refused(api.log_in(person["email"], code="000000"), 401, "second-factor-needed")
    refused(api.log_in(person["email"], code="٣٤٥٦٧٨"), 401, "second-factor-needed")
    refused(api.log_in(person["email"], "wrong", code="000000"), 401, "bad-credentials")
    code = pyotp.TOTP(totp[0]).at(int(later(1)))
    assert api.log_in(person["email"], code=code).status_code == 200
    assert api("GET", "/me", owner).json()["totp"] is True


def test_a_code_is_good_once(api, person, totp, later):
    code = pyotp.TOTP(totp[0]).at(int(later(1)))
    assert api.log_in(person["email"], code=code).status_code == 200
    refused(api.log_in(person["email"], code=code), 401, "second-factor-needed")


def test_the_code_that_turned_it_on_is_used_up(api, person, totp):
    refused(api.log_in(person["email"], code=pyotp.TOTP(totp[0]).now()), 401, "second-factor-needed")


def test_an_old_code_is_none(api, person, totp, later):
    moment = later(10)
    refused(api.log_in(person["email"], code=pyotp.TOTP(totp[0]).at(int(moment) - 90)), 401, "second-factor-needed")


def test_a_recovery_code_is_good_once(api, person, totp):
    codes = totp[1]
    assert len(set(codes)) == 10
    assert api.log_in(person["email"], code=codes[0].upper().replace("-", " ")).status_code == 200
    refused(api.log_in(person["email"], code=codes[0]), 401, "second-factor-needed")
    assert api.log_in(person["email"], code=codes[1]).status_code == 200


def test_codes_are_not_guessed_by_asking_without_one_in_between(api, person, totp):
    """A right password alone gives back its attempt, not those of wrong codes."""
    answers = []
    for _ in range(6):
        answers.append(api.log_in(person["email"], code="000000").status_code)
        answers.append(api.log_in(person["email"]).status_code)
    assert 429 in answers[:10]


def test_a_factor_that_is_not_confirmed_is_not_asked_for(api, owner, person):
    api("POST", "/me/totp", owner)
    refused(api("POST", "/me/totp/confirm", owner, json={"code": "000000"}), 422, "bad-request")
    assert api.log_in(person["email"]).status_code == 200


def test_a_factor_is_turned_on_once_and_off_by_the_password(api, owner, person, totp, letter):
    refused(api("POST", "/me/totp", owner), 409, "conflict")
    refused(api("DELETE", "/me/totp", owner, json={"password": "wrong"}), 401, "bad-credentials")
    assert api("DELETE", "/me/totp", owner, json={"password": PASSWORD}).status_code == 204
    assert api.log_in(person["email"]).status_code == 200
    assert "turned off" in letter(person["email"], "turned off")


def test_the_secret_is_sealed(api, world, owner, totp):
    row = world.one("SELECT totp_secret FROM people WHERE id = %s", owner.id)
    assert totp[0].encode() not in row["totp_secret"]
    kept = world.connection.execute("SELECT mac FROM recovery_codes WHERE person = %s", (owner.id,)).fetchall()
    assert not any(code.encode() in mac["mac"] for code in totp[1] for mac in kept)


def test_a_code_of_the_step_beside_it_is_right():
    secret, now = pyotp.random_base32(), 1_000_000
    totp = pyotp.TOTP(secret)
    steps = [second_factor.matching_step(secret, totp.at(now + 30 * off), now) for off in (-2, -1, 0, 1, 2)]
    assert steps == [None, 33332, 33333, 33334, None]

"""`brigade users …`, as an operator runs it."""

import base64
import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests.users.conftest import INTERNAL, PASSWORD, SECRET, Who, refused

BRIGADE = Path(sys.executable).parent / "brigade"


@pytest.fixture
def brigade(users_database, redis_url):
    def run(*words, stdin="", **environment):
        settings = {
            "BRIGADE_USERS_DATABASE_URL": users_database, "BRIGADE_USERS_REDIS_URL": redis_url,
            "BRIGADE_USERS_SECRET": SECRET,
        }  # fmt: skip
        return subprocess.run(
            [BRIGADE, "users", *words], input=stdin, capture_output=True, text=True, check=False,
            env=os.environ | settings | environment,
        )  # fmt: skip

    return run


def test_an_owner_is_made_with_a_password_from_a_pipe(api, brigade, unique):
    email, site = f"boss-{unique}@example.com", f"site-{unique}"
    done = brigade(
        "create-owner", email, "--site", site, "--site-name", "Seoul", "--time-zone", "Asia/Seoul", stdin=PASSWORD
    )
    assert (done.returncode, done.stdout) == (0, f"{email} owns {site}\n"), done.stderr
    [membership] = api("GET", "/me", Who.of(api.log_in(email))).json()["memberships"]
    assert membership == {"site": site, "site_name": "Seoul", "role": "owner", "time_zone": "Asia/Seoul"}
    again = brigade("create-owner", email, "--site", site, stdin=PASSWORD)
    assert (again.returncode, "has an account already" in again.stderr) == (1, True)
    first = brigade("create-owner", f"x{email}", "--site", site, "--first", stdin=PASSWORD)
    assert (first.returncode, first.stdout) == (0, "there is an owner already\n")


def test_or_from_a_file(api, brigade, unique, tmp_path):
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n")
    email = f"chef-{unique}@example.com"
    assert brigade("create-owner", email, "--site", "seoul-2", "--password-file", str(file)).returncode == 0
    assert api.log_in(email).status_code == 200


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nobody", "--site", "x"), "EMAIL"), (("a@example.com", "--site", "X Y"), "--site"),
        (("a@example.com", "--site", "x", "--time-zone", "Mars"), "--time-zone"),
        (("a@example.com", "--site", "x", "--language", "fr"), "--language"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_named(brigade, words, said):
    done = brigade("create-owner", *words, stdin=PASSWORD)
    assert (done.returncode, done.stderr.startswith(f"brigade: {said}: ")) == (2, True), done.stderr


@pytest.mark.parametrize("password", ["", "short", "aaaaaaaaaaaaaaa"])
def test_a_bad_password_is_refused(brigade, password):
    done = brigade("create-owner", "a@example.com", "--site", "x", stdin=password)
    assert done.returncode in {1, 2}
    assert "password" in done.stderr


def test_a_password_is_no_argument(brigade):
    assert "--password " not in brigade("create-owner", "--help").stdout


def test_sessions_are_ended(api, brigade, owner):
    assert owner.claims["sid"] in brigade("sessions", "list", owner.email).stdout
    assert brigade("sessions", "end", owner.email).stdout == "1 ended\n"
    refused(api("GET", "/me", owner), 401, "session-ended")
    refused(api.refresh(owner.refresh_token), 401, "session-ended")
    assert brigade("sessions", "end", "nobody@example.com").returncode == 1


def test_keys_are_rotated(api, brigade, users_database):
    kid = api.http.get("/.well-known/jwks.json").json()["keys"][1]["kid"]
    done = brigade("keys", "rotate")
    assert done.returncode == 0, done.stderr
    assert "signing_key_made" not in done.stdout
    assert f"{kid}  current" in brigade("keys", "list").stdout
    soon = brigade("keys", "rotate")
    assert (soon.returncode, "less than 15 minutes" in soon.stderr) == (1, True)
    with psycopg.connect(users_database) as connection:
        connection.execute("UPDATE signing_keys SET since = since - interval '1 h' WHERE state = 'previous'")


def test_users_does_not_start_with_another_secret(api, users_database, redis_url):
    settings = {
        "BRIGADE_USERS_DATABASE_URL": users_database, "BRIGADE_USERS_REDIS_URL": redis_url,
        "BRIGADE_USERS_SECRET": base64.b64encode(b"x" * 32).decode(), "BRIGADE_USERS_INTERNAL_SECRET": INTERNAL,
        "BRIGADE_USERS_MAIL_URL": "file:///nowhere", "BRIGADE_USERS_PORT": "0", "BRIGADE_USERS_METRICS_PORT": "0",
        "BRIGADE_USERS_MQTT_ADMIN_PASSWORD": "of no broker",
    }  # fmt: skip
    command = [sys.executable, "-m", "users.app"]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "BRIGADE_USERS_SECRET does not open the sealed signing-key" in done.stdout + done.stderr


def test_migrations_are_repeatable(brigade):
    assert brigade("migrate").stdout == "nothing to do\n"


def test_a_database_that_is_away_is_one_line(brigade):
    for words in (("migrate",), ("keys", "list"), ("sessions", "end", "a@example.com")):
        done = brigade(*words, BRIGADE_USERS_DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
        assert done.returncode == 1
        assert "BRIGADE_USERS_DATABASE_URL" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_wrong_setting_is_named(brigade):
    done = brigade("keys", "list", BRIGADE_USERS_SECRET="x")
    assert (done.returncode, done.stderr.startswith("BRIGADE_USERS_SECRET: ")) == (2, True)


def test_the_help_of_brigade_names_it():
    done = subprocess.run([BRIGADE, "--help"], capture_output=True, text=True, check=True)
    assert "Accounts: the first owner" in done.stdout

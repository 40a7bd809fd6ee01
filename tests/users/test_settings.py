"""Settings of users, refused where they cannot be right."""

import base64

import pytest

from observability.settings import load
from users.settings import UsersSettings

GOOD = {
    "BRIGADE_USERS_SECRET": base64.b64encode(b"k" * 32).decode(),
    "BRIGADE_USERS_INTERNAL_SECRET": "i" * 32,
    "BRIGADE_USERS_MAIL_URL": "file:///mails",
    "BRIGADE_USERS_MQTT_ADMIN_PASSWORD": "m" * 32,
}


@pytest.fixture(autouse=True)
def good(monkeypatch):
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("BRIGADE_USERS_PORT", "http"), ("BRIGADE_USERS_PORT", "70000"), ("BRIGADE_USERS_POOL_SIZE", "1"),
        ("BRIGADE_USERS_DATABASE_URL", "mysql://x"), ("BRIGADE_USERS_REDIS_URL", "http://x"),
        ("BRIGADE_USERS_SECRET", "short"), ("BRIGADE_USERS_SECRET", base64.b64encode(b"k" * 31).decode()),
        ("BRIGADE_USERS_SECRET", "k" * 43), ("BRIGADE_USERS_INTERNAL_SECRET", "i" * 31),
        ("BRIGADE_USERS_MAIL_URL", "pigeon://x"), ("BRIGADE_USERS_MAIL_URL", "smtp:"),
        ("BRIGADE_USERS_PUBLIC_URL", "brigade.example"), ("BRIGADE_USERS_PUBLIC_URL", "https://x/?a=b"),
        ("BRIGADE_USERS_MQTT_PORT", "70000"),
        ("BRIGADE_USERS_MAIL_FROM", "nobody"), ("BRIGADE_USERS_HASHING_THREADS", "0"), ("BRIGADE_LOG_LEVEL", "loud"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named(monkeypatch, capsys, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as stopped:
        load(UsersSettings)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith((f"{variable}: ", f"{variable}={value}: "))


@pytest.mark.parametrize("variable", GOOD)
def test_what_has_no_default_must_be_set(monkeypatch, capsys, variable):
    monkeypatch.delenv(variable)
    with pytest.raises(SystemExit):
        load(UsersSettings)
    assert capsys.readouterr().err.startswith(f"{variable}: must be set")


def test_secrets_are_not_shown():
    shown = repr(load(UsersSettings))
    assert not any(secret in shown for secret in GOOD.values())


def test_it_listens_on_loopback_unless_told():
    assert (load(UsersSettings).host, load(UsersSettings).metrics_host) == ("127.0.0.1", "127.0.0.1")

"""Settings of the gateway, refused where they cannot be right."""

import pytest

from gateway.settings import GatewaySettings
from observability.settings import load


@pytest.fixture(autouse=True)
def secret(monkeypatch):
    monkeypatch.setenv("BRIGADE_GATEWAY_INTERNAL_SECRET", "x" * 32)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("BRIGADE_GATEWAY_PORT", "http"), ("BRIGADE_GATEWAY_PORT", "70000"), ("BRIGADE_GATEWAY_POOL_SIZE", "1"),
        ("BRIGADE_GATEWAY_STATEMENT_TIMEOUT_SECONDS", "0"), ("BRIGADE_GATEWAY_DATABASE_URL", "mysql://x"),
        ("BRIGADE_LOG_LEVEL", "loud"), ("BRIGADE_GATEWAY_INTERNAL_SECRET", "short"),
        ("BRIGADE_GATEWAY_USERS_URL", "users:8001"), ("BRIGADE_GATEWAY_REDIS_URL", "127.0.0.1:6379"),
        ("BRIGADE_GATEWAY_RATE_PEOPLE", "0"), ("BRIGADE_GATEWAY_TRUSTED_HOPS", "-1"),
        ("BRIGADE_GATEWAY_ALLOWED_ORIGINS", "*"), ("BRIGADE_GATEWAY_ALLOWED_ORIGINS", "https://a.example/"),
        ("BRIGADE_GATEWAY_ALLOWED_ORIGINS", "https://a.example,b.example"), ("BRIGADE_GATEWAY_BODY_LIMIT_BYTES", "1"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named(monkeypatch, capsys, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as stopped:
        load(GatewaySettings)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith((f"{variable}: ", f"{variable}={value}: "))


def test_a_secret_must_be_set(monkeypatch, capsys):
    monkeypatch.delenv("BRIGADE_GATEWAY_INTERNAL_SECRET")
    with pytest.raises(SystemExit):
        load(GatewaySettings)
    assert capsys.readouterr().err.startswith("BRIGADE_GATEWAY_INTERNAL_SECRET: must be set")


def test_it_listens_on_loopback_unless_told():
    assert (load(GatewaySettings).host, load(GatewaySettings).metrics_host) == ("127.0.0.1", "127.0.0.1")

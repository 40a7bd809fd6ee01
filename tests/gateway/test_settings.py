"""Settings of the gateway, refused where they cannot be right."""

import pytest

from gateway.settings import GatewaySettings, load


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("BRIGADE_GATEWAY_PORT", "http"), ("BRIGADE_GATEWAY_PORT", "70000"), ("BRIGADE_GATEWAY_POOL_SIZE", "1"),
        ("BRIGADE_GATEWAY_STATEMENT_TIMEOUT_SECONDS", "0"), ("BRIGADE_GATEWAY_DATABASE_URL", "mysql://x"),
        ("BRIGADE_LOG_LEVEL", "loud"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named(monkeypatch, capsys, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as stopped:
        load(GatewaySettings)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith(f"{variable}: ")


def test_it_listens_on_loopback_unless_told():
    assert (load(GatewaySettings).host, load(GatewaySettings).metrics_host) == ("127.0.0.1", "127.0.0.1")

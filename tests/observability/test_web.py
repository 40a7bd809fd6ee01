import socket
from http.client import HTTPConnection

import pytest
from prometheus_client import CollectorRegistry, Counter

from observability.web import serve


def get(port, path, method="GET", **headers):
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read().decode()
    finally:
        connection.close()


def test_metrics_in_the_format_that_is_asked_for():
    registry = CollectorRegistry()
    Counter("eggs_boiled_total", "Eggs.", registry=registry).inc(3)
    with serve(0, healthy=lambda: True, ready=lambda: True, registry=registry) as server:
        status, kind, text = get(server.port, "/metrics")
        assert (status, kind.split(";")[0]) == (200, "text/plain")
        assert "eggs_boiled_total 3.0" in text
        status, kind, text = get(server.port, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
        assert kind.startswith("application/openmetrics-text; version=1.0.0")
        assert text.endswith("# EOF\n")


@pytest.mark.parametrize(
    ("answer", "status", "text"),
    [
        (True, 200, "ok\n"),
        (False, 503, "no\n"),
        ("Kafka has been away for 31 s", 503, "Kafka has been away for 31 s\n"),
    ],
)
def test_a_check_is_a_status_and_a_reason(answer, status, text):
    with serve(0, healthy=lambda: answer, ready=lambda: True) as server:
        assert get(server.port, "/healthz") == (status, "text/plain; charset=utf-8", text)
        assert get(server.port, "/readyz")[0] == 200


def test_a_check_that_fails_is_a_no():
    with serve(0, healthy=lambda: 1 / 0, ready=lambda: True) as server:
        status, _, text = get(server.port, "/healthz")
    assert status == 503
    assert "ZeroDivisionError" in text


def test_other_paths_name_the_ones_there_are():
    with serve(0, healthy=lambda: True, ready=lambda: True) as server:
        assert get(server.port, "/")[0] == 404
        assert get(server.port, "/readyz", method="HEAD") == (200, "text/plain; charset=utf-8", "")


def test_a_taken_port_is_named():
    with (
        serve(0, healthy=lambda: True, ready=lambda: True) as first,
        pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{first.port} for /metrics"),
        serve(first.port, healthy=lambda: True, ready=lambda: True),
    ):
        pass


def test_a_silent_client_keeps_nobody_waiting():
    with (
        serve(0, healthy=lambda: True, ready=lambda: True) as server,
        socket.create_connection(("127.0.0.1", server.port)),
    ):
        assert get(server.port, "/healthz")[0] == 200

"""Requests counted by the template of their route."""

from prometheus_client import REGISTRY

from deploy.local.ready import wait_until


def count(**labels):
    return REGISTRY.get_sample_value("http_request_duration_seconds_count", labels) or 0


def test_requests_are_counted_by_route_and_not_by_device(api):
    labels = {"method": "GET", "route": "/api/v1/devices/{device}", "code": "404"}
    before = count(**labels)
    api.get("/api/v1/devices/nobody-1")
    api.get("/api/v1/devices/nobody-2")
    assert wait_until(lambda: count(**labels) - before == 2, 30)  # an answer is counted when it has been sent


def test_what_matches_no_route_is_one_series(api):
    labels = {"method": "other", "route": "unmatched", "code": "404"}
    before = count(**labels)
    api.request("BREW", "/coffee/1")
    api.request("STIR", "/coffee/2")
    assert wait_until(lambda: count(**labels) - before == 2, 30)  # an answer is counted when it has been sent


def test_metrics_are_not_public(api):
    assert api.get("/metrics").status_code == 404

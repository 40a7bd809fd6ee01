"""`/system`, with a Prometheus, without one, and with one that talks nonsense."""

from urllib.parse import urlsplit

import pytest

from gateway import system
from tests.gateway import people
from tests.gateway.conftest import gateway_url, serving, until_ready


@pytest.fixture
def prometheus():
    with people.FakeUsers() as server:  # it answers what it is told to
        yield server


@pytest.fixture
def api(postgres, restaurant, role, prometheus):
    url = gateway_url(postgres, urlsplit(restaurant).path[1:], role)
    with serving(url, prometheus_url=prometheus.url) as api:
        until_ready(api)
        yield api


def asked(api):
    answer = api.get("/api/v1/system")
    assert answer.status_code == 200, answer.text
    return system.System.model_validate_json(answer.content)


def test_parts_lag_and_rates_are_told(api, prometheus, monkeypatch):
    up = [({"job": "worker", "instance": "b:1"}, "0"), ({"job": "worker", "instance": "a:1"}, "1"),
          ({"job": "lag", "instance": "l:1"}, "1"), ({"job": "prometheus"}, "1")]  # fmt: skip
    found = {
        system.UP: [{"metric": labels, "value": [0, value]} for labels, value in up],
        system.MESSAGES_BEHIND: [{"metric": {}, "value": [0, "12"]}],
        system.SECONDS_BEHIND: [{"metric": {}, "value": [0, "0.5"]}],
        system.RECEIVED: [{"metric": {}, "value": [0, "4"]}],
        system.STORED: [{"metric": {}, "value": [0, "NaN"]}],
        system.REFUSED: [],
    }

    async def ask(self, query):
        return [(series["metric"], float(series["value"][1])) for series in found[query]]

    monkeypatch.setattr(system.Prometheus, "ask", ask)
    told = asked(api)
    assert {part.name: part.up for part in told.parts} == {
        "worker-1": True, "worker-2": False, "lag": True, "prometheus": True,
    }  # fmt: skip
    assert (told.lag.messages, told.lag.seconds) == (12, 0.5)
    assert (told.rates.received, told.rates.stored, told.rates.refused) == (4, None, None)


def test_a_prometheus_that_talks_nonsense_is_down(api):
    told = asked(api)
    assert [(part.name, part.up) for part in told.parts] == [("prometheus", False)]
    assert told.lag is None
    assert told.rates.received is None


def test_without_prometheus_the_database_still_tells(postgres, scratch, scratch_database, role):
    scratch.execute(
        "INSERT INTO dead_letters (received_at, reason, detail, mqtt_topic, payload, payload_size, kafka_partition, "
        "kafka_offset, position, resolved) SELECT now(), 'ts_invalid', 'x', 'brigade/v1/' || site || '/x/readings', "
        "'', 0, 0, n, 0, n = 1 FROM (VALUES (1, 'seoul-1'), (2, 'seoul-1'), (3, 'other')) AS l (n, site)"
    )
    with serving(gateway_url(postgres, urlsplit(scratch_database).path[1:], role)) as api:
        until_ready(api)
        assert asked(api).rates.dead_letters_open == 1

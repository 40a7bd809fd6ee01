"""The last hours of a site by five minutes."""

from datetime import UTC, datetime, timedelta

from gateway import recent
from gateway.recent import STEP, STEPS, by_device, span
from tests.gateway.conftest import NOW


def test_a_span_is_of_whole_steps_and_holds_now():
    now = datetime(2026, 11, 23, 3, 41, 7, tzinfo=UTC)
    start, end = span(now)
    assert end == datetime(2026, 11, 23, 3, 45, tzinfo=UTC)
    assert end - start == STEPS * STEP


def test_steps_without_readings_are_told():
    rows = [
        {"device": "a", "metric": "temperature_c", "step": 0, "value": 3.0},
        {"device": "a", "metric": "temperature_c", "step": 35, "value": 4.0},
        {"device": "b", "metric": "door_open", "step": 1, "value": 1.0},
    ]
    first, second = by_device(rows)
    assert first["metrics"]["temperature_c"] == [3.0, *[None] * 34, 4.0]
    assert second == {"device": "b", "metrics": {"door_open": [None, 1.0, *[None] * 34]}}


def test_a_site_is_told_in_one_answer(api):
    answer = api.get("/api/v1/recent?site=seoul-1")
    told = recent.Recent.model_validate_json(answer.content)
    assert [device.device for device in told.devices] == ["fridge-1", "fridge-2"]
    assert told.from_ + STEPS * timedelta(seconds=told.step_seconds) > datetime.now(UTC)
    values = told.devices[0].metrics["temperature_c"]
    assert len(values) == STEPS
    assert all(value is None or 1 <= value <= 7 for value in values)
    since = int((datetime.now(UTC) - NOW) / STEP)  # the restaurant's readings end when the tests began
    assert sum(value is not None for value in values) > STEPS - 4 - since


def test_another_site_is_unknown(api):
    assert api.get("/api/v1/recent?site=nowhere").status_code == 404

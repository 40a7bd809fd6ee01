import json
import logging

import pytest
import structlog

from observability import logs


@pytest.fixture(autouse=True)
def _as_it_was():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_an_event_is_one_line_of_json(capsys):
    logs.configure("bridge", "INFO")
    structlog.get_logger().info("mqtt_connected", host="127.0.0.1")
    (line,) = capsys.readouterr().out.splitlines()
    event = json.loads(line)
    assert event.pop("timestamp").endswith("Z")
    assert event == {"event": "mqtt_connected", "host": "127.0.0.1", "level": "info", "service": "bridge"}


def test_the_standard_library_speaks_the_same_way(capsys):
    logs.configure("bridge", "INFO")
    logging.getLogger("faust").warning("gone: %s", "broker")
    event = json.loads(capsys.readouterr().out)
    assert (event["event"], event["level"], event["service"]) == ("gone: broker", "warning", "bridge")


def test_below_the_level_nothing_is_said(capsys):
    logs.configure("bridge", "WARNING")
    structlog.get_logger().info("quiet")
    logging.getLogger("faust").info("quiet")
    assert capsys.readouterr().out == ""


def test_an_exception_stays_on_its_line(capsys):
    logs.configure("bridge", "INFO")
    try:
        int("why")
    except ValueError:
        structlog.get_logger().exception("broken")
    (line,) = capsys.readouterr().out.splitlines()
    assert "ValueError: invalid literal" in json.loads(line)["exception"]


def test_what_json_does_not_know_is_written_as_text(capsys):
    logs.configure("bridge", "INFO")
    structlog.get_logger().info("odd", value={1, 2})
    assert json.loads(capsys.readouterr().out)["value"] == "{1, 2}"

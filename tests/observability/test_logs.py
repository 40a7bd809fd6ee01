import json
import logging
import subprocess
import sys
import threading

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


def test_a_thread_s_line_bears_the_service_too(capsys):
    logs.configure("bridge", "INFO", ordinal=3)
    thread = threading.Thread(target=lambda: structlog.get_logger().info("heard"))
    thread.start()
    thread.join()
    event = json.loads(capsys.readouterr().out)
    assert (event["service"], event["ordinal"]) == ("bridge", 3)


def test_a_library_s_line_names_its_logger_and_ours_does_not(capsys):
    logs.configure("bridge", "INFO")
    logging.getLogger("aiokafka.conn").error("lost")
    structlog.get_logger("pipeline").error("lost")
    library, ours = map(json.loads, capsys.readouterr().out.splitlines())
    assert library["logger"] == "aiokafka.conn"
    assert "logger" not in ours


def test_what_clients_tell_at_debug_is_not_written(capsys):
    logs.configure("gateway", "DEBUG")
    logging.getLogger("httpcore.http11").debug("send_request_headers authorization: Bearer hush")
    assert capsys.readouterr().out == ""


def test_warnings_and_errors_are_remembered_and_the_last_twenty_only(capsys):
    logs.configure("bridge", "INFO")
    logs.RECENT.clear()
    structlog.get_logger().info("started")
    for number in range(25):
        structlog.get_logger().warning("kafka_away", why=f"refused {number}")
    assert len(logs.RECENT) == 20
    assert logs.RECENT[-1]["reason"] == "refused 24"
    assert logs.RECENT[-1].keys() == {"timestamp", "level", "event", "reason"}


def test_what_nobody_caught_is_one_line():
    code = "from observability import logs; logs.configure('lag', 'INFO'); int('why')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    event = json.loads(done.stdout)
    assert (done.returncode, event["event"], event["level"], event["service"]) == (1, "died", "critical", "lag")
    assert "ValueError: invalid literal" in event["exception"]
    assert done.stderr == ""

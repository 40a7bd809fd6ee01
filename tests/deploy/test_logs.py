"""The log collector's configuration: what it sends, by values; and by the collector itself where there is one.

Fluent Bit is in no package registry: BRIGADE_TEST_FLUENT_BIT, or PATH, says where its binary is. Without one the tests
that run it are skipped; docs/logs.md says what that leaves open.
"""

import gzip
import json
import os
import shutil
import subprocess
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

LOGS = Path(__file__).parents[2] / "deploy" / "logs"
BOUNDED = {"job", "service", "level", "instance"}
OURS = {
    "timestamp": "2026-11-25T09:00:00.123456Z",
    "level": "warning",
    "event": "kafka_away",
    "service": "bridge",
    "reason": "refused",
    "request_id": "r-1",
    "trace_id": "a" * 32,
}
NS = 1_000_000_000


@pytest.fixture
def fluent_bit():
    found = os.environ.get("BRIGADE_TEST_FLUENT_BIT") or shutil.which("fluent-bit")
    if not found:
        pytest.skip("there is no fluent-bit here: BRIGADE_TEST_FLUENT_BIT says where it is")
    return found


class Loki:
    """Takes pushes as Loki does, `fails` of them first with 503."""

    def __enter__(self):
        self.streams, self.fails = [], 0
        loki = self

        class Answer(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if loki.fails:
                    loki.fails -= 1
                    self.send_error(503)
                    return
                assert self.path == "/loki/api/v1/push"
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                loki.streams += json.loads(body)["streams"]
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.1,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._http.shutdown()
        self._http.server_close()

    def entries(self):
        return [(stream["stream"], *value) for stream in self.streams for value in stream["values"]]

    def wait_for(self, count, seconds=30):
        end = time.monotonic() + seconds
        while time.monotonic() < end and len(self.entries()) < count:
            time.sleep(0.1)
        assert len(self.entries()) >= count, self.entries()
        return self.entries()


@pytest.fixture
def loki():
    with Loki() as loki:
        yield loki


@contextmanager
def running(fluent_bit, configuration, loki, folder):
    environment = {
        "PATH": os.environ["PATH"],
        "LOKI_HOST": "127.0.0.1",
        "LOKI_PORT": str(loki.port),
        "BRIGADE_LOGS": str(folder / "logs"),
        "FLUENT_BIT_STATE": str(folder / "state"),
        "BRIGADE_NAMESPACE": "restaurant-system",
    }
    (folder / "state").mkdir(exist_ok=True)
    process = subprocess.Popen([fluent_bit, "-c", str(configuration)], env=environment)
    try:
        yield
    finally:
        process.terminate()
        assert process.wait(20) == 0


def test_our_lines_and_the_servers_reach_loki_with_bounded_labels(fluent_bit, loki, tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "bridge-0.log").write_text(json.dumps(OURS) + "\n")
    (logs / "postgres.log").write_text("2026-11-25 09:00:00 UTC LOG:  checkpoint starting\n")
    with running(fluent_bit, LOGS / "fluent-bit-files.yaml", loki, tmp_path):
        loki.wait_for(2)
        with (logs / "bridge-0.log").open("a") as file:
            file.write(json.dumps(OURS | {"level": "info", "event": "kafka_back"}) + "\n")
        entries = {labels["instance"] + labels["level"]: rest for labels, *rest in loki.wait_for(3)}
    assert {frozenset(labels) for labels, *_ in loki.entries()} == {frozenset(BOUNDED)}
    when, line, metadata = entries["bridge-0warning"]
    assert json.loads(line) == {name: OURS[name] for name in ("timestamp", "event", "reason")}, "the rest are labels"
    assert int(when) // NS == 1_795_597_200
    assert metadata == {"request_id": "r-1", "trace_id": "a" * 32}
    assert json.loads(entries["bridge-0info"][1])["event"] == "kafka_back"
    (text,) = [line for labels, _, line, *_ in loki.entries() if labels["service"] == "server"]
    assert "checkpoint starting" in json.loads(text)["log"]


def test_lines_wait_while_loki_is_away_and_none_comes_twice(fluent_bit, loki, tmp_path):
    (tmp_path / "logs").mkdir()
    loki.fails = 2
    with running(fluent_bit, LOGS / "fluent-bit-files.yaml", loki, tmp_path):
        (tmp_path / "logs" / "lag.log").write_text(json.dumps(OURS | {"service": "lag"}) + "\n")
        loki.wait_for(1, 60)
    with running(fluent_bit, LOGS / "fluent-bit-files.yaml", loki, tmp_path):
        with (tmp_path / "logs" / "lag.log").open("a") as file:
            file.write(json.dumps(OURS | {"service": "lag", "event": "second"}) + "\n")
        loki.wait_for(2)
    assert [json.loads(line)["event"] for _, _, line, *_ in loki.entries()] == ["kafka_away", "second"]


def test_a_pod_s_lines_bear_its_name(fluent_bit, loki, tmp_path):
    containers = tmp_path / "containers"
    containers.mkdir()
    configuration = tmp_path / "fluent-bit-kubernetes.yaml"
    text = (LOGS / configuration.name).read_text().replace("/var/log/containers", str(containers))
    configuration.write_text(text.replace("http_port: 2020", f"http_port: {loki.port + 1}"))
    shutil.copy(LOGS / "brigade.yaml", tmp_path)
    (containers / "iot-deployment-7d9f-x2x_restaurant-system_worker-0123abc.log").write_text(
        f"2026-11-25T09:00:00.123456789Z stdout F {json.dumps(OURS | {'service': 'worker'})}\n"
    )
    (containers / "other-1_elsewhere_app-0123abc.log").write_text("2026-11-25T09:00:00.1Z stdout F nobody's\n")
    with running(fluent_bit, configuration, loki, tmp_path):
        ((labels, _, line, *_),) = loki.wait_for(1)
    assert labels == {"job": "brigade", "service": "worker", "level": "warning", "instance": "iot-deployment-7d9f-x2x"}
    assert json.loads(line)["event"] == "kafka_away"


@pytest.mark.parametrize("name", ["fluent-bit-files.yaml", "fluent-bit-kubernetes.yaml"])
def test_the_collector_takes_the_configuration(fluent_bit, name, tmp_path):
    environment = {"LOKI_HOST": "l", "LOKI_PORT": "1", "BRIGADE_LOGS": "/l", "FLUENT_BIT_STATE": str(tmp_path)}
    words = [fluent_bit, "--dry-run", "-c", str(LOGS / name)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr

"""A whole stack whose Prometheus and Alertmanager are in a hurry, and whom they tell: a webhook and a mail server."""

import os
import queue
import re
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
import pytest

from deploy.local.layout import REPOSITORY
from deploy.local.stack import Stack
from tests.end_to_end.stacks import ASKS_OFTEN, SHORT_WAITS, own_stack

ALERTMANAGER = (REPOSITORY / "deploy" / "alertmanager" / "alertmanager.yml").read_text()
OFTEN = {"BRIGADE_FLEET_EVERY_SECONDS": "1", "BRIGADE_LAG_EVERY_SECONDS": "1"}


@dataclass
class Receivers:
    """What came by webhook and by mail; the ports they listen on."""

    webhooks: queue.Queue[tuple[str, dict[str, Any]]] = field(default_factory=queue.Queue)
    mails: list[str] = field(default_factory=list)
    webhook_port: int = 0
    mail_port: int = 0


class _Webhook(BaseHTTPRequestHandler):
    receivers: Receivers

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.receivers.webhooks.put((self.path, msgspec.json.decode(body)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class _Mail(socketserver.StreamRequestHandler):
    """As much of SMTP as one mail needs."""

    receivers: Receivers

    def handle(self) -> None:
        self._say("220 test")
        for line in self.rfile:
            match line.split()[0].upper():
                case b"DATA":
                    self._say("354 go on")
                    self.receivers.mails.append(b"".join(iter(self.rfile.readline, b".\r\n")).decode())
                    self._say("250 taken")
                case b"QUIT":
                    return self._say("221 bye")
                case _:
                    self._say("250 fine")
        return None

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


@pytest.fixture(scope="package")
def receivers() -> Iterator[Receivers]:
    there = Receivers()
    webhook = type("Webhook", (_Webhook,), {"receivers": there})
    mail = type("Mail", (_Mail,), {"receivers": there})
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), webhook) as http,
        socketserver.ThreadingTCPServer(("127.0.0.1", 0), mail) as smtp,
    ):
        there.webhook_port, there.mail_port = http.server_address[1], smtp.server_address[1]
        for server in (http, smtp):
            threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
        yield there
        http.shutdown()
        smtp.shutdown()


@pytest.fixture(scope="package")
def stack(request: pytest.FixtureRequest, receivers: Receivers) -> Iterator[Stack]:
    if "BRIGADE_TEST_INSTANCE" not in os.environ:
        missing = "BRIGADE_TEST_INSTANCE is not set: scripts/test knows where the servers are, and starts more of them"
        pytest.fail(missing) if os.environ.get("BRIGADE_TEST_ALL") == "1" else pytest.skip(missing)
    keep_logs = lambda: request.session.testsfailed > 0  # noqa: E731
    with own_stack("prometheus", SHORT_WAITS | ASKS_OFTEN | OFTEN, keep_logs=keep_logs) as own:
        hurry(own, receivers)
        yield own


def hurry(stack: Stack, receivers: Receivers) -> None:
    """The rules and routes as they are committed, but a second for each wait, and addresses of this machine."""
    config = stack.instance.config
    for file in (config / "rules").glob("*.yml"):
        file.write_text(re.sub(r"\b(for|interval): \d+m\b", r"\1: 1s", file.read_text()))
    prometheus = config / "prometheus.yml"
    prometheus.write_text(prometheus.read_text().replace("15s", "1s"))
    for secret, path in (("on-call-url", "on-call"), ("dead-man-url", "dead-man")):
        (config / secret).write_text(f"http://127.0.0.1:{receivers.webhook_port}/{path}")
    (config / "alertmanager.yml").write_text(local(ALERTMANAGER, receivers.mail_port))
    for server in ("alertmanager", "prometheus"):
        stack.stop(server)
        stack.start(server)


def local(text: str, mail_port: int) -> str:
    text = text.replace("/etc/alertmanager/secrets/", "/config/")
    text = text.replace("mail.example.com:587", f"127.0.0.1:{mail_port}\n  smtp_require_tls: false")
    text = re.sub(r"  smtp_auth_.*\n", "", text)
    return re.sub(r"\b(group_wait|group_interval): \w+", r"\1: 1s", text)

"""One trace from a device to its row, and one from a browser to users and its SQL, as an OTLP receiver gets them."""

import os
import secrets
import subprocess

import httpx
import pytest

from deploy.local.layout import OWNER, REPOSITORY, SITE, Passwords
from tests.end_to_end.load import BRIGADE
from tests.end_to_end.stacks import SHORT_WAITS, own_stack
from tests.observability.otlp_receiver import Receiver

OFTEN = {"OTEL_BSP_SCHEDULE_DELAY": "200"}


@pytest.fixture(scope="module")
def receiver():
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def traced(request, receiver):
    """A stack whose traces go to the receiver."""
    if "BRIGADE_TEST_INSTANCE" not in os.environ:
        missing = "BRIGADE_TEST_INSTANCE is not set: scripts/test knows where the servers are, and starts more of them"
        pytest.fail(missing) if os.environ.get("BRIGADE_TEST_ALL") == "1" else pytest.skip(missing)
    environment = SHORT_WAITS | OFTEN | {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
    with own_stack("traces", environment, keep_logs=lambda: request.session.testsfailed > 0) as stack:
        yield stack


def simulate(stack, receiver, *words, **environment):
    habits = "--devices 3 --rate 50 --malformed 0 --duplicates 0 --late 0 --offline 0 --no-skew"
    command = [BRIGADE, "simulate", *habits.split(), *words]
    environment = {**os.environ, **stack.env, **OFTEN, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, **environment}
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120, check=True
    )


def test_a_message_is_one_trace_from_its_device_to_the_commit_of_its_batch(traced, receiver):
    simulate(traced, receiver, "--site", f"site-{secrets.token_hex(3)}", "--messages", "20", "--traced", "1")
    batch = receiver.wait_for(lambda span: span.name == "write batch")
    linked, stored_id = batch.links[0]
    receiver.wait_for(lambda span: span.trace_id == linked and span.name == "publish")
    spans = receiver.of(linked)
    publish, forward, store = (
        spans[part] for part in (("simulator", "publish"), ("bridge", "forward"), ("worker", "store"))
    )
    assert publish.parent_id == ""
    assert forward.parent_id == publish.span_id
    assert store.parent_id == forward.span_id
    assert store.span_id == stored_id
    assert batch.trace_id != linked
    assert (batch.service, batch.attributes["db.system.name"]) == ("worker", "postgresql")
    assert publish.start_ns < forward.start_ns < store.start_ns < store.end_ns
    assert forward.attributes["messaging.destination.name"].startswith("brigade/v1/site-")


def test_what_bears_no_trace_leaves_none(traced, receiver):
    plain, last = f"site-{secrets.token_hex(3)}", f"site-{secrets.token_hex(3)}"
    simulate(traced, receiver, "--site", plain, "--messages", "200", "--traced", "0")
    simulate(traced, receiver, "--site", last, "--messages", "1", "--traced", "1")
    topics = ("messaging.destination.name", "brigade.mqtt.topic")

    def of(site):
        return [s for s in receiver.spans if any(f"/{site}/" in str(s.attributes.get(topic)) for topic in topics)]

    receiver.wait_for(lambda span: span.name == "store" and span in of(last))
    assert {span.name for span in of(last)} >= {"forward", "store"}
    assert of(plain) == []


def test_a_request_is_one_trace_from_the_browser_through_the_gateway_to_users_and_sql(traced, receiver):
    trace_id, browser = secrets.token_hex(16), secrets.token_hex(8)
    with httpx.Client(base_url=f"http://127.0.0.1:{traced.ports['gateway']}", timeout=60) as client:
        who = {"email": OWNER, "password": Passwords.of(traced.instance).owner}
        client.headers["traceparent"] = f"00-{trace_id}-{browser}-01"
        token = client.post("/api/v1/auth/login", json=who).raise_for_status().json()["access_token"]
        receiver.wait_for(lambda span: span.trace_id == trace_id and span.parent_id == browser)
        spans = [span for span in receiver.spans if span.trace_id == trace_id]
        (gateway,) = [span for span in spans if span.parent_id == browser]
        call = receiver.wait_for(lambda span: span.parent_id == gateway.span_id and span.name == "users POST")
        users = receiver.wait_for(lambda span: span.parent_id == call.span_id)
        sql = receiver.wait_for(lambda span: span.parent_id == users.span_id and span.name.startswith("SQL "))
        assert (gateway.service, call.service, users.service, sql.service) == ("gateway", "gateway", "users", "users")
        assert (users.name, users.attributes["http.response.status_code"]) == ("POST /auth/login", 200)
        assert sql.attributes["db.query.text"]
        assert not any(OWNER in str(span.attributes) for span in receiver.spans), "values are not told"

        client.headers.update({"Authorization": f"Bearer {token}", "traceparent": f"00-{trace_id}-{'c' * 16}-01"})
        client.get(f"/api/v1/latest?site={SITE}").raise_for_status()
        latest = receiver.wait_for(lambda span: span.name == "GET /api/v1/latest" and span.trace_id == trace_id)
        receiver.wait_for(lambda span: span.parent_id == latest.span_id and span.name.startswith("SQL "))
        assert token not in str([span.attributes for span in receiver.spans])


def test_a_trace_that_nobody_keeps_is_not_kept_here(traced, receiver):
    trace_id = secrets.token_hex(16)
    with httpx.Client(base_url=f"http://127.0.0.1:{traced.ports['gateway']}") as client:
        client.get("/health", headers={"traceparent": f"00-{trace_id}-{'c' * 16}-00"}).raise_for_status()
        kept = secrets.token_hex(16)
        client.get("/health", headers={"traceparent": f"00-{kept}-{'c' * 16}-01"}).raise_for_status()
    receiver.wait_for(lambda span: span.trace_id == kept)
    assert not [span for span in receiver.spans if span.trace_id == trace_id]

"""Known secrets go through every route and every part; afterwards no log of the stack holds one.

The parts log at DEBUG here, so that this holds at any level; payloads of devices may be told at DEBUG, not above.
"""

import json
import os
import re
import secrets
import time

import aiomqtt
import httpx
import psycopg
import pyotp
import pytest

from deploy.local.layout import OWN_DEVICE, OWNER, SITE, Passwords
from deploy.local.ready import wait_until
from tests.end_to_end.load import eventually
from tests.end_to_end.stacks import ASKS_OFTEN, SHORT_WAITS, own_stack

PARTS = ("bridge-0", "worker-1", "lag", "maintain", "users", "gateway")
SERVERS = ("postgres", "kafka", "mosquitto", "redis", "prometheus", "supervisord")
PREFIX = "/api/v1"
VERBS = ("get", "post", "put", "patch", "delete")
SECONDS = 60


@pytest.fixture(scope="module")
def stack(request):
    if "BRIGADE_TEST_INSTANCE" not in os.environ:
        missing = "BRIGADE_TEST_INSTANCE is not set: scripts/test knows where the servers are, and starts more of them"
        pytest.fail(missing) if os.environ.get("BRIGADE_TEST_ALL") == "1" else pytest.skip(missing)
    settings = SHORT_WAITS | ASKS_OFTEN | {"BRIGADE_LOG_LEVEL": "DEBUG"}
    with own_stack("secrets", settings, keep_logs=lambda: request.session.testsfailed > 0) as own:
        yield own


class Told:
    """What was given to the system and must not be in a log."""

    def __init__(self) -> None:
        self.secrets: dict[str, str] = {}
        self.payloads: dict[str, str] = {}

    def secret(self, what: str, value: str) -> str:
        self.secrets[what] = value
        return value

    def made(self, what: str) -> str:
        return self.secret(what, f"hush-{secrets.token_hex(12)}")

    def payload(self, what: str) -> str:
        self.payloads[what] = f"dish-{secrets.token_hex(12)}"
        return self.payloads[what]


@pytest.fixture(scope="module")
def told(stack):
    told = Told()
    passwords = Passwords.of(stack.instance)
    for name in passwords.__dataclass_fields__:
        told.secret(f"passwords.json {name}", getattr(passwords, name))
    told.secret("BRIGADE_USERS_SECRET", stack.owner_env["BRIGADE_USERS_SECRET"])
    for device, password in json.loads(stack.instance.credentials.read_text()).items():
        told.secret(f"password of {device}", password)
    return told


@pytest.fixture
def api(stack):
    with httpx.Client(base_url=f"http://127.0.0.1:{stack.ports['gateway']}", timeout=SECONDS) as client:
        yield client


def logs(stack) -> dict[str, str]:
    texts = {file.name: file.read_text(errors="replace") for file in stack.instance.logs.iterdir() if file.is_file()}
    assert {f"{name}.log" for name in (*PARTS, *SERVERS)} <= texts.keys()
    return texts


def found(stack, secrets_: dict[str, str]) -> list[str]:
    return [
        f"{what} in {name}: {line}"
        for name, text in logs(stack).items()
        for what, value in secrets_.items()
        if value in text
        for line in text.splitlines()
        if value in line
    ]


def log_in(api, told, email, password, **more):
    answer = api.post(f"{PREFIX}/auth/login", json={"email": email, "password": password, **more})
    if answer.is_success:
        for name in ("access_token", "refresh_token"):
            told.secret(f"{name} {len(told.secrets)}", answer.json()[name])
    return answer


def mailed(stack, told, word: str) -> str:
    """The token of the newest link of this kind."""

    def newest():
        for file in sorted((stack.state / "mails").glob("*.eml"), reverse=True):
            if link := re.search(rf"/{word}#(\S+)", file.read_text()):
                return link[1]
        return ""

    eventually(lambda: bool(newest()), SECONDS, f"a mail with a link to /{word}")
    return told.secret(f"link to /{word}", newest())


def test_people_s_secrets(stack, told, api):
    """Passwords right and wrong, tokens, links of mails, second factors, keys, device passwords."""
    log_in(api, told, OWNER, told.made("wrong password"))
    owner = log_in(api, told, OWNER, Passwords.of(stack.instance).owner).raise_for_status().json()
    api.headers["Authorization"] = f"Bearer {owner['access_token']}"
    email = f"cook-{secrets.token_hex(3)}@example.com"
    invited = {"site": SITE, "email": email, "role": "manager"}
    api.post(f"{PREFIX}/invitations", json=invited).raise_for_status()
    password = told.made("first password")
    accepted = {"token": mailed(stack, told, "invite"), "name": "Cook", "password": password}
    api.post(f"{PREFIX}/invitations/accept", json=accepted).raise_for_status()
    api.post(f"{PREFIX}/invitations/accept", json=accepted | {"password": told.made("password of a used link")})

    api.post(f"{PREFIX}/auth/password/forgot", json={"email": email}).raise_for_status()
    new = told.made("new password")
    reset = {"token": mailed(stack, told, "reset"), "password": new}
    api.post(f"{PREFIX}/auth/password/reset", json=reset).raise_for_status()

    cook = log_in(api, told, email, new).raise_for_status().json()
    with httpx.Client(base_url=api.base_url, headers={"Authorization": f"Bearer {cook['access_token']}"}) as own:
        changed = {"current": new, "password": (new := told.made("third password"))}
        own.post(f"{PREFIX}/me/password", json=changed).raise_for_status()
        other = f"other-{email}"
        own.post(f"{PREFIX}/me/email", json={"password": new, "email": other}).raise_for_status()
        mailed(stack, told, "email")
        totp = own.post(f"{PREFIX}/me/totp").raise_for_status().json()
        seed = told.secret("seed of the second factor", totp["secret"])
        code = pyotp.TOTP(seed).now()
        confirmed = own.post(f"{PREFIX}/me/totp/confirm", json={"code": code}).raise_for_status().json()
        for number, recovery in enumerate(confirmed["recovery_codes"]):
            told.secret(f"recovery code {number}", recovery)
        own.post(f"{PREFIX}/auth/refresh", json={"refresh_token": cook["refresh_token"]})
    log_in(api, told, email, new, code=told.made("wrong code"))
    log_in(api, told, email, new, code=confirmed["recovery_codes"][0])
    told.secret("code of the second factor, as a value", f'"{code}"')

    key = api.post(f"{PREFIX}/keys", json={"name": "till", "scope": "write", "sites": [SITE]}).raise_for_status().json()
    told.secret("API key", key["key"])
    device = {"site": SITE, "device": f"oven-{secrets.token_hex(3)}"}
    given = api.post(f"{PREFIX}/credentials", json=device).raise_for_status().json()
    told.secret("device password", given["password"])
    rotated = api.post(f"{PREFIX}/credentials/{device['device']}/rotate").raise_for_status().json()
    told.secret("rotated device password", rotated["password"])
    for authorization in (
        f"Bearer {key['key']}",
        f"Bearer bk_{told.made('wrong key')}",
        f"Bearer {told.made('token')}",
    ):
        api.get(f"{PREFIX}/devices", params={"site": SITE}, headers={"Authorization": authorization})

    browser = {"X-Brigade-Session": "cookie"}
    who = {"email": OWNER, "password": Passwords.of(stack.instance).owner}
    entered = api.post(f"{PREFIX}/auth/login", json=who, headers=browser)
    for number, cookie in enumerate(entered.headers.get_list("set-cookie")):
        told.secret(f"cookie {number}", cookie.partition("=")[2].partition(";")[0])
    assert found(stack, told.secrets) == []


def test_every_route_with_secrets_in_every_place(stack, told, api):
    """Those that people misplace: in a path, a query, a header, a field that wants something else."""
    owner = log_in(api, told, OWNER, Passwords.of(stack.instance).owner).raise_for_status().json()
    document = api.get(f"{PREFIX}/openapi.json").raise_for_status().json()
    misplaced = told.made("misplaced secret")
    headers = {
        "Cookie": f"__Host-brigade-access={misplaced}; __Secure-brigade-refresh={misplaced}",
        "X-Brigade-Internal": misplaced,
        "X-CSRF-Token": misplaced,
        "Referer": f"http://127.0.0.1/reset#{misplaced}",
    }
    asked = 0
    for path, operations in document["paths"].items():
        if path.endswith("/stream"):
            continue
        for verb in VERBS:
            if verb not in operations:
                continue
            for token in (owner["access_token"], misplaced):
                api.request(
                    verb,
                    re.sub(r"\{\w+\}", misplaced, path),
                    params={"q": misplaced, "from": misplaced, "site": misplaced},
                    headers=headers | {"Authorization": f"Bearer {token}"},
                    json=_body(document, operations[verb], misplaced) if verb != "get" else None,
                )
                asked += 1
    assert asked > 60
    wait_until(lambda: False, 1)
    assert logs(stack)["gateway.log"].count('"event": "request"') > asked / 2, "each request is a line"
    assert found(stack, told.secrets) == []


def _body(document, operation, value):
    schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    name = schema.get("$ref", "").rpartition("/")[2]
    properties = document["components"]["schemas"].get(name, {}).get("properties", {})
    return dict.fromkeys(properties, value) | {"more": value}


async def test_devices_payloads_and_passwords(stack, told):
    broker = {"hostname": "127.0.0.1", "port": stack.ports["mqtt"]}
    wrong = told.made("wrong device password")
    stranger = aiomqtt.Client(**broker, identifier=OWN_DEVICE, username=OWN_DEVICE, password=wrong)
    with pytest.raises(aiomqtt.MqttError):
        await stranger.__aenter__()
    topic = f"brigade/v1/{SITE}/pan-{secrets.token_hex(3)}/readings"
    payloads = [
        json.dumps({"temperature_c": 3.4, told.payload("name of a metric").replace("-", "_"): 1}),
        json.dumps({"temperature_c": told.payload("string where a number belongs")}),
        '{"temperature_c": 3.4, "' + told.payload("broken JSON"),
        json.dumps({"ts": told.payload("ts"), "temperature_c": 1}),
        json.dumps([{"temperature_c": told.payload("element of an array")}, {"temperature_c": 1}]),
        "x" * 300_000 + told.payload("oversized"),
    ]
    told.payloads |= {f"{what}, as a metric": value.replace("-", "_") for what, value in told.payloads.items()}
    async with aiomqtt.Client(**broker, **stack.mqtt_login) as client:
        for payload in payloads:
            await client.publish(topic, payload, qos=1)
        await client.publish(topic.replace("readings", "status"), told.payload("status"), qos=1)
        await client.publish(topic.replace("readings", "nothing"), told.payload("of a topic that means nothing"), qos=1)
    with psycopg.connect(stack.superuser_url()) as connection:
        query = "SELECT count(*) FROM dead_letters WHERE mqtt_topic LIKE %s"
        like = topic.replace("readings", "%")
        eventually(lambda: connection.execute(query, (like,)).fetchone()[0] >= 7, SECONDS, "the dead letters")
    assert found(stack, told.secrets) == []
    assert [line for line in found(stack, told.payloads) if '"level": "debug"' not in line] == []


def test_outages_tell_no_passwords(stack, told, api):
    for server in ("postgres", "redis", "kafka"):
        stack.stop(server)
        log_in(api, told, OWNER, told.made(f"password without {server}"))
        time.sleep(3)
        stack.start(server)
    for part in ("users", "gateway", "bridge-0", "worker-1"):
        assert wait_until(lambda part=part: stack.ready(part), 60), f"{part} is not back"
    log_in(api, told, OWNER, Passwords.of(stack.instance).owner).raise_for_status()
    assert found(stack, told.secrets) == []


def test_every_line_of_ours_is_json_with_its_time_level_and_service(stack):
    for part in PARTS:
        lines = (stack.instance.logs / f"{part}.log").read_text().splitlines()
        assert lines, f"{part} has said nothing"
        for line in lines:
            event = json.loads(line)
            assert {"timestamp", "level", "event", "service"} <= event.keys(), line
            assert event["service"] == part.rstrip("-0123456789")


def test_a_request_is_one_line_in_each_service_with_the_same_id(stack, api):
    request_id = f"here-{secrets.token_hex(6)}"
    who = {"email": OWNER, "password": Passwords.of(stack.instance).owner}
    api.post(f"{PREFIX}/auth/login", json=who, headers={"X-Request-Id": request_id}).raise_for_status()
    for part, route in (("gateway", f"{PREFIX}/auth/login"), ("users", "/auth/login")):
        file = stack.instance.logs / f"{part}.log"
        assert wait_until(lambda file=file: request_id in file.read_text(), SECONDS)
        lines = map(json.loads, file.read_text().splitlines())
        (line,) = [line for line in lines if line["event"] == "request" and line.get("request_id") == request_id]
        assert (line["method"], line["route"], line["status"], line["level"]) == ("POST", route, 200, "info")
        assert line["seconds"] > 0

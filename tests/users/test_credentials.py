"""Device credentials: what the routes and the command do to the table and to the broker, and that the two agree."""

import asyncio
import json
import secrets
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiomqtt
import psycopg
import pytest
from psycopg.rows import dict_row
from typer.testing import CliRunner

from deploy.local.layout import Passwords
from pipeline.install.broker import USERS
from pipeline.mqtt import Client, OutageError, RefusedError
from tests.conftest import Mqtt
from tests.pipeline.bridge_servers import OwnMosquitto
from tests.users.conftest import SECRET, Api, Who, World, broker_settings, refused, serving
from tests.users.test_broker import NOT_AUTHORIZED, NOW, address
from users import enrolment
from users.audit import Actor
from users.broker import Broker
from users.credentials_command import app
from users.enrolment import Enrolment
from users.migrate import migrate
from users.sealing import Sealer
from users.settings import BrokerSettings

SECONDS = 60


@pytest.fixture
def fridge(unique: str) -> str:
    return f"fridge-{unique}"


def make(api: Api, who: Who, site: str, device: str, **more: Any) -> dict[str, Any]:
    answer = api("POST", "/credentials", who, json={"site": site, "device": device, **more})
    assert answer.status_code == 201, answer.text
    return answer.json()


def listed(api: Api, who: Who, site: str) -> dict[str, dict[str, Any]]:
    answer = api("GET", "/credentials", who, params={"site": site})
    assert answer.status_code == 200, answer.text
    return {row["device"]: row for row in answer.json()["credentials"]}


def device(given: dict[str, Any]) -> Client:
    mqtt = given["mqtt"]
    return Client(mqtt["host"], mqtt["port"], given["client_id"], user=given["username"], password=given["password"])


async def publishes(given: dict[str, Any], site: str) -> bool:
    """Whether it is let in, and its reading taken."""
    async with device(given) as client:
        return await client.publish([(f"brigade/v1/{site}/{given['device']}/readings", b"1")]) == 1


async def is_refused(given: dict[str, Any]) -> bool:
    try:
        async with device(given):
            return False
    except RefusedError as error:
        return error.reason == NOT_AUTHORIZED


async def test_a_new_credential_lets_a_device_publish_in_its_site(
    api: Api, owner: Who, site: str, fridge: str, world: World
) -> None:
    given = make(api, owner, site, fridge, name="Fish")
    assert (given["username"], given["client_id"], given["mqtt"]["tls"]) == (fridge, fridge, False)
    assert await publishes(given, site)
    assert not await publishes(given, "another")
    row = listed(api, owner, site)[fridge]
    assert (row["name"], row["rotated_at"], row["revoked_at"]) == ("Fish", None, None)
    assert given["password"] not in json.dumps(row)
    [event] = world.events("credential.created", site=site)
    assert event["detail"] == {"device": fridge}
    assert str(event["who"]) == owner.id


async def test_a_device_is_one_in_the_installation(
    api: Api, owner: Who, site: str, fridge: str, world: World, organisation: Any
) -> None:
    make(api, owner, site, fridge)
    refused(api("POST", "/credentials", owner, json={"site": site, "device": fridge}), 409, "conflict")
    person = world.person(organisation)
    elsewhere = world.site(organisation)
    world.member(person, elsewhere, "owner")
    other = Who.of(api.log_in(person["email"]))
    refused(api("POST", "/credentials", other, json={"site": elsewhere, "device": fridge}), 409, "conflict")
    refused(api("DELETE", f"/credentials/{fridge}", other), 404, "unknown")
    refused(api("POST", f"/credentials/{fridge}/rotate", other), 404, "unknown")
    assert listed(api, other, elsewhere) == {}


async def test_a_rotated_password_is_refused(api: Api, owner: Who, site: str, fridge: str, world: World) -> None:
    old = make(api, owner, site, fridge)
    new = api("POST", f"/credentials/{fridge}/rotate", owner).json()
    assert new["password"] != old["password"]
    assert await is_refused(old)
    assert await publishes(new, site)
    assert listed(api, owner, site)[fridge]["rotated_at"]
    assert len(world.events("credential.rotated", site=site)) == 1


async def test_a_revoked_device_is_cut_off_at_once_and_shown_offline(
    api: Api, owner: Who, site: str, fridge: str, mqtt: Mqtt, world: World
) -> None:
    given = make(api, owner, site, fridge)
    topic = f"brigade/v1/{site}/{fridge}/status"
    async with device(given) as client:
        await client.publish([(topic, b"online")], retain=True)
        answer = await asyncio.to_thread(api, "DELETE", f"/credentials/{fridge}", owner)
        began = time.monotonic()
        async with asyncio.timeout(SECONDS):
            with pytest.raises((OutageError, RefusedError)):
                await client.ended()
        assert time.monotonic() - began < NOW
    assert answer.status_code == 204
    assert await is_refused(given)
    assert listed(api, owner, site)[fridge]["revoked_at"]
    assert len(world.events("credential.revoked", site=site)) == 1
    async with aiomqtt.Client(mqtt.host, mqtt.port, username=mqtt.user, password=mqtt.password) as hearing:
        await hearing.subscribe(topic, qos=1)
        async with asyncio.timeout(SECONDS):
            message = await anext(aiter(hearing.messages))
    assert (message.payload, message.retain) == (b"offline", True)


async def test_what_was_revoked_can_be_made_anew(api: Api, owner: Who, site: str, fridge: str) -> None:
    old = make(api, owner, site, fridge)
    assert api("DELETE", f"/credentials/{fridge}", owner).status_code == 204
    assert api("DELETE", f"/credentials/{fridge}", owner).status_code == 204
    refused(api("POST", f"/credentials/{fridge}/rotate", owner), 409, "conflict")
    new = make(api, owner, site, fridge)
    assert await publishes(new, site)
    assert await is_refused(old)
    assert listed(api, owner, site)[fridge]["revoked_at"] is None


async def test_a_moved_device_keeps_its_password(
    api: Api, world: World, organisation: Any, site: str, fridge: str
) -> None:
    elsewhere, person = world.site(organisation), world.person(organisation)
    for place in (site, elsewhere):
        world.member(person, place, "technician")
    technician = Who.of(api.log_in(person["email"]))
    given = make(api, technician, site, fridge)
    answer = api("PATCH", f"/credentials/{fridge}", technician, json={"site": elsewhere, "name": "Meat"})
    assert (answer.json()["site"], answer.json()["name"]) == (elsewhere, "Meat")
    assert await publishes(given, elsewhere)
    assert not await publishes(given, site)
    assert fridge not in listed(api, technician, site)
    assert {event["site"] for event in world.events("credential.moved") if event["detail"]["device"] == fridge} == {
        site,
        elsewhere,
    }


def test_nobody_moves_a_device_out_of_their_sites(api: Api, owner: Who, site: str, fridge: str) -> None:
    make(api, owner, site, fridge)
    refused(api("PATCH", f"/credentials/{fridge}", owner, json={"site": "another"}), 404, "unknown")


@pytest.mark.parametrize(("role", "sees"), [("staff", False), ("auditor", True)])
def test_who_only_reads_changes_nothing(
    api: Api, owner: Who, as_role: Any, site: str, fridge: str, *, role: str, sees: bool
) -> None:
    make(api, owner, site, fridge)
    who = as_role(role)
    refused(api("POST", "/credentials", who, json={"site": site, "device": f"{fridge}-2"}), 403, "forbidden")
    refused(api("POST", f"/credentials/{fridge}/rotate", who), 403, "forbidden")
    refused(api("PATCH", f"/credentials/{fridge}", who, json={"name": "x"}), 403, "forbidden")
    refused(api("DELETE", f"/credentials/{fridge}", who), 403, "forbidden")
    answer = api("GET", "/credentials", who, params={"site": site})
    assert answer.status_code == (200 if sees else 403)


@pytest.mark.parametrize("name", ["", "a/b", "a+b", "#", "a b", "ü", "x" * 129, "a\n", USERS])
def test_what_cannot_be_in_a_topic_cannot_be_a_device(api: Api, owner: Who, site: str, name: str) -> None:
    refused(api("POST", "/credentials", owner, json={"site": site, "device": name}), 422, "bad-request")


def test_nobody_is_called_like_our_own_services(api: Api, owner: Who, site: str) -> None:
    """The client id is the name: it would be given the bridge's session, with what waits in it."""
    for name in ("brigade-bridge-0", "brigade-bridge-17", "brigade-users-1"):
        wanted = {"site": site, "device": name}
        assert "our own" in refused(api("POST", "/credentials", owner, json=wanted), 409, "conflict").json()["detail"]
    assert listed(api, owner, site) == {}


async def test_a_list_goes_on(api: Api, owner: Who, site: str, unique: str) -> None:
    names = [f"d{number}-{unique}" for number in range(3)]
    for name in names:
        make(api, owner, site, name)
    first = api("GET", "/credentials", owner, params={"site": site, "limit": 2}).json()
    rest = api("GET", "/credentials", owner, params={"site": site, "limit": 2, "cursor": first["next"]}).json()
    assert [row["device"] for row in first["credentials"] + rest["credentials"]] == names
    assert rest["next"] is None


# Where something is away -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def without_broker(users_database: str, redis_url: str, mails: Path, mqtt_users: Mqtt) -> Iterator[Api]:
    nowhere = broker_settings(mqtt_users._replace(port=1))
    with serving(users_database, redis_url, mails, **nowhere) as api:
        api.until_ready()
        yield api


async def test_while_the_broker_is_away_nothing_is_changed(
    api: Api, without_broker: Api, owner: Who, site: str, fridge: str, world: World
) -> None:
    given = make(api, owner, site, fridge)
    before = listed(api, owner, site)
    for method, path, body in (
        ("POST", "/credentials", {"site": site, "device": f"{fridge}-2"}),
        ("POST", f"/credentials/{fridge}/rotate", None),
        ("PATCH", f"/credentials/{fridge}", {"site": site}),
        ("DELETE", f"/credentials/{fridge}", None),
    ):
        answer = refused(without_broker(method, path, owner, json=body), 503, "broker-away")
        assert int(answer.headers["Retry-After"]) > 0
    assert listed(without_broker, owner, site) == before
    assert await publishes(given, site)
    assert [event["what"] for event in world.events("credential.created", site=site)] == ["credential.created"]


class Own:
    """A broker of the test's own, and the table."""

    def __init__(self, broker: OwnMosquitto, database: str, site: str, organisation: Any) -> None:
        self.broker, self.database, self.site, self.organisation = broker, database, site, organisation
        self.sealer = Sealer(b"k" * 32)
        passwords = Passwords.of(broker.instance)
        self.users = Mqtt("127.0.0.1", broker.port, USERS, passwords.mqtt_users)

    async def enrol(self, *devices: str, commit: bool = True) -> list[dict[str, Any]]:
        async with (
            Broker(address(self.users), seconds=SECONDS) as broker,
            await psycopg.AsyncConnection.connect(self.database, row_factory=dict_row) as connection,
        ):
            changes = Enrolment(connection, broker, self.sealer, Actor.operator(self.organisation))
            made = await changes.enrol(self.organisation, self.site, [(device, "") for device in devices])
            if not commit:
                await connection.rollback()
        return [
            {
                "device": account.device, "username": account.device, "client_id": account.device,
                "password": account.password, "mqtt": {"host": "127.0.0.1", "port": self.broker.port},
            }
            for account in made
        ]  # fmt: skip

    async def sync(self) -> enrolment.Repaired:
        async with (
            Broker(address(self.users), seconds=SECONDS) as broker,
            await psycopg.AsyncConnection.connect(self.database, row_factory=dict_row) as connection,
        ):
            return await enrolment.sync(connection, broker, self.sealer)


@pytest.fixture
def own_table(empty_database: str) -> str:
    """Of users, where nothing is yet."""
    migrate(empty_database)
    return empty_database


@pytest.fixture
async def own(tmp_path: Path, own_table: str, world: World) -> AsyncIterator[Own]:
    with psycopg.connect(own_table, autocommit=True) as connection:
        row = connection.execute("INSERT INTO organisations (name) VALUES ('Own') RETURNING id").fetchone()
        assert row
        connection.execute("INSERT INTO sites VALUES (%s, 'seoul', 'Seoul', 'Asia/Seoul')", row)
    broker = OwnMosquitto(tmp_path)
    broker.start()
    yield Own(broker, own_table, "seoul", row[0])
    broker.end()


async def test_a_broker_that_lost_its_file_gets_every_password_back(own: Own) -> None:
    given = await own.enrol(*(f"d{number}" for number in range(250)))
    own.broker.end(signal.SIGKILL)
    (own.broker.instance.data("mosquitto") / "accounts.json").unlink()
    own.broker.first_start()
    own.broker.start()
    assert await is_refused(given[0])
    done = await own.sync()
    assert (done.devices, done.put, done.removed) == (250, 250, 0)
    for one in (given[0], given[249]):
        assert await publishes(one, "seoul")
    again = await own.sync()
    assert (again.put, again.removed, again.roles) == (0, 0, 0)


async def test_a_sync_of_what_is_right_disconnects_nobody(own: Own) -> None:
    [given] = await own.enrol("fridge")
    async with device(given) as client:
        await own.sync()
        assert await client.publish([("brigade/v1/seoul/fridge/readings", b"1")]) == 1


async def test_what_the_table_did_not_keep_is_taken_from_the_broker_again(own: Own) -> None:
    [kept] = await own.enrol("fridge")
    [lost] = await own.enrol("oven", commit=False)
    assert await publishes(lost, "seoul")
    done = await own.sync()
    assert (done.put, done.removed) == (0, 1)
    assert await is_refused(lost)
    assert await publishes(kept, "seoul")


# The command -----------------------------------------------------------------------------------------------


@pytest.fixture
def command(own_table: str, mqtt_users: Mqtt, monkeypatch: pytest.MonkeyPatch) -> Any:
    variables = broker_settings(mqtt_users) | {"database_url": own_table, "secret": SECRET}
    for name, value in variables.items():
        monkeypatch.setenv(f"BRIGADE_USERS_{name.upper()}", str(value))
    with psycopg.connect(own_table, autocommit=True) as connection:
        row = connection.execute("INSERT INTO organisations (name) VALUES ('Own') RETURNING id").fetchone()
        site = f"site-{secrets.token_hex(4)}"
        connection.execute("INSERT INTO sites VALUES (%s, %s, 'Own', 'UTC')", (*(row or ()), site))

    def run(*words: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, [word.replace("SITE", site) for word in words])
        assert result.exit_code == code, result.output
        return result.output

    run.site = site  # type: ignore[attr-defined]
    return run


def test_an_operator_enrols_rotates_and_revokes(command: Any, fridge: str, mqtt: Mqtt, tmp_path: Path) -> None:
    def given(password: str) -> dict[str, Any]:
        return {
            "device": fridge, "username": fridge, "client_id": fridge, "password": password,
            "mqtt": {"host": mqtt.host, "port": mqtt.port},
        }  # fmt: skip

    name, password = command("create", "--site", "SITE", fridge).split()
    assert (name, asyncio.run(publishes(given(password), command.site))) == (fridge, True)
    file = tmp_path / "passwords.json"
    command("create", "--site", "SITE", "--file", str(file), fridge, f"{fridge}-2")
    kept = json.loads(file.read_text())
    assert (kept[fridge], set(kept)) == (password, {fridge, f"{fridge}-2"})
    assert file.stat().st_mode & 0o777 == 0o600
    command("create", "--site", "SITE", "--file", str(file), fridge)
    assert json.loads(file.read_text()) == kept
    rotated = command("rotate", fridge).strip()
    assert asyncio.run(publishes(given(rotated), command.site))
    command("revoke", fridge)
    assert asyncio.run(is_refused(given(rotated)))
    assert "revoked" in command("list", "--site", "SITE")
    assert "already" in command("create", "--site", "SITE", f"{fridge}-2", code=1)
    assert "no site" in command("create", "--site", "nowhere", "x", code=1)
    command("create", "--site", "SITE", "a/b", code=2)
    command("revoke", f"{fridge}-2")


def test_settings_name_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from observability.settings import load

    monkeypatch.setenv("BRIGADE_USERS_SECRET", SECRET)
    monkeypatch.delenv("BRIGADE_USERS_MQTT_ADMIN_PASSWORD", raising=False)
    with pytest.raises(SystemExit):
        load(BrokerSettings)
    assert "BRIGADE_USERS_MQTT_ADMIN_PASSWORD" in capsys.readouterr().err

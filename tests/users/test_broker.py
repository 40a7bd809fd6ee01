"""What the broker lets a device do, and how fast a change of its account is in force."""

import asyncio
import secrets
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiomqtt
import pytest

from deploy.local.layout import Passwords
from pipeline.install.broker import BRIDGE, USERS
from pipeline.mqtt import Client, OutageError, RefusedError
from tests.conftest import Mqtt
from tests.pipeline.bridge_servers import OwnMosquitto
from users import broker as control
from users.broker import Account, Address, Broker, BrokerAwayError, State

NOT_AUTHORIZED = 135
NOW = 1.0
"""Seconds in which a change has to be in force."""


def address(mqtt: Mqtt) -> Address:
    return Address(mqtt.host, mqtt.port, mqtt.user, mqtt.password)


@pytest.fixture
async def broker(mqtt_users: Mqtt) -> AsyncIterator[Broker]:
    async with Broker(address(mqtt_users), seconds=10) as broker:
        yield broker


@pytest.fixture
async def account(broker: Broker, unique: str) -> AsyncIterator[Account]:
    """A device that may publish, gone afterwards."""
    made = Account(f"fridge-{unique}", f"site-{unique}", secrets.token_urlsafe(24))
    await broker.put([made])
    yield made
    await broker.remove([made.device])


def device(mqtt: Mqtt, account: Account, *, client_id: str = "", password: str = "") -> Client:
    return Client(
        mqtt.host, mqtt.port, client_id or account.device, user=account.device, password=password or account.password
    )


def readings(account: Account) -> str:
    return f"brigade/v1/{account.site}/{account.device}/readings"


@asynccontextmanager
async def listener(mqtt: Mqtt, *filters: str) -> AsyncIterator[aiomqtt.Client]:
    client = aiomqtt.Client(
        mqtt.host, mqtt.port, username=mqtt.user, password=mqtt.password, protocol=aiomqtt.ProtocolVersion.V5
    )
    async with client:
        for pattern in filters:
            await client.subscribe(pattern, qos=1)
        yield client


async def heard(client: aiomqtt.Client, mqtt: Mqtt, last: str) -> list[str]:
    """The topics that came, up to a last one that is published now."""
    async with listener(mqtt) as publisher:
        await publisher.publish(last, b"last", qos=1)
    topics = []
    async with asyncio.timeout(60):
        async for message in client.messages:
            if str(message.topic) == last:
                return topics
            topics.append(str(message.topic))
    raise AssertionError


async def test_a_device_publishes_below_its_own_id(mqtt: Mqtt, account: Account) -> None:
    topics = [f"brigade/v1/{account.site}/{account.device}/{kind}" for kind in ("readings", "status", "a/b")]
    async with listener(mqtt, f"brigade/v1/{account.site}/#") as hearing, device(mqtt, account) as client:
        assert await client.publish([(topic, b"1") for topic in topics]) == 3
        assert await heard(hearing, mqtt, f"brigade/v1/{account.site}/last") == topics


def elsewhere(account: Account) -> list[str]:
    site, name = account.site, account.device
    return [
        f"brigade/v1/{site}/other/readings",
        f"brigade/v1/{site}/{name}0/readings",
        f"brigade/v1/{site}/{name[:-1]}/readings",
        f"brigade/v1/{site}/readings",
        f"brigade/v1/other/{name}/readings",
        f"brigade/v1/{site}x/{name}/readings",
        f"brigade/v2/{site}/{name}/readings",
        f"brigade/v1//{site}/{name}/readings",
        f"/brigade/v1/{site}/{name}/readings",
        f"x/{site}/{name}",
        f"{name}/readings",
        f"$CONTROL/{name}",
        control.CONTROL,
        control.ANSWERS,
    ]


async def test_a_device_is_told_that_it_may_not_publish_elsewhere(mqtt: Mqtt, account: Account) -> None:
    async with listener(mqtt, "#") as hearing, device(mqtt, account) as client:
        assert await client.publish([(topic, b"{}") for topic in elsewhere(account)]) == 0
        assert client.refused == len(elsewhere(account))
        topics = await heard(hearing, mqtt, f"brigade/v1/{account.site}/last")
        assert [topic for topic in topics if account.site in topic or account.device in topic] == []


async def test_a_device_of_mqtt_3_is_not_told_and_not_heard(mqtt: Mqtt, account: Account) -> None:
    async with listener(mqtt, f"brigade/v1/{account.site}/#") as hearing:
        old = aiomqtt.Client(
            mqtt.host,
            mqtt.port,
            identifier=account.device,
            username=account.device,
            password=account.password,
            protocol=aiomqtt.ProtocolVersion.V311,
        )
        async with old as client:
            await client.publish(f"brigade/v1/{account.site}/other/readings", b"1", qos=1)
            await client.publish(readings(account), b"1", qos=1)
        assert await heard(hearing, mqtt, f"brigade/v1/{account.site}/last") == [readings(account)]


@pytest.mark.parametrize(
    "pattern",
    ["#", "brigade/v1/#", "brigade/v1/{site}/#", "brigade/v1/{site}/{device}/#", "brigade/v1/{site}/{device}/readings",
     "$share/bridge/brigade/v1/#", "$SYS/#", control.ANSWERS],
)  # fmt: skip
async def test_a_device_reads_nothing(mqtt: Mqtt, account: Account, pattern: str) -> None:
    async with device(mqtt, account) as client:
        with pytest.raises(RefusedError) as refused:
            await client.subscribe(pattern.format(site=account.site, device=account.device))
        assert refused.value.reason == NOT_AUTHORIZED


async def test_a_device_leaves_a_will_for_itself_alone(mqtt: Mqtt, account: Account) -> None:
    async with listener(mqtt, f"brigade/v1/{account.site}/#") as hearing:
        for name in ("other", account.device):
            will = aiomqtt.Will(f"brigade/v1/{account.site}/{name}/status", b"offline", qos=1)
            client = aiomqtt.Client(
                mqtt.host, mqtt.port, identifier=account.device, username=account.device, password=account.password,
                will=will,
            )  # fmt: skip
            await client.__aenter__()
            client._client.socket().shutdown(2)  # vanished
            with pytest.raises(aiomqtt.MqttError):
                await client.publish(readings(account), qos=1, timeout=0.5)
        await asyncio.sleep(0.5)  # no effect can be waited for: it must not come
        topics = await heard(hearing, mqtt, f"brigade/v1/{account.site}/last")
        assert topics == [f"brigade/v1/{account.site}/{account.device}/status"]


async def refused(client: Client) -> int:
    with pytest.raises(RefusedError) as error:
        await client.__aenter__()
    return error.value.reason


async def test_who_has_no_account_or_another_password_is_refused(mqtt: Mqtt, account: Account) -> None:
    nobody = Account(f"{account.device}x", account.site, "x")
    assert await refused(Client(mqtt.host, mqtt.port, account.device)) == NOT_AUTHORIZED
    assert await refused(device(mqtt, account, password="guess")) == NOT_AUTHORIZED
    assert await refused(device(mqtt, nobody)) == NOT_AUTHORIZED


async def test_a_device_cannot_take_another_clients_session(mqtt: Mqtt, account: Account) -> None:
    """Whoever comes under a client id takes its session with all that waits in it."""
    async with device(mqtt, account):
        assert await refused(device(mqtt, account, client_id="brigade-bridge-0")) == NOT_AUTHORIZED


async def ended(client: Client) -> tuple[Exception, float]:
    began = time.monotonic()
    async with asyncio.timeout(60):
        with pytest.raises((OutageError, RefusedError)) as error:
            await client.ended()
    return error.value, time.monotonic() - began


async def test_a_removed_device_is_cut_off_at_once(mqtt: Mqtt, broker: Broker, account: Account) -> None:
    async with device(mqtt, account) as client:
        assert await client.publish([(readings(account), b"1")]) == 1
        await broker.remove([account.device])
        error, seconds = await ended(client)
    assert "ADMINISTRATIVE_ACTION" in str(error)
    assert seconds < NOW
    assert await refused(device(mqtt, account)) == NOT_AUTHORIZED


async def test_another_password_ends_the_connection_and_the_old_one_is_refused(
    mqtt: Mqtt, broker: Broker, account: Account
) -> None:
    rotated = Account(account.device, account.site, "another")
    async with device(mqtt, account) as client:
        await broker.put([rotated])
        _, seconds = await ended(client)
    assert seconds < NOW
    assert await refused(device(mqtt, account)) == NOT_AUTHORIZED
    async with device(mqtt, rotated) as client:
        assert await client.publish([(readings(account), b"1")]) == 1


async def test_a_moved_device_publishes_in_its_new_site_alone(mqtt: Mqtt, broker: Broker, account: Account) -> None:
    moved = Account(account.device, f"{account.site}-2", account.password)
    await broker.put([moved])
    async with device(mqtt, moved) as client:
        assert await client.publish([(readings(account), b"1")]) == 0
        assert await client.publish([(readings(moved), b"1")]) == 1


async def test_the_broker_tells_its_devices_and_leaves_our_services_out(broker: Broker, account: Account) -> None:
    states = await broker.states()
    assert states[account.device] == account.state == State(f"site-{account.site}", account.state.mark)
    assert BRIDGE not in states
    assert (await broker.roles())[f"site-{account.site}"] == control.acls(account.site)


async def test_a_role_that_allows_something_else_is_put_right(
    mqtt: Mqtt, broker: Broker, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {"acltype": "publishClientSend", "topic": "brigade/v0/#", "priority": 0, "allow": True}
    with monkeypatch.context() as patched:
        patched.setattr(control, "acls", lambda _site: [other])
        await broker.set_roles([account.site])
    assert (await broker.roles())[f"site-{account.site}"] == [other]
    await broker.set_roles([account.site])
    async with device(mqtt, account) as client:
        assert await client.publish([(readings(account), b"1")]) == 1


async def test_five_hundred_devices_are_enrolled_in_seconds(broker: Broker, unique: str) -> None:
    many = [Account(f"d{number}-{unique}", f"site-{unique}", secrets.token_hex(16)) for number in range(500)]
    began = time.monotonic()
    await broker.put(many)
    seconds = time.monotonic() - began
    states = await broker.states()
    await broker.remove([account.device for account in many])
    assert {account.device: account.state for account in many}.items() <= states.items()
    assert not {account.device for account in many} & set(await broker.states())
    assert seconds < 5


async def test_two_administrators_do_not_hear_each_others_answers(mqtt_users: Mqtt, broker: Broker) -> None:
    async with Broker(address(mqtt_users), seconds=10) as other:
        answers = await asyncio.gather(*(b.states() for b in (broker, other) for _ in range(1)))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("why", ["nobody listens", "wrong password", "not an administrator"])
async def test_a_broker_that_is_away_is_told_as_such(mqtt: Mqtt, mqtt_users: Mqtt, why: str) -> None:
    broken = {
        "nobody listens": address(mqtt_users._replace(port=1)),
        "wrong password": address(mqtt_users._replace(password="guess")),
        "not an administrator": Address(mqtt.host, mqtt.port, mqtt.user, "guess"),
    }[why]
    with pytest.raises(BrokerAwayError):
        async with Broker(broken, seconds=1):
            pass


async def test_a_device_is_no_administrator(mqtt: Mqtt, account: Account) -> None:
    as_device = Address(mqtt.host, mqtt.port, account.device, account.password)
    with pytest.raises(BrokerAwayError):
        async with Broker(as_device, seconds=1) as broker:
            await broker.put([Account("thief", "site", "x")])


async def test_an_account_survives_the_broker_that_is_killed_the_moment_it_has_it(tmp_path, unique: str) -> None:
    own = OwnMosquitto(tmp_path)
    own.start()
    passwords = Passwords.of(own.instance)
    users = Mqtt("127.0.0.1", own.port, USERS, passwords.mqtt_users)
    try:
        for number in range(5):
            made = Account(f"fridge-{number}-{unique}", "seoul", secrets.token_hex(16))
            async with Broker(address(users), seconds=10) as broker:
                await broker.put([made])
                own.end(signal.SIGKILL)
            own.start()
            async with device(users, made) as client:
                assert await client.publish([(readings(made), b"1")]) == 1
        async with Broker(address(users), seconds=10) as broker:
            assert len(await broker.states()) == 5
    finally:
        own.end()


async def test_the_bridge_hears_and_does_not_speak(tmp_path, unique: str) -> None:
    own = OwnMosquitto(tmp_path)
    own.start()
    passwords = Passwords.of(own.instance)
    try:
        options = {"user": BRIDGE, "password": passwords.mqtt_bridge, "receive": lambda _messages: None}
        async with Client("127.0.0.1", own.port, "brigade-bridge-0", **options) as bridge:
            await bridge.subscribe("$share/bridge/brigade/v1/#")
            await bridge.subscribe_retained("brigade/v1/+/+/status")
            assert await bridge.publish([("brigade/v1/seoul/fridge/readings", b"1"), (control.CONTROL, b"{}")]) == 0
            for pattern in ("#", "$share/other/brigade/v1/#", "brigade/v1/#", control.ANSWERS):
                with pytest.raises(RefusedError):
                    await bridge.subscribe(pattern)
    finally:
        own.end()

"""The broker's accounts for devices, changed while it runs, over the control topic of Mosquitto's dynamic security.

    async with Broker(address, seconds=2) as broker:
        await broker.put([Account("seoul-1.fridge-2", "seoul-1", password)])

A device's account bears its name, its client id is fixed to it, and its role is that of its site. All commands of a
call go in one message: the broker writes its file once, and answers when it has.
"""

import asyncio
import hashlib
import json
import secrets
import ssl
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import aiomqtt

T = TypeVar("T")

CONTROL: Final = "$CONTROL/dynamic-security/v1"
ANSWERS: Final = f"{CONTROL}/response"
DEVICE_PATTERN: Final = r"^[A-Za-z0-9._:-]{1,128}$"
"""What may be put into topics; accounts of our own services hold a `/`, so that no device can be called so."""

ROLE: Final = "site-"
BATCH: Final = 100
"""Accounts a message: the broker does nothing else while it hashes their passwords, about 0.5 ms each."""
PAGE: Final = 200
"""Accounts an answer: for each the broker looks at every connection it has."""


class BrokerAwayError(Exception):
    """The broker cannot be reached, does not answer, or does not let us change accounts."""


class BrokerRefusedError(Exception):
    """It answered, and did not do it."""


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int
    user: str
    password: str
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class Account:
    device: str
    site: str
    password: str

    @property
    def state(self) -> "State":
        return State(ROLE + self.site, hashlib.sha256(self.password.encode()).hexdigest()[:16])


@dataclass(frozen=True, slots=True)
class State:
    """What the broker tells of a device's account. `mark` is kept beside it: a part of its password's hash."""

    role: str
    mark: str


def acls(site: str) -> list[dict[str, Any]]:
    """What a device of that site may do: publish below its own id. `%u` is its user name, which is its id."""
    own = f"brigade/v1/{site}/%u/#"
    return [{"acltype": "publishClientSend", "topic": own, "priority": 0, "allow": True}]


class Broker:
    """A connection as the broker's administrator."""

    def __init__(self, address: Address, *, seconds: float) -> None:
        """`seconds` bounds connecting, and each answer."""
        self._address = address
        self._seconds = seconds

    async def __aenter__(self) -> Self:
        """`BrokerAwayError` when the broker does not let us in."""
        address = self._address
        self._client = aiomqtt.Client(
            address.host,
            address.port,
            username=address.user,
            password=address.password,
            identifier=f"brigade-users-{secrets.token_hex(8)}",
            protocol=aiomqtt.ProtocolVersion.V5,
            tls_context=address.tls,
            timeout=self._seconds,
        )
        try:
            await self._client.__aenter__()
            await self._client.subscribe(ANSWERS)
        except aiomqtt.MqttError as error:
            raise BrokerAwayError(f"{address.host}:{address.port} as {address.user}: {error}") from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._client.__aexit__(kind, error, trace)
        except aiomqtt.MqttError:
            return  # it has gone by itself

    async def put(self, accounts: Iterable[Account]) -> None:
        """Return when these accounts are as given; who was connected as one of them is so no longer."""
        for some in _batches(accounts):
            roles = [
                {"command": "createRole", "rolename": ROLE + site, "acls": acls(site)}
                for site in sorted({account.site for account in some})
            ]
            await self._ask([*roles, *(command for account in some for command in _put(account))])

    async def remove(self, devices: Iterable[str]) -> None:
        """Return when these accounts are not there; who was connected as one of them is so no longer."""
        for some in _batches(devices):
            await self._ask([{"command": "deleteClient", "username": device} for device in some])

    async def states(self) -> dict[str, State]:
        """Every device's account; those of services, which have no site's role, are left out."""
        found: dict[str, State] = {}
        offset = 0
        while True:
            page = {"command": "listClients", "verbose": True, "count": PAGE, "offset": offset}
            [answer] = await self._ask([page])
            clients = answer["data"]["clients"]
            for client in clients:
                roles = [role["rolename"] for role in client["roles"]]
                if roles and roles[0].startswith(ROLE):
                    found[client["username"]] = State(" ".join(roles), client.get("textname", ""))
            offset += len(clients)
            if not clients or offset >= answer["data"]["totalCount"]:
                return found

    async def roles(self) -> dict[str, list[dict[str, Any]]]:
        """What each role of a site allows."""
        [answer] = await self._ask([{"command": "listRoles", "verbose": True}])
        roles = answer["data"]["roles"]
        return {role["rolename"]: role["acls"] for role in roles if role["rolename"].startswith(ROLE)}

    async def set_roles(self, sites: Iterable[str]) -> None:
        """Return when the roles of these sites allow what `acls` says; their devices are disconnected, all of them."""
        await self._ask([{"command": "modifyRole", "rolename": ROLE + site, "acls": acls(site)} for site in sites])

    async def say_offline(self, site: str, device: str) -> None:
        """What the device's last will would have said: the broker does not publish it when an account ends."""
        topic = f"brigade/v1/{site}/{device}/status"
        await self._within(self._client.publish(topic, b"offline", qos=1, retain=True))

    async def _ask(self, commands: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The answers, when the broker has done all of it and written its file."""
        if not commands:
            return []
        ticket = secrets.token_hex(8)
        payload = json.dumps({"commands": [{**command, "correlationData": ticket} for command in commands]})
        await self._within(self._client.publish(CONTROL, payload, qos=0))  # a PUBACK would delay the answer by 40 ms
        answers = await self._within(self._answers(ticket))
        for answer in answers:
            if (error := answer.get("error")) and error not in _HARMLESS:
                raise BrokerRefusedError(f"{answer['command']}: {error}")
        return answers

    async def _answers(self, ticket: str) -> list[dict[str, Any]]:
        """Those to our commands; everybody who asks hears all answers."""
        async for message in self._client.messages:
            answers: list[dict[str, Any]] = json.loads(bytes(message.payload))["responses"]
            if answers and answers[0].get("correlationData") == ticket:
                return answers
        raise BrokerAwayError("the connection ended")

    async def _within(self, awaitable: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._seconds):
                return await awaitable
        except TimeoutError:
            raise BrokerAwayError(f"no answer within {self._seconds:g} s") from None
        except aiomqtt.MqttError as error:
            raise BrokerAwayError(str(error)) from error


_HARMLESS: Final = {"Role already exists", "Client not found"}
"""To a command that is repeated, or that makes sure."""


def _put(account: Account) -> Iterator[dict[str, Any]]:
    yield {"command": "deleteClient", "username": account.device}
    yield {
        "command": "createClient",
        "username": account.device,
        "password": account.password,
        "clientid": account.device,
        "textname": account.state.mark,
        "roles": [{"rolename": account.state.role}],
    }


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    items = iter(items)
    while some := list(islice(items, BATCH)):
        yield some

"""Users as a real server on a database and a Redis of its own, and people of every role to call it as."""

import base64
import secrets
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jwt
import psycopg
import pytest
import uvicorn
from psycopg.rows import dict_row

from tests.conftest import Mqtt, address, drop, execute, with_database
from users.api_keys import new_key
from users.app import create
from users.migrate import migrate
from users.passwords import HASHER
from users.roles import MemberRole, Scope
from users.sealing import sha256
from users.settings import UsersSettings

INTERNAL = "internal-secret-of-the-tests-0123456789"
SECRET = base64.b64encode(b"k" * 32).decode()
PASSWORD = "a sentence of the tests"
HASHED = HASHER.hash(PASSWORD)
PROBLEM = "application/problem+json"


class Served:
    """Users on a port of its own, in a thread."""

    def __init__(self, settings: UsersSettings) -> None:
        self.app = create(settings)
        self._server = uvicorn.Server(
            uvicorn.Config(self.app, host="127.0.0.1", port=0, log_config=None, access_log=False, server_header=False)
        )
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self) -> "Api":
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive(), "users did not start"
            self._thread.join(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
        return Api(self.client, self.app)

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join()


class Api:
    """Calls it as the gateway does."""

    def __init__(self, http: httpx.Client, app: Any) -> None:
        self.http = http
        self.app = app

    def __call__(
        self, method: str, path: str, who: "Who | None" = None, *, ip: str = "", **more: Any
    ) -> httpx.Response:
        headers = {"X-Brigade-Internal": (who or Who()).internal_token(ip or some_ip())} | more.pop("headers", {})
        return self.http.request(method, path, headers=headers, **more)

    def log_in(self, email: str, password: str = PASSWORD, **more: Any) -> httpx.Response:
        ip = more.pop("ip", "")
        return self("POST", "/auth/login", ip=ip, json={"email": email, "password": password} | more)

    def refresh(self, token: str) -> httpx.Response:
        return self("POST", "/auth/refresh", json={"refresh_token": token})

    def until_ready(self) -> None:
        deadline = time.monotonic() + 60
        while (answer := self.http.get("/health")).status_code != 200:
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.05)


@dataclass
class Who:
    """Whom an internal token names."""

    kind: str = "anonymous"
    claims: dict[str, Any] = field(default_factory=dict)
    email: str = ""
    refresh_token: str = ""

    @classmethod
    def of(cls, answer: httpx.Response, email: str = "") -> "Who":
        """As the gateway makes of an access token."""
        assert answer.is_success, answer.text
        said = jwt.decode(answer.json()["access_token"], options={"verify_signature": False})
        claims = {name: said[name] for name in ("sub", "org", "sid", "sites") if name in said}
        return cls(said["kind"], claims, email, answer.json().get("refresh_token", ""))

    @property
    def id(self) -> str:
        return self.claims["sub"]

    def internal_token(self, ip: str = "192.0.2.1") -> str:
        return internal_token(kind=self.kind, ip=ip, **self.claims)


def internal_token(secret: str = INTERNAL, algorithm: str = "HS256", **claims: Any) -> str:
    now = int(time.time())
    said = {
        "iss": "brigade-gateway", "aud": "brigade-users", "iat": now, "exp": now + 30,
        "kind": "anonymous", "ip": "192.0.2.1", "rid": "request-1",
    } | claims  # fmt: skip
    return jwt.encode({name: value for name, value in said.items() if value is not None}, secret, algorithm=algorithm)


def some_ip() -> str:
    """One that no other test has: throttles count by address."""
    return f"fd00:{secrets.token_hex(2)}:{secrets.token_hex(2)}:{secrets.token_hex(2)}::1"


@contextmanager
def serving(database_url: str, redis_url: str, mails: Path, **settings: Any) -> Iterator[Api]:
    given = {
        "database_url": database_url, "redis_url": redis_url, "secret": SECRET, "internal_secret": INTERNAL,
        "mail_url": mails.as_uri(), "metrics_port": 0, "port": 0, "mqtt_admin_password": "of no broker", "public_url": "https://brigade.example",
    } | settings  # fmt: skip
    with Served(UsersSettings(**given)) as api:
        yield api


@pytest.fixture(scope="session")
def redis_url() -> str:
    return f"redis://{address('BRIGADE_TEST_REDIS')}/9"


@pytest.fixture(scope="session")
def users_database(postgres: str) -> Iterator[str]:
    name = f"test_users_{secrets.token_hex(4)}"
    execute(postgres, "CREATE DATABASE {}", name)
    migrate(with_database(postgres, name))
    yield with_database(postgres, name)
    drop(postgres, name)


@pytest.fixture(scope="session")
def mails(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where mails arrive."""
    return tmp_path_factory.mktemp("mails")


def broker_settings(mqtt: Mqtt) -> dict[str, Any]:
    """As who may change the broker's accounts."""
    return {
        "mqtt_host": mqtt.host, "mqtt_port": mqtt.port,
        "mqtt_admin_user": mqtt.user, "mqtt_admin_password": mqtt.password,
    }  # fmt: skip


@pytest.fixture(scope="session")
def api(users_database: str, redis_url: str, mails: Path, mqtt_users: Mqtt) -> Iterator[Api]:
    with serving(users_database, redis_url, mails, **broker_settings(mqtt_users)) as api:
        api.until_ready()
        yield api


class World:
    """Makes organisations, sites and people, straight in the tables."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection

    def one(self, query: str, *parameters: object) -> dict[str, Any]:
        row = self.connection.execute(query, parameters).fetchone()
        assert row is not None
        return row

    def organisation(self) -> uuid.UUID:
        return self.one("INSERT INTO organisations (name) VALUES ('Tests') RETURNING id")["id"]

    def site(self, organisation: uuid.UUID) -> str:
        name = f"site-{secrets.token_hex(4)}"
        self.connection.execute(
            "INSERT INTO sites VALUES (%s, %s, %s, 'Asia/Seoul')", (organisation, name, name.title())
        )
        return name

    def person(self, organisation: uuid.UUID) -> dict[str, Any]:
        email = f"{secrets.token_hex(6)}@example.com"
        return self.one(
            "INSERT INTO people (organisation, email, name, password) VALUES (%s, %s, 'Some One', %s) RETURNING *",
            organisation, email, HASHED,
        )  # fmt: skip

    def member(self, person: dict[str, Any], site: str, role: str) -> None:
        key = person["organisation"], person["id"], site, role
        self.connection.execute(
            "INSERT INTO memberships (organisation, person, site, role) VALUES (%s, %s, %s, %s)", key
        )

    def key(self, organisation: uuid.UUID, scope: Scope, *sites: str) -> tuple[uuid.UUID, str]:
        prefix, key = new_key()
        row = self.one(
            "INSERT INTO api_keys (organisation, prefix, sha256, name, scope, created_by) "
            "VALUES (%s, %s, %s, 'A key', %s, gen_random_uuid()) RETURNING id",
            organisation, prefix, sha256(key), scope,
        )  # fmt: skip
        for site in sites:
            self.connection.execute("INSERT INTO api_key_sites VALUES (%s, %s, %s)", (organisation, row["id"], site))
        return row["id"], key

    def events(self, what: str, **where: object) -> list[dict[str, Any]]:
        rows = self.connection.execute("SELECT * FROM audit_events WHERE what = %s ORDER BY id", (what,)).fetchall()
        return [row for row in rows if all(row[name] == value for name, value in where.items())]


@pytest.fixture(scope="session")
def world(users_database: str) -> Iterator[World]:
    with psycopg.connect(users_database, autocommit=True, row_factory=dict_row) as connection:
        yield World(connection)


@pytest.fixture
def organisation(world: World) -> uuid.UUID:
    return world.organisation()


@pytest.fixture
def site(world: World, organisation: uuid.UUID) -> str:
    return world.site(organisation)


@pytest.fixture
def person(world: World, organisation: uuid.UUID, site: str) -> dict[str, Any]:
    """An owner of `site`, not logged in."""
    row = world.person(organisation)
    world.member(row, site, MemberRole.OWNER)
    return row


@pytest.fixture
def owner(api: Api, person: dict[str, Any]) -> Who:
    """The same, logged in."""
    return Who.of(api.log_in(person["email"]), person["email"])


@pytest.fixture
def as_role(api: Api, world: World, organisation: uuid.UUID, site: str) -> Any:
    """Log somebody new in, who is this in `site`."""

    def log_in(role: str) -> Who:
        row = world.person(organisation)
        world.member(row, site, role)
        return Who.of(api.log_in(row["email"]), row["email"])

    return log_in


@pytest.fixture
def letter(mails: Path) -> Any:
    """Wait for the mail to somebody, and return its text."""

    def arrived(email: str, about: str = "") -> str:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for file in sorted(mails.glob("*.eml"), reverse=True):
                text = _text(file)
                if f"To: {email}" in text and about in text:
                    return text
            time.sleep(0.05)
        raise AssertionError(f"no mail to {email}")

    return arrived


def _text(file: Path) -> str:
    import email
    from email import policy

    message = email.message_from_bytes(file.read_bytes(), policy=policy.default)
    body = message.get_body()
    return f"To: {message['To']}\nSubject: {message['Subject']}\n\n{body.get_content() if body else ''}"


def token_of(text: str) -> str:
    """The token of the link in a mail."""
    return text.partition("#")[2].split()[0]


def refused(answer: httpx.Response, status: int, kind: str) -> httpx.Response:
    """A problem document of this status and kind."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM), answer.text
    assert answer.json()["type"] == f"urn:brigade:problem:{kind}", answer.text
    return answer

"""Those who ask, and a users service of a few lines that knows them."""

import json
import secrets
import socket
import threading
import time
import uuid
from contextlib import suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

SECRET = "a secret of the gateway's tests alone"
SITES = {"seoul-1": "owner", "paris-1": "owner"}
ORGANISATION = str(uuid.uuid4())


class SigningKey:
    def __init__(self):
        self.kid = secrets.token_hex(4)
        self.private = Ed25519PrivateKey.generate()

    def jwk(self):
        return OKPAlgorithm.to_jwk(self.private.public_key(), as_dict=True) | {"kid": self.kid, "use": "sig"}


def claims(sites=None, **more):
    now = int(time.time())
    told = {
        "iss": "brigade-users",
        "aud": "brigade",
        "sub": str(uuid.uuid4()),
        "kind": "person",
        "org": ORGANISATION,
        "sid": str(uuid.uuid4()),
        "sites": SITES if sites is None else sites,
        "iat": now,
        "nbf": now,
        "exp": now + 3600,
        "jti": str(uuid.uuid4()),
    } | more
    return {name: value for name, value in told.items() if value is not None}


class FakeUsers:
    """Answers its key set, exchanges the keys it has, and tells of every other call what came; on a port of its own."""

    def __init__(self):
        self.signing = [SigningKey()]
        self.api_keys = {}
        self.answers = {}
        self.calls = []
        self.looks = []  # at the key set, which the gateway takes whenever it likes
        self.delay = 0
        self.breaks = 0
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._http.daemon_threads = True
        self._http.users = self
        self.open = set()
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """Gone, with the connections that are kept open."""
        self._http.shutdown()
        self._http.server_close()
        for connection in list(self.open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def token(self, sites=None, *, key=None, headers=None, algorithm="EdDSA", **more):
        key = key or self.signing[0]
        return jwt.encode(
            claims(sites, **more),
            key.private,
            algorithm=algorithm,
            headers={n: v for n, v in ({"typ": "at+jwt", "kid": key.kid} | (headers or {})).items() if v is not None},
        )

    def api_key(self, sites=None):
        """A key, and what it is exchanged for."""
        key = f"bk_{secrets.token_hex(4)}_{secrets.token_urlsafe(32)}"
        self.api_keys[key] = {"sites": sites, "kind": "key", "sid": None, "sub": str(uuid.uuid4())}
        return key


KEY_SET = ("GET", "/.well-known/jwks.json")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.server.users.open.add(self.connection)

    def finish(self):
        super().finish()
        self.server.users.open.discard(self.connection)

    def answer(self):
        users = self.server.users
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        call = {"method": self.command, "path": self.path, "headers": headers, "body": body.decode()}
        (users.looks if (self.command, self.path) == KEY_SET else users.calls).append(call)
        time.sleep(users.delay)
        if users.breaks:
            users.breaks -= 1
            self.close_connection = True
            return
        status, more, content = users.answers.get((self.command, self.path)) or self.usual(users, body)
        content = json.dumps(content).encode() if content is not None else b""
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **more}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815, http.server's names

    def usual(self, users, body):
        match self.path:
            case "/.well-known/jwks.json":
                return 200, {}, {"keys": [key.jwk() for key in users.signing]}
            case "/internal/keys/exchange":
                told = users.api_keys.get(json.loads(body)["key"])
                if told is None:
                    return 401, {}, {"type": "urn:brigade:problem:bad-key"}
                return 200, {}, {"access_token": users.token(**told), "expires_in": 600}
            case _:
                return 200, {}, users.calls[-1]

    def log_message(self, *_):
        pass


@cache
def everyday():
    """The users service of all tests that do not care about it."""
    return FakeUsers()


def bearing(token):
    return {"Authorization": f"Bearer {token}"}

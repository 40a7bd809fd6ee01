"""Servers of the bench's own on its data set: a gateway with a key to it, and any other module."""

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from deploy.bench import dataset
from deploy.bench.instance import Bench
from deploy.local.layout import REPOSITORY, database_url
from deploy.local.parts import gateway_settings
from deploy.local.ready import ready, wait_until

READY_SECONDS = 30.0
KID = "bench"


@dataclass(frozen=True, slots=True)
class Gateway:
    pid: int
    port: int
    headers: dict[str, str]
    """Of somebody who may read the data set."""


@contextmanager
def gateway(bench: Bench) -> Iterator[Gateway]:
    """For the data set's database; without limits."""
    here = bench.stack.instance
    with served_keys() as (private, users_url):
        environment = {
            **bench.stack.env,
            **gateway_settings(here),
            "BRIGADE_GATEWAY_DATABASE_URL": database_url(here, "brigade_api", dataset.NAME),
            "BRIGADE_GATEWAY_USERS_URL": users_url,
            "BRIGADE_GATEWAY_RATE_PEOPLE": "1000000",
            "BRIGADE_GATEWAY_STREAMS": "1000000",
        }
        with process(bench, "gateway.app", environment, lambda: ready("gateway", here)) as pid:
            yield Gateway(pid, here.ports["gateway"], {"Authorization": f"Bearer {_token(private)}"})


@contextmanager
def process(bench: Bench, module: str, environment: Mapping[str, str], answers: Callable[[], bool]) -> Iterator[int]:
    """Its process id, when it answers."""
    log = bench.stack.instance.logs / f"bench-{module}.log"
    command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", module]
    with (
        log.open("w") as output,
        subprocess.Popen(
            command, cwd=REPOSITORY, stdout=output, stderr=output, env={**os.environ, **environment}
        ) as running,
    ):
        try:
            if not wait_until(answers, READY_SECONDS, while_true=lambda: running.poll() is None):
                raise RuntimeError(f"{module} does not get ready: {log}")
            yield running.pid
        finally:
            running.terminate()


@contextmanager
def served_keys() -> Iterator[tuple[Ed25519PrivateKey, str]]:
    """A key that tokens are signed with, and where its public half is to be had, as if from users."""
    private = Ed25519PrivateKey.generate()
    public = OKPAlgorithm.to_jwk(private.public_key(), as_dict=True) | {"kid": KID, "use": "sig", "alg": "EdDSA"}
    document = orjson.dumps({"keys": [public]})

    class Keys(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(document)))
            self.end_headers()
            self.wfile.write(document)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Keys) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield private, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def _token(private: Ed25519PrivateKey) -> str:
    now = int(time.time())
    who = {"sub": str(uuid.uuid4()), "org": str(uuid.uuid4()), "sid": str(uuid.uuid4()), "jti": str(uuid.uuid4())}
    about = {"iss": "brigade-users", "aud": "brigade", "kind": "person", "sites": {dataset.SITE: "staff"}}
    times = {"iat": now, "nbf": now, "exp": now + 7200}
    return jwt.encode(about | who | times, private, algorithm="EdDSA", headers={"typ": "at+jwt", "kid": KID})

"""A server of a chart on this machine: the rendered configuration, the real program, a sandbox in a pod's place."""

import socket
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Self

import pytest
from confluent_kafka.admin import AdminClient, ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

from deploy.local import jars, roots
from deploy.local.layout import cache_folder
from deploy.local.sandbox import Sandbox
from tests.certificates import Authority
from tests.deploy.servers.rendered import data
from tests.pipeline.workers import free_port


class Server:
    """A pod's container, as far as one program sees it: its user, /data, /config, its secrets, a network."""

    def __init__(self, folder: Path, root: roots.Root, user: str, files: dict[str, str]) -> None:
        there = root.folder(cache_folder())
        if not there.exists():
            pytest.fail(f"{there} is not there: scripts/up makes it")
        uid, gid = roots.ids(there, user)
        config, self.secrets = folder / "config", folder / "secrets"
        for each in (config, self.secrets):
            each.mkdir()
        for name, text in files.items():
            (config / name).write_text(text)
        self.sandbox = Sandbox(root=there, uid=uid, gid=gid, data=folder / "data", config=config)
        self.mount("/run/secrets", self.secrets)

    def secret(self, path: str, text: str) -> None:
        file = self.secrets / path
        file.parent.mkdir()
        file.write_text(text)
        file.chmod(0o444)

    def mount(self, path: str, outside: Path) -> None:
        self.sandbox = replace(self.sandbox, mounts={**self.sandbox.mounts, path: outside})

    def run(self, script: str) -> str:
        """Run a script where nothing of the machine's network is, and return all that was said."""
        self.sandbox.own()
        command = self.sandbox.command(["sh", "-c", script])
        command.insert(command.index("bwrap") + 1, "--unshare-net")
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


SCRAM = """
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.sasl_ssl.ssl.client.auth=none
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
"""


class Running:
    """A server's program, from when its port opens until it is killed."""

    def __init__(self, server: Server, start: str, port: int, log: Path) -> None:
        self._server = server
        self._start = start
        self._log = log
        self.port = port

    def __enter__(self) -> Self:
        self._server.sandbox.own()
        command = self._server.sandbox.command(["sh", "-c", self._start])
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 60
        while not _listens(self.port):
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.__exit__()
                pytest.fail(self._log.read_text())
            time.sleep(0.2)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()  # bubblewrap, which takes all in the sandbox along
        self._process.wait()


class TlsKafka(Running):
    """The chart's Kafka with `tls.enabled`, on ports of this machine: every client needs a certificate.

    At `accounts_port` it takes accounts of SCRAM instead, which the chart does not have: as an operator or a managed
    server does.
    """

    def __init__(self, folder: Path) -> None:
        self.authority = Authority()
        port, controller = free_port(), free_port()
        self.metrics_port, self.accounts_port = free_port(), free_port()
        files = data("kafka", "kafka-configuration", tls__enabled="true", tls__secretName="certificate")
        replaced = {
            "kafka-0.kafka-headless.restaurant-system.svc:9092": f"127.0.0.1:{port}",
            "SSL://:9092": f"SSL://127.0.0.1:{port}",
            "127.0.0.1:29093": f"127.0.0.1:{controller}",
        }
        for here, there in replaced.items():
            assert here in files["server.properties"]
            files = files | {"server.properties": files["server.properties"].replace(here, there)}
        accounts = f"SASL_SSL://127.0.0.1:{self.accounts_port}"
        properties = files["server.properties"].replace(f"SSL://127.0.0.1:{port}", f"SSL://127.0.0.1:{port},{accounts}")
        properties = properties.replace("SSL:SSL,", "SSL:SSL,SASL_SSL:SASL_SSL,") + SCRAM
        files = files | {"server.properties": properties}
        # A pod has a folder in memory at /run/kafka.
        files = files | {"start.sh": files["start.sh"].replace("/run/kafka", "/data")}
        files = files | {"server.properties": files["server.properties"].replace("/run/kafka", "/data")}
        server = Server(folder, roots.TRIXIE, "kafka", files)
        self.authority.signs("kafka", "127.0.0.1").write(server.secrets / "certificate", self.authority)
        libs = jars.folder(cache_folder())
        server.mount("/kafka", libs)
        (agent,) = libs.glob("jmx_prometheus_javaagent-*.jar")
        start = (
            f"KAFKA_LIBS=/kafka KAFKA_AGENT=-javaagent:/kafka/{agent.name}=127.0.0.1:{self.metrics_port}"
            ":/config/kafka-metrics.yml sh /config/start.sh"
        )
        self._folder = folder
        super().__init__(server, start, port, folder / "kafka.log")

    def files(self, who: str, authority: Authority | None = None) -> dict[str, str]:
        """Where a client's certificate is, its key, and the authority it believes."""
        folder = self._folder / who
        (authority or self.authority).signs(who).write(folder, self.authority)
        return {"certificate": f"{folder}/tls.crt", "key": f"{folder}/tls.key", "authority": f"{folder}/ca.crt"}

    def account(self, name: str, password: str) -> None:
        told = UserScramCredentialUpsertion(
            name, ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096), password.encode()
        )
        administrator = self.client("administrator")
        administrator.alter_user_scram_credentials([told])[name].result(10)

    def client(self, who: str, authority: Authority | None = None) -> AdminClient:
        files = self.files(who, authority)
        return AdminClient(
            {
                "bootstrap.servers": f"127.0.0.1:{self.port}",
                "security.protocol": "SSL",
                "ssl.ca.location": files["authority"],
                "ssl.certificate.location": files["certificate"],
                "ssl.key.location": files["key"],
                "log_level": 0,
            }
        )


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


class TlsMosquitto(Running):
    """The chart's Mosquitto with `tls.enabled` and clients' certificates, on a port of this machine."""

    def __init__(self, folder: Path, authority: Authority, accounts: str) -> None:
        port, plain = free_port(), free_port()
        root = roots.FORKY.folder(cache_folder())
        plugin = next((root / "usr/lib").glob("*/mosquitto/mosquitto_persist_sqlite.so"))
        values = {
            "tls__enabled": "true",
            "tls__secretName": "a",
            "tls__clientCertificates": "true",
            "tls__only": "true",
        }
        plugins = f"/{plugin.parent.relative_to(root)}"
        text = data("mosquitto", "mosquitto-configuration", plugins=plugins, **values)["mosquitto.conf"]
        text = text.replace("listener 1883", f"listener {plain}").replace("listener 8883", f"listener {port} 127.0.0.1")
        server = Server(folder, roots.FORKY, "mosquitto", {"mosquitto.conf": text})
        authority.signs("broker", "127.0.0.1").write(server.secrets / "certificate", authority)
        server.sandbox.own()
        server.sandbox.run(["sh", "-c", "cat > /data/accounts.json"], stdin=accounts)
        super().__init__(server, "exec mosquitto -c /config/mosquitto.conf", port, folder / "mosquitto.log")

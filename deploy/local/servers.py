"""The servers: where each comes from, its command, its configuration, and what its first start needs."""

import base64
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from deploy.local import jars, roots
from deploy.local.layout import Broker, Instance, Passwords
from deploy.local.sandbox import Sandbox

TEMPLATES = Path(__file__).parent / "templates"
POSTGRES = "/usr/lib/postgresql/17/bin"
JAVA = (
    "java",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-cp",
    "/kafka/*",
)


@dataclass(frozen=True, kw_only=True)
class Server:
    name: str
    root: roots.Root = roots.TRIXIE
    user: str
    command: tuple[str, ...]
    template: str
    port: str
    stop_signal: str = "TERM"
    first_start: Callable[[Instance, Sandbox], None] = field(default=lambda _instance, _sandbox: None)

    def sandbox(self, instance: Instance) -> Sandbox:
        root = self.root.folder(instance.cache)
        uid, gid = roots.ids(root, self.user)
        return Sandbox(
            root=root,
            uid=uid,
            gid=gid,
            data=instance.data(self.name),
            config=instance.config,
            mounts={"/kafka": jars.folder(instance.cache)} if self.name == "kafka" else {},
        )


def _first_postgres(instance: Instance, sandbox: Sandbox) -> None:
    if (sandbox.data / "pg" / "PG_VERSION").exists():
        return
    # The password comes by a file that only the server's own user can open, and not for long.
    script = f"""
        set -e; umask 077; cat > /data/password; trap 'rm /data/password' EXIT
        {POSTGRES}/initdb --pgdata=/data/pg --username=postgres --auth=scram-sha-256 --pwfile=/data/password \\
            --encoding=UTF8 --locale-provider=builtin --locale=C.UTF-8 --data-checksums
    """
    sandbox.run(("sh", "-c", script), stdin=Passwords.of(instance).postgres)


def _first_kafka(_instance: Instance, sandbox: Sandbox) -> None:
    if (sandbox.data / "log" / "meta.properties").exists():
        return
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A", 1)
    sandbox.run((*JAVA, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", "/config/server.properties"))


SERVERS = (
    Server(
        name="postgres",
        user="postgres",
        command=(f"{POSTGRES}/postgres", "-D", "/data/pg", "-c", "config_file=/config/postgresql.conf"),
        template="postgresql.conf",
        port="postgres",
        stop_signal="INT",  # ends the sessions; TERM would wait for them
        first_start=_first_postgres,
    ),
    Server(
        name="kafka",
        user="kafka",
        command=(
            *("java", "-Xms256m", "-Xmx512m", "-XX:+UseSerialGC"),
            *(
                "-XX:+AutoCreateSharedArchive",
                "-XX:SharedArchiveFile=/data/classes.jsa",
                "-Xlog:cds=off",
            ),  # halves the time of later starts
            *(*JAVA[1:], "kafka.Kafka", "/config/server.properties"),
        ),
        template="server.properties",
        port="kafka",
        first_start=_first_kafka,
    ),
    Server(
        name="mosquitto",
        root=roots.FORKY,
        user="mosquitto",
        command=("mosquitto", "-c", "/config/mosquitto.conf"),
        template="mosquitto.conf",
        port="mqtt",
    ),
    Server(
        name="redis",
        user="redis",
        command=("redis-server", "/config/redis.conf"),
        template="redis.conf",
        port="redis",
    ),
    Server(
        name="alertmanager",
        user="alertmanager",
        command=(
            "prometheus-alertmanager",
            "--config.file=/config/alertmanager.yml",
            "--storage.path=/data",
            "--web.listen-address=127.0.0.1:$alertmanager",
            "--cluster.listen-address=",
        ),
        template="alertmanager.yml",
        port="alertmanager",
    ),
    Server(
        name="prometheus",
        user="prometheus",
        command=(
            "prometheus",
            "--config.file=/config/prometheus.yml",
            "--storage.tsdb.path=/data",
            "--storage.tsdb.retention.time=200h",
            "--web.listen-address=127.0.0.1:$prometheus",
        ),
        template="prometheus.yml",
        port="prometheus",
    ),
)


def render(template: str, instance: Instance, mosquitto_plugin: str = "") -> str:
    """A configuration file of this instance."""
    values = {name.replace("-", "_"): port for name, port in instance.ports.items()}
    workers = ", ".join(f'"127.0.0.1:{instance.ports[f"worker-{number + 1}"]}"' for number in range(instance.workers))
    persistence = _persistence(instance.broker, mosquitto_plugin)
    return Template(template).substitute(values, workers=workers, persistence=persistence)


def _persistence(broker: Broker, plugin: str) -> str:
    match broker:
        case Broker.DURABLE:
            return (
                "# On disk before it is acknowledged: kill -9 loses nothing.\n"
                f"plugin {plugin}\nplugin_opt_db_file /data/mosquitto.sqlite3\nplugin_opt_flush_period 0"
            )
        case Broker.MEMORY:
            return "# In memory only: when Mosquitto is killed, what waits in it is lost.\npersistence false"


def command(server: Server, instance: Instance) -> list[str]:
    values: Mapping[str, int] = {name.replace("-", "_"): port for name, port in instance.ports.items()}
    words = [Template(word).substitute(values) for word in server.command]
    return server.sandbox(instance).command(words)


def configure(instance: Instance) -> None:
    """Write every server's configuration."""
    instance.config.mkdir(parents=True, exist_ok=True)
    plugin = _mosquitto_plugin(roots.FORKY.folder(instance.cache))
    for server in SERVERS:
        text = render((TEMPLATES / server.template).read_text(), instance, plugin)
        (instance.config / server.template).write_text(text)


def _mosquitto_plugin(root: Path) -> str:
    found = next((root / "usr/lib").glob("*/mosquitto/mosquitto_persist_sqlite.so"))
    return f"/{found.relative_to(root)}"

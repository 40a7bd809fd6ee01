"""The servers: where each comes from, its command, its configuration, and what its first start needs."""

import base64
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from deploy.local import accounts, jars, roots
from deploy.local.layout import REPOSITORY, Broker, Instance, Passwords
from deploy.local.sandbox import Sandbox
from pipeline.install import broker

DEPLOY = REPOSITORY / "deploy"
TEMPLATES = DEPLOY / "local" / "templates"
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
    template: str = ""
    port: str
    mounts: Mapping[str, Path] = field(default_factory=dict)  # more of the machine, read-only
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
            mounts={"/kafka": jars.folder(instance.cache)} if self.name == "kafka" else self.mounts,
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


def _first_mosquitto(instance: Instance, sandbox: Sandbox) -> None:
    broker.install(sandbox.data / "accounts.json", accounts.passwords(instance))


def _password_of_monitor(instance: Instance, sandbox: Sandbox) -> None:
    sandbox.run(("sh", "-c", "umask 077; cat > /data/password"), stdin=Passwords.of(instance).brigade_monitor)


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
                "-XX:+UnlockDiagnosticVMOptions",
                "-XX:+AllowArchivingWithJavaAgent",
                "-XX:+AutoCreateSharedArchive",
                "-XX:SharedArchiveFile=/data/classes.jsa",
                "-Xlog:cds=off",
            ),  # halves the time of later starts
            "-javaagent:/kafka/jmx_prometheus_javaagent-1.0.1.jar=127.0.0.1:$kafka_metrics:/config/kafka-metrics.yml",
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
        first_start=_first_mosquitto,
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


NODE_COLLECTORS = ["cpu", "diskstats", "filesystem", "loadavg", "meminfo", "netdev", "stat", "time", "uname", "vmstat"]

EXPORTERS = (
    Server(
        name="node-exporter",
        user="prometheus",
        command=(
            "prometheus-node-exporter",
            "--web.listen-address=127.0.0.1:$node_exporter",
            "--collector.disable-defaults",
            *(f"--collector.{name}" for name in NODE_COLLECTORS),
            "--collector.filesystem.mount-points-exclude=^/(data|config|dev|proc|run|sys|tmp)($$|/)",  # of the sandbox
        ),
        port="node-exporter",
        mounts={"/sys": Path("/sys")},
    ),
    Server(
        name="postgres-exporter",
        user="prometheus",
        command=(
            *("env", "DATA_SOURCE_USER=brigade_monitor", "DATA_SOURCE_PASS_FILE=/data/password"),
            "DATA_SOURCE_URI=127.0.0.1:$postgres/brigade?sslmode=disable",
            *("prometheus-postgres-exporter", "--web.listen-address=127.0.0.1:$postgres_exporter"),
            # By table they would tell of every chunk of TimescaleDB's: series without end.
            *("--no-collector.stat_user_tables", "--no-collector.statio_user_tables"),
            *("--collector.stat_checkpointer", "--collector.long_running_transactions"),
        ),
        port="postgres-exporter",
        first_start=_password_of_monitor,
    ),
    Server(
        name="redis-exporter",
        user="prometheus",
        command=(
            "prometheus-redis-exporter",
            "--web.listen-address=127.0.0.1:$redis_exporter",
            "--redis.addr=redis://127.0.0.1:$redis",
            "--include-system-metrics",
        ),
        port="redis-exporter",
    ),
)
"""The field's own, for what tells Prometheus nothing. Kafka has an agent inside it, Mosquitto has `pipeline.broker`."""


def render(template: str, instance: Instance, plugins: str = "") -> str:
    """A configuration file of this instance; `plugins` is the folder of Mosquitto's."""
    values = {name.replace("-", "_"): port for name, port in instance.ports.items()}
    workers = ", ".join(f'"127.0.0.1:{instance.ports[f"worker-{number + 1}"]}"' for number in range(instance.workers))
    return Template(template).substitute(
        values,
        workers=workers,
        **_routes((DEPLOY / "alertmanager" / "alertmanager.yml").read_text()),
        persistence=persistence(instance.broker, plugins),
        dynamic_security=f"{plugins}/mosquitto_dynamic_security.so",
    )


def _routes(alertmanager: str) -> dict[str, str]:
    """Who would be told what; without the addresses."""
    names = re.findall(r"^  - name: (\S+)", alertmanager, re.MULTILINE)
    return {
        "receivers": "\n".join(f"  - name: {name}" for name in names),
        "routes": alertmanager[alertmanager.index("route:\n") :],
    }


def persistence(broker: Broker, plugins: str) -> str:
    match broker:
        case Broker.DURABLE:
            return (
                "# On disk before it is acknowledged: kill -9 loses nothing.\n"
                f"plugin {plugins}/mosquitto_persist_sqlite.so\n"
                "plugin_opt_db_file /data/mosquitto.sqlite3\nplugin_opt_flush_period 0"
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
    shutil.copytree(
        DEPLOY / "prometheus" / "rules", instance.config / "rules", copy_function=shutil.copyfile, dirs_exist_ok=True
    )
    plugins = _mosquitto_plugins(roots.FORKY.folder(instance.cache))
    for template in (*(server.template for server in SERVERS), "kafka-metrics.yml"):
        (instance.config / template).write_text(render((TEMPLATES / template).read_text(), instance, plugins))


def _mosquitto_plugins(root: Path) -> str:
    found = next((root / "usr/lib").glob("*/mosquitto/mosquitto_persist_sqlite.so"))
    return f"/{found.parent.relative_to(root)}"

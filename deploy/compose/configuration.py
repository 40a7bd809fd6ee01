"""The servers' configuration in Compose: the local stack's, with addresses of containers. `scripts/compose-config`.

Each difference is named here; one that the local template does not have any more is an error.
"""

import re
from pathlib import Path
from string import Template

from deploy.local import servers
from deploy.local.layout import Broker

CONFIG = Path(__file__).parent / "config"

ADDRESSES = {
    "alertmanager": "alertmanager:9093",
    "bridge_0": "bridge:9101",
    "broker": "broker:9110",
    "gateway_metrics": "gateway:9100",
    "kafka_metrics": "kafka:9109",
    "lag": "lag:9103",
    "maintain": "maintain:9104",
    "node_exporter": "node-exporter:9106",
    "postgres_exporter": "postgres-exporter:9107",
    "prometheus": "127.0.0.1:9090",  # by itself
    "redis_exporter": "redis-exporter:9108",
    "users_metrics": "users:9105",
}

PROMETHEUS = {f"127.0.0.1:${name}": address for name, address in ADDRESSES.items()} | {
    "static_configs: [{targets: [$workers]}]": "dns_sd_configs: [{names: [worker], type: A, port: 9102}]"  # --scale
}

DIFFERENCES: dict[str, dict[str, str]] = {
    "kafka-metrics.yml": {},
    "mosquitto.conf": {
        "# Loopback only, without TLS.\nlistener $mqtt 127.0.0.1": (
            "# Without TLS: docker-compose.yml publishes it on loopback.\nlistener 1883"
        ),
    },
    "postgresql.conf": {
        "listen_addresses = '127.0.0.1'": "listen_addresses = '*'",
        "port = $postgres": "port = 5432",
    },
    "prometheus.yml": PROMETHEUS,
    "redis.conf": {
        "bind 127.0.0.1\nport $redis": (
            "bind * -::*\nport 6379\n"
            "# Who may do what; without a password only PING, so that protected mode has nothing to protect.\n"
            "aclfile /run/secrets/redis/users.acl\nprotected-mode no"
        ),
    },
    "server.properties": {
        "voters=1@127.0.0.1:$kafka_controller": "voters=1@127.0.0.1:29093",
        "listeners=PLAINTEXT://127.0.0.1:$kafka,CONTROLLER://127.0.0.1:$kafka_controller": (
            "listeners=PLAINTEXT://:9092,CONTROLLER://127.0.0.1:29093"
        ),
        "advertised.listeners=PLAINTEXT://127.0.0.1:$kafka": "advertised.listeners=PLAINTEXT://kafka:9092",
    },
}
"""What is another text in Compose than in deploy/local/templates; all else is the same."""

PLUGINS = "@plugins@"
"""Where Mosquitto's are differs from image to image: start/mosquitto.sh finds them."""


class DifferenceError(Exception):
    """A local template has changed under the differences."""


def rendered(template: str) -> str:
    """That file as the container reads it."""
    text = (servers.TEMPLATES / template).read_text()
    for old, new in DIFFERENCES[template].items():
        text, found = re.subn(rf"{re.escape(old)}(?!\w)", new, text)
        if not found:
            raise DifferenceError(f"deploy/local/templates/{template} has no {old!r} any more")
    return _head(template) + Template(text).substitute(
        persistence=servers.persistence(Broker.DURABLE, PLUGINS),
        dynamic_security=f"{PLUGINS}/mosquitto_dynamic_security.so",
    )


def _head(template: str) -> str:
    return f"# Written by scripts/compose-config from deploy/local/templates/{template}: change that one.\n"


def main() -> None:
    for template in DIFFERENCES:
        (CONFIG / template).write_text(rendered(template))


if __name__ == "__main__":
    main()

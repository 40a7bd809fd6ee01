"""What keeps Compose's containers from being ready, in words that name what to change. Needs Python alone."""

import re
from collections.abc import Mapping

FULL = (
    "The disk with Docker's volumes is full: `docker system df` and `df -h $(docker info -f '{{.DockerRootDir}}')` "
    "say how full. Make room (docker image prune), or move Docker's data-root to a larger disk; then start again."
)

EXPLANATIONS: Mapping[str, str] = {
    r"No space left on device|no space left on device|DiskFull|database or disk is full": FULL,
    r"/secrets/passwords/(?P<name>[\w-]+): ": (
        "Delete {secrets}/passwords/{name}, and another is made and told to everyone; or write the right one into it."
    ),
    r'password authentication failed for user "postgres"': (
        "The database was made with another password than {secrets}/passwords has for postgres. Put the old one back, "
        "or begin with an empty database: scripts/down --docker --delete."
    ),
    r'password authentication failed for user "(?P<name>\w+)"': (
        "The database knows {name} by another password than {secrets} has: `docker compose up -d` writes the secrets "
        "again and makes the database know them."
    ),
    r"Not authorized|not authorised|bad user name or password": (
        "Mosquitto knows the account by another password than {secrets} has: `docker compose stop mosquitto` and "
        "`docker compose up -d` make it know this one."
    ),
    r"WRONGPASS|NOAUTH|invalid username-password": (
        "Redis knows the account by another password than {secrets} has: `docker compose restart redis` reads it again."
    ),
    r"port is already allocated|address already in use": (
        "Choose another port: GATEWAY_PORT, MQTT_PORT, GRAFANA_PORT or PROMETHEUS_PORT in the environment or in .env."
    ),
    r"pull access denied|[Nn]o such image|manifest unknown|failed to resolve|dial tcp|TLS handshake|i/o timeout": (
        "An image is not here and could not be fetched: see that this machine reaches the registry, or name one that "
        "it has (BRIGADE_IMAGE, TIMESCALEDB_IMAGE, KAFKA_IMAGE, MOSQUITTO_IMAGE, REDIS_IMAGE, …)."
    ),
    r"range of CPUs is from": (
        "This machine has fewer CPUs than the limits: TIMESCALEDB_CPUS=1 KAFKA_CPUS=1 in the environment or in .env."
    ),
    r"mounts denied|not shared from the host": "Docker may not mount this folder: share it in Docker's settings.",
}


def explained(text: str, secrets: str) -> str:
    """What to change, where the text tells; else nothing."""
    for pattern, advice in EXPLANATIONS.items():
        if found := re.search(pattern, text):
            return advice.replace("{secrets}", secrets).replace("{name}", found.groupdict().get("name") or "")
    return ""

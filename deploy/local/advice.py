"""What scripts/up says in the end: where to look and what to try."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from deploy.local.layout import OWN_DEVICE, OWNER, SITE, Instance, Passwords
from deploy.local.roots import TRIXIE

READING = '{"temperature_c": 3.4, "door_open": false}'


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Of a running installation. A part that does not run has no address, an account that is not there no password."""

    logs: str
    passwords: str
    ending: str  # how to
    gateway: str = ""
    owner: str = OWNER
    owner_password: str = ""
    site: str = SITE
    prometheus: str = ""
    grafana: str = ""
    mqtt_port: int
    device_password: str = ""
    publish_command: str = "mosquitto_pub"


def of(here: Instance, running: Sequence[str]) -> str:
    port, local = here.ports, "http://127.0.0.1"
    name = "" if here.name == "local" else f" --instance {here.name}"
    gateway = "gateway" in running
    return told(
        Facts(
            logs=str(here.logs),
            passwords=f"{here.state}/passwords.json",
            ending=f"scripts/down{name}        (--delete: with its data)",
            gateway=f"{local}:{port['gateway']}" if gateway else "",
            owner_password=Passwords.of(here).owner if "users" in running else "",
            prometheus=f"{local}:{port['prometheus']}",
            mqtt_port=port["mqtt"],
            device_password=str(json.loads(here.credentials.read_text())[OWN_DEVICE]) if gateway else "",
            publish_command=publish_command(here) if gateway else "",
        )
    )


def told(facts: Facts) -> str:
    login = f"{facts.owner}, password {facts.owner_password} (until you change it)" if facts.owner_password else ""
    where = {
        "the pages": facts.gateway and f"{facts.gateway}/",
        "the API": facts.gateway and f"{facts.gateway}/api/v1/openapi.json",
        "log in as": login,
        "logs": facts.logs,
        "passwords": facts.passwords,
        "Prometheus": facts.prometheus,
        "Grafana": facts.grafana,
        "end it": facts.ending,
    }
    lines = ["", *(f"  {what:<12} {value}" for what, value in where.items() if value)]
    return "\n".join(lines + (_first_reading(facts) if facts.gateway else []))


def _first_reading(facts: Facts) -> list[str]:
    """Send one, log in, and ask with the token; without jq, which this machine may lack."""
    api = f"{facts.gateway}/api/v1"
    account = json.dumps({"email": facts.owner, "password": facts.owner_password})
    return [
        "",
        "Send a reading, and see it:",
        f"  {facts.publish_command} -h 127.0.0.1 -p {facts.mqtt_port} -V 5 -q 1 \\",
        f"      -i {OWN_DEVICE} -u {OWN_DEVICE} -P {facts.device_password} \\",
        f"      -t brigade/v1/{facts.site}/{OWN_DEVICE}/readings -m '{READING}'",
        f"  TOKEN=$(curl -s {api}/auth/login -H 'Content-Type: application/json' \\",
        f"      -d '{account}' | cut -d'\"' -f4)",
        f'  curl -H "Authorization: Bearer $TOKEN" {api}/devices/{OWN_DEVICE}/latest',
    ]


def publish_command(here: Instance) -> str:
    """mosquitto_pub, out of the Debian root when this machine has none."""
    if shutil.which("mosquitto_pub"):
        return "mosquitto_pub"
    return f"bwrap --ro-bind {TRIXIE.folder(here.cache)} / --dev /dev mosquitto_pub"

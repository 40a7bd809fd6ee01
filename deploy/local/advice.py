"""What scripts/up says in the end: where to look and what to try."""

import shutil
from collections.abc import Sequence

from deploy.local.layout import Instance
from deploy.local.roots import TRIXIE

READING = '{"temperature_c": 3.4, "door_open": false}'


def of(here: Instance, running: Sequence[str]) -> str:
    port = here.ports
    name = "" if here.name == "local" else f" --instance {here.name}"
    lines = [
        "",
        f"  logs         {here.logs}",
        f"  passwords    {here.state}/passwords.json",
        f"  Prometheus   http://127.0.0.1:{port['prometheus']}",
        f"  end it       scripts/down{name}        (--delete: with its data)",
    ]
    if "gateway" in running:
        lines[1:1] = [f"  the API      http://127.0.0.1:{port['gateway']}/api/v1/openapi.json"]
        lines += [
            "",
            "Send a reading, and see it:",
            f"  {publish_command(here)} -h 127.0.0.1 -p {port['mqtt']} -q 1 \\",
            f"      -t brigade/v1/my-place/fridge-1/readings -m '{READING}'",
            f"  curl 'http://127.0.0.1:{port['gateway']}/api/v1/devices/fridge-1/latest'",
        ]
    return "\n".join(lines)


def publish_command(here: Instance) -> str:
    """mosquitto_pub, out of the Debian root when this machine has none."""
    if shutil.which("mosquitto_pub"):
        return "mosquitto_pub"
    return f"bwrap --ro-bind {TRIXIE.folder(here.cache)} / --dev /dev mosquitto_pub"

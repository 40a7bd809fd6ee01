"""`scripts/up --docker`: `docker compose up`, with a look beforehand, and a wait until everything is ready.

Needs Python alone, 3.11 or newer, and none of what the local stack does.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from deploy.compose.engine import Compose, Container, EngineError
from deploy.compose.faults import FULL, explained
from deploy.local import advice, ports
from deploy.local.layout import OWN_DEVICE, REPOSITORY
from deploy.local.say import say, stop

READY_SECONDS = 120
LOOK_SECONDS = 1.0
RESTARTS = 3
LINES = 12  # of a log
LEAST_BYTES = 1 << 30

PORTS = {
    "gateway": "GATEWAY_PORT",
    "mosquitto": "MQTT_PORT",
    "grafana": "GRAFANA_PORT",
    "prometheus": "PROMETHEUS_PORT",
}
"""The variable that moves each."""


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/up --docker", description=__doc__)
    add = parser.add_argument
    add("--docker", action="store_true", required=True, help="in containers, by docker compose")
    add("--no-simulator", action="store_true", help="no simulated restaurant")
    add("--observability", action="store_true", help="Prometheus, Alertmanager, Grafana, Loki and Jaeger, too")
    add("--devices", type=int, help="how many the simulator plays; 20 unless BRIGADE_SIMULATED_DEVICES says so")
    return parser.parse_args(words)


def profiles(asked: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Those of COMPOSE_PROFILES, and what the options add."""
    chosen = [name for name in environment.get("COMPOSE_PROFILES", "").split(",") if name]
    chosen += [] if asked.no_simulator else ["simulator"]
    chosen += ["observability"] if asked.observability else []
    return sorted(set(chosen))


def main() -> None:
    asked = arguments()
    more = {"BRIGADE_SIMULATED_DEVICES": str(asked.devices)} if asked.devices else {}
    if "observability" in profiles(asked) and "OTEL_EXPORTER_OTLP_ENDPOINT" not in os.environ:
        more["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://jaeger:4318"
    compose = Compose(profiles(asked), more)
    try:
        run(compose)
    except EngineError as error:
        stop(error)
    except KeyboardInterrupt:
        stop("The containers go on; scripts/down --docker ends them.")


def run(compose: Compose) -> None:
    began = time.monotonic()
    compose.check()
    check_ports(compose)
    check_disk(compose)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        bring_up(compose, output, began)
    say(f"everything is ready after {time.monotonic() - began:.1f} s")
    print(advice.told(facts(compose)), flush=True)


def check_ports(compose: Compose) -> None:
    """Only those that our own containers do not have already."""
    if not os.environ.get("DOCKER_HOST", "unix:").startswith("unix:"):
        return  # another machine's ports
    ours = {one.service for one in compose.containers().values() if one.state == "running"}
    problems = []
    for name, (address, port) in compose.published().items():
        if name not in ours and not ports.free(port, address):
            whose = compose.holder(port) or ports.owner(port)
            problems.append(f"port {port} for {name} is taken by {whose}; {PORTS[name]}={port + 1000} moves it")
    if problems:
        stop("\n".join([*problems, "Set the variable in the environment or in a file .env beside docker-compose.yml."]))


def check_disk(compose: Compose) -> None:
    """Where the data of an engine on this machine are."""
    folder = compose.data_root()
    if folder and shutil.disk_usage(folder).free < LEAST_BYTES:
        stop(f"There are less than {LEAST_BYTES >> 20} MB left in {folder}. {FULL}")


def bring_up(compose: Compose, output: Path, began: float) -> None:
    """Return when everything does its work; else say what does not, and why, and exit."""
    if waiting := [one.service for one in compose.containers().values() if one.state == "restarting"]:
        compose.told("stop", *waiting)  # what they lack may be there now, and their next try is a minute away
    watch = Watch(compose, began)
    starting = compose.start(output)
    while starting.poll() is None and not watch.failing:
        watch.look()
    starting.terminate()
    end = time.monotonic() + READY_SECONDS
    while starting.wait() == 0 and not watch.failing and time.monotonic() < end:
        if watch.look():
            return
    stop(report(compose, watch.found, output.read_text(errors="replace")))


class Watch:
    """Looks at the containers each second, and says what became of them."""

    def __init__(self, compose: Compose, began: float) -> None:
        self._compose = compose
        self._began = began
        self._told = {name for name, one in compose.containers().items() if done(one)}
        self._restarts: Counter[str] = Counter()
        self.found: Mapping[str, Container] = {}

    def look(self) -> bool:
        """Whether everything does its work."""
        time.sleep(LOOK_SECONDS)
        self.found = self._compose.containers()
        self._restarts.update(name for name, one in self.found.items() if one.state == "restarting")
        ready = {name for name, one in self.found.items() if done(one)}
        for name in sorted(ready - self._told):
            say(f"{name} {'done' if self.found[name].once else 'ready'} in {time.monotonic() - self._began:.1f} s")
        self._told |= ready
        return set(self._compose.services) <= ready

    @property
    def failing(self) -> bool:
        """Something ends again and again."""
        return any(times >= RESTARTS for times in self._restarts.values())


def done(container: Container) -> bool:
    """A one-shot has ended well; anything else does its work."""
    if container.once:
        return container.state == "exited" and container.exit_code == 0
    return container.state == "running" and container.health in {"", "healthy"}


def failed(found: Mapping[str, Container]) -> list[Container]:
    return [
        one
        for one in found.values()
        if (one.state == "exited" and one.exit_code) or one.state in {"dead", "restarting"}
    ]


def report(compose: Compose, found: Mapping[str, Container], output: str) -> str:
    """Who is not ready, what each said last, and what to change."""
    culprits = failed(found) or [one for one in found.values() if not done(one) and one.state != "created"]
    secrets = os.path.relpath(compose.secrets, REPOSITORY)
    lines = []
    for one in culprits:
        words = compose.last_words(one.service)
        check = compose.last_check(one.service) if one.health in {"unhealthy", "starting"} else ""
        what = f"ended with {one.exit_code}" if one.state == "exited" else one.health or one.state
        lines += [f"{one.service} is not ready ({what}). It says:", *_indented(words)[-LINES:], *_indented(check)]
        lines += [f"  {hint}" for hint in [explained(f"{words}\n{check}", secrets)] if hint]
    if not culprits:
        complaints = [line for line in output.splitlines() if "rror" in line] or output.splitlines()
        hint = explained(output, secrets)
        lines = ["docker compose up says:", *_indented("\n".join(complaints[-8:])), *([f"  {hint}"] if hint else [])]
    return "\n".join([*lines, "scripts/down --docker ends the containers; docker compose logs SERVICE shows more."])


def _indented(text: str) -> list[str]:
    return [f"    {line}" for line in text.splitlines()]


def facts(compose: Compose) -> advice.Facts:
    def address(service: str) -> str:
        if service not in compose.services:
            return ""
        host, port = compose.published()[service]
        return f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"

    first = compose.services["owner"]["environment"]
    has_client = shutil.which("mosquitto_pub") is not None
    return advice.Facts(
        logs="docker compose logs --follow SERVICE",
        passwords=str(compose.secrets),
        ending="scripts/down --docker        (--delete: with its data)",
        gateway=address("gateway"),
        owner=first["OWNER"],
        site=first["SITE"],
        owner_password=compose.read("owner/password").strip(),
        prometheus=address("prometheus"),
        grafana=address("grafana"),
        mqtt_port=compose.published()["mosquitto"][1] if has_client else 1883,
        device_password=json.loads(compose.read("devices/passwords.json"))[OWN_DEVICE],
        publish_command="mosquitto_pub" if has_client else "docker compose exec mosquitto mosquitto_pub",
    )


if __name__ == "__main__":
    main()

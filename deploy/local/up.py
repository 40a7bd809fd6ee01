"""`scripts/up`: the whole system on this machine, in the foreground or behind."""

import argparse
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from deploy.local import advice, jars, pages, roots, sandbox, servers, supervision
from deploy.local import ports as all_ports
from deploy.local.down import shut_down
from deploy.local.layout import Broker, Instance, LayoutError, Passwords, cache_folder, hold, ports, state_folder
from deploy.local.parts import Part, parts, settings
from deploy.local.ready import ready, wait_until
from deploy.local.say import say, stop
from deploy.local.servers import EXPORTERS, SERVERS, Server
from deploy.local.stack import Stack
from deploy.local.supervision import Program, SupervisionError, Supervisor

FAILURES = (
    LayoutError,
    SupervisionError,
    roots.RootError,
    jars.JarsError,
    pages.PagesError,
    sandbox.SandboxError,
)
"""What a person can do something about: told without a traceback."""

READY_SECONDS = 180
"""Ten are usual; a busy machine gets more before it is given up."""
LEAST_WORKERS = 2  # described to supervisord, so that tests can start the second


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    environment = os.environ
    parser = argparse.ArgumentParser(prog="scripts/up", description=__doc__)
    add = parser.add_argument
    add("--detach", action="store_true", help="return when everything is ready; scripts/down ends it")
    add("--only", choices=["servers"], help="the servers without our parts and the exporters")
    add("--instance", default=environment.get("BRIGADE_INSTANCE", "local"), help="name: several can run side by side")
    add("--offset", type=int, default=environment.get("BRIGADE_PORT_OFFSET") or "0", help="added to every port")
    add(
        "--port",
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help=f"one port's number; names: {', '.join(ports())}",
    )
    add("--workers", type=int, default=1, choices=[1, 2], help="how many share the partitions")
    add("--devices", type=int, default=20, help="how many the simulator plays")
    add("--no-simulator", action="store_true", help="no simulated restaurant")
    add(
        "--broker",
        type=Broker,
        choices=list(Broker),
        default=environment.get("BRIGADE_BROKER") or "durable",
        help="Mosquitto keeps messages on disk (durable), or faster, and loses them when it is killed (memory)",
    )
    return parser.parse_args(words)


def own_ports(words: list[str]) -> dict[str, int]:
    try:
        return {name: int(number) for name, number in (word.split("=") for word in words)}
    except ValueError:
        raise LayoutError(f"--port wants NAME=NUMBER, not {' '.join(words)}") from None


def instance(asked: argparse.Namespace) -> Instance:
    return Instance(
        name=asked.instance,
        cache=cache_folder(),
        state=state_folder(asked.instance),
        ports=ports(asked.offset, own_ports(asked.port)),
        broker=asked.broker,
        workers=asked.workers,
    )


def main() -> None:
    asked = arguments()
    try:
        run(instance(asked), asked)
    except FAILURES as error:
        stop(error)


def run(here: Instance, asked: argparse.Namespace) -> None:
    here.logs.mkdir(parents=True, exist_ok=True)
    lock = hold(here.state / "lock")
    if lock is None:
        say(
            f"instance {here.name} is already running, its logs are in {here.logs};"
            f" scripts/down --instance {here.name} ends it"
        )
        say_again(here.name)
        return
    began = time.monotonic()
    if why := sandbox.missing():
        stop(why)
    install(here.cache)
    ours = chosen(here, asked)
    check_ports(here, ours)
    describe(here, asked.devices)
    for end in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # INT too: a shell's background job has it ignored
        signal.signal(end, _interrupt)
    supervisor = Supervisor(here)
    process = supervisor.launch(detached=asked.detach, lock=lock)
    os.close(lock)
    try:
        late = start(here, supervisor, ours, asked.devices)
        if late:
            say(f"not ready, still trying: {', '.join(late)}; see {here.logs}")
        else:
            say(f"everything is ready after {time.monotonic() - began:.1f} s")
        print(advice.of(here, [part.name for part in ours]), flush=True)
        if not asked.detach:
            watch(here, process)
    except BaseException as error:
        say("ending everything" if isinstance(error, KeyboardInterrupt) else "this failed, ending everything")
        shut_down(here)
        if not isinstance(error, KeyboardInterrupt):
            raise
        say(f"instance {here.name} is down; scripts/up brings it back with its data")
        return
    if late and asked.detach:
        raise SystemExit(1)


def say_again(name: str) -> None:
    """Where to look; nothing while it still starts, or already ends."""
    with suppress(LayoutError, SupervisionError):
        stack = Stack.attach(name)
        print(advice.of(stack.instance, [part for part in ("users", "gateway") if stack.running(part)]), flush=True)


def chosen(here: Instance, asked: argparse.Namespace) -> list[Part]:
    if asked.only:
        return []
    all_parts = parts(here, asked.workers, asked.devices)
    return [part for part in all_parts if not (asked.no_simulator and part.name == "simulator")]


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def install(cache: Path) -> None:
    """Bring roots, jars and pages into the cache, where other instances find them too."""
    while (lock := hold(cache / "lock")) is None:
        time.sleep(0.5)
    try:
        with ThreadPoolExecutor() as pool:
            trixie, _forky = pool.map(lambda root: roots.make(root, cache), (roots.TRIXIE, roots.FORKY))
        jars.make(cache, trixie)
        pages.make(cache)
    finally:
        os.close(lock)


def check_ports(here: Instance, ours: list[Part]) -> None:
    wanted = {server.port for server in SERVERS} | {"kafka-controller", "kafka-metrics"} | {part.name for part in ours}
    wanted |= {exporter.port for exporter in EXPORTERS if ours}
    wanted |= {f"{name}-metrics" for name in ("gateway", "users") if name in wanted}
    if problems := all_ports.taken({name: port for name, port in here.ports.items() if name in wanted}):
        problems.append("Choose others: --offset 1000 or BRIGADE_PORT_OFFSET=1000 moves all, --port NAME=NUMBER one.")
        stop("\n".join(problems))


def describe(here: Instance, devices: int) -> None:
    """Write what the servers and supervisord read; do what first starts need."""
    here.save()
    Passwords.of(here)  # made before several threads ask for them
    servers.configure(here)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda server: _first_start(server, here), (*SERVERS, *EXPORTERS)))
    described = [
        Program(
            name=server.name,
            group="servers",
            command=servers.command(server, here),
            stop_signal=server.stop_signal,
            stop_seconds=60,
        )
        for server in (*SERVERS, *EXPORTERS)
    ]
    described += [
        Program(
            name=part.name,
            group="devices" if part.name == "simulator" else "parts",
            command=["setpriv", "--pdeathsig", "KILL", *part.command],
            env={**settings(here), **part.env},
        )
        for part in parts(here, LEAST_WORKERS, devices)
    ]
    file = here.config / "supervisord.conf"
    file.touch(mode=0o600)
    file.chmod(0o600)  # it holds passwords
    file.write_text(supervision.configuration(here, described))


def _first_start(server: Server, here: Instance) -> None:
    box = server.sandbox(here)
    box.own()
    server.first_start(here, box)


def start(here: Instance, supervisor: Supervisor, ours: list[Part], devices: int) -> list[str]:
    """Start servers, then our parts; return when all answer, or with the parts that do not yet."""
    stack = Stack(here)

    def database_ready() -> None:
        stack.install_database()
        if ours:
            stack.create_owner()

    def kafka_ready() -> None:
        if ours:
            stack.install_topics()

    servers_late = bring_up(
        here,
        supervisor,
        [server.name for server in SERVERS],
        afterwards={"postgres": database_ready, "kafka": kafka_ready},
    )
    if servers_late:
        raise SupervisionError(
            "\n".join(f"{name} did not become ready: {_last_words(here, name)}" for name in servers_late)
        )
    if not ours:
        return []
    simulator = [part.name for part in ours if part.name == "simulator"]
    with ThreadPoolExecutor() as pool:
        enrolled = pool.submit(stack.enrol, devices if simulator else 0)
        names = [exporter.name for exporter in EXPORTERS] + [part.name for part in ours if part.name not in simulator]
        late = bring_up(here, supervisor, names)
        enrolled.result()
    return late + bring_up(here, supervisor, simulator)


def bring_up(
    here: Instance, supervisor: Supervisor, names: list[str], afterwards: Mapping[str, Callable[[], None]] | None = None
) -> list[str]:
    """Start them all at once and wait until each is ready; return those that are not in time."""
    began = time.monotonic()
    for name in names:
        supervisor.start(name)

    def until_ready(name: str) -> bool:
        if not wait_until(lambda: ready(name, here), READY_SECONDS):
            return False
        say(f"{name} ready in {time.monotonic() - began:.1f} s")
        (afterwards or {}).get(name, lambda: None)()
        return True

    with ThreadPoolExecutor() as pool:
        return [name for name, answered in zip(names, pool.map(until_ready, names), strict=True) if not answered]


def _last_words(here: Instance, name: str) -> str:
    log = here.logs / f"{name}.log"
    lines = log.read_text(errors="replace").splitlines()[-10:] if log.exists() else []
    return "\n    ".join((str(log), *lines))


def watch(here: Instance, process: subprocess.Popen[bytes]) -> None:
    """Tell what happens until somebody ends it."""

    def alive() -> Iterator[bool]:
        while process.poll() is None:
            yield True
            time.sleep(0.2)
        yield False

    for line in supervision.follow(here.logs / "supervisord.log", alive()):
        if what := supervision.event(line):
            say(what)
    say(f"instance {here.name} has ended")


if __name__ == "__main__":
    main()

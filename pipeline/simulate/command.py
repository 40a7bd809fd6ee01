"""What a person types, and what the terminal shows meanwhile."""

import asyncio
import gc
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Annotated, Final

import msgspec
import typer
import uvloop

from observability import tracing
from pipeline.settings import MqttSettings, load
from pipeline.simulate.connection import Broker
from pipeline.simulate.device import Device, Restaurant
from pipeline.simulate.ledger import LedgerFile
from pipeline.simulate.messages import US, Faults, Outcome, Publish, Sensor
from pipeline.simulate.restaurant import KINDS, ORDER, Hours
from pipeline.simulate.tracing import Tracing

CONNECTS_PER_SECOND: Final = 250
PROGRESS_SECONDS: Final = 5.0
FILES_BESIDE: Final = 64
TRACED: Final = 0.001

DEFAULT_FAULTS: Final = Faults()

app = typer.Typer()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run of the simulator. `every` is the seconds between two messages of a device."""

    sites: tuple[str, ...] = ("demo",)
    devices: int = 20
    every: float = 5.0
    duration: float | None = None
    messages: int | None = None
    seed: int = 1
    gap: float = 20.0
    goodbye: float = 10.0
    faults: Faults = DEFAULT_FAULTS
    traced: float = 0.0


@app.command()
def simulate(
    *,
    devices: Annotated[int, typer.Option(min=1, max=5000, help="How many sensors.")] = 20,
    site: Annotated[list[str] | None, typer.Option(help="A restaurant's name; may be given again.")] = None,
    every: Annotated[float, typer.Option(min=0.001, help="Seconds between two messages of a device.")] = 5.0,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Messages a second of all devices together.")] = None,
    duration: Annotated[float | None, typer.Option(min=0, help="Stop after so many seconds.")] = None,
    messages: Annotated[int | None, typer.Option(min=1, help="Stop after so many messages.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed has the same restaurants.")] = 1,
    malformed: Annotated[float, typer.Option(min=0, max=1, help="Share of messages that no one can read.")] = 0.002,
    duplicates: Annotated[float, typer.Option(min=0, max=1, help="Share of messages sent twice.")] = 0.005,
    late: Annotated[
        float, typer.Option(min=0, max=1, help="Share of readings that come late, up to two hours.")
    ] = 0.002,
    offline: Annotated[float, typer.Option(min=0, max=0.9, help="Share of time a device is offline.")] = 0.01,
    gap: Annotated[float, typer.Option(min=0.1, help="Seconds a device is offline, on average.")] = 20.0,
    skew: Annotated[bool, typer.Option(help="Clocks of some devices are wrong.")] = True,
    traced: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of messages that begin a trace; default 0.001 where traces are on."),
    ] = None,
    ledger: Annotated[Path | None, typer.Option(help="Append each publish and its outcome; `brigade verify`.")] = None,
    goodbye: Annotated[float, typer.Option(min=0, help="Seconds to wait at the end for what is under way.")] = 10.0,
    host: Annotated[str | None, typer.Option(help="The broker's; default BRIGADE_MQTT_HOST.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default BRIGADE_MQTT_PORT.")] = None,
    user: Annotated[str | None, typer.Option(help="Default BRIGADE_MQTT_USER.")] = None,
    password: Annotated[str | None, typer.Option(help="Default BRIGADE_MQTT_PASSWORD.")] = None,
    credentials: Annotated[
        Path | None,
        typer.Option(help="Each device's own password, as `brigade users credentials create --file` keeps them."),
    ] = None,
    names_only: Annotated[
        bool, typer.Option("--names", help="Say the devices' names, for `brigade users credentials create`, and end.")
    ] = False,
) -> None:
    """Be a restaurant's sensors: fridges, freezers, ovens, doors, tables, rooms, each with a connection of its own.

    They lose their connection, keep what they measure and send it later; some clocks are wrong; a few messages come
    twice, late or broken. Ctrl-C ends it: the devices say goodbye, the ledger file is complete.
    """
    plan = Plan(
        sites=_sites(site or ["demo"]),
        devices=devices,
        every=devices / rate if rate else every,
        duration=duration,
        messages=messages,
        seed=seed,
        gap=gap,
        goodbye=goodbye,
        traced=(TRACED if tracing.wanted(os.environ) else 0.0) if traced is None else traced,
        faults=_faults(malformed=malformed, duplicates=duplicates, late=late, offline=offline, skew=skew),
    )
    if names_only:
        print("\n".join(names(plan)))
        return
    _raise_file_limit(devices + FILES_BESIDE)
    if ledger and not ledger.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {ledger.parent}", param_hint="--ledger")
    broker = _broker(host, port, user, password)
    if credentials:
        broker = replace(broker, credentials=_credentials(credentials, plan))
    ended = uvloop.run(_run(plan, broker, ledger))
    sys.stderr.write(f"{_summary(ended)}\n")
    if not ended.was_online:
        sys.stderr.write(f"No device ever reached the broker at {ended.broker}: {ended.trouble or 'no answer'}\n")
        raise typer.Exit(1)


async def _run(plan: Plan, broker: Broker, ledger: Path | None) -> Restaurant:
    progress = sys.stderr.isatty()
    if ledger is None:
        return await run(plan, broker, progress=progress)
    async with LedgerFile(ledger) as file:
        return await run(plan, broker, file.write, progress=progress)


def _forget(_publish: Publish) -> None:
    """Without a ledger file the counts are enough."""


async def run(
    plan: Plan, broker: Broker, settled: Callable[[Publish], None] = _forget, *, progress: bool = False
) -> Restaurant:
    """Live until the plan or a signal ends it; return the counts. Each publish is given to `settled` at its end."""
    with ExitStack() as stack:
        traces = tracing.start("simulator", everything=True) if plan.traced else None
        traced = Tracing(plan.traced, traces) if plan.traced else None
        restaurant = Restaurant(broker, settled, messages=plan.messages, tracing=traced)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, restaurant.stop.set)
            stack.callback(loop.remove_signal_handler, number)
        if plan.duration is not None:
            stack.callback(loop.call_later(plan.duration, restaurant.stop.set).cancel)
        telling = asyncio.create_task(_tell(restaurant, plan, progress=progress))
        stack.callback(telling.cancel)
        async with asyncio.TaskGroup() as group:
            for device, delay in _devices(plan, restaurant):
                group.create_task(device.run(delay))
            gc.freeze()
    return restaurant


def _devices(plan: Plan, restaurant: Restaurant) -> list[tuple[Device, float]]:
    utc_offset = time.localtime().tm_gmtoff
    devices = []
    for sensor, random in sensors(plan, Hours(utc_offset)):
        device = Device(restaurant, sensor, random, gap=plan.gap, goodbye=plan.goodbye)
        devices.append((device, random.uniform(0, max(min(plan.every, 1.0), plan.devices / CONNECTS_PER_SECOND))))
    return devices


def sensors(plan: Plan, hours: Hours) -> list[tuple[Sensor, Random]]:
    """The plan's sensors, each with the seeded chance of its device's life."""
    made = []
    for site, kind, device in _devices_of(plan):
        random = Random(f"{plan.seed} {device}")
        sensor = Sensor(
            site=site,
            device=device,
            thing=KINDS[kind](random, hours),
            random=random,
            faults=plan.faults,
            every_us=round(plan.every * US),
        )
        made.append((sensor, Random(f"{plan.seed} {device} life")))
    return made


def names(plan: Plan) -> list[str]:
    """The plan's devices."""
    return [device for _, _, device in _devices_of(plan)]


def _devices_of(plan: Plan) -> Iterator[tuple[str, str, str]]:
    """Site, kind and name of each."""
    numbers: dict[tuple[str, str], int] = {}
    for index in range(plan.devices):
        site = plan.sites[index % len(plan.sites)]
        kind = ORDER[index // len(plan.sites) % len(ORDER)]
        number = numbers[site, kind] = numbers.get((site, kind), 0) + 1
        yield site, kind, f"{site}.{kind}-{number}"


async def _tell(restaurant: Restaurant, plan: Plan, *, progress: bool) -> None:
    """A line of progress every few seconds at a terminal; elsewhere only what is wrong, once."""
    told: str | None = None
    while True:
        await asyncio.sleep(PROGRESS_SECONDS)
        if restaurant.trouble and restaurant.trouble != told:
            sys.stderr.write(f"The broker at {restaurant.broker}: {restaurant.trouble}. Trying again.\n")
        told = restaurant.trouble
        if progress:
            sys.stderr.write(f"{restaurant.online} of {plan.devices} devices online, {_summary(restaurant)}\n")


def _summary(restaurant: Restaurant) -> str:
    outcomes = restaurant.outcomes
    return (
        f"{restaurant.measured:,} messages made; of what was sent, {outcomes[Outcome.ACKNOWLEDGED]:,} acknowledged,"
        f" {outcomes[Outcome.FAILED]:,} failed, {outcomes[Outcome.UNKNOWN]:,} unknown"
    )


def _sites(names: list[str]) -> tuple[str, ...]:
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    for name in names:
        if not 1 <= len(name) <= 64 or not allowed.issuperset(name):
            raise typer.BadParameter(f"{name!r}: letters, digits, . _ - and at most 64 of them", param_hint="--site")
    return tuple(dict.fromkeys(names))


def _faults(*, malformed: float, duplicates: float, late: float, offline: float, skew: bool) -> Faults:
    if malformed + duplicates + late > 1:
        raise typer.BadParameter("together they are more than 1", param_hint="--malformed --duplicates --late")
    return Faults(malformed=malformed, duplicates=duplicates, late=late, offline=offline, skew=skew)


def _broker(host: str | None, port: int | None, user: str | None, password: str | None) -> Broker:
    settings = load(MqttSettings)
    secret = settings.mqtt_password.get_secret_value() if settings.mqtt_password else None
    return Broker(
        host=host or settings.mqtt_host,
        port=port or settings.mqtt_port,
        user=user or settings.mqtt_user,
        password=password or secret,
        tls=settings.mqtt_tls_context,
    )


def _credentials(file: Path, plan: Plan) -> dict[str, str]:
    try:
        known = msgspec.json.decode(file.read_bytes(), type=dict[str, str])
    except (OSError, msgspec.DecodeError) as error:
        raise typer.BadParameter(f"{file}: {error}", param_hint="--credentials") from error
    if missing := [device for device in names(plan) if device not in known]:
        raise typer.BadParameter(
            f"{file} has no password for {missing[0]} and {len(missing) - 1} more", param_hint="--credentials"
        )
    return known


def _raise_file_limit(needed: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise typer.BadParameter(
            f"each device needs a connection; this shell allows {hard} open files (ulimit -Hn)", param_hint="--devices"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))

"""What running in containers costs here, as tables for docs/deploy/compose.md. Needs Python alone.

python3 -m deploy.compose.costs            # memory and processor of each container that runs, sizes of images
python3 -m deploy.compose.costs --start    # start what is down, with the simulator, until the first new row
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from deploy.compose.engine import Compose, EngineError
from deploy.local.say import say, stop

FIRST_ROW_SECONDS = 900
EVERYTHING = ("observability", "simulator")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m deploy.compose.costs", description=__doc__)
    parser.add_argument("--start", action="store_true", help="measure a start instead")
    asked = parser.parse_args()
    try:
        if asked.start:
            started(Compose(["simulator"]))
        else:
            containers(Compose(EVERYTHING))
            images(Compose(EVERYTHING))
    except EngineError as error:
        stop(error)


def containers(compose: Compose) -> None:
    """As `docker stats` counts: memory without what the kernel may drop from its cache."""
    print("| container | memory | limit | processor |\n|---|--:|--:|--:|")
    words = ("stats", "--no-stream", "--format", "{{json .}}")
    found = [json.loads(line) for line in compose.docker(*words).splitlines()]
    prefix = f"{compose.configuration['name']}-"
    for one in sorted(found, key=lambda one: str(one["Name"])):
        if one["Name"].startswith(prefix):
            memory, limit = one["MemUsage"].split(" / ")
            name = one["Name"].removeprefix(prefix).removesuffix("-1")
            print(f"| {name} | {memory} | {limit} | {one['CPUPerc']} |")


def images(compose: Compose) -> None:
    print("\n| image | size |\n|---|--:|")
    for image in sorted({str(service["image"]) for service in compose.services.values()}):
        try:
            size = int(compose.docker("image", "inspect", "--format", "{{.Size}}", image))
        except EngineError:
            continue  # not here
        print(f"| {image} | {size / 1e6:.0f} MB |")


def started(compose: Compose) -> None:
    if any(one.state == "running" for one in compose.containers().values()):
        stop("Containers run already: scripts/down --docker ends them; with --delete the start is a first one.")
    began, since = time.monotonic(), time.time()
    with tempfile.TemporaryDirectory() as folder:
        starting = compose.start(Path(folder) / "output")
        while not rows(compose, since):
            if starting.poll() or time.monotonic() > began + FIRST_ROW_SECONDS:
                stop(f"there is no row: {(Path(folder) / 'output').read_text()[-2000:]}")
            time.sleep(0.5)
        say(f"the first row was there after {time.monotonic() - began:.1f} s")
        starting.wait()
        say(f"docker compose up ended after {time.monotonic() - began:.1f} s")


def rows(compose: Compose, since: float) -> bool:
    """Whether a reading was received since then."""
    question = f"SELECT EXISTS (SELECT FROM readings WHERE received_at > to_timestamp({since}))"  # noqa: S608  a number
    script = (
        "PGPASSWORD=$(cat /run/secrets/postgres/POSTGRES_PASSWORD) PATH=$PATH:/usr/lib/postgresql/17/bin "
        f'psql --host=127.0.0.1 --username=postgres --dbname=brigade --tuples-only --command="{question}"'
    )
    try:
        return compose.told("exec", "--no-TTY", "timescaledb", "sh", "-c", script).strip() == "t"
    except EngineError:
        return False  # not there yet


if __name__ == "__main__":
    main()

"""`scripts/down`: end an instance, cleanly; data stay unless told otherwise."""

import argparse
import os
import time

from deploy.local import roots
from deploy.local.layout import Instance, LayoutError, cache_folder, hold, state_folder
from deploy.local.say import say, stop
from deploy.local.supervision import Supervisor

SECONDS = 120


def shut_down(instance: Instance) -> None:
    """Return when every process of the instance has ended."""
    supervisor = Supervisor(instance)
    if supervisor.alive():
        supervisor.shut_down()
    end = time.monotonic() + SECONDS
    while (lock := hold(instance.state / "lock")) is None:
        if time.monotonic() > end:
            stop(f"instance {instance.name} does not end; {instance.state}/supervisord.pid has its supervisord")
        time.sleep(0.1)
    os.close(lock)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/down", description="End what scripts/up started.")
    parser.add_argument("--instance", default=os.environ.get("BRIGADE_INSTANCE", "local"), help="which; default: local")
    parser.add_argument(
        "--delete", action="store_true", help="also delete the data, and the cache when no instance is left"
    )
    asked = parser.parse_args()
    try:
        end(asked.instance)
        if asked.delete:
            delete(asked.instance)
    except LayoutError as error:
        stop(error)


def end(name: str) -> None:
    if not (state_folder(name) / "instance.json").exists():
        say(f"there is no instance {name}")
        return
    shut_down(Instance.load(name))
    say(f"instance {name} is down")


def delete(name: str) -> None:
    folder = state_folder(name)
    if (folder / "lock").exists():  # scripts/up makes it first: without it the folder is not ours
        roots.remove(folder)
        say(f"deleted {folder}")
    others = sorted(path.name for path in (cache_folder() / "state").glob("*"))
    if others:
        say(f"{cache_folder()} stays for: {', '.join(others)}; scripts/down --delete --instance {others[0]}")
        return
    say(f"deleting {cache_folder()}")
    roots.remove(cache_folder())  # holds the Python that runs this: nothing may be imported from here on


if __name__ == "__main__":
    main()

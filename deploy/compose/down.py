"""`scripts/down --docker`: end the containers; the data stay, unless told otherwise."""

import argparse
import shutil

from deploy.compose.engine import Compose, EngineError
from deploy.local.say import say, stop

EVERYTHING = ["observability", "simulator", "command"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/down --docker", description=__doc__)
    parser.add_argument("--docker", action="store_true", required=True, help="what scripts/up --docker started")
    parser.add_argument("--delete", action="store_true", help="also delete the data and the secrets")
    asked = parser.parse_args()
    compose = Compose(EVERYTHING)
    try:
        compose.check()
        compose.told("down", "--remove-orphans", *(["--volumes"] if asked.delete else []))
        say("the containers are gone" + (", and their data" if asked.delete else "; the data stay"))
        if asked.delete and compose.secrets.exists():
            shutil.rmtree(compose.secrets)
            say(f"deleted {compose.secrets}")
    except PermissionError:
        stop(f"The secrets belong to the containers' user: sudo rm -r {compose.secrets}")
    except EngineError as error:
        stop(error)


if __name__ == "__main__":
    main()

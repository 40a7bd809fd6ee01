"""The settings of a running instance as lines a shell can read: `scripts/brigade` runs the command with them."""

import shlex
import sys

from deploy.local.layout import LayoutError
from deploy.local.stack import Stack
from deploy.local.supervision import SupervisionError


def main(instance: str) -> None:
    try:
        settings = Stack.attach(instance).owner_env
    except (LayoutError, SupervisionError) as error:
        sys.exit(f"{error}")
    for name, value in settings.items():
        print(f"export {name}={shlex.quote(value)}")


if __name__ == "__main__":
    main(sys.argv[1])

"""`scripts/pin-images`: asks the registries which digests the public images' tags have, and writes pins.toml.

A digest is written only as a registry has told it just now. If one of them does not answer, nothing is changed.
"""

import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from deploy.images import clients
from deploy.images.docker import DockerError, docker
from deploy.images.public import HERE, public
from deploy.local.layout import cache_folder
from deploy.local.say import say, stop

PINS = HERE / "pins.toml"

HEAD = """\
# The digests that the tags of public.toml had when scripts/pin-images last asked their registries; made by it alone.

[digests]
"""


class PinsError(Exception):
    """A registry did not say what is to be pinned."""


def pinned(image: str) -> str:
    """The image with its digest, where that is known."""
    digests = tomllib.loads(PINS.read_text())["digests"] if PINS.exists() else {}
    return f"{image}@{digests[image]}" if image in digests else image


def ask(images: Iterable[str]) -> dict[str, str]:
    """The digest of each; for an image of several architectures, that of their list."""
    environment = os.environ | clients.plugins(cache_folder())
    digests = {}
    for image in images:
        try:
            answer = docker(
                "buildx", "imagetools", "inspect", "--format", "{{json .Manifest}}", image, environment=environment
            )
        except DockerError as error:
            raise PinsError(f"no digest of {image}: {str(error).splitlines()[-1]}") from error
        digest = json.loads(answer)["digest"]
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
            raise PinsError(f"no digest of {image}: its registry says {digest!r}")
        say(f"{image} is {digest}")
        digests[image] = digest
    return digests


def write(digests: Mapping[str, str], file: Path = PINS) -> None:
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_text(HEAD + "".join(f'"{image}" = "{digests[image]}"\n' for image in sorted(digests)))
    unfinished.rename(file)


def main() -> None:
    images = [image for table in public().values() for image in table.values()]
    try:
        write(ask(images))
    except (PinsError, clients.ClientsError) as error:
        stop(f"{error}\nNothing is changed.")
    say(f"{PINS.relative_to(Path.cwd())} is written")


if __name__ == "__main__":
    main()

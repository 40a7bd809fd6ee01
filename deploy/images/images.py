"""`scripts/images`: makes the image `brigade`, and servers' images where no registry has them."""

import argparse
import os
import subprocess
import tomllib

from deploy.images import bases, pins
from deploy.images.docker import DockerError, answers, docker
from deploy.images.public import HERE, public, variable
from deploy.local import jars, roots
from deploy.local.layout import REPOSITORY, cache_folder
from deploy.local.say import say, stop

VERSION = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
BRIGADE = f"brigade:{VERSION}"
FAILURES = (DockerError, roots.RootError, jars.JarsError)

NETWORK = ("PIP_INDEX_URL", "NPM_CONFIG_REGISTRY")
"""Settings of the person's network that the building stages take."""


def brigade(*, on_public: bool | None = None) -> None:
    """Build the image of our own parts, on the public bases or, where no registry answers, on ones made here."""
    _need_engine()
    if on_public is None:
        on_public = _can_pull(public()["build"]["python"])
    arguments = {"VERSION": VERSION, "REVISION": _revision()}
    arguments |= _public_bases() if on_public else bases.builders(cache_folder())
    arguments |= {name: os.environ[name] for name in NETWORK if name in os.environ}
    say(f"building {BRIGADE} on {'the public bases' if on_public else 'bases made here'}")
    words = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    docker("build", *words, "--file", str(HERE / "Dockerfile"), "--tag", BRIGADE, str(REPOSITORY))
    say(f"{BRIGADE}: {size(BRIGADE) / 1e6:.0f} MB")


def servers() -> None:
    """Make the servers that docker-compose.yml names from Debian's packages."""
    _need_engine()
    for name, image in bases.servers(cache_folder()).items():
        say(f"{image} stands in for {public()['run'][name]}")


def environment(which: str) -> None:
    """For docker-compose.yml: the images made here, or the public ones by digest."""
    if which == "local":
        images = {name: bases.local(name) for name in (*bases.SERVERS, "mosquitto")}
    else:
        images = {name: pins.pinned(image) for name, image in public()["run"].items()}
    for name, image in images.items():
        print(f"export {variable(name)}={image}")


def size(image: str) -> int:
    """In bytes, unpacked."""
    return int(docker("image", "inspect", "--format", "{{.Size}}", image))


def _need_engine() -> None:
    if not answers():
        raise DockerError('no Docker engine answers; scripts/engine starts one: eval "$(scripts/engine up)"')


def _public_bases() -> dict[str, str]:
    build = {name: pins.pinned(image) for name, image in public()["build"].items()}
    return {
        "PYTHON_BASE": build["python"],
        "PYTHON_BUILDER": build["python-builder"],
        "NODE_BUILDER": build["node"],
        "MAVEN_BUILDER": build["maven"],
    }


def _can_pull(image: str) -> bool:
    try:
        docker("image", "inspect", image)
    except DockerError:
        say(f"pulling {image}")
        return not subprocess.run(["docker", "pull", "--quiet", image], capture_output=True, check=False).returncode
    return True


def _revision() -> str:
    """The commit that is checked out; nothing outside of a checkout."""
    question = ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"]
    return subprocess.run(question, capture_output=True, text=True, check=False).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/images", description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("brigade", help=f"build {BRIGADE}")
    command.add_argument(
        "--bases",
        choices=["public", "local"],
        help="public ones by registry, or made here from Debian's packages; otherwise whichever can be had",
    )
    command.set_defaults(run=lambda asked: brigade(on_public={"public": True, "local": False, None: None}[asked.bases]))
    command = commands.add_parser(
        "servers", help="make the servers that docker-compose.yml names, from Debian's packages"
    )
    command.set_defaults(run=lambda _asked: servers())
    command = commands.add_parser("environment", help="what tells Compose to use these, or the public ones by digest")
    command.add_argument("which", choices=["local", "pinned"], nargs="?", default="local")
    command.set_defaults(run=lambda asked: environment(asked.which))
    asked = parser.parse_args()
    try:
        asked.run(asked)
    except FAILURES as error:
        stop(error)


if __name__ == "__main__":
    main()

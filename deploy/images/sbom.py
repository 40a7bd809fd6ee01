"""`scripts/sbom`: writes what is in the image `brigade`, as CycloneDX, to be handed over with it.

Python's packages are those installed, read by cyclonedx-py; beside them the base's Debian packages, what is bundled
into the pages, and the agent for Kafka.
"""

import argparse
import json
import re
import subprocess
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path

from packageurl import PackageURL

from deploy.images.docker import DockerError, docker
from deploy.images.images import BRIGADE, VERSION
from deploy.local.layout import REPOSITORY
from deploy.local.say import say, stop

POM = REPOSITORY / "deploy/local/kafka/pom.xml"
LIBRARIES = REPOSITORY / "gateway/pages/package-lock.json"


def write(image: str, file: Path) -> None:
    bill = _python_packages(image)
    known = {component["bom-ref"] for component in bill["components"]}
    others = [*_debian_packages(image), *_bundled_libraries(), _agent()]
    bill["components"] += [component for component in others if component["bom-ref"] not in known]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(bill, indent=2) + "\n")


def _python_packages(image: str) -> dict[str, list[dict[str, object]]]:
    with tempfile.TemporaryDirectory() as folder:
        container = docker("create", image)
        try:
            docker("cp", f"{container}:/opt/brigade/venv", f"{folder}/copied")
        finally:
            docker("rm", container)
        # This machine's Python may be another one than the image's; it only has to find the packages.
        environment = Path(folder, "environment")
        venv.create(environment)
        (packages,) = environment.glob("lib/python*/site-packages")
        packages.rmdir()
        (copied,) = Path(folder).glob("copied/lib/python*/site-packages")
        copied.rename(packages)
        words = [
            "--pyproject",
            str(REPOSITORY / "pyproject.toml"),
            "--output-reproducible",
            "--no-validate",
            "--of",
            "JSON",
        ]
        reading = ["cyclonedx-py", "environment", *words, str(environment / "bin/python")]
        done = subprocess.run(reading, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DockerError(f"cyclonedx-py failed:\n{done.stderr}")
    bill: dict[str, list[dict[str, object]]] = json.loads(done.stdout)
    return bill


def _debian_packages(image: str) -> Iterator[dict[str, object]]:
    question = ("dpkg-query", "--show", "--showformat", "${Package} ${Version} ${Architecture}\n")
    for line in docker("run", "--rm", "--network", "none", image, *question).splitlines():
        name, version, architecture = line.split()
        yield _component("deb", name, version, namespace="debian", qualifiers={"arch": architecture})


def _bundled_libraries() -> Iterator[dict[str, object]]:
    for path, facts in json.loads(LIBRARIES.read_text())["packages"].items():
        if path and not facts.get("dev"):
            yield _component("npm", path.removeprefix("node_modules/"), facts["version"])


def _agent() -> dict[str, object]:
    group, name = "io.prometheus.jmx", "jmx_prometheus_javaagent"
    (version,) = re.findall(rf"<artifactId>{name}</artifactId>\s*<version>(.+)</version>", POM.read_text())
    return _component("maven", name, version, namespace=group)


def _component(
    kind: str, name: str, version: str, *, namespace: str | None = None, qualifiers: dict[str, str] | None = None
) -> dict[str, object]:
    url = PackageURL(kind, namespace, name, version, qualifiers).to_string()
    return {"bom-ref": url, "type": "library", "name": name, "version": version, "purl": url}


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/sbom", description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", default=REPOSITORY / f"dist/brigade-{VERSION}.cdx.json")
    asked = parser.parse_args()
    try:
        write(BRIGADE, asked.file)
    except DockerError as error:
        stop(error)
    say(f"{asked.file} says what is in {BRIGADE}")


if __name__ == "__main__":
    main()

"""Public images are named in one place, by exact tag, and everything else holds to it."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement

from deploy.images.public import public, variable
from deploy.local.layout import REPOSITORY

DOCKERFILE = (REPOSITORY / "deploy/images/Dockerfile").read_text()
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
COMPOSE = REPOSITORY / "docker-compose.yml"
VALUES = sorted((REPOSITORY / "deploy/helm").glob("charts/*/values.yaml"))


def argument(name):
    return re.search(rf"^ARG {name}=(.+)$", DOCKERFILE, re.MULTILINE)[1]


def locked(file):
    text = (REPOSITORY / file).read_text().replace("\\\n", "")
    return {line.split(" --hash")[0].strip(): line.count("--hash=sha256:") for line in text.splitlines()}


@pytest.mark.parametrize("image", [image for table in public().values() for image in table.values()])
def test_a_tag_says_which_version(image):
    assert re.fullmatch(r"[a-z0-9.]+\.[a-z]+/[a-z0-9_/-]+:v?\d+\.\d+(\.\d+)?[a-z0-9.-]*", image)


def test_the_image_is_built_on_what_the_list_names():
    build = public()["build"]
    assert argument("PYTHON_BASE") == build["python"]
    assert argument("PYTHON_BUILDER") == build["python-builder"]
    assert argument("NODE_BUILDER") == build["node"]
    assert argument("MAVEN_BUILDER") == build["maven"]


def test_the_image_bears_the_project_s_version():
    assert argument("VERSION") == PROJECT["version"]


@pytest.mark.skipif(not COMPOSE.exists(), reason="there is no docker-compose.yml")
def test_compose_names_the_images_of_the_list():
    named = dict(re.findall(r"image: \$\{([A-Z_]+)_IMAGE:-(.+)\}", COMPOSE.read_text()))
    assert named.pop("BRIGADE") == f"brigade:{PROJECT['version']}"
    listed = {variable(name): image for name, image in public()["run"].items()}
    assert {f"{name}_IMAGE": image for name, image in named.items()}.items() <= listed.items()


@pytest.mark.parametrize("file", VALUES, ids=lambda file: file.parent.name)
def test_the_chart_names_the_images_of_the_list(file):
    found = re.findall(r"registry: ([^,\s]+),\s+repository: ([^,\s]+),\s+tag: \"?([^,\s\"]+)", file.read_text())
    assert {f"{registry}/{repository}:{tag}" for registry, repository, tag in found} <= set(public()["run"].values())


def test_the_image_installs_what_everything_here_was_tested_with():
    everything, image = locked("requirements.lock"), locked("deploy/images/requirements.lock")
    assert image.items() <= everything.items()
    assert all(image.values())
    assert locked("deploy/images/build.lock").items() <= everything.items()


def test_the_image_installs_all_that_the_project_needs_and_nothing_for_work_on_it():
    names = {re.split("==", line)[0] for line in locked("deploy/images/requirements.lock")}
    assert {Requirement(line).name for line in PROJECT["dependencies"]} <= names
    extras = {Requirement(line).name for lines in PROJECT["optional-dependencies"].values() for line in lines}
    assert not extras & names

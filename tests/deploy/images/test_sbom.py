"""The bill of materials names all that the lock and the base brought."""

import json

import pytest
from cyclonedx.model.bom import Bom
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.images import sbom
from deploy.images.docker import docker
from deploy.local.layout import REPOSITORY

LOCK = REPOSITORY / "deploy/images/requirements.lock"
INSIDE = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "python_full_version": "3.13.0"}


@pytest.fixture(scope="module")
def written(image, tmp_path_factory):
    file = tmp_path_factory.mktemp("sbom") / "brigade.cdx.json"
    sbom.write(image, file)
    return file.read_text()


@pytest.fixture(scope="module")
def components(written):
    return {part["purl"].split("?")[0]: part for part in json.loads(written)["components"] if "purl" in part}


def test_it_is_cyclonedx(written):
    bill = Bom.from_json(json.loads(written))  # type: ignore[attr-defined]  its decorator adds it
    assert bill.metadata.component.name == "brigade"
    assert len(bill.components) == len(json.loads(written)["components"])


def test_every_package_of_the_lock_is_in_it(components):
    lines = [line.split(" --hash")[0].rstrip(" \\") for line in LOCK.read_text().splitlines() if line[:1].isalnum()]
    requirements = [Requirement(line) for line in lines]
    wanted = [one for one in requirements if not one.marker or one.marker.evaluate(INSIDE | {"python_version": "3.13"})]
    assert len(wanted) > 50
    urls = {f"pkg:pypi/{canonicalize_name(one.name)}@{next(iter(one.specifier)).version}" for one in wanted}
    assert urls - components.keys() == set()


def test_every_package_of_the_base_is_in_it(image, components):
    packages = docker("run", "--rm", image, "dpkg-query", "--show", "--showformat", "${Package}\n").split()
    named = {part["name"] for url, part in components.items() if url.startswith("pkg:deb/debian/")}
    assert named == set(packages)
    assert "libc6" in named


def test_what_the_pages_and_kafka_get_is_in_it(components):
    names = {part["name"] for url, part in components.items() if url.startswith(("pkg:npm/", "pkg:maven/"))}
    assert names == {"preact", "uplot", "uqr", "jmx_prometheus_javaagent"}

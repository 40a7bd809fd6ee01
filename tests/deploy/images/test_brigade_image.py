"""The image `brigade`, started as Compose and the chart start it."""

import json
import re
import subprocess
import time
import tomllib
import urllib.error
import urllib.request

import pytest

from deploy.images.docker import docker
from deploy.images.images import BRIGADE, VERSION, size
from deploy.local.layout import REPOSITORY
from deploy.local.ready import wait_until

from .conftest import HARDENED

LARGEST = 300_000_000  # measured: docs/deploy/images.md

EVERY_MODULE = """
import importlib, pathlib, sysconfig
import psycopg  # psycopg_binary wants it first
packages = pathlib.Path(sysconfig.get_path("purelib"))
for file in packages.rglob("*.so"):
    parts = file.relative_to(packages).parts
    if not any(part.endswith(".libs") for part in parts):
        name = ".".join((*parts[:-1], parts[-1].split(".")[0]))
        importlib.import_module(name)
        print(name)
"""

UNCOMPILED = """
import pathlib, sys
import gateway.app
compiled = [getattr(module, "__cached__", None) for module in sys.modules.values()]
print([file for file in compiled if file and not pathlib.Path(file).exists()])
"""


@pytest.fixture(scope="module")
def config(image):
    return json.loads(docker("image", "inspect", "--format", "{{json .Config}}", image))


def test_it_says_what_it_is(config):
    label = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert label["title"] == "brigade"
    assert label["version"] == VERSION
    assert label["licenses"] == tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["license"]
    assert re.fullmatch("[0-9a-f]{40}", label["revision"])


def test_it_is_small(image):
    print(f"{BRIGADE}: {size(image) / 1e6:.0f} MB")
    assert size(image) < LARGEST


def test_it_runs_as_nobody_who_may_do_anything(config, inside):
    assert config["User"] == "10001:10001"
    told = inside("sh", "-c", "id -u; id -g; grep -E 'Cap(Prm|Eff|Bnd)|NoNewPrivs' /proc/self/status")
    uid, gid, *status = told.stdout.split("\n")[:-1]
    assert (uid, gid) == ("10001", "10001")
    assert {line.split()[1].strip("0") for line in status} == {"", "1"}  # no capability; NoNewPrivs


def test_it_writes_to_tmp_alone(inside):
    assert inside("sh", "-c", "touch /tmp/here").returncode == 0
    writable = inside(
        "find", "/opt", "/usr", "/etc", "/var", "-writable", "-not", "-type", "l", "-not", "-perm", "-1777"
    )
    assert writable.stdout == ""


def test_nothing_in_it_installs_or_compiles_or_fetches(inside):
    programs = "pip pip3 uv gcc cc make npm node mvn java git curl wget"
    assert inside("sh", "-c", f"for program in python {programs}; do command -v $program; done").stdout == (
        "/opt/brigade/venv/bin/python\n"
    )


def test_no_pip_as_a_module_either(inside):
    assert "No module named pip" in inside("python", "-m", "pip", "--version").stderr


def test_every_extension_module_loads(inside):
    told = inside("python", "-c", EVERY_MODULE)
    assert told.returncode == 0, told.stderr
    assert {"uvloop.loop", "psycopg_binary._psycopg", "confluent_kafka.cimpl"} <= set(told.stdout.split())


def test_what_python_would_compile_at_each_start_is_compiled(inside):
    assert inside("python", "-c", UNCOMPILED).stdout == "[]\n"


def test_the_pages_and_the_agent_are_in_it(inside):
    assert inside("sh", "-c", "grep -c '<script' $BRIGADE_GATEWAY_PAGES/index.html").stdout != "0\n"
    assert inside("sh", "-c", "head -c 2 /opt/brigade/java/jmx_prometheus_javaagent.jar").stdout == "PK"


def test_nothing_of_the_building_machine_is_in_it(image, inside, config):
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
    for text in (history, json.dumps(config)):
        assert not re.search(r"https?://|INDEX_URL|REGISTRY|_CERT|CA_CERTS|password|token", text, re.IGNORECASE)
    traces = inside(
        "find",
        "/",
        "-xdev",
        "-name",
        "pip.conf",
        "-o",
        "-name",
        ".npmrc",
        "-o",
        "-name",
        "settings.xml",
        "-o",
        "-name",
        "direct_url.json",
    )
    assert traces.stdout == ""


def test_it_trusts_whom_its_base_trusts_and_nobody_more(image, inside):
    (base,) = docker("image", "inspect", "--format", "{{index .RootFS.Layers 0}}", image).split()
    bases = [name for name in docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split() if "python" in name]
    (mine,) = [
        name for name in bases if docker("image", "inspect", "--format", "{{index .RootFS.Layers 0}}", name) == base
    ]
    digest = ("sha256sum", "/etc/ssl/certs/ca-certificates.crt")
    assert inside(*digest).stdout.strip() == docker("run", "--rm", "--network", "none", mine, *digest)


@pytest.mark.parametrize(
    ("command", "port"),
    [
        (("python", "-m", "pipeline.bridge"), 9101),
        (("python", "-m", "pipeline.lag"), 9103),
        (("python", "-m", "gateway.app"), 9100),
    ],
    ids=["bridge", "lag", "gateway"],
)
def test_a_part_answers_on_its_health_port_and_ends_when_told(image, command, port):
    words = ("--env", f"BRIGADE_GATEWAY_INTERNAL_SECRET={'0' * 32}", "--publish", f"127.0.0.1::{port}")
    container = docker("run", "--detach", *words, *HARDENED, image, *command)
    try:
        address = docker("port", container, f"{port}/tcp").splitlines()[0]
        assert wait_until(lambda: status(f"http://{address}/healthz") == 200, 20), docker("logs", container)
        began = time.monotonic()
        docker("stop", "--time", "20", container)
        assert time.monotonic() - began < 15
        assert docker("inspect", "--format", "{{.State.ExitCode}}", container) == "0"
    finally:
        subprocess.run(["docker", "rm", "--force", container], check=True, capture_output=True)


def status(url):
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0

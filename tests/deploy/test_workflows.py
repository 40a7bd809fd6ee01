"""The workflows of GitHub Actions, as far as they can be seen without GitHub."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deploy.local.layout import REPOSITORY

FOLDER = REPOSITORY / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yml"))
TEXT = {file.name: file.read_text() for file in FILES}


def test_zizmor_finds_nothing_wrong():
    zizmor = Path(sys.executable).parent / "zizmor"
    command = [zizmor, "--offline", "--no-progress", "--persona", "auditor", FOLDER]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [file.name for file in FILES] == ["check.yml", "release.yml"]


@pytest.mark.parametrize("name", TEXT)
def test_actions_are_named_by_commit_and_version(name):
    for action in re.findall(r"uses: (.+)", TEXT[name]):
        assert action.startswith("./.github/") or re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v[\d.]+", action)


@pytest.mark.parametrize("name", TEXT)
def test_a_job_has_the_rights_that_it_names(name):
    workflow = yaml.safe_load(TEXT[name])
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert "permissions" in job
        assert "uses" in job or job["timeout-minutes"] <= 90
    writing = {
        f"{job}: {right}"
        for job, facts in workflow["jobs"].items()
        for right, may in facts["permissions"].items()
        if may == "write"
    }
    assert writing == ({"release: contents", "release: packages"} if name == "release.yml" else set())


@pytest.mark.parametrize("name", TEXT)
def test_the_image_is_the_one_whose_contents_are_written(name):
    """`scripts/sbom` reads the image by the name that `scripts/images` gives it, and that one has its labels."""
    assert 0 < TEXT[name].index("scripts/images brigade --bases public") < TEXT[name].index("scripts/sbom")
    assert "docker build" not in TEXT[name]


@pytest.mark.parametrize("name", TEXT)
def test_scripts_and_files_that_are_named_are_there(name):
    named = re.findall(r"(?<![\w/])((?:docs|scripts|deploy)/[\w/.-]*\w)", TEXT[name])
    assert named
    assert [path for path in named if not (REPOSITORY / path).exists()] == []

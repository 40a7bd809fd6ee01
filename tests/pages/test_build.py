"""What the pages are built from and into."""

import json
import re

import pytest

from deploy.local import pages
from deploy.local.layout import cache_folder


@pytest.fixture(scope="module")
def built():
    return pages.make(cache_folder())


def test_the_lock_names_no_registry():
    lock = json.loads((pages.SOURCES / "package-lock.json").read_text())
    assert all("integrity" in package for path, package in lock["packages"].items() if path)
    assert "://" not in re.sub(r'"(url|funding)": "[^"]*"', "", (pages.SOURCES / "package-lock.json").read_text())


def test_what_is_built_is_not_built_again(built):
    before = (built / "index.html").stat().st_ino
    assert pages.make(cache_folder()) == built
    assert (built / "index.html").stat().st_ino == before


def test_the_page_has_nothing_inline_and_nothing_from_elsewhere(built):
    page = (built / "index.html").read_text()
    assert re.findall(r"<script(?![^>]* src=)|<style| style=| on\w+=", page) == []
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert all(address.startswith("/") and (built / address[1:]).is_file() for address in addresses)


def test_everything_together_is_small(built):
    assets = sum(path.stat().st_size for path in built.rglob("*") if path.is_file())
    assert assets < 250_000

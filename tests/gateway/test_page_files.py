"""The built pages, as the gateway answers them."""

import pytest

from gateway.page_files import PageFiles
from tests.gateway.conftest import serving

PAGE = "<!doctype html><title>Brigade</title>" + "x" * 2000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    (folder / "assets").mkdir()
    (folder / "index.html").write_text(PAGE)
    (folder / "assets" / "main-3f2a.js").write_text("let one = 1\n" * 200)
    (folder / "icon.svg").write_text("<svg/>")
    (folder / "manifest.webmanifest").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def pages(folder):
    with serving("postgresql://nobody@127.0.0.1:1/none", pages=str(folder)) as api:
        del api.headers["authorization"]
        yield api


@pytest.mark.parametrize("path", ["/", "/login", "/devices/demo.fridge-1", "/admin/people", "/admin", "/invite"])
def test_a_page_is_the_one_page(pages, path):
    answer = pages.get(path)
    assert (answer.status_code, answer.text) == (200, PAGE)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


@pytest.mark.parametrize(
    ("path", "media_type", "caching"),
    [
        ("/assets/main-3f2a.js", "text/javascript; charset=utf-8", "public, max-age=31536000, immutable"),
        ("/icon.svg", "image/svg+xml; charset=utf-8", "no-cache"),
        ("/manifest.webmanifest", "application/manifest+json; charset=utf-8", "no-cache"),
    ],
)
def test_a_file_is_itself(pages, path, media_type, caching):
    answer = pages.get(path)
    assert answer.status_code == 200
    assert (answer.headers["content-type"], answer.headers["cache-control"]) == (media_type, caching)
    again = pages.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_large_files_are_packed_for_who_unpacks(pages):
    assert pages.get("/", headers={"Accept-Encoding": "gzip"}).headers["content-encoding"] == "gzip"
    plain = pages.get("/", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert pages.get("/icon.svg").text == "<svg/>"


@pytest.mark.parametrize(
    "path",
    ["/assets/gone.js", "/assets/", "/assets", "/nothing", "/metrics", "/docs", "/api", "/api/v2", "/index.htm",
     "/.git/config",
     "/assets/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/assets/%2e%2e/index.html", "//etc/passwd", "/loginx"],
)  # fmt: skip
def test_what_is_not_there_is_a_problem(pages, path):
    answer = pages.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_host_of_the_admins_begins_at_admin(pages):
    answer = pages.get("/", headers={"Host": "admin.restaurant.local"})
    assert (answer.status_code, answer.headers["location"]) == (307, "/admin")
    assert pages.get("/admin", headers={"Host": "admin.restaurant.local"}).text == PAGE
    assert pages.get("/", headers={"Host": "iot.restaurant.local"}).status_code == 200


def test_a_head_is_a_get_without_its_body(pages):
    answer = pages.head("/login")
    assert (answer.status_code, answer.content) == (200, b"")
    assert pages.post("/login").status_code == 404


def test_a_folder_without_pages_is_refused_at_start(tmp_path):
    with pytest.raises(FileNotFoundError, match="BRIGADE_GATEWAY_PAGES"):
        PageFiles(str(tmp_path))

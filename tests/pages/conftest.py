"""A whole stack of its own, and a real browser that the owner is logged in with."""

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email import message_from_bytes
from email.policy import default
from functools import partial

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from deploy.local.layout import OWNER, REPOSITORY, Passwords
from deploy.local.ready import wait_until
from deploy.local.roots import TRIXIE
from deploy.local.stack import Stack
from tests.end_to_end.stacks import ASKS_OFTEN, SHORT_WAITS, own_stack

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SITE = "demo"
SECONDS_TO_WAIT = 40
"""For what will come; what must come soon says how soon."""
expect.set_options(timeout=SECONDS_TO_WAIT * 1000)


@pytest.fixture(scope="package")
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    if name := os.environ.get("BRIGADE_TEST_STACK"):  # one that is up, to try a test quickly
        yield Stack.attach(name)
        return
    if "BRIGADE_TEST_INSTANCE" not in os.environ:
        missing = "BRIGADE_TEST_INSTANCE is not set: scripts/test knows where the servers are, and starts more of them"
        pytest.fail(missing) if os.environ.get("BRIGADE_TEST_ALL") == "1" else pytest.skip(missing)
    with own_stack("pages", SHORT_WAITS | ASKS_OFTEN, keep_logs=lambda: request.session.testsfailed > 0) as own:
        yield own


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture(scope="package")
def address(stack: Stack) -> str:
    return f"http://127.0.0.1:{stack.ports['gateway']}"


@pytest.fixture(scope="package")
def owner(stack: Stack) -> tuple[str, str]:
    """E-mail and password."""
    return OWNER, Passwords.of(stack.instance).owner


@pytest.fixture(scope="package")
def cookies(browser: Browser, address: str, owner: tuple[str, str]) -> dict:
    """Of the owner's session."""
    with browser.new_context(base_url=address) as context:
        log_in(context.new_page(), *owner)
        return context.storage_state()


@pytest.fixture
def context(browser: Browser, address: str, cookies: dict) -> Iterator[BrowserContext]:
    with browser.new_context(base_url=address, storage_state=cookies, locale="en-GB") as opened:
        opened.set_default_timeout(SECONDS_TO_WAIT * 1000)
        yield opened


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """The owner's; a script's error, or anything that the content policy stopped, fails the test."""
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda message: wrong.append(message.text) if "Content Security" in message.text else None)
    yield opened
    assert not wrong


@pytest.fixture
def seen() -> Callable[[Page, str], None]:
    """Takes a picture into BRIGADE_TEST_PICTURES, if that names a folder."""
    folder = os.environ.get("BRIGADE_TEST_PICTURES")

    def take(page: Page, name: str) -> None:
        if folder:
            page.screenshot(path=f"{folder}/{name}.png", full_page=True)

    return take


def log_in(page: Page, email: str, password: str) -> None:
    page.goto("/login")
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("navigation", name="Main").wait_for()


@pytest.fixture
def publish(stack: Stack) -> Callable[..., None]:
    return partial(send, stack)


def send(stack: Stack, device: str, payload: object, site: str = SITE) -> None:
    """Publish a reading or a list of them as the device."""
    say(stack, f"brigade/v1/{site}/{device}/readings", json.dumps(payload))


def say(stack: Stack, topic: str, payload: str) -> None:
    login = stack.mqtt_login
    line = f"mosquitto_pub -h 127.0.0.1 -p {stack.ports['mqtt']} -u {login['username']} -P {login['password']} -q 1"
    done = mosquitto_pub(stack, f"{line} -t {topic} -m {shlex.quote(payload)}")
    assert done.returncode == 0, done.stderr


@pytest.fixture
def mail_to(stack: Stack) -> Callable[..., str]:
    """The text of the newest mail to an address once it is there; where words are given, of the newest with them."""

    def found(address: str, words: str = "") -> str:
        def mails() -> list[str]:
            return [text for text in _mails(stack, address) if words in text]

        assert wait_until(lambda: any(mails()), SECONDS_TO_WAIT), f"no mail to {address}"
        return mails()[-1]

    return found


def _mails(stack: Stack, address: str) -> list[str]:
    files = sorted((stack.state / "mails").glob("*.eml"))
    mails = [message_from_bytes(file.read_bytes(), policy=default) for file in files]
    return [mail.get_content() for mail in mails if mail["To"] == address]


def mosquitto_pub(stack: Stack, line: str) -> subprocess.CompletedProcess[str]:
    """Run a line as the page shows it; out of the Debian root where this machine has no mosquitto_pub."""
    words = shlex.split(line)
    if not shutil.which("mosquitto_pub"):
        words = ["bwrap", "--ro-bind", str(TRIXIE.folder(stack.instance.cache)), "/", "--dev", "/dev", *words]
    return subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=False)


def utc_now() -> str:
    return datetime.now(UTC).isoformat()

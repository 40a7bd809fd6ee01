"""Every page for every eye and hand: axe-core finds nothing, nothing is wider than a phone, targets fit a thumb."""

import json
import time

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from deploy.local import pages
from deploy.local.layout import cache_folder
from deploy.local.ready import wait_until
from tests.pages.conftest import SITE, send, utc_now

OUTSIDE = ["/login", "/forgot", "/reset#x", "/invite#x"]
INSIDE = ["/", "/devices/fridge-looks", "/account", *(
    f"/admin/{section}" for section in ("people", "devices", "refused", "keys", "sites", "system", "audit")
)]  # fmt: skip
PHONE = {"width": 360, "height": 740}
SMALLEST = 44

TOO_SMALL = """
smallest => [...document.querySelectorAll('a, button, input, select, summary')]
    .filter(it => it.checkVisibility() && !it.closest('p, td') && !it.classList.contains('skip'))
    .map(it => [it, it.getBoundingClientRect()])
    .filter(([, box]) => box.width && (box.height < smallest - 0.5 || box.width < smallest - 0.5))
    .map(([it, box]) => `${it.tagName} ${it.textContent || it.name} ${box.width}x${box.height}`)
"""


@pytest.fixture(scope="module", autouse=True)
def some_data(stack, browser: Browser, address, cookies):
    """Something good, something refused; return when the lines of the cards can be drawn."""
    ages = range(900, 0, -30)
    send(stack, "fridge-looks", [{"ts": time.time() - age, "temperature_c": 3 + age % 9 / 10} for age in ages])
    send(stack, "fridge-looks", {"ts": utc_now(), "temperature_c": "cold"})
    send(stack, "door-looks", {"ts": utc_now(), "door_open": True})
    ages = range(9000, 0, -60)
    send(stack, "freezer-looks", [{"ts": time.time() - age, "temperature_c": -19.6 - age / 5000} for age in ages])
    send(stack, "oven-looks", [{"ts": time.time() - age, "temperature_c": 288.8 - age / 100} for age in ages])

    def drawn(context: BrowserContext) -> bool:
        found = context.request.get("/api/v1/recent", params={"site": SITE}).json()["devices"]
        lines = {
            each["device"] for each in found for steps in each["metrics"].values() if len(steps) - steps.count(None) > 1
        }  # one step is a point
        return {"fridge-looks", "freezer-looks", "oven-looks"} <= lines

    with browser.new_context(base_url=address, storage_state=cookies) as context:
        assert wait_until(lambda: drawn(context), seconds=60)


TOUCHING = """
() => [...document.querySelectorAll('.card')].filter(card => card.querySelector('.spark path')?.getAttribute('d'))
    .map(card => {
        const box = (name) => card.querySelector(name).getBoundingClientRect();
        const [line, value, inside] = [box('.spark'), box('.value'), box('.card-body')];
        const apart = line.top >= value.bottom || line.left >= value.right + 8;
        const within = line.left >= inside.left - 0.5 && line.right <= inside.right + 0.5;
        const fits = [...card.querySelectorAll('.value > :not(.visually-hidden)')]
            .every(part => part.getBoundingClientRect().right <= inside.right + 0.5);
        return [card.querySelector('h3').textContent, apart && within && fits && line.width >= 60];
    })
"""


@pytest.mark.parametrize("width", [320, 360, 390, 430, 760, 761, 1280])
@pytest.mark.parametrize("language", ["en", "ko"])
def test_the_line_of_a_card_touches_nothing(browser: Browser, address, cookies, seen, width, language):
    with browser.new_context(
        base_url=address, storage_state=cookies, viewport={"width": width, "height": 900}, locale=language
    ) as context:
        page = context.new_page()
        page.add_init_script(f"localStorage.setItem('language', '{language}')")
        opened(page, "/")
        expect(page.locator(".card", has_text="Freezer looks").locator(".trend.up")).to_be_visible()
        seen(page, f"floor-{width}-{language}")
        cards = page.evaluate(TOUCHING)
        assert len(cards) >= 3
        assert [name for name, good in cards if not good] == []


@pytest.fixture(scope="module")
def axe() -> str:
    pages.libraries(cache_folder())
    return (pages.SOURCES / "node_modules" / "axe-core" / "axe.min.js").read_text()


def opened(page: Page, path: str) -> None:
    page.goto(path)
    page.get_by_role("heading", level=1).wait_for()
    expect(page.locator(".waiting")).to_have_count(0)


def violations(page: Page, theme: str) -> list[str]:
    """In the colours that the system now asks for: the open page follows."""
    page.emulate_media(color_scheme=theme)
    expect(page.locator("html")).to_have_attribute("data-theme", theme)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [f"{v['id']}: {json.dumps([n['html'] for n in v['nodes']])}" for v in found["violations"]]


@pytest.mark.parametrize("path", INSIDE)
def test_axe_finds_nothing_inside(browser: Browser, address, cookies, path, axe):
    with browser.new_context(base_url=address, storage_state=cookies, reduced_motion="reduce") as context:
        page = context.new_page()
        opened(page, path)
        page.evaluate(axe)
        assert violations(page, "light") == []
        assert violations(page, "dark") == []


@pytest.mark.parametrize("path", OUTSIDE)
def test_axe_finds_nothing_outside(browser: Browser, address, path, axe):
    with browser.new_context(base_url=address, locale="ko-KR", reduced_motion="reduce") as context:
        page = context.new_page()
        opened(page, path)
        assert page.evaluate("document.documentElement.lang") == "ko"
        page.evaluate(axe)
        assert violations(page, "light") == []
        assert violations(page, "dark") == []


@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize("path", INSIDE)
def test_a_phone_scrolls_one_way_and_is_pressed_by_thumb(browser: Browser, address, cookies, path, language):
    with browser.new_context(
        base_url=address, storage_state=cookies, viewport=PHONE, has_touch=True, is_mobile=True
    ) as context:
        context.add_init_script(f"localStorage.setItem('language', '{language}')")
        page = context.new_page()
        opened(page, path)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        assert page.evaluate(TOO_SMALL, SMALLEST) == []

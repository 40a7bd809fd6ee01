"""What people do with the pages, in a real browser, on the whole system."""

import csv
import re
import time

import psycopg
import pyotp
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from deploy.local.ready import wait_until
from pipeline.directory import REFUSALS_KEPT_SECONDS
from tests.pages.conftest import SECONDS_TO_WAIT, SITE, log_in, mosquitto_pub, say, utc_now

SPAN = "new URL(location).searchParams.get('to') - new URL(location).searchParams.get('from')"
"""Seconds that the plot shows, while zoomed."""

SECONDS_TO_SEE = 5
"""Two are aimed at; a busy machine gets more."""

PASSWORD = "a sentence that nobody guesses"
NEW_PASSWORD = "another sentence that nobody guesses"


def test_log_in_and_out(browser: Browser, address, owner):
    with browser.new_context(base_url=address) as context:
        page = context.new_page()
        page.goto("/devices/somewhere")
        expect(page).to_have_url(f"{address}/login?next=%2Fdevices%2Fsomewhere")
        page.get_by_label("E-mail").fill(owner[0])
        page.get_by_label("Password").fill("not the password")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_contain_text("do not belong together")
        log_in(page, *owner)
        assert {cookie["name"] for cookie in context.cookies() if not cookie["httpOnly"]} == {"__Host-brigade-csrf"}
        log_out(page)
        page.goto("/")
        expect(page).to_have_url(f"{address}/login")


def log_out(page: Page) -> None:
    page.goto("/account")
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url("**/login")


def test_a_published_reading_appears_by_itself(page: Page, publish, unique):
    device = f"fridge-{unique}"
    publish(device, {"ts": utc_now(), "temperature_c": 3.4, "door_open": False})
    page.goto("/")
    card = page.get_by_role("listitem").filter(has_text=re.compile(unique))
    expect(card).to_contain_text("3.4")
    expect(card).to_contain_text("Closed")
    began = time.monotonic()
    publish(device, {"ts": utc_now(), "temperature_c": 7.9, "door_open": True})
    expect(card).to_contain_text("7.9", timeout=SECONDS_TO_SEE * 1000)
    expect(card).to_contain_text("Open")
    assert time.monotonic() - began < SECONDS_TO_SEE


def test_a_new_device_appears_on_the_open_floor(page: Page, publish, unique):
    page.goto("/")
    page.get_by_role("heading", level=1).wait_for()
    publish(f"oven-{unique}", {"ts": utc_now(), "temperature_c": 180})
    expect(page.get_by_role("listitem").filter(has_text=re.compile(unique))).to_contain_text("180")


def test_offline_and_out_of_limits_are_said(page: Page, publish, stack, unique):
    publish(f"door-{unique}", {"ts": utc_now(), "door_open": False})
    publish(f"fridge-{unique}", {"ts": utc_now(), "temperature_c": 4, f"probe_{unique}_c": 9})
    page.goto("/")
    things = page.get_by_role("listitem").filter(has_text=re.compile(unique))
    expect(things).to_have_count(2)
    say(stack, f"brigade/v1/{SITE}/door-{unique}/status", "offline")
    with psycopg.connect(stack.superuser_url(), autocommit=True) as connection:
        connection.execute("UPDATE metrics SET upper_bound = 8 WHERE name = %s", (f"probe_{unique}_c",))
    publish(f"fridge-{unique}", {"ts": utc_now(), "temperature_c": 4, f"probe_{unique}_c": 9.5})
    expect(page.locator(".card").filter(has_text=f"Door {unique}")).to_contain_text("Offline since")
    expect(page.locator(".card").filter(has_text=f"Fridge {unique}")).to_contain_text("Out of limits")
    expect(page.locator(".troubled")).to_contain_text(f"Fridge {unique}")


@pytest.fixture
def measured(page: Page, publish, unique):
    """A device that is known, with a reading each 30 s of the last hour, but for ten minutes."""
    device, now = f"fridge-{unique}", time.time()
    readings = [
        {"ts": now - age, "temperature_c": 3 + age % 7 / 10, "door_open": age % 300 == 0}
        for age in range(3600, 0, -30)
        if not 1200 < age < 1800
    ]
    publish(device, readings)
    assert wait_until(lambda: page.request.get(f"/api/v1/devices/{device}").ok, SECONDS_TO_WAIT), "never heard"
    return device


def test_zoom_by_dragging_by_keys_and_back(page: Page, measured):
    page.goto(f"/devices/{measured}?range=1h")
    plot = page.get_by_role("group", name="Temperature over time")
    expect(plot).to_be_visible()
    expect(page.get_by_text("Lowest")).to_be_visible()
    expect(page.locator(".waiting")).to_have_count(0)  # the plot above it moves it when it comes
    box = plot.locator(".u-over").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 60, steps=5)
    page.mouse.up()
    expect(page).to_have_url(re.compile(r"from=\d+&to=\d+"))
    assert page.evaluate(SPAN) == pytest.approx(1800, abs=60)
    plot.focus()
    page.keyboard.press("+")
    assert wait_until(lambda: page.evaluate(SPAN) < 1000, SECONDS_TO_WAIT)
    page.get_by_role("button", name="Wider").click()
    assert wait_until(lambda: page.evaluate(SPAN) > 1000, SECONDS_TO_WAIT)
    page.get_by_role("button", name="6 h", exact=True).click()
    expect(page).to_have_url(re.compile("range=6h"))
    page.go_back()
    expect(page).to_have_url(re.compile(r"from=\d+"))


def test_export_every_reading(page: Page, measured):
    page.goto(f"/devices/{measured}?range=1h")
    page.get_by_text("Lowest").wait_for()
    with page.expect_download() as saved:
        page.get_by_role("button", name="CSV, every reading").click()
    with saved.value.path().open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert 95 <= len(rows) <= 101
    assert {row["metric"] for row in rows} == {"temperature_c"}


def test_where_is_my_reading(page: Page, measured):
    page.goto(f"/devices/{measured}")
    region = page.get_by_role("region", name="Where is my reading?").first
    expect(region.get_by_role("term").filter(has_text="Stored")).to_be_visible()
    page.get_by_role("button", name="Look", exact=True).click()
    expect(page.get_by_text(re.compile(r"Within two minutes: \d+ values stored, 0 messages refused"))).to_be_visible()


@pytest.fixture
def invited(page: Page, browser: Browser, address, mail_to, unique):
    """Invites somebody by mail: their e-mail address, and the page where they have just begun."""
    contexts = []

    def invite(role: str) -> tuple[str, Page]:
        email = f"{role}-{unique}@example.com"
        page.goto("/admin/people")
        page.get_by_label("E-mail").fill(email)
        page.get_by_label("Role", exact=True).select_option(role)
        page.get_by_role("button", name="Invite", exact=True).click()
        expect(page.get_by_role("listitem").filter(has_text=email)).to_contain_text(role.capitalize())
        contexts.append(browser.new_context(base_url=address, locale="en-GB"))
        theirs = contexts[-1].new_page()
        theirs.goto(link_in(mail_to(email), "invite"))
        theirs.get_by_label("Name").fill("Min-ji")
        theirs.get_by_label("New password").fill(PASSWORD)
        theirs.get_by_role("button", name="Begin").click()
        theirs.get_by_role("navigation", name="Main").wait_for()
        return email, theirs

    yield invite
    for context in contexts:
        context.close()


def link_in(mail: str, page: str) -> str:
    found = re.search(rf"/{page}#\S+", mail)
    assert found, mail
    return found[0]


def test_who_accepts_an_invitation_sees_what_their_role_reaches(invited):
    _, theirs = invited("technician")
    theirs.get_by_role("link", name="Admin").click()
    sections = theirs.get_by_role("navigation", name="Admin")
    expect(sections).to_contain_text("Devices")
    expect(sections).not_to_contain_text("People")


def test_a_second_step_at_log_in(invited):
    email, theirs = invited("auditor")
    theirs.get_by_role("link", name="Account").click()
    theirs.get_by_role("button", name="Set it up").click()
    expect(theirs.get_by_role("img", name="QR code")).to_be_visible()
    secret = theirs.get_by_role("textbox", name="Or type this key").inner_text()
    theirs.get_by_label("Six digits").fill(pyotp.TOTP(secret).now())
    theirs.get_by_role("button", name="Turn it on").click()
    codes = theirs.get_by_role("textbox", name="Recovery codes").inner_text().split()
    theirs.get_by_role("button", name="I have kept them").click()
    log_out(theirs)
    theirs.get_by_label("E-mail").fill(email)
    theirs.get_by_label("Password").fill(PASSWORD)
    theirs.get_by_role("button", name="Log in").click()
    theirs.get_by_label("Code").fill(codes[0])
    theirs.get_by_role("button", name="Log in").click()
    theirs.get_by_role("navigation", name="Main").wait_for()


def test_a_forgotten_password_is_set_by_a_mailed_link_that_works_once(invited, mail_to, seen):
    email, theirs = invited("staff")
    log_out(theirs)
    theirs.get_by_role("link", name="Forgot your password?").click()
    theirs.get_by_label("E-mail").fill(email)
    theirs.get_by_role("button", name="Send the link").click()
    expect(theirs.get_by_role("status").filter(has_text="on its way")).to_be_visible()
    link = link_in(mail_to(email, "/reset#"), "reset")
    set_password(theirs, link, NEW_PASSWORD)
    expect(theirs.get_by_text("Your new password is set")).to_be_visible()
    log_in(theirs, email, NEW_PASSWORD)

    set_password(theirs, link, PASSWORD)
    expect(theirs.get_by_role("alert")).to_contain_text("used already, or has expired")
    seen(theirs, "reset-used")
    theirs.get_by_role("button", name="한국어").click()
    set_password(theirs, "/reset#never-made", PASSWORD)
    expect(theirs.get_by_role("alert")).to_contain_text("만료된 링크입니다")
    theirs.get_by_role("link", name="새 링크 요청").click()
    expect(theirs).to_have_url(re.compile("/forgot$"))


def set_password(page: Page, link: str, password: str) -> None:
    page.goto("/login")
    page.goto(link)
    page.locator("[name=password]").fill(password)
    page.locator("form button.primary").click()


def test_a_new_address_is_confirmed_by_a_mailed_link_after_logging_in(invited, mail_to, stack, unique, seen):
    email, theirs = invited("staff")
    new, newest = f"moved-{unique}@example.com", f"moved-again-{unique}@example.com"
    ask_for_address(theirs, new)
    link = link_in(mail_to(new), "email")
    log_out(theirs)
    theirs.goto(link)
    expect(theirs).to_have_url(re.compile(r"/login\?next=%2Femail#."))
    theirs.get_by_label("E-mail").fill(email)
    theirs.get_by_label("Password").fill(PASSWORD)
    theirs.get_by_role("button", name="Log in").click()
    expect(theirs.get_by_role("status").filter(has_text="confirmed")).to_be_visible()
    theirs.get_by_role("link", name="Account").click()
    expect(theirs.get_by_role("heading", name=new)).to_be_visible()

    theirs.goto(link)
    expect(theirs.get_by_role("alert")).to_contain_text("used already, or has expired")
    seen(theirs, "email-used")
    ask_for_address(theirs, newest)
    late = link_in(mail_to(newest), "email")
    with psycopg.connect(stack.superuser_url("brigade_users"), autocommit=True) as connection:
        connection.execute("UPDATE mailed_tokens SET expires_at = now() WHERE email = %s", (newest,))
    theirs.goto(late)
    expect(theirs.get_by_role("alert")).to_contain_text("used already, or has expired")


def ask_for_address(page: Page, email: str) -> None:
    page.goto("/account")
    region = page.get_by_role("region", name="Change the address")
    region.get_by_label("New e-mail address").fill(email)
    region.get_by_label("Current password").fill(PASSWORD)
    region.get_by_role("button").click()
    expect(page.get_by_role("status").filter(has_text="on its way to the new address")).to_be_visible()


@pytest.fixture
def own_session(page: Page, context, owner):
    """For a test that renews its tokens: the session that the others share would be taken for a stolen one."""
    context.clear_cookies()
    log_in(page, *owner)


@pytest.fixture
def new_site(page: Page, own_session, unique):
    """Adds a site of the owner's: its id."""

    def add(name: str, zone: str) -> str:
        site = f"site-{name.lower()}-{unique}"
        page.goto("/admin/sites")
        region = page.get_by_role("region", name="Add a site")
        region.get_by_label("Id").fill(site)
        region.get_by_label("Name").fill(f"{name} {unique}")
        region.get_by_label("Time zone").fill(zone)
        region.get_by_role("button").click()
        expect(page.get_by_role("combobox", name="Site").locator(f"option[value={site}]")).to_have_count(1)
        return site

    return add


def test_each_of_several_sites_has_its_own_floor(page: Page, publish, new_site, unique, seen):
    site = new_site("Harbour", "UTC")
    publish(f"fridge-{unique}", {"ts": utc_now(), "temperature_c": 3.4})
    publish(f"oven-{unique}", {"ts": utc_now(), "temperature_c": 180}, site)
    switch = page.get_by_role("combobox", name="Site")
    page.goto("/")
    cards = page.get_by_role("listitem").filter(has_text=unique)
    expect(cards).to_contain_text("Fridge")
    switch.select_option(site)
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Harbour {unique}")
    expect(cards).to_have_count(1)
    expect(cards).to_contain_text("180")
    publish(f"oven-{unique}", {"ts": utc_now(), "temperature_c": 190}, site)
    expect(cards).to_contain_text("190")
    seen(page, "floor-of-another-site")
    page.reload()
    expect(cards).to_contain_text("190")
    page.get_by_role("link", name="Admin").click()
    expect(page.get_by_role("region", name=f"Who may see Harbour {unique}")).to_be_visible()
    page.get_by_role("link", name="Floor").click()
    switch.select_option(SITE)
    expect(cards).to_contain_text("Fridge")


def test_a_device_gets_another_name_and_moves_to_another_site(page: Page, stack, new_site, unique, seen):
    harbour, seoul = new_site("Harbour", "UTC"), new_site("Seoul", "Asia/Seoul")
    page.goto("/admin/devices")
    page.get_by_label("Device id").fill(f"freezer-{unique}")
    page.get_by_role("button", name="Create the password").click()
    dialog = page.get_by_role("dialog")
    line = dialog.get_by_role("textbox", name="Try it").inner_text()
    assert mosquitto_pub(stack, line).returncode == 0
    dialog.get_by_role("button", name="I have kept it").click()
    assert wait_until(lambda: page.request.get(f"/api/v1/devices/freezer-{unique}").ok, SECONDS_TO_WAIT), "never heard"

    row = page.get_by_role("listitem").filter(has_text=f"freezer-{unique}")
    row.get_by_role("button", name="Change").click()
    dialog.get_by_label("Name").fill("Ice cream")
    seen(page, "device-change")
    dialog.get_by_role("button", name="Save").click()
    expect(row).to_contain_text("Ice cream")

    row.get_by_role("button", name="Change").click()
    dialog.get_by_label("Site").select_option(seoul)
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert").first).to_contain_text(f"brigade devices move freezer-{unique} {seoul}")
    expect(dialog.get_by_label("Site")).to_have_value(seoul)
    seen(page, "device-other-zone")
    dialog.get_by_label("Site").select_option(harbour)
    dialog.get_by_role("button", name="Save").click()
    expect(
        page.get_by_role("status").filter(has_text=f"brigade/v1/{harbour}/freezer-{unique}/readings")
    ).to_be_visible()
    expect(row).to_have_count(0)

    page.get_by_role("combobox", name="Site").select_option(harbour)
    expect(row).to_contain_text("Ice cream")
    assert mosquitto_pub(stack, line.replace(f"/{SITE}/", f"/{harbour}/")).returncode == 0
    page.get_by_role("link", name="Floor").click()
    expect(page.get_by_role("listitem").filter(has_text="Ice cream")).to_contain_text("3.4")


def test_create_a_device_and_revoke_it(page: Page, stack, unique):
    device = f"freezer-{unique}"
    page.goto("/admin/devices")
    page.get_by_label("Device id").fill(device)
    page.get_by_role("button", name="Create the password").click()
    dialog = page.get_by_role("dialog")
    line = dialog.get_by_role("textbox", name="Try it").inner_text()
    assert mosquitto_pub(stack, line).returncode == 0
    dialog.get_by_role("button", name="I have kept it").click()

    page.goto("/")
    expect(page.get_by_role("listitem").filter(has_text=re.compile(unique))).to_contain_text("3.4")

    page.goto("/admin/devices")
    row = page.get_by_role("listitem").filter(has_text=device)
    row.get_by_role("button", name="Revoke").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(row).to_contain_text("revoked")
    assert mosquitto_pub(stack, line).returncode != 0


def test_replay_a_dead_letter(page: Page, publish, stack, unique):
    device = f"fridge-{unique}"
    publish(device, {"ts": utc_now(), "temperature_c": "cold"})
    query = f"/api/v1/dead-letters?site={SITE}&from=-10m"
    assert wait_until(lambda: unique in page.request.get(query).text(), SECONDS_TO_WAIT), "never refused"
    page.goto("/admin/refused")
    letter = page.get_by_role("listitem").filter(has_text=device)
    letter.get_by_text("A value is no number").click()
    expect(letter.get_by_role("textbox", name="What was sent")).to_contain_text("cold")
    letter.get_by_role("button", name="Send it through again").click()
    expect(letter).to_contain_text("Refused again")


def test_a_replay_stores_what_came_to_a_site_before_its_device_did(page: Page, publish, new_site, unique, seen):
    device, harbour = f"fridge-{unique}", new_site("Harbour", "UTC")
    switch = page.get_by_role("combobox", name="Site")
    switch.select_option(harbour)
    page.goto("/admin/devices")
    page.get_by_label("Device id").fill(device)
    page.get_by_role("button", name="Create the password").click()
    page.get_by_role("dialog").get_by_role("button", name="I have kept it").click()
    publish(device, {"ts": time.time() - 60, "temperature_c": 3}, harbour)
    publish(device, {"ts": time.time(), "temperature_c": 4}, SITE)
    query = f"/api/v1/dead-letters?site={SITE}&reason=wrong_site&from=-10m"
    assert wait_until(lambda: unique in page.request.get(query).text(), SECONDS_TO_WAIT), "never refused"
    page.get_by_role("listitem").filter(has_text=device).get_by_role("button", name="Change").click()
    page.get_by_role("dialog").get_by_label("Site").select_option(SITE)
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    expect(page.get_by_role("dialog")).to_have_count(0)

    page.get_by_role("link", name="Refused messages").click()
    switch.select_option(SITE)
    letter = page.get_by_role("listitem").filter(has_text=unique)
    letter.get_by_text("The sensor belongs to another site").click()
    assert wait_until(lambda: sent_again_and_stored(letter), 2 * REFUSALS_KEPT_SECONDS + SECONDS_TO_WAIT)
    seen(page, "letter-stored")
    page.get_by_role("button", name="Resolved").click()
    expect(letter).to_contain_text("Stored now")


def sent_again_and_stored(letter: Locator) -> bool:
    """The worker remembers for a while that it refused such messages."""
    if letter.get_by_text("Stored now").count():
        return True
    button = letter.get_by_role("button", name="Send it through again", disabled=False)
    if button.count():  # asking whether it is enabled would wait for one that is gone since
        button.click()
    return False


def test_an_api_key_is_shown_once_and_works(page: Page, address, unique):
    page.goto("/admin/keys")
    page.get_by_label("What it is for").fill(f"till {unique}")
    page.get_by_role("button", name="Create the key").click()
    key = page.get_by_role("dialog").get_by_role("textbox", name="Key", exact=True).inner_text()
    answer = page.request.get(f"{address}/api/v1/devices", headers={"Authorization": f"Bearer {key}"})
    assert answer.ok
    page.get_by_role("button", name="I have kept it").click()
    row = page.get_by_role("listitem").filter(has_text=unique)
    row.get_by_role("button", name="Revoke").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(row).to_have_count(0)


def test_the_language_changes_at_once_and_stays(page: Page):
    page.goto("/account")
    page.get_by_role("button", name="한국어").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("내 계정")
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("내 계정")
    assert page.evaluate("document.documentElement.lang") == "ko"
    page.get_by_role("button", name="English").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Account")


def test_an_expired_token_is_refreshed_without_a_word(page: Page, context, own_session):
    page.goto("/account")
    page.get_by_role("heading", level=1).wait_for()
    context.clear_cookies(name="__Host-brigade-access")
    page.goto("/admin/people")
    expect(page.get_by_role("heading", level=1)).to_have_text("People")
    expect(page.get_by_role("listitem").filter(has_text="owner@example.com")).to_be_visible()

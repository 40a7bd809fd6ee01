"""How people become members of a site."""

import secrets
from concurrent.futures import ThreadPoolExecutor

import pyotp
import pytest

from tests.users.conftest import PASSWORD, Who, refused, token_of

NEW = "another good sentence"


@pytest.fixture
def invited(api, owner, site, letter):
    """Invite somebody, and return their address and the token of the mail."""

    def invite(email=None, role="staff", by=None):
        email = email or f"{secrets.token_hex(6)}@example.com"
        answer = api("POST", "/invitations", by or owner, json={"site": site, "email": email, "role": role})
        assert answer.status_code == 201, answer.text
        return email, token_of(letter(email, "https://brigade.example/invite#"))

    return invite


def accept(api, token, **more):
    return api("POST", "/invitations/accept", json={"token": token, "name": "Cook", "password": NEW} | more)


def test_an_invitation_makes_a_member(api, world, owner, site, invited):
    email, token = invited(role="technician")
    answer = accept(api, token, language="ko")
    assert answer.status_code == 201
    me = api("GET", "/me", Who.of(answer)).json()
    assert (me["email"], me["name"], me["language"]) == (email, "Cook", "ko")
    assert [(m["site"], m["role"]) for m in me["memberships"]] == [(site, "technician")]
    assert api.log_in(email, NEW).status_code == 200
    assert len(world.events("invitation.accepted", email=email)) == 1


def test_it_is_good_once(api, invited):
    _, token = invited()
    assert accept(api, token).status_code == 201
    refused(accept(api, token), 401, "bad-token")


def test_at_once_it_is_good_once_too(api, invited):
    _, token = invited()
    with ThreadPoolExecutor(4) as pool:
        answers = sorted(pool.map(lambda _: accept(api, token).status_code, range(4)))
    assert answers.count(201) == 1
    assert set(answers) <= {201, 401, 409}


def test_at_once_by_who_has_an_account_too(api, world, organisation, invited):
    row = world.person(organisation)
    _, token = invited(row["email"])
    with ThreadPoolExecutor(3) as pool:
        answers = sorted(pool.map(lambda _: accept(api, token, password=PASSWORD).status_code, range(3)))
    assert answers == [201, 401, 401]
    assert len(world.events("invitation.accepted", who=row["id"])) == 1


def test_it_ends_after_a_week_when_taken_back_and_with_a_newer_one(api, world, owner, invited):
    email, expired = invited()
    world.connection.execute("UPDATE invitations SET expires_at = now() WHERE email = %s", (email,))
    refused(accept(api, expired), 401, "bad-token")
    email, revoked = invited()
    [open_one] = [i for i in api("GET", "/invitations", owner).json()["invitations"] if i["email"] == email]
    assert api("DELETE", f"/invitations/{open_one['id']}", owner).status_code == 204
    refused(accept(api, revoked), 401, "bad-token")
    refused(api("DELETE", f"/invitations/{open_one['id']}", owner), 404, "unknown")


@pytest.mark.parametrize("left", ["staff", "manager", None])
def test_what_one_may_no_longer_give_is_withdrawn(api, world, organisation, site, owner, invited, left):
    """An owner who is dismissed has not invited themselves back as another one."""
    row = world.person(organisation)
    world.member(row, site, "owner")
    dismissed = Who.of(api.log_in(row["email"]))
    links = {role: invited(role=role, by=dismissed)[1] for role in ("owner", "staff")}
    path = f"/people/{dismissed.id}/memberships/{site}"
    if left:
        assert api("PATCH", path, owner, json={"role": left}).status_code == 200
    else:
        assert api("DELETE", path, owner).status_code == 204
    refused(accept(api, links["owner"]), 401, "bad-token")
    assert accept(api, links["staff"]).status_code == (201 if left == "manager" else 401)


def test_a_newer_one_ends_the_older(api, world, owner, site):
    body = {"site": site, "email": f"{secrets.token_hex(6)}@example.com", "role": "staff"}
    for _ in range(3):
        assert api("POST", "/invitations", owner, json=body).status_code == 201
    assert len(api("GET", "/invitations", owner).json()["invitations"]) == 1
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: api("POST", "/invitations", owner, json=body).status_code, range(8)))
    assert set(answers) == {201}


def test_who_has_an_account_joins_with_its_password(api, world, organisation, site, invited):
    elsewhere = world.site(organisation)
    row = world.person(organisation)
    world.member(row, elsewhere, "staff")
    _, token = invited(row["email"], "auditor")
    refused(accept(api, token), 401, "bad-credentials")
    answer = accept(api, token, password=PASSWORD)
    memberships = api("GET", "/me", Who.of(answer)).json()["memberships"]
    assert {m["site"]: m["role"] for m in memberships} == {elsewhere: "staff", site: "auditor"}


def test_and_with_its_second_factor(api, world, organisation, invited):
    row = world.person(organisation)
    who = Who.of(api.log_in(row["email"]))
    secret = api("POST", "/me/totp", who).json()["secret"]
    codes = api("POST", "/me/totp/confirm", who, json={"code": pyotp.TOTP(secret).now()}).json()["recovery_codes"]
    _, token = invited(row["email"])
    refused(accept(api, token, password=PASSWORD), 401, "second-factor-needed")
    assert accept(api, token, password=PASSWORD, code=codes[0]).status_code == 201


def test_an_account_of_another_organisation_is_not_joined(api, world, invited):
    row = world.person(world.organisation())
    _, token = invited(row["email"])
    refused(accept(api, token, password=PASSWORD), 409, "conflict")


def test_a_member_is_not_invited_again(api, owner, site, as_role):
    body = {"site": site, "email": as_role("staff").email.upper(), "role": "auditor"}
    refused(api("POST", "/invitations", owner, json=body), 409, "conflict")


def test_the_mail_is_in_the_language_of_who_invites(api, owner, site, letter):
    email = f"{secrets.token_hex(6)}@example.com"
    api("PATCH", "/me", owner, json={"language": "ko", "name": "김철수"})
    api("POST", "/invitations", owner, json={"site": site, "email": email, "role": "manager"})
    text = letter(email)
    assert "초대" in text
    assert "김철수" in text
    assert "관리자" in text


@pytest.mark.parametrize("role", ["reader", "root", "", None])
def test_a_role_that_people_do_not_have_is_refused(api, owner, site, role):
    body = {"site": site, "email": "a@example.com", "role": role}
    assert (
        refused(api("POST", "/invitations", owner, json=body), 422, "bad-request").json()["errors"][0]["field"]
        == "role"
    )


def test_lists_come_in_pages(api, owner, site):
    emails = {f"{secrets.token_hex(6)}@example.com" for _ in range(5)}
    for email in emails:
        api("POST", "/invitations", owner, json={"site": site, "email": email, "role": "staff"})
    seen, cursor = [], ""
    while cursor is not None:
        page = api("GET", f"/invitations?site={site}&limit=2" + (f"&cursor={cursor}" if cursor else ""), owner).json()
        seen += [i["email"] for i in page["invitations"]]
        cursor = page["next"]
    assert (len(seen), set(seen)) == (5, emails)


@pytest.mark.parametrize("path", ["/invitations", "/people", "/keys", "/audit", "/sites"])
@pytest.mark.parametrize("cursor", ["x", "MQ", "%00", "W10", "null"])
def test_a_cursor_is_taken_from_a_page(api, owner, path, cursor):
    answer = api("GET", f"{path}?cursor={cursor}", owner)
    if answer.status_code != 200:
        refused(answer, 422, "bad-request")

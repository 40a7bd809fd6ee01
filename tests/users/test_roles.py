"""Every route, as everybody, in one's own site and in others'."""

import base64
import secrets
from dataclasses import dataclass
from typing import Any

import pytest

from tests.users.conftest import SECRET, Who, refused
from users.roles import PERMISSIONS, MemberRole, Permission, Role, Scope, may_give
from users.sealing import Sealer, sha256

PEOPLE = [role.value for role in MemberRole]
KEYS = ["key-read", "key-write"]
EVERYBODY = [*PEOPLE, *KEYS]

OWNER, MANAGER, AUDITOR = {"owner"}, {"owner", "manager"}, {"owner", "manager", "auditor"}
TECHNICIAN = {"owner", "manager", "technician", "key-write"}

OPEN = {
    ("GET", "/.well-known/jwks.json"), ("GET", "/health"), ("POST", "/auth/login"), ("POST", "/auth/refresh"),
    ("POST", "/auth/logout"), ("POST", "/auth/password/forgot"), ("POST", "/auth/password/reset"),
    ("POST", "/invitations/accept"), ("POST", "/internal/keys/exchange"),
}  # fmt: skip
"""Need the gateway's token, or not even that, but nobody's."""

OWN = {
    ("GET", "/me"), ("PATCH", "/me"), ("POST", "/me/password"), ("POST", "/me/email"), ("POST", "/me/email/confirm"),
    ("GET", "/me/sessions"), ("DELETE", "/me/sessions/{sid}"), ("POST", "/me/totp"), ("POST", "/me/totp/confirm"),
    ("DELETE", "/me/totp"),
}  # fmt: skip
"""For every person, about themselves."""

SITES = {
    ("GET", "/people"): (AUDITOR, 200),
    ("PATCH", "/people/{person}/memberships/{site}"): (MANAGER, 200),
    ("DELETE", "/people/{person}/memberships/{site}"): (MANAGER, 204),
    ("GET", "/invitations"): (AUDITOR, 200),
    ("POST", "/invitations"): (MANAGER, 201),
    ("DELETE", "/invitations/{id}"): (MANAGER, 204),
    ("PATCH", "/sites/{site}"): (OWNER, 200),
    ("GET", "/keys"): (MANAGER, 200),
    ("POST", "/keys"): (MANAGER, 201),
    ("DELETE", "/keys/{id}"): (MANAGER, 204),
    ("GET", "/credentials"): (TECHNICIAN | {"auditor", "key-read"}, 200),
    ("POST", "/credentials"): (TECHNICIAN, 201),
    ("POST", "/credentials/{device}/rotate"): (TECHNICIAN, 200),
    ("PATCH", "/credentials/{device}"): (TECHNICIAN, 200),
    ("DELETE", "/credentials/{device}"): (TECHNICIAN, 204),
    ("GET", "/audit"): ({"owner", "auditor"}, 200),
}
"""About one site: who may, and what they are answered."""

REST = {("GET", "/sites"), ("POST", "/sites")}
"""About all of one's sites: tested below."""


@dataclass
class Site:
    """A site with something in it of everything that can be changed."""

    name: str
    staff: str
    invitation: str
    key: str
    device: str


@pytest.fixture(scope="module")
def home(world):
    return world.organisation()


@pytest.fixture(scope="module")
def sites(world, home):
    """`own` is everybody's, `other` is of the same organisation, `foreign` of another."""
    return {"own": world.site(home), "other": world.site(home), "foreign": world.site(world.organisation())}


@pytest.fixture(scope="module")
def everybody(api, world, home, sites):
    """Somebody of each role in `own`, and keys to it."""
    found = {}
    for role in PEOPLE:
        row = world.person(home)
        world.member(row, sites["own"], role)
        found[role] = Who.of(api.log_in(row["email"]), row["email"])
    for name, scope in zip(KEYS, Scope, strict=True):
        _, key = world.key(home, scope, sites["own"])
        found[name] = Who.of(api("POST", "/internal/keys/exchange", json={"key": key}))
    return found


@pytest.fixture
def site(world, sites, where):
    """The site in question, furnished afresh."""
    name = sites[where]
    organisation = world.one("SELECT organisation FROM sites WHERE site = %s", name)["organisation"]
    staff = world.person(organisation)
    world.member(staff, name, "staff")
    invitation = world.one(
        "INSERT INTO invitations (organisation, site, email, role, sha256, invited_by, expires_at) "
        "VALUES (%s, %s, %s, 'staff', %s, %s, now() + interval '1 day') RETURNING id",
        organisation, name, f"{secrets.token_hex(4)}@example.com", sha256(secrets.token_hex()), staff["id"],
    )  # fmt: skip
    key, _ = world.key(organisation, Scope.READ, name)
    device = f"device-{secrets.token_hex(4)}"
    sealed = Sealer(base64.b64decode(SECRET)).seal(b"a password", f"credential {device}")
    world.connection.execute(
        "INSERT INTO credentials (organisation, site, device, sealed) VALUES (%s, %s, %s, %s)",
        (organisation, name, device, sealed),
    )
    return Site(name, str(staff["id"]), str(invitation["id"]), str(key), device)


def asked(route: tuple[str, str], site: Site) -> tuple[str, dict[str, Any] | None]:  # noqa: C901, PLR0911, a table
    """The path and the body of a call about the site."""
    invitation = {"site": site.name, "email": f"{secrets.token_hex(4)}@example.com", "role": "staff"}
    match route:
        case ("PATCH", "/people/{person}/memberships/{site}"):
            return f"/people/{site.staff}/memberships/{site.name}", {"role": "technician"}
        case ("DELETE", "/people/{person}/memberships/{site}"):
            return f"/people/{site.staff}/memberships/{site.name}", None
        case ("POST", "/invitations"):
            return "/invitations", invitation
        case ("DELETE", "/invitations/{id}"):
            return f"/invitations/{site.invitation}", None
        case ("PATCH", "/sites/{site}"):
            return f"/sites/{site.name}", {"name": "New name"}
        case ("POST", "/keys"):
            return "/keys", {"name": "till", "scope": "read", "sites": [site.name]}
        case ("DELETE", "/keys/{id}"):
            return f"/keys/{site.key}", None
        case ("POST", "/credentials"):
            return "/credentials", {"site": site.name, "device": f"device-{secrets.token_hex(4)}"}
        case (_, "/credentials/{device}/rotate"):
            return f"/credentials/{site.device}/rotate", None
        case (verb, "/credentials/{device}"):
            return f"/credentials/{site.device}", {"name": "Fish"} if verb == "PATCH" else None
        case ("GET", path):
            return f"{path}?site={site.name}", None
    raise AssertionError(f"say here how to call {route}")


def test_no_route_is_forgotten_here(api):
    document = api.http.get("/openapi.json").json()
    routes = {(verb.upper(), path) for path, verbs in document["paths"].items() for verb in verbs}
    assert routes == OPEN | OWN | REST | SITES.keys()


@pytest.mark.parametrize("route", SITES, ids=" ".join)
@pytest.mark.parametrize("who", EVERYBODY)
@pytest.mark.parametrize("where", ["own"])
def test_a_role_may_what_its_row_says(api, everybody, site, route, who, where):
    allowed, status = SITES[route]
    path, body = asked(route, site)
    answer = api(route[0], path, everybody[who], json=body)
    if who in allowed:
        assert answer.status_code == status, answer.text
    else:
        refused(answer, 403, "forbidden")


@pytest.mark.parametrize("route", SITES, ids=" ".join)
@pytest.mark.parametrize("who", EVERYBODY)
@pytest.mark.parametrize("where", ["other", "foreign"])
def test_what_belongs_to_another_site_does_not_exist(api, everybody, site, route, who, where):
    path, body = asked(route, site)
    refused(api(route[0], path, everybody[who], json=body), 404, "unknown")


@pytest.mark.parametrize("where", ["other", "foreign"])
def test_and_it_is_left_as_it_was(api, world, everybody, site, where):
    for route in SITES:
        path, body = asked(route, site)
        api(route[0], path, everybody["owner"], json=body)
    assert world.one("SELECT role FROM memberships WHERE person = %s", site.staff)["role"] == "staff"
    assert world.one("SELECT revoked_at FROM invitations WHERE id = %s", site.invitation)["revoked_at"] is None
    assert world.one("SELECT revoked_at FROM api_keys WHERE id = %s", site.key)["revoked_at"] is None
    credential = world.one("SELECT name, rotated_at, revoked_at FROM credentials WHERE device = %s", site.device)
    assert credential == {"name": "", "rotated_at": None, "revoked_at": None}
    assert world.one("SELECT name FROM sites WHERE site = %s", site.name)["name"] == site.name.title()


@pytest.mark.parametrize("route", sorted(SITES.keys() | OWN | REST), ids=" ".join)
@pytest.mark.parametrize("where", ["own"])
def test_nobody_may_nothing(api, site, route, where):
    path = route[1].replace("{sid}", site.key).replace("{person}", site.staff).replace("{site}", site.name)
    refused(api(route[0], path.replace("{id}", site.key).replace("{device}", site.device)), 401, "token-missing")


@pytest.mark.parametrize("who", KEYS)
@pytest.mark.parametrize("route", sorted(OWN | {("POST", "/sites")}), ids=" ".join)
def test_a_key_has_no_account(api, everybody, route, who):
    path = route[1].replace("{sid}", "00000000-0000-0000-0000-000000000000")
    body = {"site": "new", "name": "New", "time_zone": "UTC"} if route[1] == "/sites" else None
    refused(api(route[0], path, everybody[who], json=body), 403, "forbidden")


@pytest.mark.parametrize("who", EVERYBODY)
def test_the_list_of_sites_is_ones_own(api, everybody, sites, who):
    listed = api("GET", "/sites", everybody[who]).json()["sites"]
    assert [site["site"] for site in listed] == [sites["own"]]


@pytest.mark.parametrize("who", PEOPLE)
def test_who_owns_a_site_makes_another_one_and_owns_it(api, everybody, who):
    body = {"site": f"new-{secrets.token_hex(4)}", "name": "New", "time_zone": "Asia/Seoul"}
    answer = api("POST", "/sites", everybody[who], json=body)
    if who == "owner":
        assert answer.json() == body | {"role": "owner"}
        assert api("PATCH", f"/sites/{body['site']}", everybody[who], json={"name": "Newer"}).json()["name"] == "Newer"
        refused(api("POST", "/sites", everybody[who], json=body), 409, "conflict")
        world_sites = [site["site"] for site in api("GET", "/sites", everybody[who]).json()["sites"]]
        assert body["site"] in world_sites
        api("DELETE", f"/people/{everybody[who].id}/memberships/{body['site']}", everybody[who])
    else:
        refused(answer, 403, "forbidden")


def test_without_a_site_lists_are_of_all_sites_where_one_may(api, world, organisation):
    row = world.person(organisation)
    read, blind = world.site(organisation), world.site(organisation)
    world.member(row, read, "auditor")
    world.member(row, blind, "staff")
    other = world.person(organisation)
    world.member(other, blind, "staff")
    who = Who.of(api.log_in(row["email"]))
    listed = api("GET", "/people", who).json()["people"]
    assert [(p["email"], [m["site"] for m in p["memberships"]]) for p in listed] == [(row["email"], [read])]
    refused(api("GET", f"/people?site={blind}", who), 403, "forbidden")


@pytest.mark.parametrize("role", ["owner", "manager"])
@pytest.mark.parametrize("target", ["owner", "manager"])
def test_only_an_owner_makes_and_removes_owners_and_managers(
    api, world, organisation, site_of, as_member, role, target
):
    who, member = as_member(role), world.person(organisation)
    world.member(member, site_of, target)
    extra = world.person(organisation)
    world.member(extra, site_of, "staff")
    calls = [
        api("POST", "/invitations", who, json={"site": site_of, "email": "x@example.com", "role": target}),
        api("PATCH", f"/people/{extra['id']}/memberships/{site_of}", who, json={"role": target}),
        api("PATCH", f"/people/{member['id']}/memberships/{site_of}", who, json={"role": "staff"}),
    ]
    for answer in calls:
        assert answer.status_code in ({200, 201} if role == "owner" else {403}), answer.text
    world.connection.execute("UPDATE memberships SET role = %s WHERE person = %s", (target, member["id"]))
    removed = api("DELETE", f"/people/{member['id']}/memberships/{site_of}", who)
    assert removed.status_code == (204 if role == "owner" else 403)


@pytest.fixture
def site_of(world, organisation):
    return world.site(organisation)


@pytest.fixture
def as_member(api, world, organisation, site_of):
    def log_in(role):
        row = world.person(organisation)
        world.member(row, site_of, role)
        return Who.of(api.log_in(row["email"]), row["email"])

    return log_in


def test_nobody_makes_themselves_more(api, site_of, as_member):
    for role in ("manager", "staff", "auditor", "technician"):
        who = as_member(role)
        answer = api("PATCH", f"/people/{who.id}/memberships/{site_of}", who, json={"role": "owner"})
        refused(answer, 403, "forbidden")


def test_a_site_keeps_an_owner(api, site_of, as_member):
    one = as_member("owner")
    path = f"/people/{one.id}/memberships/{site_of}"
    refused(api("PATCH", path, one, json={"role": "staff"}), 409, "last-owner")
    refused(api("DELETE", path, one), 409, "last-owner")
    two = as_member("owner")
    assert api("DELETE", path, two).status_code == 204
    refused(api("GET", f"/people?site={site_of}", one), 404, "unknown")


def test_anybody_may_leave(api, site_of, as_member):
    staff = as_member("staff")
    assert api("DELETE", f"/people/{staff.id}/memberships/{site_of}", staff).status_code == 204
    assert api("GET", "/me", staff).json()["memberships"] == []


def test_what_is_taken_away_is_gone_at_once(api, world, site_of, as_member):
    manager = as_member("manager")
    assert api("GET", f"/keys?site={site_of}", manager).status_code == 200
    world.connection.execute("UPDATE memberships SET role = 'staff' WHERE person = %s", (manager.id,))
    refused(api("GET", f"/keys?site={site_of}", manager), 403, "forbidden")


def test_a_key_is_revoked_by_who_may_in_all_of_its_sites(api, world, organisation, site_of, as_member):
    manager, elsewhere = as_member("manager"), world.site(organisation)
    key, _ = world.key(organisation, Scope.READ, site_of, elsewhere)
    listed = api("GET", "/keys", manager).json()["keys"]
    assert [k["sites"] for k in listed if k["id"] == str(key)] == [[site_of]]
    refused(api("DELETE", f"/keys/{key}", manager), 403, "forbidden")


def test_the_table_of_roles():
    assert PERMISSIONS[Role.OWNER] == frozenset(Permission)
    assert {r for r in Role if Permission.READINGS_READ in PERMISSIONS[r]} == set(Role)
    assert {r for r in Role if Permission.DEVICES_WRITE in PERMISSIONS[r]} == {"owner", "manager", "technician"}
    assert {r for r in Role if Permission.AUDIT_READ in PERMISSIONS[r]} == {"owner", "auditor"}
    assert [given for given in Role if may_give(Role.MANAGER, given)] == ["staff", "auditor", "technician", "reader"]
    assert [role for role in Role if may_give(role, Role.STAFF)] == ["owner", "manager"]

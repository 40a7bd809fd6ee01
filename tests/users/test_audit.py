"""What owners and auditors read of what happened."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.users.conftest import refused


def test_owners_and_auditors_see_who_did_what(api, owner, as_role, site):
    staff = as_role("staff")
    api("PATCH", f"/people/{staff.id}/memberships/{site}", owner, json={"role": "auditor"}, ip="203.0.113.5")
    for reader in (owner, staff):
        [event] = [e for e in api("GET", f"/audit?site={site}", reader).json()["events"] if e["what"] == "role.changed"]
        assert event["who"] == {"id": owner.id, "email": owner.email}
        assert (event["site"], event["ip"], event["request_id"]) == (site, "203.0.113.5", "request-1")
        assert event["detail"] == {"person": staff.id, "email": staff.email, "before": "staff", "now": "auditor"}


def test_log_ins_are_seen_where_the_person_is_a_member(api, world, owner, organisation, as_role):
    staff, stranger = as_role("staff"), world.person(organisation)
    api.log_in(stranger["email"])
    events = api("GET", "/audit", owner).json()["events"]
    assert [e["what"] for e in events if e["who"]["id"] == staff.id] == ["login"]
    assert [e for e in events if e["who"]["id"] == str(stranger["id"])] == []


def test_another_sites_events_are_not_seen(api, world, owner, organisation):
    other = world.site(organisation)
    world.connection.execute(
        "INSERT INTO audit_events (organisation, what, site, ip, request_id) VALUES (%s, 'secret', %s, '', '')",
        (organisation, other),
    )
    assert "secret" not in api("GET", "/audit", owner).text
    refused(api("GET", f"/audit?site={other}", owner), 404, "unknown")


def test_it_is_asked_by_time_and_read_in_pages(api, world, owner, organisation, site):
    start = datetime.now(UTC) - timedelta(days=10)
    for hours in range(5):
        world.connection.execute(
            "INSERT INTO audit_events (organisation, what, site, ip, request_id, at) VALUES (%s, 'x', %s, '', '', %s)",
            (organisation, site, start + timedelta(hours=hours)),
        )
    first, end = ((start + timedelta(hours=hours)).timestamp() for hours in (1, 4))
    query = f"/audit?site={site}&limit=2&from={first}&to={end}"
    page = api("GET", query, owner).json()
    rest = api("GET", f"{query}&cursor={page['next']}", owner).json()
    hours = [(datetime.fromisoformat(e["at"]) - start) / timedelta(hours=1) for e in page["events"] + rest["events"]]
    assert ([round(hour) for hour in hours], rest["next"]) == ([3, 2, 1], None)


@pytest.mark.parametrize("query", ["from=yesterday", "to=x", "limit=0", "limit=1001", "site=A B", "what=x"])
def test_a_query_that_cannot_be_is_refused(api, owner, query):
    assert (
        refused(api("GET", f"/audit?{query}", owner), 422, "bad-request").json()["errors"][0]["field"]
        == query.split("=")[0]
    )

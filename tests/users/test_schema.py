"""Whatever is sent: no 5xx, and no answer that the document of the API does not know."""

import secrets
import time
import uuid

import pytest
import redis
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.users.conftest import INTERNAL, SECRET, Who, some_ip
from users.app import create
from users.settings import UsersSettings

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
    response_schema_conformance,
]  # fmt: skip


DOCUMENT = create(
    UsersSettings(
        secret=SECRET, internal_secret=INTERNAL, mail_url="file:///nowhere", mqtt_admin_password="of no broker"
    )
).openapi()  # the same as a running one serves

schema = schemathesis.openapi.from_dict(DOCUMENT)


@pytest.fixture(scope="module")
def as_owner(world, redis_url):
    """Headers of an owner, whose session is there again whatever the call before did to it."""
    organisation = world.organisation()
    site = world.site(organisation)
    row = world.person(organisation)
    with redis.Redis.from_url(redis_url) as store:

        def headers():
            world.connection.execute(
                "INSERT INTO memberships (organisation, person, site, role) VALUES (%s, %s, %s, 'owner') "
                "ON CONFLICT (organisation, person, site) DO UPDATE SET role = 'owner'",
                (organisation, row["id"], site),
            )
            sid, now = str(uuid.uuid4()), int(time.time() * 1000)
            store.hset(f"users:session:{sid}", mapping={
                "person": str(row["id"]), "organisation": str(organisation), "epoch": 1, "current": secrets.token_hex(),
                "created": now, "seen": now, "ends": now + 60_000, "ip": "", "agent": "",
            })  # fmt: skip
            store.expire(f"users:session:{sid}", 60)
            who = Who("person", {"sub": str(row["id"]), "org": str(organisation), "sid": sid})
            return {"X-Brigade-Internal": who.internal_token(some_ip())}

        yield headers


@schema.parametrize()
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_a_documented_one(case, api, as_owner):
    case.call_and_validate(base_url=str(api.http.base_url), headers=as_owner(), checks=CHECKS)


@schema.parametrize()
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
def test_so_is_every_answer_to_a_stranger(case, api):
    headers = {"X-Brigade-Internal": Who().internal_token(some_ip())}
    case.call_and_validate(base_url=str(api.http.base_url), headers=headers, checks=CHECKS)

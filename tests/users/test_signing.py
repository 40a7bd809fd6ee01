"""Two live keys, and a rotation that nobody notices."""

import asyncio
from datetime import UTC, datetime, timedelta

import jwt
import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from tests.users.conftest import serving
from users import signing
from users.sealing import Sealer, SealError
from users.signing import State

SEALER = Sealer(b"k" * 32)
NOW = datetime.now(UTC)


def in_database(url, work):
    async def connected():
        async with await AsyncConnection.connect(url, row_factory=dict_row) as connection:
            return await work(connection)

    return asyncio.run(connected())


@pytest.fixture
def empty(users_database):
    """Without keys; what was there comes back."""
    with psycopg.connect(users_database, autocommit=True) as connection:
        connection.execute("CREATE TEMP TABLE kept AS SELECT * FROM signing_keys")
        connection.execute("DELETE FROM signing_keys")
        yield users_database
        connection.execute("DELETE FROM signing_keys")
        connection.execute("INSERT INTO signing_keys SELECT * FROM kept")


def age(url, state, minutes):
    with psycopg.connect(url) as connection:
        connection.execute(
            "UPDATE signing_keys SET since = since - %s WHERE state = %s", (timedelta(minutes=minutes), state)
        )


def test_the_first_two_are_made(empty):
    keys = in_database(empty, lambda c: signing.present(c, SEALER))
    assert sorted(key.state for key in keys) == ["current", "next"]
    assert in_database(empty, lambda c: signing.present(c, SEALER)) == keys


def test_the_key_that_signs_next_is_published_before_it_does(empty):
    before = in_database(empty, lambda c: signing.present(c, SEALER))
    after = in_database(empty, lambda c: signing.rotate(c, SEALER))
    published = signing.live(before, NOW)
    signs = signing.live(after, NOW)[0]
    assert signs.kid == published[1].kid
    assert signing.live(after, NOW)[1].kid == published[0].kid


def test_the_key_before_is_published_while_its_tokens_last(empty):
    in_database(empty, lambda c: signing.present(c, SEALER))
    keys = in_database(empty, lambda c: signing.rotate(c, SEALER))
    soon, later = datetime.now(UTC) + timedelta(minutes=14), datetime.now(UTC) + timedelta(minutes=16)
    assert [key.state for key in signing.live(keys, soon)] == [State.CURRENT, State.PREVIOUS]
    assert [key.state for key in signing.live(keys, later)] == [State.CURRENT, State.NEXT]


def test_a_second_rotation_waits_for_the_first_ones_tokens(empty):
    in_database(empty, lambda c: signing.rotate(c, SEALER))
    with pytest.raises(signing.TooSoonError):
        in_database(empty, lambda c: signing.rotate(c, SEALER))
    age(empty, State.PREVIOUS, 16)
    assert len(in_database(empty, lambda c: signing.rotate(c, SEALER))) == 3


def test_after_a_leak_nothing_is_left_of_the_old_ones(empty):
    before = in_database(empty, lambda c: signing.present(c, SEALER))
    after = in_database(empty, lambda c: signing.replace(c, SEALER))
    assert not {key.kid for key in before} & {key.kid for key in after}


def test_private_halves_are_sealed(empty):
    keys = in_database(empty, lambda c: signing.present(c, SEALER))
    private = keys[0].private(SEALER).private_bytes_raw()
    with psycopg.connect(empty) as connection:
        assert private not in connection.execute("SELECT sealed FROM signing_keys").fetchall()[0][0]
    with pytest.raises(SealError):
        keys[0].private(Sealer(b"x" * 32))


def test_a_seal_is_of_one_thing():
    sealed = SEALER.seal(b"plain", "mail")
    assert SEALER.open(sealed, "mail") == b"plain"
    with pytest.raises(SealError):
        SEALER.open(sealed, "key")
    with pytest.raises(SealError):
        SEALER.open(sealed[:-1] + bytes([sealed[-1] ^ 1]), "mail")


def test_a_running_process_takes_the_new_key(empty, redis_url, mails, world, person, monkeypatch):
    monkeypatch.setattr(signing, "REMEMBERED_SECONDS", 0)
    with serving(empty, redis_url, mails) as api:
        api.until_ready()
        kid = api.http.get("/.well-known/jwks.json").json()["keys"][1]["kid"]
        in_database(empty, lambda c: signing.rotate(c, SEALER))
        token = api.log_in(person["email"]).json()["access_token"]
        assert jwt.get_unverified_header(token)["kid"] == kid


def test_two_keys_are_published_and_no_secret(api):
    keys = api.http.get("/.well-known/jwks.json").json()["keys"]
    assert len(keys) == 2
    for key in keys:
        assert key.keys() == {"kty", "crv", "x", "use", "alg", "kid"}
        assert (key["kty"], key["crv"], key["use"], key["alg"]) == ("OKP", "Ed25519", "sig", "EdDSA")

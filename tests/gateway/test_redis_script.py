"""The script in Redis: right answers to many at once, through restarts, forgotten scripts and silence."""

import asyncio
import socket

import pytest
import redis as client
from hypothesis import given
from hypothesis import strategies as st

from gateway.redis_script import RedisAwayError, RedisScript, Refusal, reply

ECHO = "return {tonumber(ARGV[1]), tonumber(ARGV[2]) + 1}"


@pytest.fixture
def url(redis):
    return "redis://{}:{}/0".format(*redis)


async def test_many_at_once_get_each_their_own_answer(url):
    async with RedisScript(url, ECHO) as script:
        answers = await asyncio.gather(*(script("key", n, n) for n in range(500)))
    assert answers == [[n, n + 1] for n in range(500)]


async def test_one_who_stops_waiting_does_not_get_anothers_answer(url):
    async with RedisScript(url, ECHO) as script:
        await script("key", 0, 0)
        given_up = [asyncio.create_task(script("key", n, n)) for n in range(50)]
        await asyncio.sleep(0)
        for task in given_up:
            task.cancel()
        assert await script("key", 7, 7) == [7, 8]
        await asyncio.gather(*given_up, return_exceptions=True)


async def test_a_script_that_redis_has_forgotten_is_told_again(url):
    async with RedisScript(url, ECHO) as script:
        assert await script("key", 1, 1) == [1, 2]
        client.Redis.from_url(url).script_flush()
        assert await script("key", 2, 2) == [2, 3]


async def test_a_connection_that_ended_is_made_again(url):
    async with RedisScript(url, ECHO) as script:
        await script("key", 1, 1)
        client.Redis.from_url(url).client_kill_filter(_type="normal")
        async with asyncio.timeout(30):
            while True:
                try:
                    assert await script("key", 2, 2) == [2, 3]
                    break
                except RedisAwayError:
                    await asyncio.sleep(0.01)


async def test_another_database_is_chosen(url):
    async with RedisScript(url.replace("/0", "/3"), "return {redis.call('INCRBY', KEYS[1], ARGV[1])}") as script:
        assert await script("gateway:test", 5) == [5]
    store = client.Redis.from_url(url.replace("/0", "/3"))
    assert store.getdel("gateway:test") == b"5"


@pytest.mark.parametrize("wrong", ["redis://:secret@{}", "redis://{}/99"])
async def test_a_redis_that_refuses_us_is_away(redis, wrong):
    async with RedisScript(wrong.format("{}:{}".format(*redis)), ECHO) as script:
        with pytest.raises(RedisAwayError):
            await script("key", 1, 1)


async def test_a_script_that_fails_says_so(url):
    async with RedisScript(url, "return redis.call('NONSENSE')") as script:
        with pytest.raises(RedisAwayError, match="refuses"):
            await script("key", 1)


@pytest.mark.usefixtures("impatient_with_redis")
async def test_nothing_there_and_silence_are_away():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for port in (1, silent.getsockname()[1]):
            async with RedisScript(f"redis://127.0.0.1:{port}", ECHO) as script:
                for _ in range(2):
                    with pytest.raises(RedisAwayError):
                        await script("key", 1)


REPLIES = st.recursive(
    st.one_of(
        st.integers(-(2**63), 2**63 - 1).map(lambda n: (n, b":%d\r\n" % n)),
        st.binary(max_size=20).map(lambda b: (b, b"$%d\r\n%b\r\n" % (len(b), b))),
        st.sampled_from([("OK", b"+OK\r\n"), (Refusal("ERR no"), b"-ERR no\r\n")]),
    ),
    lambda inner: st.lists(inner, max_size=4).map(
        lambda several: ([v for v, _ in several], b"*%d\r\n" % len(several) + b"".join(b for _, b in several))
    ),
)


@given(REPLIES, st.binary(max_size=5))
def test_a_reply_is_read_when_it_is_whole_and_not_before(one, rest):
    value, data = one
    assert reply(b"xx" + data + rest, 2) == (value, len(data) + 2)
    for cut in range(len(data)):
        assert reply(data[:cut], 0) is None

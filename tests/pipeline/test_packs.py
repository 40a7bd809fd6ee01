from contextlib import suppress

import msgspec
import pytest
from aiokafka.partitioner import murmur2 as aiokafkas_murmur2
from hypothesis import given
from hypothesis import strategies as st

from pipeline import packs
from pipeline.packs import Message, UndecodableRecordError, murmur2, partition_key, partition_of

numbers = st.integers(0, 2**63 - 1)
extras = st.fixed_dictionaries(
    {}, optional={"traceparent": st.text(), "size": numbers, "sha256": st.text(), "dead_letter": numbers}
)
messages = st.builds(
    Message,
    topic=st.text(),
    received_us=st.integers(0, 2**51),
    payload=st.binary(),
    extra=st.none() | extras,
)


@given(st.lists(messages))
def test_what_goes_in_comes_out(pack):
    assert packs.decode(packs.encode(pack)) == pack


def test_the_bridges_plain_tuples_are_messages():
    value = packs.encode([("brigade/v1/seoul/fridge/readings", 1, b"{}")])
    assert packs.decode(value) == [Message("brigade/v1/seoul/fridge/readings", 1, b"{}")]


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"{}",
        b"\x91" * 100_000,  # a list in a list in a list …
        b"\xdd\xff\xff\xff\xff",  # a list of four billion, it says
        msgspec.msgpack.encode({"topic": "t"}),
        msgspec.msgpack.encode([["topic", "not a time", b""]]),
        msgspec.msgpack.encode([["topic", 1]]),
        msgspec.msgpack.encode([["topic", -1, b""]]),
        msgspec.msgpack.encode([["topic", 2**63, b""]]),
        msgspec.msgpack.encode([["topic", 1, b"", {"dead_letter": "x"}]]),
        msgspec.msgpack.encode([["topic", 1, b"", {"size": -1}]]),
        msgspec.msgpack.encode([["topic", 1, b"", {"sha256": 5}]]),
        b"\x91\x93\xa1\xff\x01\xc4\x00",  # a topic that is no UTF-8
    ],
)
def test_anything_else_is_undecodable_and_nothing_worse(value):
    with pytest.raises(UndecodableRecordError, match=r"\w"):
        packs.decode(value)


@given(st.binary())
def test_no_bytes_raise_another_error(value):
    with suppress(UndecodableRecordError):
        packs.decode(value)


def test_headers_tell_the_count_and_the_format():
    assert packs.headers(4000) == [("count", b"4000"), ("format", b"1")]


@pytest.mark.parametrize(
    ("topic", "key"),
    [
        ("brigade/v1/seoul-1/fridge-2/readings", "fridge-2"),
        ("brigade/v1/seoul-1/fridge-2/status", "fridge-2"),
        ("brigade/v1/busan/fridge-2/readings", "fridge-2"),
        ("brigade/v1/seoul-1//readings", "brigade/v1/seoul-1//readings"),
        ("brigade/v1/seoul-1/fridge-2", "brigade/v1/seoul-1/fridge-2"),
        ("brigade/v1/seoul-1/fridge-2/readings/more", "brigade/v1/seoul-1/fridge-2/readings/more"),
        ("", ""),
    ],
)
def test_a_devices_messages_share_a_key_whatever_the_site(topic, key):
    assert partition_key(topic) == key


@pytest.mark.parametrize(
    ("text", "signed"),  # of org.apache.kafka.common.utils.UtilsTest
    [
        ("21", -973932308),
        ("foobar", -790332482),
        ("a-little-bit-long-string", -985981536),
        ("a-little-bit-longer-string", -1486304829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        ("abc", 479470107),
    ],
)
def test_the_hash_is_kafkas(text, signed):
    assert murmur2(text.encode()) == signed % 2**32


@given(st.text(), st.integers(1, 64))
def test_the_partition_is_the_one_kafkas_clients_choose(key, partitions):
    expected = (aiokafkas_murmur2(key.encode()) & 0x7FFFFFFF) % partitions
    assert partition_of(key, partitions) == expected

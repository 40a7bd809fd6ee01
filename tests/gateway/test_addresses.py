"""Whose request it is, by address."""

import pytest

from gateway.addresses import neighbourhood, of_client


@pytest.mark.parametrize(
    ("forwarded", "hops", "address"),
    [
        (["1.2.3.4"], 0, "10.0.0.9"),  # nobody of ours wrote it
        (["1.2.3.4"], 1, "1.2.3.4"),
        (["6.6.6.6, 1.2.3.4"], 1, "1.2.3.4"),  # what the client wrote itself comes first
        (["6.6.6.6", "1.2.3.4"], 1, "1.2.3.4"),
        (["6.6.6.6, 1.2.3.4, 10.0.0.2"], 2, "1.2.3.4"),
        (["1.2.3.4"], 2, "10.0.0.9"),  # it went around a proxy
        ([], 1, "10.0.0.9"),
        (["nonsense"], 1, "10.0.0.9"),
        (["1.2.3.4:5678"], 1, "1.2.3.4"),
        (["[2001:db8::1]:443"], 1, "2001:db8::1"),
        (["2001:DB8::1"], 1, "2001:db8::1"),
        (["::ffff:1.2.3.4"], 1, "1.2.3.4"),
        ([", ,"], 1, "10.0.0.9"),
    ],
)
def test_hops_that_are_trusted_are_believed(forwarded, hops, address):
    assert of_client("10.0.0.9", forwarded, hops) == address


def test_without_a_peer_it_is_nobody():
    assert of_client(None, [], 0) == "0.0.0.0"


@pytest.mark.parametrize(
    ("address", "counted"), [("1.2.3.4", "1.2.3.4"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64")]
)
def test_a_network_is_one_customer(address, counted):
    assert neighbourhood(address) == counted

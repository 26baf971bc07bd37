"""The class of every address that could be a way around."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.policy.addresses import AddressClass, classify, embedded_ipv4, in_any, plain, reason_for
from observability.events import Reason

CLASSES = {
    AddressClass.PUBLIC: """
        1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 168.63.129.15
        169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 191.255.255.255 192.0.1.0 192.0.3.0 192.167.255.255
        192.169.0.0 198.17.255.255 198.20.0.0 198.51.99.255 198.51.101.0 203.0.112.255 203.0.114.0 223.255.255.255
        2606:4700::1111 2a00:1450:4001::200e 2001:200::1 2001:4860:4860::8888 2003::1 2620:fe::fe 3ffe::1 2400::1""",
    AddressClass.LOOPBACK: "127.0.0.1 127.0.0.0 127.255.255.255 127.1.2.3 ::1",
    AddressClass.UNSPECIFIED: "0.0.0.0 ::",
    AddressClass.PRIVATE: """
        10.0.0.0 10.255.255.255 172.16.0.0 172.31.255.255 192.168.0.0 192.168.255.255 fc00:: fd00::1
        fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff fec0::1 feff::1""",
    AddressClass.LINK_LOCAL: "169.254.0.0 169.254.255.255 169.254.169.253 fe80::1 febf::1",
    AddressClass.METADATA: """
        169.254.169.254 169.254.170.2 169.254.170.23 100.100.100.200 168.63.129.16 192.0.0.192 fd00:ec2::254
        fd00:ec2::23 fd20:ce::254""",
    AddressClass.CGNAT: "100.64.0.0 100.127.255.255",
    AddressClass.MULTICAST: "224.0.0.1 239.255.255.255 ff02::1 ff0e::1",
    AddressClass.RESERVED: """
        0.0.0.1 0.255.255.255 192.0.0.1 192.0.0.170 192.0.2.1 192.88.99.1 198.18.0.1 198.19.255.255 198.51.100.1
        203.0.113.1 240.0.0.1 255.255.255.255 100::1 2001:2::1 2001:10::1 2001:20::1 2001:1ff::1 2001:db8::1 3fff::1
        5f00::1 4000::1 1::1 8000::1 e000::1 64:ff9a::1 64:ff9b:2::1""",
    AddressClass.EMBEDDED: """
        ::2 ::7f00:1 ::10.0.0.1 ::ffff:1.1.1.1 ::ffff:127.0.0.1 ::ffff:0:10.0.0.1 64:ff9b::10.0.0.5 64:ff9b::8.8.8.8
        64:ff9b:1::1 64:ff9b:1:ffff::a00:5 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2002:a00:5::1 2002:7f00:1::
        2606:4700::5efe:10.0.0.1 2606:4700::200:5efe:192.168.0.1""",
}


@pytest.mark.parametrize(
    ("text", "kind"), [(text, kind) for kind, texts in CLASSES.items() for text in texts.split()], ids=str
)
def test_an_address_has_the_class_that_the_registries_give_it(text: str, kind: AddressClass) -> None:
    assert classify(ipaddress.ip_address(text)) is kind


@pytest.mark.parametrize(
    ("text", "inner"),
    [
        ("::ffff:10.0.0.1", {"10.0.0.1"}),
        ("::10.0.0.1", {"10.0.0.1"}),
        ("::ffff:0:10.0.0.1", {"10.0.0.1"}),
        ("64:ff9b::10.0.0.1", {"10.0.0.1"}),
        ("2002:a00:1::", {"10.0.0.1"}),
        ("2001:0:a00:1:0:0:f5ff:fffd", {"10.0.0.1", "10.0.0.2"}),
        ("2606:4700::5efe:10.0.0.1", {"10.0.0.1"}),
        ("2606:4700::1111", set()),
        ("10.0.0.1", set()),
    ],
)
def test_the_ipv4_addresses_inside_an_ipv6_address_are_found(text: str, inner: set[str]) -> None:
    assert {str(address) for address in embedded_ipv4(ipaddress.ip_address(text))} == inner


def test_a_mapped_address_is_plainly_the_ipv4_address() -> None:
    assert plain(ipaddress.ip_address("::ffff:10.0.0.1")) == ipaddress.ip_address("10.0.0.1")
    assert plain(ipaddress.ip_address("2606:4700::1")) == ipaddress.ip_address("2606:4700::1")
    assert plain(ipaddress.ip_address("10.0.0.1")) == ipaddress.ip_address("10.0.0.1")


def test_a_network_has_only_addresses_of_its_own_version() -> None:
    networks = [ipaddress.ip_network("10.0.0.0/8")]
    assert in_any(ipaddress.ip_address("10.1.2.3"), networks)
    assert not in_any(ipaddress.ip_address("11.0.0.0"), networks)
    assert not in_any(ipaddress.ip_address("::ffff:10.1.2.3"), networks)


def test_every_class_but_public_has_a_reason_of_its_kind() -> None:
    assert reason_for(AddressClass.PUBLIC) is None
    assert reason_for(AddressClass.UNSPECIFIED) is Reason.ADDRESS_LOOPBACK
    for kind in set(AddressClass) - {AddressClass.PUBLIC, AddressClass.UNSPECIFIED}:
        assert reason_for(kind) == f"address_{kind}"


@given(st.ip_addresses())
def test_nothing_that_the_library_calls_private_is_public(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    flags = address.is_private or address.is_multicast or address.is_loopback or address.is_link_local
    if flags or address.is_reserved or address.is_unspecified:
        assert classify(address) is not AddressClass.PUBLIC


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_in_any_ipv6_wrapping_is_never_public(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    prefixes = (0, 0xFFFF << 32, 0xFFFF << 48, 0x0064FF9B << 96, 0x0064FF9B0001 << 80)
    for wrapped in (*(prefix | number for prefix in prefixes), 0x2002 << 112 | number << 80):
        found = classify(ipaddress.IPv6Address(wrapped))
        assert found in (AddressClass.EMBEDDED, AddressClass.UNSPECIFIED, AddressClass.LOOPBACK)

"""Hosts and authorities: what is canonical, what is refused, what a person is told."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.policy.names import canonical_host, parse_authority, parse_name, suggest_host

LONG_LABEL = "a" * 63
LONG_NAME = ".".join([LONG_LABEL] * 3 + ["b" * 61])


@pytest.mark.parametrize(
    ("raw", "host", "port"),
    [
        ("api.github.com:443", "api.github.com", 443),
        ("API.GitHub.COM:443", "api.github.com", 443),
        ("api.github.com.:443", "api.github.com", 443),
        ("localhost:1", "localhost", 1),
        ("a:65535", "a", 65535),
        ("_srv.exa_mple.com:80", "_srv.exa_mple.com", 80),
        ("r3---sn-4g5.googlevideo.com:443", "r3---sn-4g5.googlevideo.com", 443),
        ("xn--bcher-kva.example:443", "xn--bcher-kva.example", 443),
        ("1.example:80", "1.example", 80),
        ("0x10.example:80", "0x10.example", 80),
        (f"{LONG_NAME}:80", LONG_NAME, 80),
        ("10.0.0.1:80", "10.0.0.1", 80),
        ("255.255.255.255:80", "255.255.255.255", 80),
        ("[::1]:80", "::1", 80),
        ("[2001:DB8:0:0::1]:443", "2001:db8::1", 443),
        ("[64:ff9b::10.0.0.1]:80", "64:ff9b::a00:1", 80),
    ],
)
def test_a_plain_authority_becomes_canonical(raw: str, host: str, port: int) -> None:
    for form in (raw, raw.encode()):
        target = parse_authority(form)
        assert (target.host, target.port) == (host, port)
        assert parse_authority(target.authority) == target
        is_literal = host.replace(":", "").replace(".", "").isdigit() or ":" in host
        assert (target.ip is not None) == is_literal


def test_the_default_port_stands_in_for_a_missing_one_only() -> None:
    assert parse_authority("h", 80).port == 80
    assert parse_authority("h:8080", 80).port == 8080
    assert parse_authority("[::1]", 80).port == 80


HOSTILE = """
    0177.0.0.1 0x7f.0.0.1 127.1 127.0.1 2130706433 0x7f000001 017700000001 127.0.0.1. 127.0.0.01 1.2.3.256 1.2.3.4.5
    1.2.3 0 0x 1.0x7f 127.0.0.0x1 256.256.256.256 a.1 a.0x1 example.0 [::1 ::1] [::1%25eth0] [fe80::1%eth0] [10.0.0.1]
    [] [::1]x [[::1]] [::g] [v1.x] a..b .a a.. .. . -a.b a-.b a.-b a.b- a%2eb a%00b user@host a@b h/x h?x h#x h\\x
    http://h *.a *
    a,b a;b 'a' "a" <a> {a} a|b a^b a`b a=b a&b a+b a!b a$b a~b a(b \uff41.com ℡.com \u212a.com 例え.jp bücher.de
    a\u3002b a\uff0eb a\u00adb \u202eb""".split()


@pytest.mark.parametrize(
    "host", [*HOSTILE, "", " ", "a b", "a\tb", "a\x00b", "a\nb", "a\r", LONG_LABEL + "a", LONG_NAME + "b"]
)
def test_an_unusual_host_is_refused(host: str) -> None:
    with pytest.raises(ValueError):
        parse_authority(f"{host}:443")
    with pytest.raises(ValueError):
        parse_authority(f"{host}:443".encode())


@pytest.mark.parametrize(
    "port", ["", "0", "00", "080", "65536", "65979", "4294967376", "+80", "-80", " 80", "80 ", "8_0", "0x50", "80:80", "٨٠",
             "\uff18\uff10", "80/", "80a", "8" * 5000]
)  # fmt: skip
def test_an_unusual_port_is_refused(port: str) -> None:
    with pytest.raises(ValueError):
        parse_authority(f"h:{port}", 80)


def test_a_missing_port_is_refused_where_there_is_no_default() -> None:
    for text in ("h", "[::1]", "10.0.0.1"):
        with pytest.raises(ValueError, match="port"):
            parse_authority(text)


@given(st.binary(max_size=300))
def test_whatever_bytes_come_the_answer_is_a_target_or_a_value_error(raw: bytes) -> None:
    try:
        target = parse_authority(raw, 80)
    except ValueError:
        return
    assert target.host.isascii()
    assert target.host == target.host.lower()
    assert 1 <= target.port <= 65535
    assert parse_authority(target.authority) == target


@given(st.from_regex(r"\A[0-9a-fx.]{1,20}\Z"))
def test_nothing_that_a_resolver_reads_as_an_address_passes_as_a_name(text: str) -> None:
    import socket

    try:
        target = parse_authority(text, 80)
    except ValueError:
        return
    if target.ip is None:
        with pytest.raises(OSError):
            socket.inet_aton(target.host)
    else:
        assert socket.inet_aton(target.host) == target.ip.packed


@given(st.ip_addresses(v=6))
def test_each_spelling_of_an_ipv6_address_is_the_same_target(address: ipaddress.IPv6Address) -> None:
    for text in (address.exploded, address.compressed, address.exploded.upper()):
        target = parse_authority(f"[{text}]:1")
        assert target.ip == address
        assert target.host == str(address)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("API.GitHub.com", "api.github.com"),
        ("api.github.com.", "api.github.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("10.0.0.1", "10.0.0.1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("exa_mple.com", "exa_mple.com"),
    ],
)
def test_a_configured_host_becomes_canonical(text: str, canonical: str) -> None:
    assert canonical_host(text) == canonical


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("", "write a host such as api.github.com"),
        ("https://api.github.com/", "keep only the host: api.github.com"),
        ("https://me:pw@api.github.com:8443/x?y", "keep only the host: api.github.com:8443"),
        ("https://", "keep only the host: api.github.com"),
        ("api.github.com/repos", "keep only the host: api.github.com"),
        ("api.github.com?x", "keep only the host: api.github.com"),
        ("api.github.com#x", "keep only the host: api.github.com"),
        ("me@api.github.com", "keep only the host: api.github.com"),
        ("api.github.com example.com", "one host an entry, such as api.github.com"),
        (" api.github.com", "one host an entry, such as api.github.com"),
        ("api.github.com,example.com", "one host an entry, such as api.github.com"),
        ("a:b:c", "HOST:PORT"),
        ("\u2488.example", "not an internationalised host name"),
        ("a" * 64 + ".com", "63 a label"),
        ("a..b", "plain DNS name"),
        ("127.1", "unusual spelling"),
    ],
)
def test_a_wrong_configured_host_is_told_what_to_write(text: str, advice: str) -> None:
    with pytest.raises(ValueError) as caught:
        canonical_host(text)
    assert advice in str(caught.value)


def test_a_suggestion_for_nothing_is_an_example() -> None:
    assert suggest_host("  ") == "api.github.com"


@given(st.text(max_size=40))
def test_whatever_a_person_writes_the_answer_is_canonical_or_a_value_error(text: str) -> None:
    try:
        name = canonical_host(text)
    except ValueError:
        return
    assert canonical_host(name) == name


def test_a_name_has_no_more_than_253_characters() -> None:
    assert parse_name(LONG_NAME + ".") == LONG_NAME
    with pytest.raises(ValueError, match="253"):
        parse_name(LONG_NAME + "bb")

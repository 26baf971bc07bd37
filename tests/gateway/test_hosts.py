"""What a Host or Origin header must look like, for the endpoint and the admin listener alike."""

from __future__ import annotations

import pytest

from gateway.hosts import is_served, listening_name, origin_authority


@pytest.mark.parametrize(
    ("authority", "served"),
    [
        ("localhost", True), ("127.0.0.1:8420", True), ("[::1]", True), ("[::1]:1", True),
        ("gw.example", True), ("gw.example:8420", True), ("proxied.example:443", True),
        ("proxied.example:444", False), ("proxied.example", False), ("evil.example", False), ("", False), (":80", False),
        ("localhost:", False), ("localhost:80x", False), ("localhost:٨٠", False), ("gw.example.evil.example", False),
    ],
)  # fmt: skip
def test_a_host_is_a_loopback_name_or_exactly_what_is_allowed(authority: str, served: bool) -> None:
    assert is_served(authority, {"gw.example", "proxied.example:443", ""}) is served


@pytest.mark.parametrize(
    ("listen", "name"),
    [("127.0.0.1:1", "127.0.0.1"), ("GW.example:1", "gw.example"), ("0.0.0.0:1", ""), ("[::]:1", ""), (":1", "")],
)
def test_all_addresses_are_no_name(listen: str, name: str) -> None:
    assert listening_name(listen) == name


@pytest.mark.parametrize(
    ("origin", "authority"),
    [("http://a:1", "a:1"), ("https://a", "a"), ("null", ""), ("file://a", ""), ("http://", ""), ("a", "")],
)
def test_an_origin_is_a_web_origin_or_nothing(origin: str, authority: str) -> None:
    assert origin_authority(origin) == authority

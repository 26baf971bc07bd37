"""The text of an entry: where its port ends the host, and that no text breaks the reader."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.policy.parse import PolicyError, parse_policy
from egress.policy.patterns import parse_network, parse_pattern, split_port


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("a.test", "a.test", None),
        ("a.test:443", "a.test", "443"),
        ("a.test:", "a.test", ""),
        ("::1", "::1", None),
        ("[::1]", "[::1]", None),
        ("[::1]:443", "[::1]", "443"),
        ("10.0.0.0/8:443", "10.0.0.0/8", "443"),
        ("https://a.test:443", "https://a.test:443", None),
        ("a.test: 443", "a.test: 443", None),
        ("a:b:c", "a:b:c", None),
    ],
)
def test_a_port_is_split_off(text: str, host: str, port: str | None) -> None:
    assert split_port(text) == (host, port)


@given(st.text(max_size=30) | st.from_regex(r"\A[a-z0-9.:/*\[\]%-]{0,25}\Z"))
def test_any_text_is_a_rule_or_a_policy_error(text: str) -> None:
    try:
        policy = parse_policy({"allowed_hosts": [text]})
    except PolicyError:
        return
    assert parse_policy(policy.to_json()).to_json() == policy.to_json()


@given(st.ip_addresses())
def test_each_address_is_its_own_network(address: object) -> None:
    network = parse_network(str(address))
    assert network is not None
    assert network.num_addresses == 1


def test_a_name_is_no_network() -> None:
    for text in ("a.test", "1a.test", "bücher", "a/8", "[a]"):
        assert parse_network(text) is None
    with pytest.raises(ValueError, match="path"):
        parse_pattern("a/8")

"""From what was asked for to the smallest policy."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.policy.decide import Allow, Surroundings, decide_name, parse_policy
from egress.policy.names import parse_authority
from egress.policy.suggest import group, suggest


def test_nothing_seen_allows_nothing() -> None:
    assert suggest([]) == {"allowed_hosts": []}
    assert suggest([("bad host", 1), ("localhost", 80), ("127.0.0.1", 80), ("a.test", 0)]) == {"allowed_hosts": []}


def test_a_few_hosts_are_listed_one_by_one() -> None:
    seen = [("api.github.com", 443), ("API.github.com.", 443), ("github.com", 443), ("pypi.org", 443)]
    assert suggest(seen) == {"allowed_hosts": ["api.github.com", "github.com", "pypi.org"], "allowed_ports": [443]}


def test_the_default_ports_need_no_words() -> None:
    assert suggest([("a.com", 80), ("a.com", 443)]) == {"allowed_hosts": ["a.com"]}


def test_a_host_with_other_ports_has_its_own() -> None:
    seen = [("a.com", 443), ("b.com", 443), ("db.internal", 5432), ("c.com", 443), ("c.com", 80), ("1.2.3.4", 22)]
    assert suggest([*seen, ("2001:db8::1", 22), ("host.docker.internal", 443)]) == {
        "allowed_hosts": [
            "1.2.3.4:22",
            {"host": "2001:db8::1", "ports": [22]},
            "a.com",
            "b.com",
            {"host": "c.com", "ports": [80, 443]},
            "db.internal:5432",
            "host.docker.internal:443",
        ],
        "allowed_ports": [443],
    }


def test_only_the_host_leaves_the_default_ports_alone() -> None:
    assert suggest([("host.docker.internal", 3000)]) == {"allowed_hosts": ["host.docker.internal:3000"]}


@pytest.mark.parametrize(
    ("hosts", "patterns"),
    [
        (["a.x.com", "b.x.com"], ["a.x.com", "b.x.com"]),
        (["a.x.com", "b.x.com", "c.x.com"], ["*.x.com"]),
        (["a.x.com", "b.x.com", "c.x.com", "x.com"], [".x.com"]),
        (["a.cdn.x.com", "b.cdn.x.com", "c.cdn.x.com", "www.x.com"], ["*.cdn.x.com", "www.x.com"]),
        (["a.b.x.com", "c.d.x.com", "e.f.x.com", "g.h.x.com"], ["a.b.x.com", "c.d.x.com", "e.f.x.com", "g.h.x.com"]),
        (["a.b.x.com", "c.d.x.com", "e.f.x.com", "g.h.x.com", "i.j.x.com"], ["*.x.com"]),
        (["a.com", "b.com", "c.com", "d.com", "e.com"], ["a.com", "b.com", "c.com", "d.com", "e.com"]),
        (["a.co.uk", "b.co.uk", "c.co.uk"], ["a.co.uk", "b.co.uk", "c.co.uk"]),
        (["a.github.io", "b.github.io", "c.github.io"], ["a.github.io", "b.github.io", "c.github.io"]),
        (["1.a.github.io", "2.a.github.io", "3.a.github.io"], ["*.a.github.io"]),
        (
            ["db", "cache", "queue", "10.0.0.1", "10.0.0.2", "10.0.0.3"],
            ["10.0.0.1", "10.0.0.2", "10.0.0.3", "cache", "db", "queue"],
        ),
        (["a.b.c.x.com", "d.b.c.x.com", "e.b.c.x.com", "x.com"], ["*.b.c.x.com", "x.com"]),
    ],
)
def test_subdomains_are_grouped_and_public_suffixes_never_proposed(hosts: list[str], patterns: list[str]) -> None:
    assert group(hosts) == patterns


HOSTS = st.sampled_from(
    [
        f"{a}{b}"
        for a in ("", "a.", "b.", "c.", "a.b.", "c.d.")
        for b in ("x.com", "y.co.uk", "z.github.io", "com", "db")
    ]
    + ["host.docker.internal", "8.8.8.8", "2606:4700::1"]
)


@given(st.lists(st.tuples(HOSTS, st.sampled_from([80, 443, 5432])), max_size=25))
def test_the_suggestion_is_a_policy_that_allows_all_that_was_seen(seen: list[tuple[str, int]]) -> None:
    policy = parse_policy(suggest(seen))
    assert not any("top-level" in warning.message for warning in policy.warnings)
    around = Surroundings(host_gateway=ipaddress.ip_address("172.30.0.1"))
    for host, port in seen:
        target = parse_authority(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        assert isinstance(decide_name(policy, target, around), Allow), (host, port)

"""Reading a `network:` block: what it means, and what a person is told about a wrong one."""

from __future__ import annotations

from typing import Any

import pytest

from egress.policy.parse import PolicyError, parse_policy
from egress.policy.rules import Limits, Mode, Protocol, RuleKind


def problems(block: Any) -> dict[str, str]:
    """Path → message of everything that is wrong."""
    with pytest.raises(PolicyError) as caught:
        parse_policy(block)
    return {"/".join(map(str, problem.path)): problem.message for problem in caught.value.problems}


def warnings(block: Any) -> list[str]:
    return [warning.message for warning in parse_policy(block).warnings]


def test_an_empty_block_names_nothing() -> None:
    policy = parse_policy({})
    assert policy.rules == ()
    assert policy.mode is Mode.ENFORCE
    assert policy.isolated
    assert not policy.direct
    assert policy.to_json() == {}
    assert policy.warnings == ()


def test_every_key_is_read() -> None:
    policy = parse_policy(
        {
            "isolated": False,
            "allowed_hosts": ["api.github.com"],
            "allowed_ports": [443, "8000-8010", "80"],
            "mode": "learn",
            "direct": "allow",
            "join": ["myapp_default", "myapp_default"],
            "limits": {
                "connections": 5,
                "rate": 1.5,
                "dns_rate": 2,
                "lookups": 3,
                "head_timeout_s": 4,
                "idle_timeout_s": 60,
            },
        }
    )
    assert not policy.isolated
    assert [str(ports) for ports in policy.ports] == ["443", "8000-8010", "80"]
    assert policy.mode is Mode.LEARN
    assert policy.direct
    assert policy.join == ("myapp_default",)
    assert policy.limits == Limits(
        connections=5, rate=1.5, dns_rate=2, lookups=3, head_timeout_s=4, idle_timeout_s=60
    )


@pytest.mark.parametrize(
    ("entry", "kind", "canonical", "text"),
    [
        ("API.GitHub.com", RuleKind.EXACT, "api.github.com", "API.GitHub.com"),
        (".github.com", RuleKind.SUFFIX, ".github.com", ".github.com"),
        ("*.github.com", RuleKind.SUBDOMAIN, "*.github.com", "*.github.com"),
        ("*", RuleKind.ANY, "*", "*"),
        ("*:8080", RuleKind.ANY, {"host": "*", "ports": [8080]}, "*:8080"),
        ("10.0.0.1", RuleKind.ADDRESS, "10.0.0.1", "10.0.0.1"),
        ("10.0.0.0/8", RuleKind.ADDRESS, "10.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.0/8:5432", RuleKind.ADDRESS, {"host": "10.0.0.0/8", "ports": [5432]}, "10.0.0.0/8:5432"),
        ("::ffff:10.0.0.1", RuleKind.ADDRESS, "10.0.0.1", "::ffff:10.0.0.1"),
        ("2001:DB8::1", RuleKind.ADDRESS, "2001:db8::1", "2001:DB8::1"),
        ("[2001:db8::1]:443", RuleKind.ADDRESS, {"host": "2001:db8::1", "ports": [443]}, "[2001:db8::1]:443"),
        ("[2001:db8::]/32", RuleKind.ADDRESS, "2001:db8::/32", "[2001:db8::]/32"),
        ("[2001:db8::/32]:443", RuleKind.ADDRESS, {"host": "2001:db8::/32", "ports": [443]}, "[2001:db8::/32]:443"),
        ("db.internal:5432", RuleKind.EXACT, {"host": "db.internal", "ports": [5432]}, "db.internal:5432"),
        (
            "db.internal:5432-5440",
            RuleKind.EXACT,
            {"host": "db.internal", "ports": ["5432-5440"]},
            "db.internal:5432-5440",
        ),
        (
            "host.docker.internal:3000",
            RuleKind.HOST,
            {"host": "host.docker.internal", "ports": [3000]},
            "host.docker.internal:3000",
        ),
        (".bücher.example", RuleKind.SUFFIX, ".xn--bcher-kva.example", ".bücher.example"),
        ({"host": "a.test"}, RuleKind.EXACT, "a.test", "a.test"),
        (
            {"host": "a.test", "port": 1, "ports": [2, "3-4", 1]},
            RuleKind.EXACT,
            {"host": "a.test", "ports": [1, 2, "3-4"]},
            "a.test:2,3-4,1",
        ),
        (
            {"host": "a.test:7", "private": True},
            RuleKind.EXACT,
            {"host": "a.test", "ports": [7], "private": True},
            "a.test:7",
        ),
        (
            {"host": "a.test", "port": 7, "protocol": "tcp"},
            RuleKind.EXACT,
            {"host": "a.test", "ports": [7], "protocol": "tcp"},
            "a.test:7",
        ),
        ({"host": "a.test", "protocol": "http"}, RuleKind.EXACT, "a.test", "a.test"),
    ],
)
def test_an_entry_has_a_kind_and_a_canonical_form(entry: Any, kind: RuleKind, canonical: Any, text: str) -> None:
    policy = parse_policy({"allowed_hosts": [entry]})
    (rule,) = policy.rules
    assert rule.kind is kind
    assert rule.text == text
    assert policy.to_json() == {"allowed_hosts": [canonical]}
    assert parse_policy(policy.to_json()) == policy or len(rule.ports) > 1
    assert parse_policy(policy.to_json()).to_json() == policy.to_json()


def test_equal_policies_render_equally_whatever_their_order() -> None:
    one = parse_policy({"allowed_hosts": ["b.test", ".A.test", "*.a.test"], "allowed_ports": [443, 80]})
    other = parse_policy({"allowed_ports": ["80", 443], "allowed_hosts": ["*.a.test", ".a.test", "B.test."]})
    assert one.to_json() == other.to_json()


def test_the_canonical_form_has_what_is_not_a_default() -> None:
    block = {
        "isolated": False,
        "mode": "report",
        "direct": "allow",
        "join": ["x"],
        "limits": {"connections": 5},
        "allowed_ports": [443],
    }
    assert parse_policy(block).to_json() == block


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("https://api.github.com/", "'https://api.github.com/' is a URL; keep only the host: api.github.com"),
        ("https://*.github.com/", "keep only the host: *.github.com"),
        ("api.github.com /", "one host an entry"),
        ("a b", "has a space in it; write one host an entry, such as api.github.com"),
        ("api.github.com:70000", "70000 is not a port: ports go from 1 to 65535"),
        ("api.github.com:0", "0 is not a port"),
        ("api.github.com:https", "must be a port such as 443"),
        ("api.github.com:", "must be a port such as 443"),
        ("api.github.com:443/x", "keep only the host: api.github.com:443"),
        ("*github.com", "write *.github.com (all below github.com) or .github.com (github.com too)"),
        ("api.*.com", "stands only alone or as the first label"),
        ("x*", "write *.example.com"),
        ("*.*.github.com", "write .github.com or *.github.com"),
        ("*.a.*.com", "stands only alone or as the first label"),
        ("..github.com", "write .github.com or *.github.com"),
        (".10.0.0.1", "an address has no subdomains; write 10.0.0.1"),
        (".host.docker.internal", "the host has no subdomains"),
        ("0177.0.0.1", "unusual spelling of an IPv4 address; write 127.0.0.1"),
        ("0x7f.1", "write 127.0.0.1"),
        ("2130706433", "write 127.0.0.1"),
        ("127.1/8", "write 127.0.0.1"),
        ("999.1.1.1", "four numbers from 0 to 255"),
        ("10.0.0.5/8", "write 10.0.0.0/8 for the range, or 10.0.0.5 for the one address"),
        ("10.0.0.0/33", "the prefix length of IPv4 goes from 0 to 32"),
        ("2001:db8::/129", "the prefix length of IPv6 goes from 0 to 128"),
        ("10.0.0.0/x", "is not an address range"),
        ("fe80::1%eth0", "a zone (%…) is not taken; write fe80::1"),
        ("[::1", "write [2001:db8::1]"),
        ("1.2.3.4.5", "last label is a number"),
        ("\uff11\uff10.0.0.1/x", "keep only the host"),
        (443, "not 443; ports go into allowed_ports"),
        (1.5, "not 1.5; put it in quotes if it is a host"),
        (None, "must be a host such as api.github.com, not nothing"),
        (True, "not true"),
        (["a.test"], "not a list"),
        ({"db.internal": 5432}, "write db.internal:5432 in one piece"),
        ({"db.internal": None}, "write db.internal in one piece"),
        ({"host": "*", "private": True}, "private: true is for hosts that you name"),
        ({"host": ".a.test", "port": 1, "protocol": "tcp"}, "protocol: tcp is for one host, not a pattern"),
        ({"host": "a.test", "protocol": "tcp"}, "protocol: tcp needs its own port: write host: a.test:5432"),
    ],
)
def test_a_wrong_host_is_told_what_to_write(entry: Any, message: str) -> None:
    assert message in problems({"allowed_hosts": ["ok.test", entry]})["allowed_hosts/1"]


@pytest.mark.parametrize(
    ("block", "path", "message"),
    [
        ([], "", "must be a mapping such as {allowed_hosts: [api.github.com]}, not a list"),
        ({"allowed_host": []}, "allowed_host", "unknown key; did you mean allowed_hosts?"),
        ({"zzz": 1}, "zzz", "unknown key; known keys: isolated, allowed_hosts"),
        (
            {"allowed_hosts": "api.github.com"},
            "allowed_hosts",
            "must be a list, not 'api.github.com': write [api.github.com]",
        ),
        ({"allowed_hosts": None}, "allowed_hosts", "must be a list, not nothing: write [api.github.com]"),
        ({"allowed_hosts": {"a": 1}}, "allowed_hosts", "not a mapping"),
        ({"allowed_ports": 443}, "allowed_ports", "must be a list, not 443: write [443]"),
        ({"allowed_ports": [70000]}, "allowed_ports/0", "70000 is not a port: ports go from 1 to 65535"),
        ({"allowed_ports": ["9-1"]}, "allowed_ports/0", "write 1-9"),
        ({"allowed_ports": ["1-99999999999999"]}, "allowed_ports/0", "must be a port such as 443"),
        ({"allowed_ports": ["1-2-3"]}, "allowed_ports/0", "must be a port"),
        ({"allowed_ports": [-5]}, "allowed_ports/0", "must be a port"),
        ({"allowed_ports": [True]}, "allowed_ports/0", "not true"),
        ({"allowed_ports": [4.5]}, "allowed_ports/0", "not 4.5"),
        ({"allowed_ports": ["٤٤٣"]}, "allowed_ports/0", "must be a port"),
        (
            {"mode": "enforced"},
            "mode",
            "must be one of enforce, report, learn, not 'enforced'; did you mean enforce?",
        ),
        ({"mode": 7}, "mode", "must be one of"),
        ({"direct": True}, "direct", "must be one of deny, allow, not true"),
        ({"isolated": "no"}, "isolated", "must be true or false, not 'no'"),
        ({"join": "x"}, "join", "must be a list, not 'x': write [x]"),
        ({"join": ["a b"]}, "join/0", "must be the name of a network"),
        ({"join": [5]}, "join/0", "not 5"),
        ({"limits": 5}, "limits", "must be a mapping such as {connections: 256}, not 5"),
        ({"limits": {"conections": 5}}, "limits/conections", "did you mean connections?"),
        ({"limits": {"connections": 1.5}}, "limits/connections", "must be a whole number above 0"),
        ({"limits": {"rate": -1}}, "limits/rate", "must be a number above 0, not -1"),
        ({"limits": {"rate": True}}, "limits/rate", "not true"),
        ({"limits": {"rate": float("nan")}}, "limits/rate", "must be a number above 0"),
        ({"allowed_hosts": [{"hots": "a.test", "host": "b.test"}]}, "allowed_hosts/0/hots", "did you mean host?"),
        ({"allowed_hosts": [{"port": 1}]}, "allowed_hosts/0/host", "is missing"),
        ({"allowed_hosts": [{"host": 5}]}, "allowed_hosts/0/host", "must be text, not 5"),
        ({"allowed_hosts": [{"host": "a b"}]}, "allowed_hosts/0/host", "a space"),
        ({"allowed_hosts": [{"host": "a.test", "port": 0}]}, "allowed_hosts/0/port", "is not a port"),
        ({"allowed_hosts": [{"host": "a.test", "ports": 5}]}, "allowed_hosts/0/ports", "write [5]"),
        ({"allowed_hosts": [{"host": "a.test", "ports": ["x"]}]}, "allowed_hosts/0/ports/0", "must be a port"),
        (
            {"allowed_hosts": [{"host": "a.test", "private": "yes"}]},
            "allowed_hosts/0/private",
            "true or false, not 'yes'",
        ),
        ({"allowed_hosts": [{"host": "a.test", "protocol": "udp"}]}, "allowed_hosts/0/protocol", "must be tcp"),
    ],
)
def test_a_wrong_key_is_told_what_to_write(block: Any, path: str, message: str) -> None:
    found = problems(block)
    assert list(found) == [path]
    assert message in found[path]


def test_all_problems_are_told_at_once_with_their_paths() -> None:
    block = {"allowed_hosts": ["https://x/", "ok.test", "a b"], "allowed_ports": [70000], "mod": "learn"}
    with pytest.raises(PolicyError) as caught:
        parse_policy(block)
    text = str(caught.value)
    for where in ("mod: ", "allowed_ports[0]: ", "allowed_hosts[0]: ", "allowed_hosts[2]: "):
        assert where in text
    assert len(caught.value.problems) == 4


def test_a_long_value_is_cut_in_a_message() -> None:
    assert len(problems({"mode": "x" * 10_000})["mode"]) < 300


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"allowed_hosts": [".com"]}, "every host below a top-level domain"),
        ({"allowed_hosts": ["*.com"]}, "every host below a top-level domain"),
        ({"allowed_hosts": ["*"]}, "every public host"),
        ({"allowed_hosts": ["0.0.0.0/0"]}, "very large range"),
        ({"allowed_hosts": ["2000::/3"]}, "very large range"),
        ({"allowed_hosts": ["a.test", "A.test."]}, "is there twice"),
        ({"allowed_hosts": ["a.test"], "allowed_ports": [443, "443"]}, "443 is there twice"),
        ({"allowed_hosts": ["host.docker.internal"]}, "write host.docker.internal:3000"),
        ({"allowed_hosts": ["localhost"]}, "host.docker.internal"),
        ({"allowed_hosts": ["x.localhost"]}, "host.docker.internal"),
        ({"allowed_ports": [443]}, "allows nothing alone"),
    ],
)
def test_a_rule_that_likely_means_something_else_is_warned_of(block: Any, message: str) -> None:
    (found,) = warnings(block)
    assert message in found


@pytest.mark.parametrize(
    "block",
    [
        {"allowed_hosts": ["api.github.com", ".github.com", "10.0.0.0/8", "fd00::/16"]},
        {"allowed_hosts": ["host.docker.internal"], "allowed_ports": [3000]},
        {"allowed_hosts": ["host.docker.internal:3000"]},
        {"allowed_hosts": ["db.test:1", "db.test:2"]},
    ],
)
def test_an_ordinary_policy_has_no_warnings(block: Any) -> None:
    assert warnings(block) == []


def test_protocols_have_the_words_of_the_configuration() -> None:
    assert {str(protocol) for protocol in Protocol} == {"http", "tcp"}

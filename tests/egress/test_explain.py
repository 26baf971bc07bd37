"""What a person is told would happen."""

from __future__ import annotations

import ipaddress

import pytest

from egress.policy.decide import Surroundings, parse_policy
from egress.policy.explain import explain, read_target
from observability.events import Decision, Reason

POLICY = parse_policy(
    {
        "allowed_hosts": [
            "api.github.com",
            ".githubusercontent.com",
            "*.example.org",
            "10.0.0.0/8",
            "host.docker.internal:3000",
            {"host": "db.internal", "port": 5432, "protocol": "tcp", "private": True},
            {"host": "wiki.internal", "private": True},
        ],
        "allowed_ports": [443],
    }
)
AROUND = Surroundings(
    host_gateway=ipaddress.ip_address("172.30.0.1"),
    host_addresses=frozenset({ipaddress.ip_address("172.30.0.1")}),
    gateway_ports=frozenset({8420}),
    overrides={("raw.githubusercontent.com", 443): (ipaddress.ip_address("10.9.9.9"),)},
)


@pytest.mark.parametrize(
    ("where", "host", "port"),
    [
        ("https://api.github.com/repos?x#y", "api.github.com", 443),
        ("http://api.github.com", "api.github.com", 80),
        ("http://me:pw@api.github.com:8080/", "api.github.com", 8080),
        ("wss://api.github.com", "api.github.com", 443),
        ("postgresql://me@db.internal/x", "db.internal", 5432),
        ("odd://a.test", "a.test", 443),
        ("api.github.com:22", "api.github.com", 22),
        (" API.github.com. ", "api.github.com", 443),
        ("bücher.example", "xn--bcher-kva.example", 443),
        ("10.0.0.1", "10.0.0.1", 443),
        ("[2001:db8::1]:80", "2001:db8::1", 80),
        ("2001:db8::1", "2001:db8::1", 443),
        ("https://[2001:db8::1]/", "2001:db8::1", 443),
    ],
)
def test_whatever_a_person_writes_names_a_host_and_a_port(where: str, host: str, port: int) -> None:
    target = read_target(where)
    assert (target.host, target.port) == (host, port)
    assert (target.ip is not None) == (host[0].isdigit())


@pytest.mark.parametrize("where", ["", "http://", "a b", "a.test:x", "a.test:70000", "127.1"])
def test_what_names_no_host_is_a_value_error(where: str) -> None:
    with pytest.raises(ValueError):
        explain(POLICY, where, AROUND)


CASES = [
    ("https://api.github.com/x", Decision.ALLOW, None, "api.github.com", "if every address it resolves to is public"),
    ("raw.githubusercontent.com", Decision.ALLOW, None, ".githubusercontent.com", "the domain and all below it"),
    ("www.example.org", Decision.ALLOW, None, "*.example.org", "all below the domain"),
    ("10.1.1.1", Decision.ALLOW, None, "10.0.0.0/8", "must carry TLS or plain HTTP"),
    ("db.internal:5432", Decision.ALLOW, None, "db.internal:5432", "not checked (protocol: tcp)"),
    ("wiki.internal", Decision.ALLOW, None, "wiki.internal", "public or private"),
    ("host.docker.internal:3000", Decision.ALLOW, None, "host.docker.internal:3000", "the host"),
    ("http://api.github.com", Decision.DENY, Reason.PORT_NOT_ALLOWED, "api.github.com", "or 80 to allowed_ports"),
    ("evil.example", Decision.DENY, Reason.HOST_NOT_ALLOWED, None, "add evil.example to allowed_hosts"),
    ("http://evil.example", Decision.DENY, Reason.HOST_NOT_ALLOWED, None, "add evil.example:80 to allowed_hosts"),
    ("evil.example:22", Decision.DENY, Reason.HOST_NOT_ALLOWED, None, "add evil.example:22 to allowed_hosts"),
    ("8.8.8.8", Decision.DENY, Reason.IP_NOT_ALLOWED, None, "add 8.8.8.8 to allowed_hosts"),
    ("https://[2606:4700::1]/", Decision.DENY, Reason.IP_NOT_ALLOWED, None, "add 2606:4700::1 to allowed_hosts"),
    ("127.0.0.1:80", Decision.DENY, Reason.IP_NOT_ALLOWED, None, "No rule would: 127.0.0.1 is a loopback address"),
    ("[::1]:80", Decision.DENY, Reason.IP_NOT_ALLOWED, None, "No rule would: ::1 is a loopback address"),
    ("172.30.0.1", Decision.DENY, Reason.IP_NOT_ALLOWED, None, "only host.docker.internal opens it"),
    (
        "host.docker.internal:8420",
        Decision.DENY,
        Reason.PORT_NOT_ALLOWED,
        "host.docker.internal:3000",
        "No rule would: host.docker.internal resolves to 172.30.0.1, which is Stockade's own",
    ),
    (
        "host.docker.internal:9",
        Decision.DENY,
        Reason.PORT_NOT_ALLOWED,
        "host.docker.internal:3000",
        "or 9 to allowed_",
    ),
    ("localhost", Decision.DENY, Reason.ADDRESS_LOOPBACK, None, "no rule opens it"),
]


@pytest.mark.parametrize(("where", "decision", "reason", "rule", "words"), CASES, ids=[case[0] for case in CASES])
def test_the_sentence_says_what_decides_and_what_to_do(
    where: str, decision: Decision, reason: Reason | None, rule: str | None, words: str
) -> None:
    found = explain(POLICY, where, AROUND)
    assert (found.decision, found.reason) == (decision, reason)
    assert (found.rule.text if found.rule else None) == rule
    assert words in found.sentence
    assert found.target.authority in found.sentence
    assert (reason is None) or str(reason) in found.sentence


def test_a_denied_name_with_a_known_private_address_is_not_called_hopeless() -> None:
    found = explain(POLICY, "other.test", AROUND, addresses=[ipaddress.ip_address("10.7.7.7")])
    assert "add other.test to allowed_hosts" in found.sentence


def test_known_addresses_are_decided_on() -> None:
    private = [ipaddress.ip_address("10.7.7.7"), ipaddress.ip_address("192.168.7.7")]
    found = explain(POLICY, "api.github.com", AROUND, addresses=private)
    assert found.reason is Reason.ADDRESS_PRIVATE
    assert "192.168.7.7" in found.sentence
    assert "private: true" in found.sentence


def test_a_mode_that_carries_all_says_what_enforce_would_do() -> None:
    found = explain(parse_policy({"mode": "learn"}), "a.test", AROUND)
    assert found.decision is Decision.REPORT
    assert found.reason is Reason.EMPTY_POLICY
    assert "mode learn" in found.sentence


@pytest.mark.parametrize(
    ("block", "where", "words"),
    [
        ({"allowed_hosts": ["a.test"]}, "a.test", "by the default ports"),
        ({"allowed_hosts": ["a.test:1"]}, "a.test:1", "by its own ports"),
        ({"allowed_hosts": ["*"], "allowed_ports": [1]}, "a.test:1", "any public host; port 1 by allowed_ports"),
    ],
)
def test_the_sentence_says_where_the_port_comes_from(block: dict[str, object], where: str, words: str) -> None:
    assert words in explain(parse_policy(block), where, AROUND).sentence

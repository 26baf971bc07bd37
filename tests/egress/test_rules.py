"""Rules and ports as values."""

from __future__ import annotations

from egress.policy.parse import parse_policy
from egress.policy.rules import HOST_NAME, PortRange


def test_a_range_has_both_its_ends() -> None:
    ports = PortRange(80, 90)
    assert 80 in ports
    assert 90 in ports
    assert 79 not in ports
    assert 91 not in ports
    assert str(ports) == "80-90"
    assert ports.to_json() == "80-90"
    assert PortRange(80, 80).to_json() == 80


def test_the_host_has_no_default_ports() -> None:
    policy = parse_policy({"allowed_hosts": [HOST_NAME, "a.test"]})
    host, other = policy.rules
    assert not policy.allows_port(host, 80)
    assert policy.allows_port(other, 80)
    assert policy.ports_text(host) == "none"
    assert policy.ports_text(other) == "80, 443"


def test_a_rules_own_ports_come_before_the_policys() -> None:
    policy = parse_policy({"allowed_hosts": ["a.test:5432", "b.test"], "allowed_ports": [8443, 80]})
    own, common = policy.rules
    assert policy.ports_text(own) == "5432"
    assert policy.ports_text(common) == "80, 8443"
    assert not policy.allows_port(own, 8443)
    assert policy.allows_port(common, 8443)


def test_how_a_rule_is_written_does_not_make_it_another_rule() -> None:
    assert parse_policy({"allowed_hosts": ["A.test."]}) == parse_policy({"allowed_hosts": ["a.test"]})

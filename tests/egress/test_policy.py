"""Tables of decisions: what is asked, what the name resolves to, what is said, and why."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.policy.decide import Allow, Deny, Surroundings, decide, decide_name, parse_policy
from egress.policy.names import IP, Target, parse_authority
from observability.events import Reason

PUBLIC = "140.82.112.3"
HOST = "host.docker.internal"


def ip(text: str) -> IP:
    return ipaddress.ip_address(text)


AROUND = Surroundings(
    host_addresses=frozenset({ip("192.168.1.10"), ip("81.2.69.160"), ip("172.17.0.1"), ip("2a00:1450::10")}),
    self_addresses=frozenset({ip("172.30.0.2"), ip("fd00:5::2")}),
    gateway_ports=frozenset({8420, 8421}),
    host_gateway=ip("172.30.0.1"),
    overrides={
        ("api.test", 443): (ip("10.9.9.9"),),
        ("here.test", 443): (ip("127.0.0.1"),),
        ("host.test", 443): (ip("192.168.1.10"),),
        ("host.test", 8420): (ip("192.168.1.10"),),
        ("meta.test", 80): (ip("169.254.169.254"),),
        ("zero.test", 443): (ip("0.0.0.0"),),
        ("localhost", 443): (ip("10.9.9.9"),),
    },
)
STANDALONE = Surroundings(gateway_ports=frozenset({3128}), overrides=AROUND.overrides, standalone=True)


def ask(block: dict[str, Any], where: str, *answers: str, around: Surroundings = AROUND) -> Allow | Deny:
    """`decide` with these answers; for a literal, with the literal."""
    target = parse_authority(where)
    known = [ip(text) for text in answers] if answers or target.ip is None else [target.ip]
    return decide(parse_policy(block), target, known, around)


def hosts(*entries: Any, **rest: Any) -> dict[str, Any]:
    return {"allowed_hosts": list(entries), **rest}


GITHUB = hosts("api.github.com", ".githubusercontent.com", "*.example.org")

ALLOWED: list[tuple[str, dict[str, Any], str, list[str], str]] = [
    ("an exact host", GITHUB, "api.github.com:443", [PUBLIC], "api.github.com"),
    ("on the other default port", GITHUB, "api.github.com:80", [PUBLIC], "api.github.com"),
    ("in capitals", GITHUB, "API.GITHUB.COM:443", [PUBLIC], "api.github.com"),
    ("with a final dot", GITHUB, "api.github.com.:443", [PUBLIC], "api.github.com"),
    ("the apex of a suffix", GITHUB, "githubusercontent.com:443", [PUBLIC], ".githubusercontent.com"),
    ("below a suffix", GITHUB, "raw.githubusercontent.com:443", [PUBLIC], ".githubusercontent.com"),
    ("deep below a suffix", GITHUB, "a.b.c.githubusercontent.com:443", [PUBLIC], ".githubusercontent.com"),
    ("below a wildcard", GITHUB, "www.example.org:443", [PUBLIC], "*.example.org"),
    ("deep below a wildcard", GITHUB, "a.b.example.org:443", [PUBLIC], "*.example.org"),
    ("any public host", hosts("*"), "whatever.example:443", [PUBLIC], "*"),
    ("several public answers", GITHUB, "api.github.com:443", [PUBLIC, "2606:4700::1"], "api.github.com"),
    ("the nearest rule of several", hosts("*", ".a.test", "x.a.test"), "x.a.test:443", [PUBLIC], "x.a.test"),
    ("the longest suffix", hosts("*", ".test", ".a.test"), "x.a.test:443", [PUBLIC], ".a.test"),
    ("a farther rule that has the port", hosts("x.a.test:1", ".a.test"), "x.a.test:443", [PUBLIC], ".a.test"),
    ("an IDN by its A-label", hosts("bücher.example"), "xn--bcher-kva.example:443", [PUBLIC], "bücher.example"),
    ("a widened port", hosts("a.test", allowed_ports=[8443]), "a.test:8443", [PUBLIC], "a.test"),
    ("a range of ports", hosts("a.test", allowed_ports=["8000-8010"]), "a.test:8010", [PUBLIC], "a.test"),
    ("a port of its own", hosts("db.test:5432", allowed_ports=[443]), "db.test:5432", [PUBLIC], "db.test:5432"),
    ("an IPv4 literal", hosts("8.8.8.8"), "8.8.8.8:443", [], "8.8.8.8"),
    ("an IPv4 literal in a range", hosts("8.8.0.0/16"), "8.8.8.8:443", [], "8.8.0.0/16"),
    ("the narrowest range", hosts("8.0.0.0/8", "8.8.8.8"), "8.8.8.8:443", [], "8.8.8.8"),
    ("any public literal by 0.0.0.0/0", hosts("0.0.0.0/0"), "8.8.8.8:443", [], "0.0.0.0/0"),
    ("an IPv6 literal", hosts("2606:4700::/32"), "[2606:4700::1]:443", [], "2606:4700::/32"),
    ("a private literal by its rule", hosts("10.1.2.3"), "10.1.2.3:443", [], "10.1.2.3"),
    ("a private literal by a range", hosts("10.0.0.0/8"), "10.1.2.3:443", [], "10.0.0.0/8"),
    ("a ULA by a range", hosts("fd00::/8"), "[fd00::9]:443", [], "fd00::/8"),
    ("link-local by a rule", hosts("169.254.7.0/24"), "169.254.7.1:80", [], "169.254.7.0/24"),
    ("reserved by a rule", hosts("198.51.100.0/24"), "198.51.100.7:80", [], "198.51.100.0/24"),
    ("CGNAT by a rule", hosts("100.64.0.0/10"), "100.64.0.1:80", [], "100.64.0.0/10"),
    ("metadata by its very address", hosts("169.254.169.254"), "169.254.169.254:80", [], "169.254.169.254"),
    (
        "a private answer with private",
        hosts({"host": "db.test", "private": True}),
        "db.test:80",
        ["10.1.1.1"],
        "db.test",
    ),
    (
        "a CGNAT answer with private",
        hosts({"host": "db.test", "private": True}),
        "db.test:80",
        ["100.64.1.1"],
        "db.test",
    ),
    ("a public answer with private", hosts({"host": "db.test", "private": True}), "db.test:80", [PUBLIC], "db.test"),
    (
        "a private answer by a farther rule",
        hosts("db.a.test", {"host": ".a.test", "private": True}),
        "db.a.test:80",
        ["10.1.1.1"],
        ".a.test",
    ),
    ("a private answer that an IP rule names", hosts("db.test", "10.0.0.0/8"), "db.test:80", ["10.1.1.1"], "db.test"),
    (
        "NAT64 with a rule for it and for what is inside",
        hosts("db.test", "64:ff9b::/96", "10.1.1.1"),
        "db.test:80",
        ["64:ff9b::10.1.1.1"],
        "db.test",
    ),
    ("NAT64 of a public address, named", hosts("64:ff9b::/96"), "[64:ff9b::8.8.8.8]:80", [], "64:ff9b::/96"),
    ("the host on a named port", hosts(HOST, allowed_ports=[3000]), f"{HOST}:3000", ["172.30.0.1"], HOST),
    ("the host on its own port", hosts(f"{HOST}:3000"), f"{HOST}:3000", ["172.30.0.1"], f"{HOST}:3000"),
    ("an override to a private address", hosts(".test"), "api.test:443", ["10.9.9.9"], ".test"),
    ("an override to a metadata address", hosts(".test"), "meta.test:80", ["169.254.169.254"], ".test"),
    ("an override to a host address", hosts(".test"), "host.test:443", ["192.168.1.10"], ".test"),
    ("an override of localhost", hosts("localhost"), "localhost:443", ["10.9.9.9"], "localhost"),
]


@pytest.mark.parametrize(
    ("block", "where", "answers", "rule"), [case[1:] for case in ALLOWED], ids=[case[0] for case in ALLOWED]
)
def test_allowed(block: dict[str, Any], where: str, answers: list[str], rule: str) -> None:
    verdict = ask(block, where, *answers)
    assert isinstance(verdict, Allow), verdict
    assert verdict.rule is not None
    assert verdict.rule.text == rule
    assert verdict.would_deny is None
    first = answers[0] if answers else parse_authority(where).host
    assert verdict.address == ip(first)


DENIED: list[tuple[str, dict[str, Any], str, list[str], Reason]] = [
    ("nothing named", {}, "api.github.com:443", [PUBLIC], Reason.EMPTY_POLICY),
    ("ports without hosts", {"allowed_ports": [443]}, "api.github.com:443", [PUBLIC], Reason.EMPTY_POLICY),
    ("an address with nothing named", {}, "8.8.8.8:443", [], Reason.EMPTY_POLICY),
    ("another host", GITHUB, "github.com:443", [PUBLIC], Reason.HOST_NOT_ALLOWED),
    ("below an exact host", GITHUB, "x.api.github.com:443", [PUBLIC], Reason.HOST_NOT_ALLOWED),
    ("a suffix without its dot", GITHUB, "evilgithubusercontent.com:443", [PUBLIC], Reason.HOST_NOT_ALLOWED),
    ("a suffix in the middle", GITHUB, "githubusercontent.com.evil.test:443", [PUBLIC], Reason.HOST_NOT_ALLOWED),
    ("an exact host as a prefix", GITHUB, "api.github.com.evil.test:443", [PUBLIC], Reason.HOST_NOT_ALLOWED),
    ("the apex of a wildcard", GITHUB, "example.org:443", [PUBLIC], Reason.HOST_NOT_ALLOWED),
    ("a top-level domain", GITHUB, "com:443", [PUBLIC], Reason.HOST_NOT_ALLOWED),
    ("another port", GITHUB, "api.github.com:22", [PUBLIC], Reason.PORT_NOT_ALLOWED),
    ("a narrowed port", hosts("a.test", allowed_ports=[443]), "a.test:80", [PUBLIC], Reason.PORT_NOT_ALLOWED),
    ("past a range", hosts("a.test", allowed_ports=["8000-8010"]), "a.test:8011", [PUBLIC], Reason.PORT_NOT_ALLOWED),
    ("not its own port", hosts("db.test:5432"), "db.test:443", [PUBLIC], Reason.PORT_NOT_ALLOWED),
    ("a literal on another port", hosts("8.8.8.8"), "8.8.8.8:53", [], Reason.PORT_NOT_ALLOWED),
    ("a literal by a star", hosts("*"), "8.8.8.8:443", [], Reason.IP_NOT_ALLOWED),
    ("a literal outside the range", hosts("8.8.8.0/24"), "8.8.9.1:443", [], Reason.IP_NOT_ALLOWED),
    ("a mapped literal of a listed address", hosts("8.8.8.8"), "[::ffff:8.8.8.8]:443", [], Reason.IP_NOT_ALLOWED),
    ("the host by a star", hosts("*"), f"{HOST}:443", ["172.30.0.1"], Reason.HOST_NOT_ALLOWED),
    ("the host by a suffix", hosts(".internal"), f"{HOST}:443", ["172.30.0.1"], Reason.HOST_NOT_ALLOWED),
    ("the host on no named port", hosts(HOST), f"{HOST}:443", ["172.30.0.1"], Reason.PORT_NOT_ALLOWED),
    ("the host on another port", hosts(f"{HOST}:3000"), f"{HOST}:3001", ["172.30.0.1"], Reason.PORT_NOT_ALLOWED),
    ("no address", GITHUB, "api.github.com:443", [], Reason.DNS_FAILED),
    ("localhost", hosts("localhost"), "localhost:80", ["127.0.0.1"], Reason.ADDRESS_LOOPBACK),
    ("a name below localhost", hosts("*"), "x.localhost:80", ["127.0.0.1"], Reason.ADDRESS_LOOPBACK),
    ("an answer of loopback", GITHUB, "api.github.com:443", ["127.0.0.1"], Reason.ADDRESS_LOOPBACK),
    ("an answer of IPv6 loopback", GITHUB, "api.github.com:443", ["::1"], Reason.ADDRESS_LOOPBACK),
    ("an answer of the unspecified address", GITHUB, "api.github.com:443", ["0.0.0.0"], Reason.ADDRESS_LOOPBACK),
    ("an answer of ::", GITHUB, "api.github.com:443", ["::"], Reason.ADDRESS_LOOPBACK),
    ("an answer of mapped loopback", GITHUB, "api.github.com:443", ["::ffff:127.0.0.1"], Reason.ADDRESS_LOOPBACK),
    ("an answer of NAT64 loopback", GITHUB, "api.github.com:443", ["64:ff9b::127.0.0.1"], Reason.ADDRESS_LOOPBACK),
    ("loopback by its rule", hosts("127.0.0.1"), "127.0.0.1:80", [], Reason.ADDRESS_LOOPBACK),
    (
        "loopback with private",
        hosts({"host": "db.test", "private": True}),
        "db.test:80",
        ["127.0.0.1"],
        Reason.ADDRESS_LOOPBACK,
    ),
    ("loopback by an override", hosts(".test"), "here.test:443", ["127.0.0.1"], Reason.ADDRESS_LOOPBACK),
    ("an answer of 10/8", GITHUB, "api.github.com:443", ["10.0.0.1"], Reason.ADDRESS_PRIVATE),
    ("an answer of 172.16/12", GITHUB, "api.github.com:443", ["172.20.0.1"], Reason.ADDRESS_PRIVATE),
    ("an answer of 192.168/16", GITHUB, "api.github.com:443", ["192.168.7.7"], Reason.ADDRESS_PRIVATE),
    ("an answer of fd00::/8", GITHUB, "api.github.com:443", ["fd00::1"], Reason.ADDRESS_PRIVATE),
    ("an answer of link-local", GITHUB, "api.github.com:443", ["169.254.1.1"], Reason.ADDRESS_LINK_LOCAL),
    ("an answer of fe80::", GITHUB, "api.github.com:443", ["fe80::1"], Reason.ADDRESS_LINK_LOCAL),
    ("an answer of metadata", GITHUB, "api.github.com:80", ["169.254.169.254"], Reason.ADDRESS_METADATA),
    ("an answer of Azure's wire server", GITHUB, "api.github.com:80", ["168.63.129.16"], Reason.ADDRESS_METADATA),
    ("an answer of CGNAT", GITHUB, "api.github.com:443", ["100.64.0.1"], Reason.ADDRESS_CGNAT),
    ("an answer of multicast", GITHUB, "api.github.com:443", ["224.0.0.1"], Reason.ADDRESS_MULTICAST),
    ("an answer of TEST-NET", GITHUB, "api.github.com:443", ["203.0.113.1"], Reason.ADDRESS_RESERVED),
    ("an answer of mapped public", GITHUB, "api.github.com:443", ["::ffff:8.8.8.8"], Reason.ADDRESS_EMBEDDED),
    ("an answer of mapped private", GITHUB, "api.github.com:443", ["::ffff:10.0.0.1"], Reason.ADDRESS_EMBEDDED),
    ("an answer of NAT64", GITHUB, "api.github.com:443", ["64:ff9b::10.0.0.1"], Reason.ADDRESS_EMBEDDED),
    ("an answer of 6to4", GITHUB, "api.github.com:443", ["2002:a00:1::1"], Reason.ADDRESS_EMBEDDED),
    ("an answer of Teredo", GITHUB, "api.github.com:443", ["2001:0:a00:1::"], Reason.ADDRESS_EMBEDDED),
    ("an answer of ISATAP", GITHUB, "api.github.com:443", ["2606:4700::5efe:10.0.0.1"], Reason.ADDRESS_EMBEDDED),
    ("a mixed answer, bad last", GITHUB, "api.github.com:443", [PUBLIC, "10.0.0.1"], Reason.ADDRESS_PRIVATE),
    ("a mixed answer, bad first", GITHUB, "api.github.com:443", ["127.0.0.1", PUBLIC], Reason.ADDRESS_LOOPBACK),
    ("a private answer by a star", hosts("*"), "a.test:443", ["10.0.0.1"], Reason.ADDRESS_PRIVATE),
    ("a private literal by 0.0.0.0/0", hosts("0.0.0.0/0"), "10.0.0.1:443", [], Reason.ADDRESS_PRIVATE),
    ("a private literal by too wide a range", hosts("8.0.0.0/5"), "10.0.0.1:443", [], Reason.ADDRESS_PRIVATE),
    ("metadata by a link-local range", hosts("169.254.0.0/16"), "169.254.169.254:80", [], Reason.ADDRESS_METADATA),
    (
        "metadata with private",
        hosts({"host": "m.test", "private": True}),
        "m.test:80",
        ["169.254.169.254"],
        Reason.ADDRESS_METADATA,
    ),
    (
        "link-local with private",
        hosts({"host": "m.test", "private": True}),
        "m.test:80",
        ["169.254.1.1"],
        Reason.ADDRESS_LINK_LOCAL,
    ),
    (
        "private by an IP rule with another port",
        hosts("a.test", "10.0.0.0/8:5432"),
        "a.test:443",
        ["10.0.0.1"],
        Reason.ADDRESS_PRIVATE,
    ),
    ("NAT64 named, the inside not", hosts("64:ff9b::/96"), "[64:ff9b::10.0.0.1]:80", [], Reason.ADDRESS_PRIVATE),
    ("NAT64 named, the host inside", hosts("64:ff9b::/96"), "[64:ff9b::81.2.69.160]:80", [], Reason.ADDRESS_HOST),
    ("a private address of the host", hosts("192.168.1.10"), "192.168.1.10:80", [], Reason.ADDRESS_HOST),
    ("a public address of the host", hosts("81.2.69.160"), "81.2.69.160:80", [], Reason.ADDRESS_HOST),
    ("a name of the host", GITHUB, "api.github.com:443", ["81.2.69.160"], Reason.ADDRESS_HOST),
    ("an IPv6 address of the host", GITHUB, "api.github.com:443", ["2a00:1450::10"], Reason.ADDRESS_HOST),
    ("the host's gateway address", hosts("172.30.0.1"), "172.30.0.1:80", [], Reason.ADDRESS_HOST),
    (
        "the host's name to another of its addresses",
        hosts(f"{HOST}:3000"),
        f"{HOST}:3000",
        ["192.168.1.10"],
        Reason.ADDRESS_HOST,
    ),
    ("the egress itself", hosts("172.30.0.2"), "172.30.0.2:80", [], Reason.ADDRESS_SELF),
    ("the egress itself by name", hosts("*"), "a.test:443", ["172.30.0.2"], Reason.ADDRESS_SELF),
    (
        "the gateway by the host's name",
        hosts(HOST, allowed_ports=[8420]),
        f"{HOST}:8420",
        ["172.30.0.1"],
        Reason.ADDRESS_SELF,
    ),
    ("the gateway by an address", hosts("192.168.1.10:8421"), "192.168.1.10:8421", [], Reason.ADDRESS_SELF),
    ("the gateway by an override", hosts("host.test:8420"), "host.test:8420", ["192.168.1.10"], Reason.ADDRESS_SELF),
    ("an overridden name with another answer", hosts(".test"), "api.test:443", ["10.9.9.8"], Reason.ADDRESS_PRIVATE),
    ("an overridden name on another port", hosts(".test"), "api.test:80", ["10.9.9.9"], Reason.ADDRESS_PRIVATE),
    ("an override without a rule", hosts("a.test"), "api.test:443", ["10.9.9.9"], Reason.HOST_NOT_ALLOWED),
]


@pytest.mark.parametrize(
    ("block", "where", "answers", "reason"), [case[1:] for case in DENIED], ids=[case[0] for case in DENIED]
)
def test_denied(block: dict[str, Any], where: str, answers: list[str], reason: Reason) -> None:
    verdict = ask(block, where, *answers)
    assert isinstance(verdict, Deny), verdict
    assert verdict.reason is reason
    assert verdict.detail


WHATEVER = [case for case in DENIED if case[4].startswith("address_")]


@pytest.mark.parametrize("mode", ["report", "learn"])
@pytest.mark.parametrize(
    ("block", "where", "answers", "reason"), [case[1:] for case in WHATEVER], ids=[case[0] for case in WHATEVER]
)
def test_no_mode_opens_a_special_address(
    mode: str, block: dict[str, Any], where: str, answers: list[str], reason: Reason
) -> None:
    for tried in ({**block, "mode": mode}, {"mode": mode}):
        verdict = ask(tried, where, *answers)
        assert isinstance(verdict, Deny)
        assert verdict.reason.startswith("address_") or HOST in where


@pytest.mark.parametrize("mode", ["report", "learn"])
@pytest.mark.parametrize(
    ("block", "where", "answers", "reason"),
    [
        ({}, "api.github.com:443", [PUBLIC], Reason.EMPTY_POLICY),
        (GITHUB, "evil.test:443", [PUBLIC], Reason.HOST_NOT_ALLOWED),
        (GITHUB, "api.github.com:22", [PUBLIC], Reason.PORT_NOT_ALLOWED),
        (GITHUB, "8.8.8.8:443", [], Reason.IP_NOT_ALLOWED),
    ],
)
def test_report_and_learn_carry_public_addresses_and_say_why_they_would_not(
    mode: str, block: dict[str, Any], where: str, answers: list[str], reason: Reason
) -> None:
    verdict = ask({**block, "mode": mode}, where, *answers)
    assert isinstance(verdict, Allow)
    assert (verdict.rule, verdict.would_deny) == (None, reason)


def test_report_says_nothing_of_what_the_rules_allow() -> None:
    verdict = ask({**GITHUB, "mode": "report"}, "api.github.com:443", PUBLIC)
    assert isinstance(verdict, Allow)
    assert verdict.would_deny is None


@pytest.mark.parametrize("mode", ["report", "learn"])
def test_no_mode_opens_the_host(mode: str) -> None:
    verdict = ask({"mode": mode}, f"{HOST}:3000", "172.30.0.1")
    assert isinstance(verdict, Deny)


def test_the_first_denied_name_is_not_looked_up() -> None:
    verdict = decide_name(parse_policy(GITHUB), Target(host="evil.test", ip=None, port=443), AROUND)
    assert isinstance(verdict, Deny)
    assert verdict.reason is Reason.HOST_NOT_ALLOWED


def test_the_decision_by_name_has_no_address_yet() -> None:
    verdict = decide_name(parse_policy(GITHUB), parse_authority("api.github.com:443"), AROUND)
    assert isinstance(verdict, Allow)
    assert verdict.address is None


def test_a_denied_port_names_the_rule_that_came_nearest() -> None:
    verdict = ask(hosts(".a.test", "x.a.test:1"), "x.a.test:9", PUBLIC)
    assert isinstance(verdict, Deny)
    assert verdict.rule is not None
    assert verdict.rule.text == "x.a.test:1"


class TestStandalone:
    """The proxy that serves its own machine."""

    @pytest.mark.parametrize(
        ("block", "where", "answers"),
        [
            (hosts("127.0.0.1"), "127.0.0.1:80", []),
            (hosts("127.0.0.0/8"), "127.0.0.1:80", []),
            (hosts("[::1]:8080"), "[::1]:8080", []),
            (hosts("localhost", "127.0.0.1"), "localhost:80", ["127.0.0.1"]),
            (hosts(".test"), "here.test:443", ["127.0.0.1"]),
        ],
    )
    def test_an_explicit_rule_or_override_opens_loopback(
        self, block: dict[str, Any], where: str, answers: list[str]
    ) -> None:
        assert isinstance(ask(block, where, *answers, around=STANDALONE), Allow)

    @pytest.mark.parametrize(
        ("block", "where", "answers", "reason"),
        [
            (hosts("localhost"), "localhost:80", ["127.0.0.1"], Reason.ADDRESS_LOOPBACK),
            (hosts("*"), "a.test:80", ["127.0.0.1"], Reason.ADDRESS_LOOPBACK),
            (hosts("0.0.0.0/0"), "127.0.0.1:80", [], Reason.ADDRESS_LOOPBACK),
            (hosts("0.0.0.0"), "0.0.0.0:80", [], Reason.ADDRESS_LOOPBACK),
            (hosts(".test"), "zero.test:443", ["0.0.0.0"], Reason.ADDRESS_LOOPBACK),
            (hosts("127.0.0.1"), "[::ffff:127.0.0.1]:80", [], Reason.IP_NOT_ALLOWED),
            (hosts("127.0.0.1:3128"), "127.0.0.1:3128", [], Reason.ADDRESS_SELF),
            (hosts({"host": "a.test", "private": True}), "a.test:80", ["127.0.0.1"], Reason.ADDRESS_LOOPBACK),
        ],
    )
    def test_nothing_else_does(self, block: dict[str, Any], where: str, answers: list[str], reason: Reason) -> None:
        verdict = ask(block, where, *answers, around=STANDALONE)
        assert isinstance(verdict, Deny)
        assert verdict.reason is reason

    def test_an_address_of_the_machine_takes_an_ip_rule(self) -> None:
        around = Surroundings(
            host_addresses=frozenset({ip("192.168.1.10")}),
            self_addresses=frozenset({ip("192.168.1.10")}),
            gateway_ports=frozenset({3128}),
            standalone=True,
        )
        assert isinstance(ask(hosts("192.168.1.10"), "192.168.1.10:80", around=around), Allow)
        denied = ask(hosts({"host": "a.test", "private": True}), "a.test:80", "192.168.1.10", around=around)
        assert isinstance(denied, Deny)
        assert denied.reason is Reason.ADDRESS_HOST
        own = ask(hosts("192.168.1.10:3128"), "192.168.1.10:3128", around=around)
        assert isinstance(own, Deny)
        assert own.reason is Reason.ADDRESS_SELF


NAME = st.from_regex(r"\A[a-z]{1,3}(\.[a-z]{1,3}){0,3}\Z")


@given(st.lists(NAME, max_size=4), NAME)
def test_a_name_is_allowed_only_by_a_rule_that_plainly_has_it(rules: list[str], name: str) -> None:
    forms = [form for rule in rules for form in (rule, f".{rule}", f"*.{rule}")]
    for form in forms:
        verdict = ask(hosts(form), f"{name}:443", PUBLIC)
        bare = form.lstrip("*.")
        expected = {
            form: name == bare if form == bare else False,
            f".{bare}": name == bare or name.endswith(f".{bare}"),
            f"*.{bare}": name.endswith(f".{bare}"),
        }[form]
        assert isinstance(verdict, Allow) == expected


@given(st.ip_addresses(), st.sampled_from(["enforce", "report", "learn"]))
def test_without_a_rule_for_addresses_only_public_ones_are_dialled(address: IP, mode: str) -> None:
    from egress.policy.addresses import AddressClass, classify

    verdict = ask(hosts("*", mode=mode), "a.test:443", str(address), around=Surroundings())
    assert isinstance(verdict, Allow) == (classify(address) is AddressClass.PUBLIC)

"""The corpus of ways around, and of what must be allowed: through the pure parts, and against the real process."""

from __future__ import annotations

import functools
import ipaddress
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from egress.connection.first_bytes import METHOD
from egress.connection.sni import NotTLS, parse_client_hello
from egress.http.bad_request import BadRequest
from egress.http.request_head import Form, RequestHead, parse_head
from egress.policy.decide import Allow, Deny, Policy, Protocol, Surroundings, decide, parse_policy
from egress.policy.names import IP, Target
from egress.service.surroundings import parse_overrides
from observability.events import Reason
from tests.egress.corpus_cases import Case, load_cases, load_world, whole

WORLD = load_world()
CASES = load_cases()
FILES = sorted({case.file for case in CASES})
REPLAY_TIMEOUT_S = 240


def test_there_are_at_least_400_cases_and_40_of_them_must_be_allowed() -> None:
    assert len(CASES) >= 400
    assert len([case for case in CASES if case.decisions == ["allow"]]) >= 40
    assert len({case.id for case in CASES}) == len(CASES)
    assert {case.policy for case in CASES} == set(WORLD.policies)


# --- through the pure parts


@functools.cache
def policy_of(name: str) -> Policy:
    return parse_policy(WORLD.policies[name])


def around(policy: str) -> Surroundings:
    return Surroundings(
        host_addresses=frozenset(map(ipaddress.ip_address, WORLD.host_addresses)),
        gateway_ports=frozenset({WORLD.listen[policy]}),
        overrides=parse_overrides(WORLD.resolve.get(policy, ())),
        standalone=True,
    )


def addresses_of(target: Target, surroundings: Surroundings) -> tuple[IP, ...]:
    if target.ip is not None:
        return (target.ip,)
    override = surroundings.overrides.get((target.host, target.port))
    found = WORLD.zone.get(target.host, [])
    if found and found[0].startswith("="):
        found = WORLD.zone[found[0][1:]]
    return override or tuple(map(ipaddress.ip_address, found))


def first_decision(case: Case) -> str:
    """What the pure parts say of the first request of a case."""
    data = whole(case.send)
    try:
        head = parse_head(data)
    except BadRequest as error:
        return str(error.reason)
    if head is None:
        return "bad_request"
    surroundings = around(case.policy)
    verdict = decide(policy_of(case.policy), head.target, addresses_of(head.target, surroundings), surroundings)
    if isinstance(verdict, Deny):
        return "allow" if verdict.reason is Reason.DNS_FAILED else str(verdict.reason)
    if head.form is Form.AUTHORITY and (no := objection_inside(head, verdict, data[head.size :])) is not None:
        return no
    return "allow" if verdict.would_deny is None else f"report:{verdict.would_deny}"


def objection_inside(head: RequestHead, verdict: Allow, data: bytes) -> str | None:
    """Why the first bytes in a tunnel end it; None when they do not."""
    if not data or (verdict.rule is not None and verdict.rule.protocol is Protocol.TCP):
        return None
    if METHOD.match(data):
        try:
            inner = parse_head(data, inside=True)
        except BadRequest as error:
            return "not_tls" if error.foreign else str(error.reason)
        assert inner is not None
        return None if inner.target == head.target else "inner_host_mismatch"
    try:
        hello = parse_client_hello(data)
    except NotTLS:
        return "not_tls"
    if hello is None:
        return "head_timeout"
    if hello.server_name is None:
        return None if head.target.ip is not None else "sni_missing"
    return None if hello.server_name == head.target.host else "sni_mismatch"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_the_pure_parts_decide_as_the_corpus_says(case: Case) -> None:
    assert first_decision(case) == case.decisions[0]


# --- against the real process


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Case id → its faults, from one replay of all cases in a namespace of its own."""
    out: Path = tmp_path_factory.mktemp("corpus") / "faults.json"
    command = ["unshare", "--net", "--mount"]
    if os.geteuid() != 0:
        command += ["--user", "--map-root-user"]
    command += [sys.executable, "-m", "tests.egress.corpus_run", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=REPLAY_TIMEOUT_S)
    assert out.exists(), done.stderr[-4000:]
    faults: dict[str, list[str]] = json.loads(out.read_text())
    faults[""] += [done.stderr[-4000:]] if "Traceback" in done.stderr else []
    return faults


@pytest.mark.netns
@pytest.mark.parametrize("file", FILES)
def test_the_real_process_does_as_the_corpus_says(replayed: dict[str, list[str]], file: str) -> None:
    wanted = {case.id for case in CASES if case.file == file}
    assert wanted <= set(replayed)
    assert {name: faults for name, faults in replayed.items() if name in wanted and faults} == {}


@pytest.mark.netns
def test_the_processes_survive_the_corpus(replayed: dict[str, list[str]]) -> None:
    assert replayed[""] == []

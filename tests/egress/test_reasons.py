"""Every reason is reached by a test of the real proxy: by the corpus's replay, or by the test that is named here."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from observability.events import Reason
from tests.egress.corpus_cases import load_cases

TESTS = Path(__file__).parents[1]
IN_CORPUS = {decision.removeprefix("report:") for case in load_cases() for decision in case.decisions}
ELSEWHERE = {
    Reason.DIRECT_ATTEMPT: "egress/test_door.py::"
    "test_a_direct_connection_is_closed_and_seen_with_where_it_went_and_the_name_it_showed",
    Reason.LIMIT_CONNECTIONS: "egress/test_attacks_process.py::"
    "test_with_few_descriptors_left_it_turns_away_counts_and_comes_back",
    Reason.LIMIT_RATE: "e2e/test_egress_attack.py::test_what_the_limits_dropped_is_counted",
    Reason.LIMIT_DNS: "e2e/test_egress_attack.py::test_what_the_limits_dropped_is_counted",
    Reason.HEAD_TIMEOUT: "egress/test_attacks_process.py::test_slow_heads_are_ended_and_hold_nobody_up",
    Reason.IDLE_TIMEOUT: "egress/test_attacks_process.py::test_half_open_tunnels_are_ended_when_nothing_moves",
    Reason.DNS_FAILED: "e2e/test_egress_names.py::test_a_name_that_does_not_exist_is_said",
    Reason.CONNECT_FAILED: "egress/test_proxy.py::test_a_refused_connection_is_502_with_both_events",
    Reason.CONNECT_TIMEOUT: "egress/test_proxy.py::test_a_server_that_does_not_answer_is_504",
    Reason.HOST_LOOPBACK_ONLY: "e2e/test_egress_host.py::test_a_service_on_loopback_only_is_explained",
    Reason.UPSTREAM_INVALID: "egress/test_proxy.py::test_a_bad_response_is_502",
    Reason.UPSTREAM_PROXY_FAILED: "e2e/test_egress_parent.py::test_a_parent_that_is_away_is_said",
    Reason.POLICY_REVOKED: "e2e/test_egress_tcp.py::test_a_database_taken_out_of_the_policy_is_cut_while_in_use",
    Reason.DOOR_CLOSED: "egress/test_door.py::test_a_killed_door_takes_its_tunnels_and_listeners_with_it",
    Reason.SHUTDOWN: "egress/test_live.py::test_the_end_of_the_process_is_a_reason",
}


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_reached_by_a_test(reason: Reason) -> None:
    assert reason in IN_CORPUS or names(ELSEWHERE[reason], reason)


def names(test: str, reason: Reason) -> bool:
    """Whether there is such a test, and it speaks of the reason."""
    file, _, wanted = test.partition("::")
    text = (TESTS / file).read_text()
    found = [
        ast.get_source_segment(text, node) or ""
        for node in ast.parse(text).body
        if getattr(node, "name", "") == wanted
    ]
    return any(f"Reason.{reason.name}" in source or f"{reason}" in source for source in found)


def test_what_is_named_is_not_in_the_corpus_already() -> None:
    assert {str(reason) for reason in ELSEWHERE} & IN_CORPUS <= {"head_timeout"}

"""The profile as data; that an engine enforces it is tested in tests/e2e/test_isolation.py."""

from __future__ import annotations

import json
from typing import Any

from gateway.runtime.engine.seccomp import NEWER, TAKEN_OUT, backend_profile

PROFILE: dict[str, Any] = json.loads(backend_profile())


def rules_about(name: str) -> list[dict[str, Any]]:
    return [rule for rule in PROFILE["syscalls"] if name in rule["names"]]


def test_what_is_not_allowed_is_denied() -> None:
    assert PROFILE["defaultAction"] == "SCMP_ACT_ERRNO"


def test_only_four_socket_families_are_allowed() -> None:
    families = {rule["args"][0]["value"] for rule in rules_about("socket")}
    assert families == {1, 2, 10, 16}
    assert all(
        rule["args"][0] | {"value": 0} == {"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}
        for rule in rules_about("socket")
    )


def test_io_uring_and_the_call_that_hides_a_family_are_gone() -> None:
    for name in TAKEN_OUT - {"socket", "socketpair"}:
        assert rules_about(name) == []


def test_no_foreign_abi_is_accepted() -> None:
    assert all(entry["subArchitectures"] == [] for entry in PROFILE["archMap"])


def test_nothing_is_allowed_because_of_a_capability() -> None:
    assert not [rule for rule in PROFILE["syscalls"] if "caps" in rule.get("includes", {})]
    for name in ("mount", "setns", "unshare", "bpf", "kexec_load", "init_module", "open_by_handle_at"):
        assert rules_about(name) == []


def test_a_new_user_namespace_stays_out_of_reach() -> None:
    unconditional = [
        rule for rule in rules_about("clone") if rule["action"] == "SCMP_ACT_ALLOW" and "args" not in rule
    ]
    assert unconditional == []
    assert [rule["errnoRet"] for rule in rules_about("clone3") if rule["action"] == "SCMP_ACT_ALLOW"] == []


def test_what_programs_of_today_need_is_there() -> None:
    for name in ("openat2", "close_range", "epoll_pwait2", "futex", "rseq", "statx", "memfd_create", *NEWER):
        assert rules_about(name), name

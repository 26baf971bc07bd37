"""The system calls that a backend may make: the engine's default profile, and narrower.

A network namespace does not cover every way out of a machine: AF_VSOCK talks to the hypervisor, and io_uring can
open such a socket past a filter on `socket`. So a backend gets sockets of four families only, no io_uring, and
no foreign ABI (x32, i386), whose calls have other numbers and arguments that the filter cannot see.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any, Final

AF_UNIX: Final = 1
AF_INET: Final = 2
AF_INET6: Final = 10
AF_NETLINK: Final = 16
NETLINK_ROUTE: Final = 0
IP_PROTOCOLS: Final = (0, 1, 6, 17, 58, 262)
"""Whatever fits the type, ICMP, TCP, UDP, ICMPv6, MPTCP."""

TAKEN_OUT: Final = frozenset(
    {"socket", "socketpair", "socketcall", "io_uring_setup", "io_uring_enter", "io_uring_register", "io_setup"}
)
"""Allowed without a condition by the default profile of Engine 20.10; `socketcall` hides the family. `io_setup` takes
from a number (fs.aio-max-nr) that the whole machine has once: one process could leave none for its databases."""

NEWER: Final = (
    "cachestat",
    "fchmodat2",
    "futex_requeue",
    "futex_wait",
    "futex_wake",
    "map_shadow_stack",
    "mseal",
    "pkey_alloc",
    "pkey_free",
    "pkey_mprotect",
)
"""Harmless calls that newer engines' defaults allow and 20.10's does not know."""


@functools.cache
def backend_profile() -> str:
    """The profile as the JSON text that an engine takes."""
    default = json.loads(files("gateway.runtime.engine").joinpath("data/seccomp-engine-default.json").read_text())
    return json.dumps(narrowed(default), separators=(",", ":"))


def narrowed(default: Mapping[str, Any]) -> dict[str, Any]:
    """Our profile, made from an engine's default one."""
    architectures = [{**entry, "subArchitectures": []} for entry in default["archMap"]]
    return {
        "defaultAction": default["defaultAction"],
        "archMap": architectures,
        "syscalls": [*without_taken_out(default["syscalls"]), *socket_rules(), allow(NEWER)],
    }


def without_taken_out(rules: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rules less the calls we take out, and less what needs a capability: a backend has none."""
    kept = []
    for rule in rules:
        if "caps" in rule.get("includes", {}):
            continue
        names = [name for name in rule["names"] if name not in TAKEN_OUT]
        if names:
            kept.append({**rule, "names": names})
    return kept


def socket_rules() -> list[dict[str, Any]]:
    """Sockets by family and protocol. Of NETLINK only routing, which `getifaddrs` needs; pairs only of UNIX.

    Other protocols of IP (SCTP, DCCP, L2TP, …) lead nowhere in an empty namespace, but asking for one loads its module.
    """
    return [
        allow(["socket"], equals(0, AF_UNIX)),
        *(
            allow(["socket"], equals(0, family), equals(2, protocol))
            for family in (AF_INET, AF_INET6)
            for protocol in IP_PROTOCOLS
        ),
        allow(["socket"], equals(0, AF_NETLINK), equals(2, NETLINK_ROUTE)),
        allow(["socketpair"], equals(0, AF_UNIX)),
    ]


def allow(names: Iterable[str], *conditions: dict[str, Any]) -> dict[str, Any]:
    """One allowing rule; all conditions must hold."""
    rule: dict[str, Any] = {"names": list(names), "action": "SCMP_ACT_ALLOW"}
    if conditions:
        rule["args"] = list(conditions)
    return rule


def equals(index: int, value: int) -> dict[str, Any]:
    """A condition on the argument at `index`, all 64 bits of it."""
    return {"index": index, "value": value, "op": "SCMP_CMP_EQ"}

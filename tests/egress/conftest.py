"""The egress runs on uvloop, and on asyncio's own loop where that is not installed: tests in this process run on both."""

from __future__ import annotations

import pytest

BOTH_LOOPS = frozenset({"test_attacks_proxy", "test_live", "test_proxy", "test_tunnel", "test_upstream"})
LOOPS = [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__.rpartition(".")[2] in BOTH_LOOPS and "anyio_backend" in metafunc.fixturenames:
        metafunc.parametrize("anyio_backend", LOOPS, ids=["asyncio", "uvloop"])

"""Fixtures that every test package shares."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Two cores are crowded: how long an example takes says nothing. In CI the same examples each time.
settings.register_profile(
    "stockade", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("stockade")


@pytest.fixture
def anyio_backend() -> str:
    """All of Stockade runs on asyncio."""
    return "asyncio"


STARTED = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--tally", metavar="FILE", help="append to FILE what this run counted, for the end of scripts/test"
    )
    parser.addoption("--tally-as", metavar="NAME", default="tests", help="what to call this run there")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STARTED] = time.monotonic()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first, where workers share the tests: the last to begin decides when all are done."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Lines of the tally begin with 1 (counts) or 2 (names), by which scripts/test sorts them."""
    if "PYTEST_XDIST_WORKER" in os.environ or not (path := config.getoption("--tally")):
        return
    found = terminalreporter.stats
    counts = [f"{len(found[kind])} {kind}" for kind in ("passed", "skipped", "failed", "error") if found.get(kind)]
    again = [report.nodeid for report in found.get("rerun", ())]
    seconds = time.monotonic() - config.stash[STARTED]
    said = f"1 {config.getoption('--tally-as')}: {', '.join(counts)} in {seconds:.0f} s; second tries: {len(again)}\n"
    with Path(path).open("a", encoding="utf-8") as file:
        file.writelines([said, *(f"2   second try: {one}\n" for one in again)])

"""Fixtures that every test package shares."""

from __future__ import annotations

import os

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


CROWDED = ("docker", "netns", "slow")
BROWSERS = "tests/gateway/web/"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that drive engines, namespaces and browsers may try once more: two cores are crowded. The report says so."""
    for item in items:
        if item.nodeid.startswith(BROWSERS) or any(item.get_closest_marker(name) for name in CROWDED):
            item.add_marker(pytest.mark.flaky(reruns=1, reruns_delay=1))

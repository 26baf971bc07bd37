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

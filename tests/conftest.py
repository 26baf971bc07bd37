"""Fixtures that every test package shares."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """All of Stockade runs on asyncio."""
    return "asyncio"

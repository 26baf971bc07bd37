from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.control.fakes import FakeControl


@pytest.fixture
def control(tmp_path: Path) -> Iterator[FakeControl]:
    made = FakeControl(tmp_path)
    yield made
    made.close()

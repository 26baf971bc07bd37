"""What a connector stands on: a network by its name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gateway.runtime.containers.connectors import Connectors
from gateway.runtime.engine.base import NetworkPlan
from gateway.runtime.sandbox.errors import EngineError
from tests.gateway.runtime.fakes import FakeEngine


@pytest.mark.anyio
async def test_a_network_is_not_joined_by_its_id() -> None:
    """Red team m9: an ID leads to the host's network as well as its name does."""
    engine = FakeEngine()
    await engine.create_network(NetworkPlan(name="host"))
    tools: Any = SimpleNamespace(engine=engine)
    with pytest.raises(EngineError, match="net-host is the ID of the network host; write its name in `join`"):
        await Connectors(tools, lambda event: None).start("net-host")

"""What the demo does through the endpoint, told step by step. A real MCP client, nothing else.

Each step is a `Scene`: a sentence, a tool call, and the words that must (or must not) be in what came back.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

EGRESS_META = "stockade/egress"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One tool call and what it should show."""

    says: str
    tool: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    expects: str = ""
    """Text that the result must contain."""
    blocked: str = ""
    """The reason that must be among the result's denials; empty when nothing may be denied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What came back for a scene."""

    scene: Scene
    text: str
    is_error: bool
    denials: tuple[Mapping[str, Any], ...]

    @property
    def as_expected(self) -> bool:
        """Whether the result is what the scene promised."""
        reasons = {denial["reason"] for denial in self.denials}
        if self.scene.blocked:
            return self.scene.blocked in reasons and self.scene.expects in self.text
        return not reasons and not self.is_error and self.scene.expects in self.text


SCENES = (
    Scene(
        says="A server that needs no network has none, and works",
        tool="time__get_current_time",
        arguments={"timezone": "UTC"},
        expects="UTC",
    ),
    Scene(
        says="fetch may read GitHub's API",
        tool="fetch__fetch",
        arguments={"url": "https://api.github.com/zen"},
        expects="hello from api.github.com",
    ),
    Scene(
        says="… and raw files, by the rule .githubusercontent.com",
        tool="fetch__fetch",
        arguments={"url": "https://raw.githubusercontent.com/README.md"},
        expects="hello from raw.githubusercontent.com",
    ),
    Scene(
        says="Another host is refused, and the caller is told why",
        tool="fetch__fetch",
        arguments={"url": "https://evil.example/"},
        expects="Stockade blocked evil.example:443 (host_not_allowed)",
        blocked="host_not_allowed",
    ),
    Scene(
        says="The same host on another port is refused",
        tool="fetch__fetch",
        arguments={"url": "http://api.github.com/"},
        expects="Stockade blocked api.github.com:80 (port_not_allowed)",
        blocked="port_not_allowed",
    ),
    Scene(
        says="A name that only ends like an allowed one is refused",
        tool="fetch__fetch",
        arguments={"url": "https://evilgithubusercontent.com/"},
        expects="Stockade blocked evilgithubusercontent.com:443 (host_not_allowed)",
        blocked="host_not_allowed",
    ),
    Scene(
        says="rogue asks for an IP address",
        tool="rogue__proxy_connect",
        arguments={"host": "203.0.113.7", "port": 443},
        blocked="ip_not_allowed",
    ),
    Scene(
        says="rogue asks for the cloud's metadata service",
        tool="rogue__proxy_get",
        arguments={"url": "http://169.254.169.254/latest/meta-data/"},
        blocked="ip_not_allowed",
    ),
    Scene(
        says="rogue opens a tunnel to an allowed host and speaks to another one inside",
        tool="rogue__proxy_connect",
        arguments={"host": "api.github.com", "port": 443, "sni": "evil.example"},
        blocked="sni_mismatch",
    ),
    Scene(
        says="rogue ignores the proxy and dials an address on port 443",
        tool="rogue__tcp_connect",
        arguments={"address": "198.51.100.20", "port": 443},
        blocked="direct_attempt",
    ),
)


@asynccontextmanager
async def client(endpoint: str, token: str, *, mode: str = "auto") -> AsyncIterator[Client]:
    """An MCP client of the SDK, with a bearer token (empty: none), at one endpoint."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with httpx2.AsyncClient(headers=headers, timeout=60, trust_env=False) as http:
        async with Client(streamable_http_client(endpoint, http_client=http), mode=mode) as connected:  # type: ignore[arg-type]
            yield connected


async def play(connected: Client, scene: Scene) -> Shown:
    """Make the scene's call and collect what came back."""
    result = await connected.call_tool(scene.tool, dict(scene.arguments))
    text = "\n".join(getattr(block, "text", "") for block in result.content)
    denials = (result.meta or {}).get(EGRESS_META, [])
    return Shown(scene=scene, text=text, is_error=bool(result.is_error), denials=tuple(denials))


def rogue_outcome(shown: Shown) -> dict[str, Any]:
    """The JSON object that the rogue server answered with."""
    outcome: dict[str, Any] = json.loads(shown.text.split("\nStockade ")[0])
    return outcome

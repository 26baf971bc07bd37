"""One Chromium for all tests of the page; a gateway in memory, and C's admin app on a real socket, for each."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.control.apps import admin_app
from gateway.control.auth import AdminToken
from gateway.control.listen import HttpServer
from tests.gateway.web.browser import Browser, Page, chromium, launch, sign_in, tab
from tests.gateway.web.control import PageControl

TWO = """\
version: 1
# Do not lose this comment.
mcpServers:
  fetch:
    command: uvx
    args: [mcp-server-fetch]
    network:
      allowed_hosts: [api.github.com]  # for the docs
      allowed_ports: [443]
  tickets:
    command: npx
    args: ["-y", "@acme/tickets-mcp"]
"""


@dataclass(slots=True)
class Site:
    """The page of a running admin listener."""

    url: str
    token: str
    control: PageControl
    server: HttpServer
    port: int

    async def enter(self, page: Page, where: str = "") -> None:
        """Open the page and use the token."""
        await sign_in(page, self.url, self.token, where)


@pytest.fixture(scope="package")
def anyio_backend() -> str:
    """Not for the session: a test that runs into its timeout would leave its loop to every later test of the session."""
    return "asyncio"


@pytest.fixture(scope="package")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    if chromium() is None:
        pytest.skip("chromium is not installed: apt-get install -y --no-install-recommends chromium")
    async with launch() as running:
        yield running


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A tab that must end without a complaint in its console and without an `alert`."""
    async with tab(browser) as opened:
        yield opened


@pytest.fixture
def text() -> str:
    return TWO


@pytest.fixture
async def site(tmp_path: Path, text: str) -> AsyncIterator[Site]:
    control = PageControl(tmp_path, text)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    token = AdminToken(tmp_path / "admin.json")
    shown = token.renew()
    server = HttpServer(admin_app(control, token, port=port), grace_s=1)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.run_on(listener))
        yield Site(f"http://127.0.0.1:{port}/", shown, control, server, port)
        control.close()
        server.stop()

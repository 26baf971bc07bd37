"""A hostile web page in the administrator's own browser: a real Chromium, signed in to the real admin listener.

The page is served from another port of 127.0.0.1, the worst place it can come from: to the browser it is the same *site*
as the admin page, so the session cookie is sent along with whatever the hostile page asks for.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from tests.gateway.mcp.fakes import config, gateway, server, serving, token_digest
from tests.gateway.web.browser import Browser, Page, tab
from tests.gateway.web.conftest import Site, anyio_backend, browser, site, text

__all__ = ["anyio_backend", "browser", "site", "text"]

pytestmark = pytest.mark.anyio

HOSTILE = "<!doctype html><title>cats</title><div id=app><p>Look, a cat.</p></div>"
ALLOW_PATH = "api/v1/backends/fetch/egress/allow"
ALLOW = {"host": "exfil.example"}
ACCEPT = "application/json, text/event-stream"
GREETING = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}
CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "fixture__test_simple_text"}}


@asynccontextmanager
async def hostile_page(browser: Browser) -> AsyncIterator[Page]:
    """A tab with a page of the attacker's; what it complains about in its console is its own trouble."""

    async def attacker(request: Request) -> HTMLResponse:
        return HTMLResponse(HOSTILE)

    async with serving(Starlette(routes=[Route("/{path:path}", attacker)])) as port:
        page = await browser.page()
        await page.open(f"http://127.0.0.1:{port}/")
        yield page
        await page.close()


@pytest.fixture
async def signed_in(browser: Browser, site: Site) -> AsyncIterator[Page]:
    """The administrator's tab, with a session."""
    async with tab(browser) as opened:
        await site.enter(opened)
        yield opened


async def fetched(page: Page, url: str, **options: Any) -> dict[str, Any]:
    """What a script of this page learns from a fetch: its status, type and text, or that it failed."""
    answer: dict[str, Any] = await page.js(
        f"fetch({json.dumps(url)}, {json.dumps({'credentials': 'include', **options})})"
        ".then(async (r) => ({status: r.status, type: r.type, text: await r.text()}),"
        " (e) => ({status: 0, type: 'failed', text: ''}))"
    )
    return answer


@pytest.mark.parametrize("path", ["api/v1/status", "api/v1/config", "api/v1/clients", "api/v1/backends", "metrics"])
async def test_a_page_on_another_port_reads_nothing_with_the_administrators_cookie(
    browser: Browser, site: Site, signed_in: Page, path: str
) -> None:
    own = await fetched(signed_in, site.url + path)
    assert own["status"] == 200  # the request is a good one: the administrator's own page may make it
    assert own["text"]
    async with hostile_page(browser) as page:
        for mode in ("cors", "no-cors"):
            answer = await fetched(page, site.url + path, mode=mode)
            assert answer["text"] == ""
            assert answer["status"] == 0
        assert await page.js("document.cookie") == ""


async def test_a_page_on_another_port_changes_nothing_with_the_administrators_cookie(
    browser: Browser, site: Site, signed_in: Page
) -> None:
    file = site.control.config_path
    before = file.read_text()
    body = json.dumps(ALLOW)
    json_and_csrf = {"Content-Type": "application/json", "X-Stockade-CSRF": "1"}
    async with hostile_page(browser) as page:
        url = site.url + ALLOW_PATH
        tries: list[dict[str, Any]] = [
            {"mode": "no-cors", "headers": {"Content-Type": "text/plain"}},
            {"mode": "no-cors", "headers": json_and_csrf},  # the browser drops the header and the type
            {"mode": "cors", "headers": json_and_csrf},  # asks first, with OPTIONS
        ]
        for options in tries:
            assert (await fetched(page, url, method="POST", body=body, **options))["status"] == 0
        assert await page.js(f"navigator.sendBeacon({json.dumps(url)}, {json.dumps(body)})")
        await submit_form(page, url, body)
        await submit_form(page, site.url + "api/v1/shutdown", "{}")
    assert file.read_text() == before
    assert not site.control.stopped
    # The positive control: the same request, from the administrator's own page.
    own = await fetched(signed_in, site.url + ALLOW_PATH, method="POST", body=body, headers=json_and_csrf)
    assert own["status"] == 200
    assert "exfil.example" in file.read_text()


async def submit_form(page: Page, url: str, body: str) -> None:
    """A form that is sent into a frame, as pages have done it ever since; returns when the answer is there."""
    await page.js(
        f"""new Promise((done) => {{
          const frame = document.createElement('iframe'); frame.name = 'f' + Math.random();
          const form = document.createElement('form');
          form.method = 'POST'; form.enctype = 'text/plain'; form.action = {json.dumps(url)}; form.target = frame.name;
          const field = document.createElement('input');
          field.name = {json.dumps(body[:-1] + ', "x": "')}; field.value = '"}}';
          form.append(field); document.body.append(frame, form);
          frame.onload = () => done(true); form.submit(); }})"""
    )


async def test_a_page_cannot_put_the_admin_page_into_a_frame_of_its_own(
    browser: Browser, site: Site, signed_in: Page
) -> None:
    async with hostile_page(browser) as page:
        await page.js(
            f"""new Promise((done) => {{ const frame = document.createElement('iframe');
              frame.onload = () => done(true); frame.src = {json.dumps(site.url)}; document.body.append(frame); }})"""
        )
        tree = (await page.send("Page.getFrameTree"))["frameTree"]
    (frame,) = [child["frame"] for child in tree["childFrames"]]
    assert frame["url"].startswith("chrome-error:")
    assert frame["unreachableUrl"] == site.url


async def test_a_name_that_is_rebound_to_this_machine_gets_neither_the_page_nor_the_api(
    browser: Browser, site: Site, signed_in: Page
) -> None:
    """Chromium takes every name below `localhost` to this machine: to the browser, all of it is one origin."""
    page = await browser.page()
    await page.send("Page.navigate", url=f"http://rebound.localhost:{site.port}/")
    await page.until("location.hostname === 'rebound.localhost' && document.readyState === 'complete'")
    for path in ("/", "/api/v1/status", "/api/v1/session", "/metrics", "/healthz"):
        answer = await fetched(page, path)
        assert (answer["status"], answer["type"]) == (421, "basic"), path
    await page.close()


async def test_a_page_opens_no_session_and_runs_no_tool_at_the_mcp_endpoint(browser: Browser) -> None:
    """Without clients in the file the endpoint is open to this machine's programs, and a page is not one of them."""
    async with gateway(config({"fixture": server()})) as running, hostile_page(browser) as page:
        for url in (running.url(), running.url("fixture")):
            for message in (GREETING, CALL):
                await send_in_every_way(page, url, json.dumps(message))
            assert (await fetched(page, url, mode="no-cors"))["text"] == ""
        assert not running.calls()
        assert await is_called(running.url(), {})  # the positive control: a program of this machine
        assert running.calls()
    assert len(running.meters.sessions) == 1  # that program's


async def send_in_every_way(page: Page, url: str, body: str) -> None:
    """A POST as each kind of request that a page can make of it; it must learn nothing from any."""
    for kind in ("text/plain", "application/json", "application/x-www-form-urlencoded"):
        for mode in ("no-cors", "cors"):
            headers = {"Content-Type": kind, "Accept": ACCEPT}
            answer = await fetched(page, url, method="POST", body=body, mode=mode, headers=headers)
            assert (answer["status"], answer["text"]) == (0, "")
    await page.js(f"navigator.sendBeacon({json.dumps(url)}, {json.dumps(body)})")
    await submit_form(page, url, body)


async def test_a_rebound_name_does_not_reach_the_mcp_endpoint(browser: Browser) -> None:
    async with gateway(config({"fixture": server()})) as running:
        page = await browser.page()
        await page.send("Page.navigate", url=f"http://rebound.localhost:{running.port}/mcp")
        await page.until("location.hostname === 'rebound.localhost' && document.readyState === 'complete'")
        headers = {"Content-Type": "application/json", "Accept": ACCEPT}
        answer = await fetched(page, "/mcp", method="POST", body=json.dumps(GREETING), headers=headers)
        assert (answer["status"], answer["type"]) == (421, "basic")
        await page.close()
    assert not running.meters.sessions


async def test_a_page_that_knows_no_token_cannot_use_the_one_of_a_client(browser: Browser) -> None:
    """A token is a header that no simple request carries, and the question beforehand is not answered with a yes."""
    clients = {"cursor": {"token_sha256": token_digest("right"), "servers": ["fixture"]}}
    async with gateway(config({"fixture": server()}, clients=clients)) as running, hostile_page(browser) as page:
        headers = {
            "Content-Type": "application/json",
            "Accept": ACCEPT,
            "Authorization": "Bearer right",
        }
        body = json.dumps(CALL)
        for mode in ("cors", "no-cors"):
            answer = await fetched(page, running.url(), method="POST", body=body, mode=mode, headers=headers)
            assert (answer["status"], answer["text"]) == (0, "")
        assert not running.calls()
        assert await is_called(running.url(), {"Authorization": "Bearer right"})


async def is_called(url: str, headers: dict[str, str]) -> bool:
    """Whether a program that is no browser gets the tool's result."""
    headers = {"Accept": ACCEPT, **headers}
    async with httpx2.AsyncClient(headers=headers, timeout=30) as client:
        greeted = await client.post(url, json=GREETING)
        session = {"Mcp-Session-Id": greeted.headers["mcp-session-id"]}
        answer = await client.post(url, json=CALL, headers=session)
    return answer.status_code == 200 and '"result"' in answer.text

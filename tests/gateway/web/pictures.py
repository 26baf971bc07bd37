"""Makes docs/screenshots with Chromium and a gateway in memory: `python -m tests.gateway.web.pictures [FOLDER [NAME …]]`."""

from __future__ import annotations

import asyncio
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.control.apps import admin_app
from gateway.control.auth import AdminToken
from gateway.control.base import Urls
from gateway.control.listen import HttpServer
from tests.gateway.web import scene
from tests.gateway.web.browser import Page, launch, sign_in
from tests.gateway.web.control import PageControl

FOLDER = Path(__file__).parents[3] / "docs/screenshots"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One picture."""

    name: str
    where: str = "#/"
    scheme: str = "light"
    width: int = 1440
    height: int = 900
    click: str = ""
    wait: str = ""
    paste: tuple[str, str] = ("", "")
    kept: bool = False
    """Whether it is in docs/screenshots; the others are for whoever works on the page."""


BLOCKED = ".row[data-verdict=blocked]:nth-child(9) .row-main"
SHOTS = (
    Shot(name="watch-light", click=BLOCKED, wait=".details", kept=True),
    Shot(name="watch-dark", scheme="dark", kept=True),
    Shot(name="allow-light", click=".blocked-rows li:nth-child(2) .allow", wait="dialog .diff", kept=True),
    Shot(name="allow-dark", scheme="dark", click=".blocked-rows .allow", wait="dialog .diff", kept=True),
    Shot(name="servers-light", where="#/servers"),
    Shot(name="rules-light", where="#/servers/fetch", height=1000, wait=".network", kept=True),
    Shot(name="rules-dark", where="#/servers/postgres", scheme="dark", height=1000, wait=".network"),
    Shot(name="logs-dark", where="#/servers/tickets/logs", scheme="dark", wait=".log-line"),
    Shot(name="add-light", where="#/add/github", height=1100, wait=".network", kept=True),
    Shot(name="add-dark", where="#/add/filesystem", scheme="dark", height=1100, wait=".network"),
    Shot(name="clients-light", where="#/clients", paste=("#client-name", "claude-code"), wait=".made"),
    Shot(name="phone-light", width=390, height=844),
    Shot(name="phone-dark", width=390, height=844, scheme="dark", where="#/servers/fetch", wait=".network"),
)


@asynccontextmanager
async def site(text: str) -> AsyncIterator[tuple[str, str, PageControl]]:
    """A running admin listener: its address, its token, its gateway."""
    with tempfile.TemporaryDirectory() as folder:
        control = PageControl(Path(folder), text)
        control.urls = Urls(endpoint="http://127.0.0.1:8420/mcp", admin="http://127.0.0.1:8421/")
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        token = AdminToken(Path(folder) / "admin.json")
        shown = token.renew()
        server = HttpServer(admin_app(control, token, port=port), grace_s=1)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.run_on(listener))
            yield f"http://127.0.0.1:{port}/", shown, control
            control.close()
            server.stop()


async def take(page: Page, url: str, shot: Shot, folder: Path) -> None:
    """Set the scene, do what it asks for, and keep the picture."""
    await page.size(shot.width, shot.height)
    await page.scheme(shot.scheme)
    await page.send("Page.navigate", url="about:blank")
    await page.until("location.href === 'about:blank'")
    await page.open(url + shot.where)
    await page.until("document.querySelector('.link-state.live') && !document.querySelector('.loading')")
    if shot.click:
        await page.click(shot.click)
    if shot.paste[0]:
        await page.type(*shot.paste)
        await page.press("Enter")
    if shot.wait:
        await page.until(f"document.querySelector({shot.wait!r})", shot.wait)
    await page.js("scrollTo(0, 0)")
    await page.until("document.getAnimations().every((a) => a.playState === 'finished')")
    await page.picture(folder / f"{shot.name}.png")


def furnish(control: PageControl) -> None:
    """The afternoon of `scene`."""
    now = time.time()
    control.supervisor.found = {status.name: status for status in scene.statuses(now)}
    control.supervisor.lines = {"tickets": scene.log_lines(now)}
    control.endpoint.definitions = dict(scene.TOOLS)
    control.tell(*scene.afternoon(now))


async def main(folder: Path, only: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240
    async with launch() as browser:
        page = await browser.page()
        async with site("version: 1\n") as (url, token, _):
            await sign_in(page, url, token)
            await page.see("Nothing is behind the wall yet")
            if "first-light" in only:
                await page.picture(folder / "first-light.png")
        async with site(scene.CONFIG) as (url, token, control):
            furnish(control)
            await sign_in(page, url, token)
            await page.click(".steps .icon")
            for shot in SHOTS:
                if shot.name in only if only else shot.kept:
                    await take(page, url, shot, folder)
        print("complaints:", page.complaints, page.dialogs)
    for file in sorted(folder.glob("*.png")):  # noqa: ASYNC240
        print(f"{file.name} {file.stat().st_size // 1000} kB")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER, sys.argv[2:]))

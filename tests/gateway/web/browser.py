"""A real headless Chromium, driven through the DevTools protocol: just what the tests of the page need.

Every page collects what a person would see in the console: `page.complaints` has each error, warning and violation of
the content security policy, and `page.dialogs` each `alert` (which only an injection could open).
"""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-default-apps --disable-extensions --mute-audio "
    "--disable-dev-shm-usage --hide-scrollbars --force-color-profile=srgb --remote-debugging-port=0"
).split()
WAIT_S = 45.0


def chromium() -> str | None:
    """The path of Debian's browser, or None."""
    return shutil.which("chromium")


def is_first_look(entry: dict[str, Any]) -> bool:
    """Whether the console tells of the page's question whether it is signed in, answered no."""
    return "status of 401" in entry["text"] and str(entry.get("url", "")).endswith("/api/v1/status")


@dataclass(slots=True)
class Page:
    """One tab."""

    socket: aiohttp.ClientWebSocketResponse
    complaints: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    network_changes: int = 0
    asked_to_stay: int = 0
    """How often the browser asked whether to leave a page with something unsaved; it left each time."""
    _leaving: asyncio.Future[Any] | None = None
    _next: int = 0
    _answers: dict[int, asyncio.Future[Any]] = field(default_factory=dict)

    async def read(self) -> None:
        """Take what the browser sends; ends with the connection."""
        async for message in self.socket:
            data = json.loads(message.data)
            if "id" in data:
                answer = self._answers.pop(data["id"])
                if not answer.done():
                    answer.set_result(data)
            else:
                self._heard(data["method"], data["params"])
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ConnectionError("the tab is gone"))

    async def close(self) -> None:
        """Close the tab. It may be gone before it has answered."""
        with suppress(ConnectionError, RuntimeError):
            await self.send("Page.close")

    def _heard(self, method: str, params: dict[str, Any]) -> None:
        match method:
            case "Log.entryAdded" if "ERR_NETWORK_CHANGED" in params["entry"]["text"]:
                # Chromium drops even loopback connections when containers come and go on this machine.
                self.network_changes += 1
            case "Log.entryAdded" if is_first_look(params["entry"]):
                pass
            case "Log.entryAdded" if params["entry"]["level"] in {"error", "warning"}:
                self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
            case "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                self.complaints.append(details.get("exception", {}).get("description", details["text"]))
            case "Runtime.consoleAPICalled" if params["type"] in {"error", "warning", "assert"}:
                self.complaints.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
            case "Page.javascriptDialogOpening" if params["type"] == "beforeunload":
                self.asked_to_stay += 1
                self._leaving = asyncio.ensure_future(self._leave())
            case "Page.javascriptDialogOpening":
                self.dialogs.append(params["message"])

    async def _leave(self) -> None:
        with suppress(ConnectionError, RuntimeError):
            await self.send("Page.handleJavaScriptDialog", accept=True)

    async def send(self, method: str, **params: Any) -> Any:
        """One command. Raises RuntimeError with the browser's own words."""
        self._next += 1
        answer = asyncio.get_running_loop().create_future()
        self._answers[self._next] = answer
        await self.socket.send_json({"id": self._next, "method": method, "params": params})
        data = await asyncio.wait_for(answer, WAIT_S)
        if "error" in data:
            raise RuntimeError(f"{method}: {data['error']['message']}")
        return data["result"]

    async def js(self, expression: str) -> Any:
        """The value of an expression (awaited when it is a promise)."""
        result = await self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"].get("exception", {}).get("description", "?"))
        return result["result"].get("value")

    async def until(self, expression: str, what: str = "", wait_s: float = WAIT_S - 2) -> Any:
        """Wait until an expression is true, looking at each frame and each change of the page."""
        look = f"""new Promise((done) => {{
          const finish = (v) => {{ watch.disconnect(); clearInterval(timer); clearTimeout(end); done(v); }};
          const look = () => {{ let v = null; try {{ v = ({expression}); }} catch (e) {{}}
            if (v) finish(v instanceof Node ? true : v); }};
          const watch = new MutationObserver(look);
          watch.observe(document, {{subtree: true, childList: true, attributes: true, characterData: true}});
          const timer = setInterval(look, 50);
          const end = setTimeout(() => finish(null), {wait_s * 1000});
          look(); }})"""
        value = await self.js(look)
        if not value:
            seen = await self.js("(document.body?.innerText ?? '').slice(0, 3000)")
            raise AssertionError(
                f"never: {what or expression}\ncomplaints: {self.complaints}\nthe page says:\n{seen}"
            )
        return value

    async def text(self, selector: str = "body") -> str:
        """What a person reads there."""
        return str(await self.js(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    async def see(self, words: str, selector: str = "body") -> None:
        """Wait until these words are in sight."""
        found = f"[...document.querySelectorAll({json.dumps(selector)})]"
        await self.until(
            f"{found}.some((e) => e.innerText.includes({json.dumps(words)}))", f"{words!r} in {selector}"
        )

    async def gone(self, selector: str) -> None:
        """Wait until nothing matches."""
        await self.until(f"!document.querySelector({json.dumps(selector)})", f"no {selector}")

    async def click(self, selector: str, words: str = "") -> None:
        """A real click of the mouse in the middle of the first visible match that has these words; again when it moved
        or was disabled just then, and so heard nothing."""
        find = f"""(() => {{ const e = [...document.querySelectorAll({json.dumps(selector)})].find((e) =>
            e.innerText.includes({json.dumps(words)}) && e.getClientRects().length && !e.disabled);
            if (!e) return null; e.scrollIntoView({{block: 'center', behavior: 'instant'}});
            const r = e.getBoundingClientRect(), at = {{x: r.x + r.width / 2, y: r.y + r.height / 2}};
            if (!e.contains(document.elementFromPoint(at.x, at.y))) return null;
            window.heardClick = false;
            e.addEventListener('click', () => {{ window.heardClick = true; }}, {{once: true, capture: true}});
            return at; }})()"""
        for _ in range(5):
            at = await self.until(find, f"something to click: {selector} {words!r}")
            for kind in ("mousePressed", "mouseReleased"):
                await self.send("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)
            if await self.js("window.heardClick") is not False:  # nothing: it led to another page
                return
        raise AssertionError(f"a click on {selector} {words!r} was never heard")

    async def type(self, selector: str, text: str) -> None:
        """Replace what is in a field by typing."""
        await self.until(f"document.querySelector({json.dumps(selector)})")
        await self.js(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.focus(); e.select?.(); }})()"
        )
        if text:
            await self.send("Input.insertText", text=text)
        else:
            await self.press("Backspace")

    async def press(self, key: str) -> None:
        """One key, such as Tab, Enter, Escape, ArrowDown."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, "Backspace": 8, "ArrowDown": 40, "ArrowUp": 38, " ": 32}
        text = {"Enter": "\r", " ": " "}.get(key, "")
        common = {"key": key, "windowsVirtualKeyCode": codes.get(key, 0), "code": "Space" if key == " " else key}
        await self.send("Input.dispatchKeyEvent", type="keyDown", **common, **({"text": text} if text else {}))
        await self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    async def open(self, url: str) -> None:
        """Go to an address and wait until it is loaded; again when a network of this machine changed meanwhile."""
        for _ in range(20):
            before = self.network_changes
            if "errorText" not in await self.send("Page.navigate", url=url) and await self._loaded(url, before):
                return
            # To the address where it is (but for what is behind #) a page would go without being loaded again.
            await self.send("Page.navigate", url="about:blank")
            await self.until("location.href === 'about:blank'")
        raise AssertionError(f"never loaded: {url}\ncomplaints: {self.complaints}")

    async def _loaded(self, url: str, changes: int) -> bool:
        """Whether the page came; False as soon as it has not and a network changed, which drops what was under way."""
        there = "document.readyState === 'complete' && document.getElementById('app')?.children.length"
        deadline = asyncio.get_running_loop().time() + WAIT_S
        while True:
            try:
                return bool(await self.until(there, url, wait_s=1))
            except AssertionError:
                if self.network_changes != changes:
                    return False
                if asyncio.get_running_loop().time() > deadline:
                    raise

    async def size(self, width: int, height: int, scale: float = 1) -> None:
        """The size of the window, in CSS pixels."""
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False
        )

    async def scheme(self, scheme: str) -> None:
        """What the system prefers: `light` or `dark`."""
        await self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def picture(self, path: Path) -> None:
        """A PNG of what is in the window."""
        await self.js("document.fonts.ready.then(() => true)")
        shot = await self.send("Page.captureScreenshot", format="png", optimizeForSpeed=False)
        path.write_bytes(base64.b64decode(shot["data"]))  # noqa: ASYNC240


class Browser:
    """A running Chromium with a profile of its own."""

    def __init__(self, session: aiohttp.ClientSession, port: int, tasks: asyncio.TaskGroup) -> None:
        self._session = session
        self._port = port
        self._tasks = tasks

    async def page(self) -> Page:
        """A new tab, its cookies shared with the other tabs."""
        async with self._session.put(f"http://127.0.0.1:{self._port}/json/new?about:blank") as response:
            address = (await response.json(content_type=None))["webSocketDebuggerUrl"]
        page = Page(await self._session.ws_connect(address, max_msg_size=64 * 2**20))
        self._tasks.create_task(page.read())
        for domain in ("Page", "Runtime", "Log", "Network"):
            await page.send(f"{domain}.enable")
        await page.size(1440, 900)
        return page


@asynccontextmanager
async def launch() -> AsyncIterator[Browser]:
    """A Chromium that ends with the block."""
    program = chromium()
    assert program, "chromium is not installed: apt-get install -y --no-install-recommends chromium"
    with tempfile.TemporaryDirectory(prefix="stockade-chromium-", ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            program, *FLAGS, f"--user-data-dir={profile}", "about:blank",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            port = await _port(Path(profile) / "DevToolsActivePort", process)
            async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
                yield Browser(session, port, tasks)
                await session.close()
        finally:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 10)
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _port(file: Path, process: asyncio.subprocess.Process) -> int:
    async with asyncio.timeout(60):
        while True:
            if process.returncode is not None:
                raise RuntimeError(f"chromium ended at once with {process.returncode}")
            with suppress(OSError, ValueError, IndexError):
                return int(file.read_text().split("\n")[0])  # noqa: ASYNC240
            await asyncio.sleep(0.05)


@asynccontextmanager
async def tab(browser: Browser) -> AsyncIterator[Page]:
    """A tab that must end without a complaint in its console and without an `alert`."""
    page = await browser.page()
    yield page
    await page.close()
    assert not page.complaints, page.complaints
    assert not page.dialogs, page.dialogs


async def sign_in(page: Page, url: str, token: str, where: str = "") -> None:
    """Open the page of the gateway at `url`, and use the token."""
    await page.open(url + where)
    await page.type("#token", token)
    await page.press("Enter")
    await page.until("document.querySelector('.link-state.live')", "signed in and live")

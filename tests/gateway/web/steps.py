"""What a person does on the page, and what must hold there, for the page's tests and the end-to-end ones."""

from __future__ import annotations

import re

from tests.gateway.web.browser import Page

BLOCKED_ROW = ".row[data-verdict=blocked]"
ALLOWED_ROW = ".row[data-verdict=allowed]"
LAST_HOST = ".form-row:last-child input[aria-label=Host]"


async def add_host(page: Page, host: str) -> None:
    """One more row in the network form, good to save."""
    await page.click("#add-hosts")
    await page.type(LAST_HOST, host)


async def save_rules(page: Page, host: str) -> None:
    """Save the network form after the change was shown."""
    await page.see("Ready to save.", ".actions")
    await page.gone(".form-row .why")
    await page.click(".actions .primary", "Preview and save")
    await page.see(host, "dialog .diff-line.add")
    await page.click("dialog .primary", "Save")
    await page.see("saved and in effect", ".said-box")


async def choose(page: Page, title: str) -> None:
    """Take a server of the catalog that may reach nothing."""
    await page.type(".catalog input", title.lower())
    await page.click(".catalog a", title)
    await page.see("This server can reach nothing.", "#meaning")


async def install(page: Page, package: str) -> None:
    """Add the chosen server after the change was shown."""
    await page.click(".install .primary", "Add this server")
    await page.see(package, "dialog .diff-line.add")
    await page.click("dialog .primary", "Add and start")
    await page.see("is added", ".said-box")


async def add_client(page: Page, name: str) -> None:
    """Add a client after the change was shown; its token is on the screen then."""
    await page.type("#client-name", name)
    await page.press("Enter")
    await page.see(f"{name}:", "dialog .diff-line.add")
    await page.click("dialog .primary", "Add the client")
    await page.see("shown once", ".made")


async def unharmed(page: Page) -> None:
    """Nothing of a hostile text became an element, ran, pushed the page wide or stayed invisible."""
    assert await page.js("document.querySelectorAll('main script, main img, main svg, main iframe').length") == 0
    assert await page.js("document.documentElement.scrollWidth <= innerWidth"), "the page got wider than the window"
    assert page.dialogs == []
    body = await page.js("document.body.textContent")
    assert not re.search("[\u0000-\u0008\u000e-\u001f\u007f\u200b\u202a-\u202e\u2066-\u2069]", body)

"""What stays and what goes while a person moves through the page: focus, place, notices, forms that are not saved."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest

from observability.events import NoticeEvent, Severity, ToolChange, ToolEvent
from registry.edit import allow_host
from tests.gateway.web import scene
from tests.gateway.web.browser import Page
from tests.gateway.web.conftest import Site
from tests.gateway.web.steps import LAST_HOST, add_client, add_host, save_rules

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]
FOCUSED = "document.activeElement.innerText"


async def reload(page: Page) -> None:
    """Load the page again. What looks at it meanwhile is told that it went, and looks again."""
    await page.js("window.before = true")
    await page.send("Page.reload")
    for _ in range(10):
        with suppress(RuntimeError):
            await page.until("!window.before && document.querySelector('.link-state.live')")
            return
    raise AssertionError("never loaded again")


async def test_focus_comes_back_to_what_opened_a_dialog(site: Site, page: Page) -> None:
    await site.enter(page)
    site.control.tries("fetch", "docs.python.org")
    openers = [("#/", ".blocked-rows .allow", "Allow this host"), ("#/servers/fetch", ".quiet-danger", "Remove …")]
    for part, opener, words in openers:
        await page.js(f"location.hash = {part!r}")
        for leave in ("Cancel", "Escape"):
            await page.until(f"document.querySelector('{opener}')")
            await page.js(f"document.querySelector('{opener}').focus()")
            await page.press("Enter")
            await page.until("document.querySelector('dialog .diff')")
            await (page.press("Escape") if leave == "Escape" else page.click("dialog button", "Cancel"))
            await page.gone("dialog")
            await page.until(f"{FOCUSED} === {words!r}", f"focus after {leave} of {opener}")


async def test_focus_is_not_lost_with_the_button_that_opened_a_dialog(site: Site, page: Page) -> None:
    await site.enter(page)
    site.control.tries("fetch", "docs.python.org")
    await page.until("document.querySelector('.blocked-rows .allow')")
    await page.js("document.querySelector('.blocked-rows .allow').focus()")
    await page.press("Enter")
    await page.until("document.querySelector('dialog .primary:not(:disabled)')")
    await page.click("dialog .primary")
    await page.see("Waiting for the next try", ".blocked-rows")
    await page.until("document.activeElement !== document.body")


async def test_another_part_begins_at_its_top(site: Site, page: Page) -> None:
    await page.size(800, 500)
    site.control.tell(*scene.afternoon(site.control.started))
    await site.enter(page)
    await page.until("document.querySelectorAll('.row').length > 20")
    await page.js("scrollTo(0, 1500)")
    assert await page.js("scrollY") > 500
    await page.js("location.hash = '#/servers'")
    await page.until("document.querySelector('.card') && scrollY === 0")


async def test_getting_started_does_not_come_back_once_it_is_done(site: Site, page: Page) -> None:
    await site.enter(page)
    await page.js("localStorage.clear()")
    site.control.tries("fetch", "docs.python.org")
    await page.until("document.querySelector('.steps')")
    await page.click(".blocked-rows .allow")
    await page.until("document.querySelector('dialog .primary:not(:disabled)')")
    await page.click("dialog .primary")
    await page.gone(".steps")
    await reload(page)
    await page.see("docs.python.org", ".rows")
    assert not await page.js("Boolean(document.querySelector('.steps'))")


async def test_getting_started_knows_what_was_allowed_elsewhere(site: Site, page: Page) -> None:
    await site.enter(page)
    await page.js("localStorage.clear()")
    site.control.tries("fetch", "docs.python.org")
    await page.until("document.querySelector('.steps')")
    await site.control.edit(allow_host("fetch", "docs.python.org"))
    await page.gone(".steps")


async def test_a_row_that_was_allowed_meanwhile_does_not_offer_it_again(site: Site, page: Page) -> None:
    await site.enter(page)
    site.control.tries("fetch", "docs.python.org")
    await page.click(".row-main", "docs.python.org")
    await page.see("Allow this host", ".details")
    await site.control.edit(allow_host("fetch", "docs.python.org"))
    await page.see("It is allowed now.", ".details")
    assert "Allow this host" not in await page.text(".details")


async def test_the_notice_of_a_broken_file_goes_when_the_file_is_mended(site: Site, page: Page) -> None:
    await site.enter(page)
    refused = NoticeEvent(
        time=time.time(), source="config", code="config_rejected", severity=Severity.ERROR, message="line 3 is wrong"
    )
    other = NoticeEvent(
        time=time.time(), source="gateway", code="x", severity=Severity.ERROR, message="Something else."
    )
    site.control.tell(refused, other)
    await page.see("line 3 is wrong", ".notices")
    await page.see("Something else.", ".notices")
    await site.control.reload()
    await page.until("!document.querySelector('.notices').innerText.includes('line 3 is wrong')")
    await page.see("Something else.", ".notices")


async def test_the_notice_of_a_changed_tool_goes_when_it_is_accepted_elsewhere(site: Site, page: Page) -> None:
    await site.enter(page)
    for tool in ("one", "two"):
        site.control.tell(ToolEvent(time=time.time(), backend="fetch", tool=tool, change=ToolChange.CHANGED))
    await page.see("The tool one is no longer", ".notices")
    site.control.tell(ToolEvent(time=time.time(), backend="fetch", tool="one", change=ToolChange.APPROVED))
    await page.until("!document.querySelector('.notices').innerText.includes('The tool one')")
    await page.see("The tool two is no longer", ".notices")


async def test_rules_that_are_not_saved_wait_for_the_person_to_come_back(site: Site, page: Page) -> None:
    await site.enter(page, "#/servers/fetch")
    await add_host(page, "docs.python.org")
    await page.see("Ready to save.", ".actions")
    await page.js("location.hash = '#/servers'")
    await page.see("The network rules of fetch are not saved", ".said-box")
    await page.see("rules not saved", ".card")
    await reload(page)  # the browser asks; the test says yes
    assert page.asked_to_stay == 1
    await page.js("location.hash = '#/servers/fetch'")
    await add_host(page, "docs.python.org")
    await page.js("location.hash = '#/servers'")
    await page.see("rules not saved", ".card")
    await page.click(".card h2 a", "fetch")
    await page.until(f"document.querySelector({LAST_HOST!r})?.value === 'docs.python.org'")
    await save_rules(page, "docs.python.org")
    await page.js("location.hash = '#/servers'")
    await page.until("document.querySelector('.card')")
    assert "not saved" not in await page.text("main")
    await reload(page)
    assert page.asked_to_stay == 1


async def test_undone_rules_are_forgotten(site: Site, page: Page) -> None:
    await site.enter(page, "#/servers/fetch")
    await add_host(page, "docs.python.org")
    await page.click(".actions button", "Undo")
    await page.js("location.hash = '#/servers'")
    await page.until("document.querySelector('.card')")
    assert "not saved" not in await page.text("body")


async def test_a_server_that_is_not_added_yet_and_a_token_on_the_screen_wait_too(site: Site, page: Page) -> None:
    await site.enter(page, "#/add/github")
    await page.type("#server-name", "work-github")
    await page.js("location.hash = '#/clients'")
    await page.see("is not added", ".said-box")
    await add_client(page, "cursor")
    token = (await page.text(".made .snippet pre")).strip()
    await page.js("location.hash = '#/add/github'")
    await page.until("document.querySelector('#server-name')?.value === 'work-github'")
    await page.js("location.hash = '#/clients'")
    await page.see(token, ".made")
    await page.click(".made .primary", "I have copied it")
    await page.gone(".made")


async def test_an_empty_log_is_one_box(site: Site, page: Page) -> None:
    await site.enter(page, "#/servers/tickets/logs")
    await page.see("Nothing written yet", ".empty")
    assert not await page.js("Boolean(document.querySelector('.log-box'))")
    await site.control.supervisor.prints("tickets", "a line")
    await page.see("a line", ".log-box")
    await page.gone(".empty")


async def test_a_server_of_the_catalog_is_added_by_what_runs_and_not_by_its_name(site: Site, page: Page) -> None:
    site.control.config_path.write_text(
        "version: 1\nmcpServers:\n"
        "  clock: {command: uvx, args: [mcp-server-time@2025.1.1]}\n"
        "  fetch: {command: npx, args: ['-y', my-own-fetch]}\n"
    )
    await site.control.reload()
    await site.enter(page, "#/add")
    await page.until("document.querySelector('.catalog .tag')")
    added = await page.js("[...document.querySelectorAll('.catalog li')].filter((e) => e.querySelector('.tag'))"
                          ".map((e) => [e.querySelector('b').innerText, e.querySelector('.tag').title])")  # fmt: skip
    assert added == [["Time", "As clock"]]

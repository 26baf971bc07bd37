"""Every state of the page through axe, in light and in dark: contrast, names, roles, headings, sizes."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import cache

import pytest

from gateway.mcp.view.pinned_text import Difference
from observability.events import (
    BackendEvent,
    BackendState,
    CallRef,
    Decision,
    NoticeEvent,
    Reason,
    Severity,
    ToolChange,
    ToolEvent,
    Via,
)
from registry.edit import allow_host, remove_server, set_network
from tests.gateway.mcp import suite
from tests.gateway.web import scene
from tests.gateway.web.browser import Page
from tests.gateway.web.conftest import Site
from tests.gateway.web.steps import add_host

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(180)]
CALL = CallRef(request_id="7", method="tools/call", tool="fetch", client="cursor")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
LOOK = f"""axe.run(document, {{runOnly: {json.dumps(RULES)}, resultTypes: ['violations']}}).then((said) =>
  said.violations.map((one) => `${{one.id}}: ` + one.nodes.slice(0, 4).map((node) =>
    `${{node.html.slice(0, 160)}} ${{node.failureSummary}}`).join(' | ')))"""


@cache
def axe() -> str:
    return (suite.package("axe") / "axe.min.js").read_text()


async def sound(page: Page, state: str) -> None:
    """Nothing that axe knows is wrong with what is on the screen."""
    if not await page.js("Boolean(window.axe)"):
        await page.js(axe() + "; true")
    for scheme in ("light", "dark"):
        await page.scheme(scheme)
        await page.js("Promise.all(document.getAnimations().map((one) => one.finished)).then(() => true)")
        found = await page.js(LOOK)
        assert found == [], f"{state}, {scheme}: " + "\n".join(found)


async def go(page: Page, part: str) -> None:
    await page.js(f"location.hash = {part!r}")
    await page.until(f"location.hash === {part!r} && !document.querySelector('.loading')")


# --- the states, each from a page that is signed in


async def a_busy_afternoon(site: Site, page: Page) -> None:
    site.control.tell(*scene.afternoon(site.control.started))
    site.control.tries("fetch", "far.example", calls=(CALL,))
    site.control.tries("tickets", "would.example", decision=Decision.REPORT, mode="learn")
    site.control.tell(
        NoticeEvent(
            time=time.time(), source="gateway", code="x", severity=Severity.ERROR, message="Something is wrong."
        ),
        ToolEvent(time=time.time(), backend="fetch", tool="fetch", change=ToolChange.CHANGED),
    )
    await page.see("far.example", ".rows")
    await page.see("Something is wrong.", ".notices")
    await sound(page, "rows and notices")
    for verdict in ("blocked", "allowed", "report", "failed"):
        if await page.js(f"Boolean(document.querySelector('.row[data-verdict={verdict}]'))"):
            await page.js(f"document.querySelector('.row[data-verdict={verdict}] .row-main').click()")
            await page.until(f"document.querySelector('.row[data-verdict={verdict}] .details')")
            await page.js("document.querySelectorAll('details.hint').forEach((one) => { one.open = true; })")
            await sound(page, f"a row open: {verdict}")
    await page.click("button.pause", "Pause")
    site.control.tries("fetch", "later.example")
    await page.see("1 waiting", "button.pause")
    await sound(page, "paused")


async def blocked_and_settled(site: Site, page: Page) -> None:
    for host in ("a.example", "b.example", "kept.example", "one.two.three.four.five.example"):
        site.control.tries("fetch", host, calls=(CALL,))
    site.control.tries("fetch", "169.254.169.254", 80, reason=Reason.HOST_NOT_ALLOWED)
    site.control.tries("tickets", "d.example", reason=Reason.ADDRESS_METADATA, decision=Decision.DENY)
    around = {"via": Via.DIRECT, "method": "TCP", "destination": "203.0.113.7:443"}
    site.control.tries("tickets", "", reason=Reason.DIRECT_ATTEMPT, **around)
    await page.see("ignore the proxy settings", ".around-words")
    for host in ("169.254.169.254", "one.two.three.four.five.example"):
        await page.js(
            f"[...document.querySelectorAll('.blocked-rows li')].find((e) => e.innerText.includes({host!r}.slice(-12)))"
            ".querySelector('.allow').click()"
        )
        await page.until("document.querySelector('dialog .diff')")
        await sound(page, f"asked to allow {host}")
        await page.press("Escape")
        await page.gone("dialog")
    await page.click(".blocked-rows .allow")
    await page.until("document.querySelector('dialog .diff')")
    await page.click("dialog .primary")
    await page.see("Waiting for the next try", ".blocked-rows")
    await page.click(".blocked-rows .keep", "Keep blocked")
    await page.click(".kept-line button", "Show 1 host")
    await page.js("document.querySelectorAll('details.hint').forEach((one) => { one.open = true; })")
    await page.js("document.querySelector('.row[data-verdict=blocked] .row-main').click()")
    await sound(page, "settled, kept, hints open, a toast")


async def a_settled_row(site: Site, page: Page) -> None:
    site.control.tries("fetch", "a.example", calls=(CALL,))
    await page.see("a.example", ".blocked-rows")
    await site.control.edit(allow_host("fetch", "a.example"))
    site.control.tries("fetch", "a.example")
    await page.see("a.example", ".row[data-verdict=allowed]")
    await page.js("document.querySelector('.row[data-verdict=blocked] .row-main').click()")
    await page.see("It is allowed now.", ".details")
    await sound(page, "a row that is settled")


async def what_lets_it_through(site: Site, page: Page) -> None:
    site.control.tries("fetch", "db.example", 5432, reason=Reason.NOT_TLS)
    site.control.tries("fetch", "api.example", reason=Reason.HTTPS_WITHOUT_CONNECT)
    site.control.tries("fetch", "", 0, reason=Reason.DIRECT_ATTEMPT, via=Via.DIRECT, method="TCP")
    site.control.tries("fetch", "api.github.com", 0, reason=Reason.DIRECT_ATTEMPT, via=Via.DNS, method="A")
    site.control.tries("tickets", "d.example")
    site.control.tries("tickets", "d.example", reason=Reason.DIRECT_ATTEMPT, via=Via.DIRECT, method="TCP")
    await page.see("protocol: tcp", ".blocked-rows .fix")
    await page.see("direct: allow", ".around-rows .fix")
    await sound(page, "lines of the file that let it through")
    await site.control.edit(remove_server("tickets"))
    await page.see("no longer in the file", ".panel .tag")
    await sound(page, "rows of a server that left the file")


async def a_server_without_its_lists(site: Site, page: Page) -> None:
    site.control.endpoint.troubles["tickets"] = "its tools could not be listed: fetch failed"
    for part in ("#/servers", "#/servers/tickets"):
        await go(page, part)
        await page.see("could not be listed", ".problems")
        await sound(page, f"a server in trouble: {part}")


async def a_tool_to_accept(site: Site, page: Page) -> None:
    site.control.tell(ToolEvent(time=time.time(), backend="fetch", tool="fetch", change=ToolChange.CHANGED))
    await page.click(".notices button", "Accept it")
    await page.see("There is nothing to accept", "dialog [role=alert]")
    await sound(page, "nothing to accept")
    await page.press("Escape")
    await page.gone("dialog")
    site.control.endpoint.changed["fetch"] = [Difference(tool="fetch", before="a\n\nb", after="a\nc\nb")]
    await page.click(".notices button", "Accept it")
    await page.until("document.querySelector('dialog .diff-line.add')")
    await sound(page, "about to accept a tool")


async def servers_in_every_state(site: Site, page: Page) -> None:
    found = site.control.supervisor.found
    await go(page, "#/servers")
    for number, state in enumerate(BackendState):
        name = ("fetch", "tickets")[number % 2]
        found[name] = replace(found[name], state=state, detail="It ended with `exit 1`.", warnings=("A warning.",))
        if number % 2:
            site.control.tell(BackendEvent(time=time.time(), backend=name, state=state))
            await page.until(f"document.querySelector('.state-{state}')")
            await sound(page, f"servers: {state}")
    await page.js("document.querySelector('.card h2 a').click()")
    await page.until("document.querySelector('.tabs')")
    await sound(page, f"one server: {found['fetch'].state}")


async def rules(site: Site, page: Page) -> None:
    await go(page, "#/servers/fetch")
    await page.see("This server can reach", "#meaning.good")
    await page.click("#isolated")
    await page.see("It can reach anything", "#meaning.danger")
    await sound(page, "isolation off")
    await page.click(".actions .primary", "Preview and save")
    await page.until("document.querySelector('dialog button.danger:not(:disabled)')")
    await sound(page, "isolation off: the change")
    await page.press("Escape")
    await page.gone("dialog")
    await page.click("#isolated")
    await add_host(page, "https://docs.python.org/3/")
    await page.see("docs.python.org", ".form-row .why")
    await sound(page, "a rule that cannot be used")
    for asked, tone in (("api.github.com", "good"), ("evil.example:443", "danger")):
        await page.type(".ask input", asked)
        await page.press("Enter")
        await page.until(f"document.querySelector('.panel .meaning.{tone}')")
        await sound(page, f"asked: {tone}")
    site.control.config_path.write_text(site.control.config_path.read_text().replace("443", "444"))
    await site.control.reload()
    await page.see("The file changed while you were editing", ".problems")
    await sound(page, "the file changed meanwhile")
    await go(page, "#/servers")
    await page.see("rules not saved", ".card")
    await sound(page, "servers, one with unsaved rules")


async def modes(site: Site, page: Page) -> None:
    await site.control.edit(set_network("tickets", {"mode": "learn"}))
    await site.control.edit(set_network("fetch", {"isolated": False}))
    await page.until("true")
    await go(page, "#/servers")
    await page.see("not isolated", ".tag-danger")
    await page.see("learn mode", ".tag-warn")
    await sound(page, "servers in weaker modes")
    await go(page, "#/servers/tickets")
    await page.type(".ask input", "evil.example:443")
    await page.press("Enter")
    await page.see("Yes, for now.", ".panel .meaning.warn")
    await sound(page, "learning")
    await go(page, "#/servers/fetch")
    await page.until("document.querySelector('#meaning.danger')")
    await sound(page, "not isolated")


async def logs_and_tools(site: Site, page: Page) -> None:
    await go(page, "#/servers/tickets/logs")
    await page.see("Nothing written yet", ".empty")
    await sound(page, "no log")
    await site.control.supervisor.prints("tickets", "a line\u202e with a mark", "stdout")
    await site.control.supervisor.prints("tickets", "an error")
    await page.type(".logs input", "an")
    await page.until("document.querySelector('.log-box mark')")
    await sound(page, "a log, searched")
    await go(page, "#/servers/fetch/tools")
    await page.see("No tools known yet", ".empty")
    await sound(page, "no tools")
    site.control.endpoint.changed["fetch"] = [Difference(tool="fetch", before="a\n\nb", after="a\nc\nb")]
    site.control.tell(ToolEvent(time=time.time(), backend="fetch", tool="fetch", change=ToolChange.CHANGED))
    await page.until("document.querySelector('.changed-tool .diff-line.add')")
    await sound(page, "a changed tool")
    await page.click(".section-head button", "Remove")
    await page.until("document.querySelector('dialog .diff-line.del')")
    await sound(page, "about to remove a server")


async def the_catalog(site: Site, page: Page) -> None:
    await go(page, "#/add")
    await page.see("added", ".catalog .tag")
    await sound(page, "the catalog")
    for name in ("github", "filesystem", "fetch"):
        await go(page, f"#/add/{name}")
        await page.until("document.querySelector('.install')")
        await page.js("document.querySelectorAll('details.hint').forEach((one) => { one.open = true; })")
        await sound(page, f"the form of {name}")
    await page.type("#server-name", "fetch")
    await page.see("is there already", ".why")
    await sound(page, "a name that is taken")
    await page.type(".catalog input", "zzzz")
    await page.see("Nothing in the catalog is called that", ".note")
    await sound(page, "nothing found")


async def clients(site: Site, page: Page) -> None:
    await go(page, "#/clients")
    await page.see("No clients yet", ".empty")
    await sound(page, "no clients")
    await page.type("#client-name", "cursor")
    await page.click("form .primary", "Add client")
    await page.until("document.querySelector('dialog .diff-line.add')")
    await sound(page, "about to add a client")
    await page.click("dialog .primary", "Add the client")
    await page.see("shown once", ".made")
    await page.see("cursor", ".card")
    await sound(page, "a token")
    await page.click(".card button", "Remove")
    await page.until("document.querySelector('dialog .diff')")
    await sound(page, "about to remove a client")


async def nothing_there(site: Site, page: Page) -> None:
    await go(page, "#/servers/nobody-here")
    await sound(page, "no such server")
    site.control.config_path.write_text("version: 1\nmcpServers: {}\n")
    await site.control.reload()
    for part in ("#/servers", "#/"):
        await page.open(site.url + part)
        await page.until("document.querySelector('main .empty')")
        await sound(page, f"no servers: {part}")


async def a_lost_connection(site: Site, page: Page) -> None:
    site.server.stop()
    await page.until("document.querySelector('.link-state.lost')")
    await sound(page, "the connection is lost")
    await page.send("Page.navigate", url="about:blank")
    await page.until("location.href === 'about:blank'")
    page.complaints.clear()


STATES: list[Callable[[Site, Page], Awaitable[None]]] = [
    a_busy_afternoon, blocked_and_settled, a_settled_row, what_lets_it_through, a_server_without_its_lists,
    a_tool_to_accept, servers_in_every_state, rules, modes, logs_and_tools, the_catalog,
    clients, nothing_there, a_lost_connection,
]  # fmt: skip


@pytest.mark.parametrize("state", STATES, ids=lambda one: one.__name__)
async def test_axe_finds_nothing(site: Site, page: Page, state: Callable[[Site, Page], Awaitable[None]]) -> None:
    await site.enter(page)
    await state(site, page)
    page.complaints[:] = [line for line in page.complaints if "status of 4" not in line]  # asked for


async def test_axe_finds_nothing_at_sign_in(site: Site, page: Page) -> None:
    await page.open(site.url)
    await sound(page, "sign in")
    await page.type("#token", "stockade_admin_guess")
    await page.press("Enter")
    await page.see("That is not the admin token", "[role=alert]")
    await sound(page, "a wrong token")
    page.complaints.clear()


@pytest.mark.parametrize(
    "part", ["#/", "#/servers", "#/servers/fetch", "#/servers/fetch/logs", "#/add/github", "#/clients"]
)
async def test_each_part_has_one_h1(site: Site, page: Page, part: str) -> None:
    await site.enter(page, part)
    await page.until("!document.querySelector('.loading')")
    assert await page.js("document.querySelectorAll('h1').length") == 1

"""What the page says beside what was blocked: the line of the file that lets it through, or that its server is gone."""

from __future__ import annotations

import time
from typing import Any

import pytest

from observability.events import Reason, Via
from registry.edit import remove_server, set_network
from tests.gateway.control.fakes import egress_event
from tests.gateway.web.browser import Page
from tests.gateway.web.conftest import Site

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]
DIRECT: dict[str, Any] = {"reason": Reason.DIRECT_ATTEMPT, "via": Via.DIRECT, "method": "TCP"}
LOOKUP: dict[str, Any] = {"reason": Reason.DIRECT_ATTEMPT, "via": Via.DNS, "method": "A"}
LINES: dict[str, tuple[str, int, dict[str, Any], str]] = {
    "raw TCP": (
        "db.example",
        5432,
        {"reason": Reason.NOT_TLS},
        "To let it through: allowed_hosts: [{host: db.example, port: 5432, protocol: tcp}]",
    ),
    "private": (
        "db.example",
        5432,
        {"reason": Reason.ADDRESS_PRIVATE},
        "To let it through: allowed_hosts: [{host: db.example, port: 5432, private: true}]",
    ),
    "this machine, by address": (
        "127.0.0.1",
        27124,
        {"reason": Reason.IP_NOT_ALLOWED},
        "To let it through: allowed_hosts: [{host: host.docker.internal, port: 27124, protocol: tcp}]",
    ),
    "this machine, by name": (
        "host.docker.internal",
        0,
        LOOKUP,
        "[{host: host.docker.internal, port: PORT, protocol: tcp}]",
    ),
    "an old client": ("api.example", 443, {"reason": Reason.HTTPS_WITHOUT_CONNECT}, 'env: {no_proxy: "*"}'),
    "direct": ("api.github.com", 443, DIRECT, "To let it through: direct: allow"),
    "direct, not allowed": (
        "x.example",
        443,
        DIRECT,
        "direct: allow, and stockade egress allow fetch x.example",
    ),
    "looked up": ("api.github.com", 0, LOOKUP, "If the server does not work without it: direct: allow"),
    "other ports": (
        "",
        0,
        DIRECT,
        "allowed_hosts: [{host: HOST, port: PORT, protocol: tcp}], with the host and port of the service",
    ),
}


@pytest.mark.parametrize("case", LINES)
async def test_the_line_that_lets_it_through_is_beside_what_was_blocked(site: Site, page: Page, case: str) -> None:
    host, port, more, line = LINES[case]
    await site.enter(page)
    site.control.tries("fetch", host, port, **more)
    await page.see(line, ".fix")
    assert not await page.js("Boolean(document.querySelector('.blocked-rows .allow'))"), "a click would not help"
    assert await page.js("document.documentElement.scrollWidth <= innerWidth")


async def test_where_one_click_lets_it_through_there_is_the_click_alone(site: Site, page: Page) -> None:
    await site.enter(page)
    site.control.tries("fetch", "docs.python.org")
    await page.see("Allow this host", ".blocked-rows .allow")
    assert not await page.js("Boolean(document.querySelector('.fix'))")


async def test_a_way_around_the_proxy_that_is_allowed_by_now_says_so(site: Site, page: Page) -> None:
    await site.enter(page)
    site.control.tries("fetch", "api.github.com", **DIRECT)
    await page.see("direct: allow", ".around-rows .fix")
    await site.control.edit(set_network("fetch", {"allowed_hosts": ["api.github.com"], "direct": "allow"}))
    await page.see("allowed now", ".around-rows")
    await page.gone(".around-rows .fix")


async def test_rows_of_a_server_that_left_the_file_say_so_and_ask_for_nothing(site: Site, page: Page) -> None:
    await site.enter(page)
    site.control.tries("fetch", "docs.python.org")
    site.control.tries("fetch", "db.example", 5432, reason=Reason.NOT_TLS)
    site.control.tries("fetch", "direct.example", **DIRECT)
    await page.see("2", ".parts .count")
    await site.control.edit(remove_server("fetch"))
    await page.see("no longer in the file", ".blocked-rows, .panel h3")
    await page.gone(".parts .count")
    await page.until("[...document.querySelectorAll('.panel h3')].every((e) => e.innerText.includes('no longer'))")
    for what in (".blocked-rows .allow", ".blocked-rows .keep", ".fix", ".remedy", ".panel h3 a"):
        assert not await page.js(f"Boolean(document.querySelector({what!r}))"), what
    await page.see("docs.python.org", ".blocked-rows")
    site.control.tries("tickets", "earlier.example")
    site.control.tell(egress_event(seq=7000, connection=7000, time=time.time() + 5, host="later.example"))
    await page.see("later.example", ".blocked-rows")
    heads = "[...document.querySelectorAll('.panel h3')].map((e) => e.innerText.split(/\\s/)[0])"
    assert (await page.js(heads))[0] == "tickets", "what nobody can settle comes last, also where it is the latest"


async def test_a_server_that_runs_and_does_not_list_its_tools_is_in_trouble(site: Site, page: Page) -> None:
    await site.enter(page, "#/servers")
    await page.see("tickets", ".card")
    assert not await page.js("Boolean(document.querySelector('.card .problems'))")
    site.control.endpoint.troubles["tickets"] = "its tools could not be listed: fetch failed"
    site.control.endpoint.refusals = [site.control.tries("tickets", "db.acme.dev")]  # the page looks again for it
    said = (
        "its tools could not be listed: fetch failed. Since its start, db.acme.dev:443 was refused (empty_policy). "
        "To allow it: stockade egress allow tickets db.acme.dev"
    )
    await page.see(said, ".card .problems")
    await page.js("location.hash = '#/servers/tickets'")
    await page.see(said, ".problems")
    site.control.endpoint.troubles.clear()
    await page.js("location.hash = '#/servers'")
    await page.gone(".card .problems")

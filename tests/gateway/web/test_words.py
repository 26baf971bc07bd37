"""The page's pure functions, run where they run for real: imported from the admin app by the browser."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.gateway.web.browser import Page
from tests.gateway.web.conftest import Site

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


async def call(page: Page, site: Site, module: str, expression: str, *arguments: Any) -> Any:
    """The value of an expression over `m` (the module) and `a` (the arguments), as plain JSON types."""
    if not await page.js(f"location.href.startsWith({json.dumps(site.url)})"):
        await page.open(site.url)
    given = json.dumps(arguments)
    return await page.js(f"import('/assets/{module}.js').then((m) => {{ const a = {given}; return {expression}; }})")


BLOCKS: dict[str, dict[str, Any]] = {
    "empty": {},
    "hosts": {"allowed_hosts": ["api.github.com", ".github.com"]},
    "ports": {"allowed_hosts": ["a.example"], "allowed_ports": [443, "8000-8010"]},
    "rule with port": {"allowed_hosts": ["db.internal:5432"]},
    "rule object": {
        "allowed_hosts": [{"host": "db", "ports": [5432, "6000-6001"], "private": True, "protocol": "tcp"}]
    },
    "modes": {"allowed_hosts": ["*"], "mode": "learn", "direct": "allow"},
    "explicit defaults": {"allowed_hosts": [], "mode": "enforce", "direct": "deny"},
    "what the form does not show": {"join": ["app_default"], "limits": {"connections": 5}},
    "off": {"isolated": False},
}


async def test_a_block_that_nobody_edited_comes_back_as_it_was(site: Site, page: Page) -> None:
    found = await call(page, site, "network", "a.map((block) => m.blockOf(m.draftOf(block)))", *BLOCKS.values())
    assert dict(zip(BLOCKS, found, strict=True)) == {name: {"isolated": True, **b} for name, b in BLOCKS.items()}


MEANINGS = {
    "nothing": ({}, "warn", "This server can reach nothing."),
    "ports alone": ({"allowed_ports": [443]}, "warn", "ports alone allow nothing"),
    "one host": (
        {"allowed_hosts": ["a.example"]},
        "good",
        "can reach a.example, on ports 80 and 443. Everything else",
    ),
    "suffix": ({"allowed_hosts": [".a.example"]}, "good", "a.example and all names under it"),
    "below": ({"allowed_hosts": ["*.a.example"]}, "good", "all names under a.example"),
    "own port": ({"allowed_hosts": ["db.internal:5432"]}, "good", "can reach db.internal on port 5432. Everything"),
    "mixed": (
        {"allowed_hosts": ["a.example", "b:1"], "allowed_ports": [443]},
        "good",
        "a.example, on port 443; b on port 1.",
    ),
    "all": ({"allowed_hosts": ["*"]}, "warn", "every public host"),
    "learn": ({"mode": "learn"}, "warn", "Nothing public is blocked"),
    "off": ({"isolated": False, "allowed_hosts": ["a.example"]}, "danger", "It can reach anything"),
}


async def test_the_rules_are_said_in_one_sentence(site: Site, page: Page) -> None:
    blocks = [block for block, _, _ in MEANINGS.values()]
    said = await call(page, site, "network", "a.map((block) => m.meaning(m.draftOf(block)))", *blocks)
    for (name, (_, tone, words)), found in zip(MEANINGS.items(), said, strict=True):
        assert found["tone"] == tone, name
        assert words in found["text"], name


COVERS = {
    "exact": ("a.example", 443, ["a.example"], [], True),
    "other port": ("a.example", 8080, ["a.example"], [], False),
    "listed port": ("a.example", 8080, ["a.example"], ["8000-8100"], True),
    "apex of a suffix": ("a.example", 443, [".a.example"], [], True),
    "below a suffix": ("x.a.example", 443, [".a.example"], [], True),
    "longer name": ("evila.example", 443, [".a.example"], [], False),
    "apex of a star": ("a.example", 443, ["*.a.example"], [], False),
    "port of its own": ("db", 5432, ["db:5432"], [443], True),
    "port of an object": ("db", 5432, [{"host": "db", "port": 5432}], [443], True),
    "none": ("a.example", 443, [], [443], False),
}


async def test_a_blocked_host_that_the_rules_name_now_is_not_asked_for_again(site: Site, page: Page) -> None:
    cases = [[{"allowed_hosts": h, "allowed_ports": p}, host, port] for host, port, h, p, _ in COVERS.values()]
    found = await call(page, site, "allow", "a.map((one) => m.covers(...one))", *cases)
    assert dict(zip(COVERS, found, strict=True)) == {name: case[-1] for name, case in COVERS.items()}


OWNERS = {
    "api.github.com": "",
    "api.github.com.login.evil.example": "evil.example",
    "a.b.c.evil.co.uk": "evil.co.uk",
    "10.1.2.3": "",
}


async def test_a_name_with_many_parts_shows_who_owns_it(site: Site, page: Page) -> None:
    assert await call(page, site, "allow", "a.map((host) => m.owner(host))", *OWNERS) == list(OWNERS.values())


async def test_problems_go_to_the_row_they_are_about(site: Site, page: Page) -> None:
    expression = """(() => {
      const draft = m.draftOf(a[0]);
      draft.hosts.unshift({ ...draft.hosts[0], id: 'blank', host: ' ' });
      const s = m.sortProblems(draft, a[1]);
      return [draft.hosts.map((row) => s.hosts[row.id] || ''), draft.ports.map((row) => s.ports[row.id] || ''), s.other];
    })()"""
    block = {"allowed_hosts": ["a", "b"], "allowed_ports": [1, 2]}
    problems = [
        {"path": "allowed_hosts.1", "message": "bad b."},
        {"path": "mcpServers.x.network.allowed_ports.0", "message": "bad 1.", "hint": "Try 2."},
        {"path": "mode", "message": "bad mode."},
    ]
    found = await call(page, site, "network", expression, block, problems)
    assert found == [["", "", "bad b."], ["bad 1. Try 2.", ""], ["bad mode."]]


VERDICTS = [
    ({"decision": "deny", "reason": "host_not_allowed"}, "blocked"),
    ({"decision": "allow"}, "allowed"),
    ({"decision": "allow", "reason": "idle_timeout"}, "allowed"),
    ({"decision": "deny", "reason": "policy_revoked", "was": "allow"}, "allowed"),
    ({"decision": "deny", "reason": "sni_mismatch", "was": "allow"}, "blocked"),
    ({"decision": "report", "reason": "host_not_allowed"}, "report"),
    ({"decision": "deny", "reason": "connect_failed"}, "failed"),
]


async def test_a_verdict_tells_blocked_from_not_reached(site: Site, page: Page) -> None:
    found = await call(
        page, site, "reasons", "a[0].map((event) => m.verdict(event))", [event for event, _ in VERDICTS]
    )
    assert found == [expected for _, expected in VERDICTS]


async def test_hidden_characters_are_named_in_plain_text(site: Site, page: Page) -> None:
    found = await call(
        page, site, "text", "a.map(m.plain)", "ok.example", "a\u202eb", "\x1b[1m", "t\u200bx", "\U000e0041"
    )
    assert found == ["ok.example", "a⟨U+202E⟩b", "⟨␛⟩[1m", "t⟨U+200B⟩x", "⟨U+E0041⟩"]

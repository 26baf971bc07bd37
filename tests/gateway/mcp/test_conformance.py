"""The public conformance suite, all 97 required scenarios, with the gateway before the fixture server.

The suite's own processes cost most of the time (each starts Node), so whole revisions run in one process each.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from tests.gateway.mcp import suite
from tests.gateway.mcp.fakes import config, gateway, server

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    suite.node()
    suite.package("conformance")
    suite.package("conformance-old")


async def whole_suite(url: str, out: Path, revision: str | None) -> dict[str, bool]:
    """Each scenario, and whether it passed, as the suite's summary says."""
    folder = suite.package("conformance" if revision else "conformance-old")
    chosen = ("--requirements", revision) if revision else ("--suite", "active")
    process = await asyncio.create_subprocess_exec(
        suite.node(),
        str(folder / "dist" / "index.js"),
        "server",
        "--url",
        url,
        *chosen,
        "-o",
        str(out),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    lines = re.findall(r"^([✓✗]) ([a-z0-9-]+): \d+ passed", said.decode(), re.MULTILINE)
    assert lines, said.decode()[-3000:]
    return {name: mark == "✓" for mark, name in lines}


@pytest.mark.parametrize(
    ("kind", "annotate"),
    [("stdio", True), ("http", True), ("http", False)],
    ids=["stdio", "http", "http-without-annotations"],
)
async def test_all_97_required_scenarios_pass_through_the_gateway(kind: str, annotate: bool, tmp_path: Path) -> None:
    settings = config({"fixture": server(http=kind == "http")}, gateway={"annotate_denials": annotate})
    wanted = {None: suite.OLD, "2025-11-25": suite.required("2025-11-25"), "2026-07-28": suite.required("2026-07-28")}
    assert sum(map(len, wanted.values())) == 97
    async with gateway(settings) as running:
        url = running.url("fixture")
        found = await asyncio.gather(*(whole_suite(url, tmp_path / str(revision), revision) for revision in wanted))
    failed = [
        f"{revision or '0.1.16'}: {name}"
        for (revision, names), passed in zip(wanted.items(), found, strict=True)
        for name in names
        if not passed.get(name)
    ]
    assert failed == []

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


async def whole_suite(url: str, out: Path, revision: str) -> dict[str, bool]:
    """Each scenario, and whether it passed, as the suite's summary says."""
    folder = suite.package("conformance-old" if revision == "0.1.16" else "conformance")
    chosen = ("--suite", "active") if revision == "0.1.16" else ("--requirements", revision)
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


def required(revision: str) -> list[str]:
    """The scenarios of a revision; 0.1.16 is an older suite."""
    return list(suite.OLD if revision == "0.1.16" else suite.required(revision))


REVISIONS = ["0.1.16", "2025-11-25", "2026-07-28"]


def test_there_are_97_required_scenarios() -> None:
    assert sum(len(required(revision)) for revision in REVISIONS) == 97


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize(
    ("kind", "annotate"),
    [("stdio", True), ("http", True), ("http", False)],
    ids=["stdio", "http", "http-without-annotations"],
)
async def test_all_required_scenarios_pass_through_the_gateway(
    kind: str, annotate: bool, revision: str, tmp_path: Path
) -> None:
    settings = config({"fixture": server(http=kind == "http")}, gateway={"annotate_denials": annotate})
    async with gateway(settings) as running:
        passed = await whole_suite(running.url("fixture"), tmp_path / "out", revision)
    assert [name for name in required(revision) if not passed.get(name)] == []

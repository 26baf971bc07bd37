"""Real clients through the gateway: the Inspector's CLI and the TypeScript SDK. (Python's: test_bridge.)"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.mcp import suite
from tests.gateway.mcp.fakes import config, gateway, server, token_digest

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(300)]
CLIENTS = {"tester": {"token_sha256": token_digest("secret")}}

SCRIPT = """
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
const [url, token, tool, mode] = process.argv.slice(2);
const client = new Client({ name: 'ts', version: '1' }, { capabilities: { sampling: {} }, versionNegotiation: { mode } });
client.setRequestHandler('sampling/createMessage', async request => ({
  role: 'assistant', model: 'm', content: { type: 'text', text: request.params.messages[0].content.text.toUpperCase() }
}));
const transport = new StreamableHTTPClientTransport(new URL(url), {
  requestInit: { headers: { Authorization: `Bearer ${token}` } }
});
await client.connect(transport);
const tools = await client.listTools();
const said = await client.callTool({ name: tool, arguments: { prompt: 'hello' } });
console.log(JSON.stringify({ tools: tools.tools.length, text: said.content[0].text }));
await client.close();
"""


async def run(*command: str, cwd: Path | None = None) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


@pytest.mark.parametrize("route", ["fixture", ""], ids=["alone", "aggregate"])
async def test_the_inspector_lists_and_calls_in_both_eras(route: str) -> None:
    folder = suite.package("inspector")
    bin_entry: Any = json.loads((folder / "package.json").read_text())["bin"]
    program = str(folder / (bin_entry if isinstance(bin_entry, str) else next(iter(bin_entry.values()))))
    tool = "test_simple_text" if route else "fixture__test_simple_text"
    async with gateway(config({"fixture": server(http=True)}, clients=CLIENTS)) as running:
        start = (suite.node(), program, "--cli", running.url(route), "--header", "Authorization: Bearer secret")
        for era in ("legacy", "modern"):
            fixed = ("--protocol-era", era, "--format", "json")
            code, out, err = await run(*start, "--method", "tools/list", *fixed)
            assert code == 0, err
            assert tool in out
            code, out, err = await run(*start, "--method", "tools/call", "--tool-name", tool, *fixed)
            assert code == 0, err
            assert "This is a simple text response" in out
        code, _, err = await run(*start[:-2], "--method", "tools/list")
        assert code != 0


@pytest.mark.parametrize("mode", ["legacy", "auto"])
@pytest.mark.parametrize("route", ["fixture", ""], ids=["alone", "aggregate"])
async def test_the_typescript_sdk_calls_and_answers_questions(route: str, mode: str) -> None:
    folder = suite.package("client")
    script = folder.parents[2] / "test-client.mjs"
    script.write_text(SCRIPT)
    tool = "test_sampling" if route else "fixture__test_sampling"
    async with gateway(config({"fixture": server(http=True)}, clients=CLIENTS)) as running:
        code, out, err = await run(suite.node(), str(script), running.url(route), "secret", tool, mode)
        assert code == 0, err
        said = json.loads(out.splitlines()[-1])
        assert said["tools"] > 30
        assert said["text"] == "LLM response: HELLO"

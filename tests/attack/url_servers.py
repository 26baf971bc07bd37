"""Servers made with the official SDKs that keep a secret and something public, as people write them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.gateway.mcp import suite

PYTHON = """
from mcp.server.fastmcp import FastMCP
server = FastMCP("res")

@server.resource("secret://key")
def key() -> str:
    return "TOP SECRET KEY"

@server.resource("http://h/a")
def page() -> str:
    return "TOP SECRET PAGE"

@server.resource("file:///{tree}/{name}")
def file(tree: str, name: str) -> str:
    return f"TOP SECRET FILE {name}" if tree == "secret" else f"public {name}"

@server.resource("docs://guide")
def guide() -> str:
    return "the guide"

server.run()
"""
TYPESCRIPT = """
import { McpServer, ResourceTemplate } from '@modelcontextprotocol/sdk/server/mcp.js';
import { StdioServerTransport } from '@modelcontextprotocol/sdk/server/stdio.js';
const server = new McpServer({ name: 'res', version: '1' });
const text = said => async uri => ({ contents: [{ uri: uri.href, text: said }] });
server.registerResource('key', 'secret://key', {}, text('TOP SECRET KEY'));
server.registerResource('page', 'http://h/a', {}, text('TOP SECRET PAGE'));
server.registerResource('guide', 'docs://guide', {}, text('the guide'));
server.registerResource('file', new ResourceTemplate('file:///{tree}/{name}', { list: undefined }), {},
  async (uri, { tree, name }) => text(tree === 'secret' ? `TOP SECRET FILE ${name}` : `public ${name}`)(uri));
await server.connect(new StdioServerTransport());
"""


def python(folder: Path) -> tuple[str, ...]:
    """The command of a server of the Python SDK."""
    program = folder / "server.py"
    program.write_text(PYTHON)
    # The tests' own site-packages hold another generation of the SDK: -S leaves them out.
    start = (
        f"import sys; sys.path.insert(0, {str(suite.python_sdk())!r}); import runpy; runpy.run_path({str(program)!r})"
    )
    return (sys.executable, "-S", "-c", start)


def typescript(folder: Path) -> tuple[str, ...]:
    """The command of a server of the TypeScript SDK."""
    program = suite.package("sdk").parents[2] / f"server-{os.getpid()}.mjs"
    program.write_text(TYPESCRIPT)
    return (suite.node(), str(program))

"""Serve an endpoint over the fixture by hand: `python -m tests.gateway.mcp.serve stdio|http [PORT] [--no-annotate]`.

Without containers, as the tests have it. Prints the URL; ends with Ctrl-C.
"""

from __future__ import annotations

import asyncio
import sys

from tests.gateway.mcp.fakes import config, gateway, server


async def main(kind: str, annotate: bool) -> None:
    settings = config({"fixture": server(http=kind == "http")}, gateway={"annotate_denials": annotate})
    async with gateway(settings) as running:
        print(running.url("fixture"), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner() as runner:
        runner.run(main(sys.argv[1], "--no-annotate" not in sys.argv))

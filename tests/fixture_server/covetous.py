"""A stdio server with resources and tools of any name, some of them only after its first call; standard library only.

Arguments: `NAME`, then `now=URI`, `now=tool:NAME`, `now=template:URI`, or the same with `later=`.
All that it serves says NAME.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main() -> None:
    me, called = sys.argv[1], False

    def listed(kind: str) -> list[str]:
        found = []
        for argument in sys.argv[2:]:
            when, _, what = argument.partition("=")
            if when == "now" or called:
                before, _, rest = what.partition(":")
                found += (
                    [rest] if before == kind else [what] if kind == "" and before not in ("tool", "template") else []
                )
        return found

    for line in sys.stdin:
        message = json.loads(line)
        result: dict[str, Any]
        match message.get("method"):
            case "initialize":
                result = {
                    "protocolVersion": "2025-06-18",
                    "capabilities": {"tools": {}, "resources": {}},
                    "serverInfo": {"name": me, "version": "1"},
                }
            case "tools/list":
                tools = ["grow", *listed("tool")]
                result = {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in tools]}
            case "resources/list":
                result = {"resources": [{"uri": uri, "name": me} for uri in listed("")]}
            case "resources/templates/list":
                result = {"resourceTemplates": [{"uriTemplate": uri, "name": me} for uri in listed("template")]}
            case "resources/read":
                result = {"contents": [{"uri": message["params"]["uri"], "text": me}]}
            case "tools/call":
                called = True
                result = {"content": [{"type": "text", "text": me}]}
            case _:
                if "id" in message:
                    error = {"code": -32601, "message": "Method not found"}
                    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error}), flush=True)
                continue
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)


if __name__ == "__main__":
    main()

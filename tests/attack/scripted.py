"""A stdio server that answers with exactly the text it is given: what no SDK would send can be sent.

Run it: `python -m tests.attack.scripted FILE`. The file is a JSON object: for each method, the text of the members
beside `id` (`"result": {…}` or `"error": {…}`), which may be no JSON at all; for `tools/call NAME`, that of one tool.
What it is asked for is written to standard error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

GREETING: dict[str, Any] = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"tools": {}, "prompts": {}, "resources": {}},
    "serverInfo": {"name": "scripted", "version": "1"},
}


def script(folder: Path, name: str = "script", **answers: Any) -> tuple[str, ...]:
    """The command of a server. Keys are methods with `_` for `/`; a text is sent as it is, anything else as a result."""
    texts = {"initialize": '"result": ' + json.dumps(GREETING)}
    for key, said in answers.items():
        texts[key.replace("__", " ").replace("_", "/")] = (
            said if isinstance(said, str) else '"result": ' + json.dumps(said)
        )
    path = folder / f"{name}.json"
    path.write_text(json.dumps(texts))
    return (sys.executable, "-m", "tests.attack.scripted", str(path))


def main() -> None:
    for line in sys.stdin:
        texts = json.loads(Path(sys.argv[1]).read_text())  # a test may write it anew
        message = json.loads(line)
        if "id" not in message:
            continue
        method, params = message["method"], message.get("params") or {}
        print("asked", json.dumps([method, params]), file=sys.stderr, flush=True)
        said = texts.get(f"{method} {params.get('name', '')}") or texts.get(method)
        if said is None:
            said = '"error": {"code": -32601, "message": "Method not found"}'
        first = f'"jsonrpc": "2.0", "id": {message["id"]}'
        sys.stdout.buffer.write(f"{{{first}, {said}}}\n".encode("utf-8", "surrogateescape"))
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()

"""A stdio server that misbehaves on request; standard library only. Legacy revisions only, like most servers."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from typing import Any

TOOLS = (
    "ok",
    "crash",
    "never",
    "garbage",
    "huge",
    "half",
    "flood",
    "noresult",
    "exit_soon",
    "list_flood",
    "later",
    "ask",
    "task",
    "task_news",
)
OUT = threading.Lock()


def write(text: str) -> None:
    with OUT:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def say(message: dict[str, Any]) -> None:
    write(json.dumps(message))


def result(number: Any, text: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "result": {"content": [{"type": "text", "text": text}]}}


def flood(number: Any, method: str) -> None:
    line = json.dumps({"jsonrpc": "2.0", "method": method, "params": {"level": "info", "data": "x" * 200}})
    for _ in range(50_000):
        write(line)
    say(result(number, "flooded"))


def call(number: Any, name: str, arguments: dict[str, Any]) -> None:
    match name:
        case "ok":
            say(result(number, f"ok {arguments.get('text', '')}"))
        case "crash":
            print("Traceback: boom", file=sys.stderr, flush=True)
            os._exit(7)
        case "exit_soon":
            say(result(number, "bye"))
            os._exit(0)
        case "never":
            return
        case "later":
            line = json.dumps(result(number, "later"))
            threading.Timer(float(arguments.get("seconds", 1)), write, [line]).start()
        case "ask":  # and answer, whether or not anybody answered
            question = {"messages": [], "maxTokens": 1}
            say({"jsonrpc": "2.0", "id": f"q{number}", "method": "sampling/createMessage", "params": question})
            say({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "asked"}})
            threading.Timer(0.3, write, [json.dumps(result(number, "asked"))]).start()
        case "task":
            say(
                {
                    "jsonrpc": "2.0",
                    "id": number,
                    "result": {"task": {"taskId": arguments["task"], "status": "working"}},
                }
            )
        case "task_news":  # of that task, and a question in its name
            about = {"_meta": {"io.modelcontextprotocol/related-task": {"taskId": arguments["task"]}}}
            question = {"messages": [], "maxTokens": 1, **about}
            say({"jsonrpc": "2.0", "method": "notifications/tasks/status", "params": {"taskId": arguments["task"]}})
            say({"jsonrpc": "2.0", "id": f"q{number}", "method": "sampling/createMessage", "params": question})
            threading.Timer(0.3, write, [json.dumps(result(number, "told"))]).start()
        case "garbage":
            write("this is not JSON")
            write('{"jsonrpc": "2.0", "id": ')
            write("[1, 2]")
            write('{"method": 5}')
            say(result(number, "after the garbage"))
        case "huge":
            say(result(number, "x" * 50_000_000))
        case "half":
            sys.stdout.write(json.dumps(result(number, "x" * 1000))[:200])
            sys.stdout.flush()
            os._exit(0)
        case "noresult":
            say({"jsonrpc": "2.0", "id": number})
        case "flood":
            threading.Thread(target=flood, args=(number, "notifications/message"), daemon=True).start()
        case "list_flood":
            threading.Thread(target=flood, args=(number, "notifications/tools/list_changed"), daemon=True).start()
        case _:
            say({"jsonrpc": "2.0", "id": number, "error": {"code": -32602, "message": f"Unknown tool: {name}"}})


def main() -> None:
    start, _, flag = os.environ.get("FAULTY_START", "").partition(" ")
    if start == "hang":  # each time, or once for a file that is there
        if not flag:
            time.sleep(3600)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(flag)
            time.sleep(3600)
    for line in sys.stdin:
        message = json.loads(line)
        number, params = message.get("id"), message.get("params") or {}
        match message.get("method"):
            case "initialize":
                say(
                    {
                        "jsonrpc": "2.0",
                        "id": number,
                        "result": {
                            "protocolVersion": "2025-06-18",
                            "capabilities": {"tools": {}},
                            "serverInfo": {"name": "faulty", "version": "1"},
                        },
                    }
                )
            case "tools/list":
                tools = [{"name": name, "inputSchema": {}, "x-vendor": {"deep": [1.50]}} for name in TOOLS]
                say({"jsonrpc": "2.0", "id": number, "result": {"tools": tools}})
            case "tools/call":
                call(number, params["name"], params.get("arguments") or {})
            case "notifications/cancelled":
                print(f"cancelled {params.get('requestId')}", file=sys.stderr, flush=True)
            case _ if number is not None:
                say({"jsonrpc": "2.0", "id": number, "error": {"code": -32601, "message": "Method not found"}})


if __name__ == "__main__":
    main()

"""A streamable HTTP server that misbehaves on request; standard library only, 2025-06-18 only.

Run it: `python -m tests.fixture_server.faulty_http --http 0`; it prints `listening PORT` on standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOOLS = (
    "ok crash never garbage huge half noresult html error500 empty sse_half sse_flood sse_other wrong_id ask_flood forget "
    "nan sse_nan surrogate error_answer"
).split()
IDS = {"sse_id_kanji": "日本", "sse_id_long": "x" * 5000, "sse_id_control": "a\x01b", "sse_id_latin": "é"}
"""Event ids that cannot be sent back in a header, by the tool whose stream has them and ends."""
SESSIONS: dict[str, str] = {}
"""With FAULTY_SESSIONS: the newest session; `forget` forgets it."""
CHUNK = b"x" * 1_000_000


class Faulty(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        return

    def do_GET(self) -> None:
        self.reply(405, b"", "text/plain")

    def do_DELETE(self) -> None:
        self.reply(200, b"", "text/plain")

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["content-length"])))
        number, params = message.get("id"), message.get("params") or {}
        refusal = os.environ.get("FAULTY_SESSIONS", "")
        if refusal and message.get("method") != "initialize" and SESSIONS.get("id") != self.headers["mcp-session-id"]:
            self.reply(400, refusal.encode())
            return
        match message.get("method"):
            case "initialize":
                if "FAULTY_SESSIONS" in os.environ:
                    SESSIONS["id"] = os.urandom(4).hex()
                info = {"name": "faulty-http", "version": "1"}
                self.result(
                    number, {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": info}
                )
            case "tools/list":
                self.result(number, {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]})
            case "tools/call" if params["name"] == "error_answer":
                print("ran error_answer", file=sys.stderr, flush=True)
                said = json.loads(os.environ["FAULTY_ERROR"])
                message = {"jsonrpc": "2.0", "id": number, "error": said["error"]}
                self.reply(said["status"], json.dumps(message).encode())
            case "tools/call":
                self.call(number, params["name"])
            case _ if number is None:
                self.reply(202, b"", "text/plain")
            case _:
                self.say({"id": number, "error": {"code": -32601, "message": "Method not found"}})

    def reply(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        if "id" in SESSIONS:
            self.send_header("Mcp-Session-Id", SESSIONS["id"])
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def say(self, message: dict[str, Any]) -> None:
        self.reply(200, json.dumps({"jsonrpc": "2.0", **message}).encode())

    def result(self, number: Any, result: dict[str, Any]) -> None:
        self.say({"id": number, "result": result})

    def stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()

    def cut(self) -> None:
        self.close_connection = True
        self.wfile.flush()

    def call(self, number: Any, name: str) -> None:
        match name:
            case "ok":
                self.result(number, {"content": [{"type": "text", "text": "ok"}]})
            case "forget":
                self.result(number, {"content": [{"type": "text", "text": "who are you?"}]})
                SESSIONS["id"] = "another"  # after the answer: a late notification of this session would end it
            case "crash":
                os._exit(7)
            case "never":
                time.sleep(600)
            case "garbage":
                self.wfile.write(b"this is not HTTP\r\n\r\n")
                self.cut()
            case "huge":
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(50 * len(CHUNK)))
                self.end_headers()
                for _ in range(50):
                    self.wfile.write(CHUNK)
            case "half":
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"jsonrpc": "2.0", "id"')
                self.cut()
            case "noresult":
                self.say({"id": number})
            case "html":
                self.reply(200, b"<html>Sign in</html>", "text/html")
            case "error500":
                self.reply(500, b"Traceback: boom", "text/plain")
            case "empty":
                self.reply(200, b"")
            case "wrong_id":
                self.result("somebody else's", {"content": [{"type": "text", "text": "not yours"}]})
            case "nan":
                self.say({"id": number, "result": {"content": [], "structuredContent": {"x": float("nan")}}})
            case "sse_nan":
                self.stream()
                said = {"jsonrpc": "2.0", "id": number, "result": {"content": [], "_meta": {"x": float("-inf")}}}
                self.wfile.write(b"data: " + json.dumps(said).encode() + b"\r\n\r\n")
                self.cut()
            case "surrogate":
                self.result(number, {"content": [{"type": "text", "text": "cut \ud83d here"}]})
            case _ if name in IDS:
                self.stream()
                self.wfile.write(f"id: {IDS[name]}\r\ndata:\r\n\r\n".encode())
                self.cut()
            case "sse_half":
                self.stream()
                self.wfile.write(b'event: message\r\ndata: {"jsonrpc": "2.0", "id": 1')
                self.cut()
            case "sse_other":
                self.stream()
                other = {
                    "jsonrpc": "2.0",
                    "id": 999_999,
                    "result": {"content": [{"type": "text", "text": "not yours"}]},
                }
                self.wfile.write(b"data: " + json.dumps(other).encode() + b"\r\n\r\n")
                self.cut()
            case "ask_flood":
                self.stream()
                params = {"messages": [], "maxTokens": 1}
                for one in range(1000):
                    asked = {"jsonrpc": "2.0", "id": one, "method": "sampling/createMessage", "params": params}
                    self.wfile.write(b"data: " + json.dumps(asked).encode() + b"\r\n\r\n")
                self.wfile.flush()
                time.sleep(600)
            case "sse_flood":
                self.stream()
                self.wfile.write(b"data: ")
                for _ in range(50):
                    self.wfile.write(CHUNK)
                self.cut()


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Faulty)
    server.daemon_threads = True
    print(f"listening {server.server_address[1]}", file=sys.stderr, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()

"""`tools: {mode: search}`: instead of a thousand tools, one that finds them and one that calls them.

Ranking is SQLite's FTS5 (BM25) over names, descriptions and schemas, in memory, over exactly the tools of the view.
"""

from __future__ import annotations

import re
import sqlite3
import weakref
from collections.abc import Mapping
from typing import Any, Final

from gateway.mcp.view.items import size_of
from gateway.mcp.view.views import View
from gateway.mcp.wire import codec
from gateway.mcp.wire.errors import INVALID_PARAMS, RpcError

MAX_FOUND: Final = 50
_DEFAULT_FOUND: Final = 8
_MAX_ANSWER: Final = 1024 * 1024
"""Bytes of the tools in one answer; the best matches come first."""
_WORD: Final = re.compile(r"\w+")
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

SEARCH_TOOLS: Final[Mapping[str, Mapping[str, Any]]] = {
    "find_tool": {
        "name": "find_tool",
        "description": "Find tools by what they do. Returns names, descriptions and input schemas of the best "
        "matches; call one with call_tool.",
        "inputSchema": {
            "type": "object",
            "properties": {
                "query": {"type": "string", "description": "What the tool should do, in a few words"},
                "limit": {"type": "integer", "minimum": 1, "maximum": MAX_FOUND, "default": _DEFAULT_FOUND},
            },
            "required": ["query"],
        },
        "annotations": {"readOnlyHint": True, "openWorldHint": False},
    },
    "call_tool": {
        "name": "call_tool",
        "description": "Call a tool that find_tool returned.",
        "inputSchema": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "description": "The tool's name, exactly as find_tool gave it"},
                "arguments": {"type": "object", "description": "Its arguments, as its input schema says"},
            },
            "required": ["name"],
        },
    },
}


class Search:
    """The indexes, one for each view, made when they are first needed."""

    def __init__(self) -> None:
        self._indexes: weakref.WeakKeyDictionary[View, tuple[object, sqlite3.Connection]] = (
            weakref.WeakKeyDictionary()
        )

    def shown(self, view: View, tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The tools list of a searching client: the two tools, and the pinned ones."""
        pinned = [tool for tool in tools if view.pinned.passes(tool["name"])]
        return [*(dict(tool) for tool in SEARCH_TOOLS.values()), *pinned]

    def find(self, view: View, tools: list[dict[str, Any]], arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The CallToolResult of find_tool. Raises RpcError."""
        query, limit = arguments.get("query"), arguments.get("limit", _DEFAULT_FOUND)
        if not isinstance(query, str) or not query.strip():
            raise RpcError(INVALID_PARAMS, "find_tool needs a query")
        if type(limit) is not int or not 1 <= limit <= MAX_FOUND:
            raise RpcError(INVALID_PARAMS, f"limit must be a whole number from 1 to {MAX_FOUND}")
        found: list[dict[str, Any]] = []
        size = 0
        for row in self._match(view, tools, query, limit):
            tool: dict[str, Any] = {
                key: tools[row][key] for key in ("name", "title", "description", "inputSchema") if key in tools[row]
            }
            size += size_of(tool) or 0
            if found and size > _MAX_ANSWER:
                break
            found.append(tool)
        text = codec.dumps({"tools": found}).decode()
        return {"content": [{"type": "text", "text": text}], "structuredContent": {"tools": found}, "isError": False}

    def _match(self, view: View, tools: list[dict[str, Any]], query: str, limit: int) -> list[int]:
        words = _words(query).split()[:32]
        if not words:
            return []
        index = self._index(view, tools)
        expression = " OR ".join(f'"{word}"*' if len(word) > 2 else f'"{word}"' for word in words)
        rows = index.execute(
            "SELECT rowid FROM tools WHERE tools MATCH ? ORDER BY bm25(tools, 10.0, 4.0, 1.0), rowid LIMIT ?",
            (expression, limit),
        )
        return [row[0] - 1 for row in rows]

    def _index(self, view: View, tools: list[dict[str, Any]]) -> sqlite3.Connection:
        known = self._indexes.get(view)
        if known is not None and known[0] is tools:
            return known[1]
        index = sqlite3.connect(":memory:")
        index.execute("CREATE VIRTUAL TABLE tools USING fts5(name, description, schema, tokenize='porter unicode61')")
        index.executemany("INSERT INTO tools(rowid, name, description, schema) VALUES (?, ?, ?, ?)", _rows(tools))
        self._indexes[view] = (tools, index)
        return index


def _rows(tools: list[dict[str, Any]]) -> list[tuple[int, str, str, str]]:
    return [
        (
            number,
            _words(f"{tool['name']} {tool.get('title', '')}"),
            _text(str(tool.get("description", ""))),
            _words(" ".join(_schema_words(tool.get("inputSchema")))),
        )
        for number, tool in enumerate(tools, 1)
    ]


def _text(text: str) -> str:
    """The text without lone surrogates, which SQLite does not take."""
    return text.encode("utf-8", "replace").decode()


def _words(text: str) -> str:
    """The words of a text; names are split: `create_pullRequest` has three."""
    return " ".join(_WORD.findall(_CAMEL.sub(" ", _text(text)).replace("_", " "))).lower()


def _schema_words(schema: Any, depth: int = 0) -> list[str]:
    if not isinstance(schema, dict) or depth > 4:
        return []
    words = [str(schema["description"])] if isinstance(schema.get("description"), str) else []
    properties = schema.get("properties")
    for name, value in properties.items() if isinstance(properties, dict) else ():
        words += [name, *_schema_words(value, depth + 1)]
    return words

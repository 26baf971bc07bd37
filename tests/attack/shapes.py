"""Items of lists that one client or another refuses, each the only thing wrong with it."""

from __future__ import annotations

from typing import Any

OBJECT: dict[str, Any] = {"type": "object"}

SCHEMAS: list[Any] = [None, {}, True, {"type": "array"}, {"anyOf": [OBJECT]}, {"$ref": "#/x"}, "x", [], 5]
HINTS: list[Any] = ["x", None, 5, [], {"readOnlyHint": "yes", "title": 5}, {"destructiveHint": None}]
ICONS: list[Any] = ["x", None, {}, [{"src": 5}], [None], [{"src": "a", "sizes": "1x1", "theme": "x"}]]
OUTPUTS: list[dict[str, Any]] = [
    {"properties": {"a": True}}, {"properties": {"a": None}}, {"properties": []}, {"required": "x"}, {"required": [1]},
    {"$id": "urn:same"}, {"$id": "urn:same", "title": "x"}, {"id": "x"}, {"allOf": {}}, {"allOf": []}, {"not": 5},
    {"dependencies": 5}, {"$schema": 5}, {"$schema": "http://nowhere.example/x"}, {"patternProperties": {"(": {}}},
]  # fmt: skip
PARTS: list[dict[str, Any]] = [
    {"type": "strng"}, {"type": []}, {"type": 5}, {"$ref": "#/nope"}, {"$ref": "http://nowhere.example/x"}, {"$ref": 5},
    {"pattern": "("}, {"pattern": "\\-a"}, {"pattern": "a++"}, {"pattern": 5}, {"minimum": "5"}, {"enum": []},
    {"nullable": True}, {"items": 5}, {"maxLength": "x"}, {"uniqueItems": "x"}, {"format": 5}, {"anyOf": "x"},
    {"pattern": "(?<a>b)(?<a>c)"}, {"pattern": "[b-a]"}, {"pattern": "(?i)a"}, {"$dynamicRef": "#x"}, {"multipleOf": 0},
]  # fmt: skip

TOOL: list[dict[str, Any]] = [
    *({"inputSchema": schema} for schema in SCHEMAS),
    {"inputSchema": {"type": ["object", "null"]}},
    {"inputSchema": {**OBJECT, "properties": {"a": True, "b": False, "c": None, "d": 5, "e": {"type": "string"}}}},
    *({"inputSchema": {**OBJECT, "properties": value}} for value in (None, [], 5, "x")),
    *({"inputSchema": {**OBJECT, "required": value}} for value in (None, "x", [1, "a"], {})),
    *({"description": value} for value in (5, None, [], {}, True)),
    *({"title": value} for value in (5, None, [])),
    *({"annotations": value} for value in HINTS),
    *({"icons": value} for value in ICONS),
    *({"execution": value} for value in ("x", None, [], {"taskSupport": "maybe"}, {"taskSupport": None})),
    *({"_meta": value} for value in (5, None, [], "x")),
    *({"outputSchema": value} for value in (None, {}, True, "x", {"type": "array"}, {"$ref": "#/x"})),
    *({"outputSchema": {**OBJECT, **more}} for more in OUTPUTS),
    *({"outputSchema": {**OBJECT, "properties": {"a": part}}} for part in PARTS),
]
"""What stands in a tool beside its name (and instead of a sound input schema)."""

SHOWN: list[dict[str, Any]] = [
    *({"title": value} for value in (5, None, [])),
    *({"description": value} for value in (5, None, [])),
    *({"_meta": value} for value in (5, None, [])),
    *({"icons": value} for value in ("x", None, {}, [5])),
]
PROMPT: list[dict[str, Any]] = [
    *SHOWN,
    *({"arguments": value} for value in ("bad", None, 5, {}, [5], [None], [{"name": 5}], [{}])),
    {"arguments": [{"name": "a", "required": "yes", "description": None, "title": 4}]},
]
RESOURCE: list[dict[str, Any]] = [
    *SHOWN,
    *({"name": value} for value in (None, 5, [])),
    *({"mimeType": value} for value in (None, 5)),
    *({"size": value} for value in (None, "x", 5.5, True, 10**400)),
    *(
        {"annotations": value}
        for value in (None, "x", [], {"audience": "user"}, {"audience": ["x"]}, {"priority": 5})
    ),
    *({"annotations": {"lastModified": value}} for value in ("yesterday", None, 5, "2025-13-12T15:00:58Z")),
]

NAMES: list[Any] = [None, 5, "", [], "x y\u202e", "a\u200bb", "a\tb", "a\x00b", "a\u2028b", "x" * 9000, "\ufffd"]
"""What no tool or prompt can be called."""
URIS: list[Any] = [None, 5, "", "no uri", "/a/b", "x://a\u202eb", "x://a\nb"]
NO_ITEMS: list[Any] = [None, 5, "x", [], [[]], {}, True]


def tools() -> list[Any]:
    """Bad tools, and one good one."""
    sound = [{"name": f"tool{number}", "inputSchema": OBJECT, **more} for number, more in enumerate(TOOL)]
    names = [{"name": name, "inputSchema": OBJECT} for name in [*NAMES, "two words"]]
    return [{"name": "noschema"}, *sound, *names, *NO_ITEMS, {"name": "good", "inputSchema": OBJECT}]


def prompts() -> list[Any]:
    """Bad prompts, and one good one."""
    found = [{"name": f"prompt{number}", **more} for number, more in enumerate(PROMPT)]
    return [*found, *({"name": name} for name in NAMES), *NO_ITEMS, {"name": "good"}]


def resources(key: str) -> list[Any]:
    """Bad resources (`uri`) or templates (`uriTemplate`), and one good one."""
    found = [{key: f"x://{number}", "name": "n", **more} for number, more in enumerate(RESOURCE)]
    uris = [{key: uri, "name": "n"} for uri in URIS]
    return [{key: "x://nameless"}, *found, *uris, *NO_ITEMS, {key: "x://good", "name": "n"}]


_OFFERS: dict[str, Any] = {"tools": {}}
GREETINGS: list[dict[str, Any]] = [
    *({"instructions": value} for value in (None, 5, [], {})),
    *({"capabilities": {"tools": value}} for value in (True, [], {"listChanged": None}, {"listChanged": "yes"})),
    *({"capabilities": {**_OFFERS, "logging": value}} for value in (None, True, 5)),
    *({"capabilities": {**_OFFERS, "experimental": value}} for value in (None, [], {"x": None}, {"x": True})),
    *(
        {"capabilities": {**_OFFERS, "tasks": value}}
        for value in (None, {"list": None}, {"requests": {"tools": None}})
    ),
    *({"capabilities": {**_OFFERS, "completions": None, "extensions": value}} for value in (None, [], {"x": None})),
    *({"capabilities": {**_OFFERS, "prompts": None, "resources": None, "made/up": value}} for value in (None, 5)),
    *({"serverInfo": value} for value in (None, "x", {}, {"name": None}, {"name": "x", "version": None})),
    {"serverInfo": {"name": "x", "version": "1", "title": None, "icons": None, "websiteUrl": 5, "description": None}},
    {"serverInfo": {"name": "x", "version": "1", "icons": [None, {"src": None}]}},
    *({"_meta": value} for value in (None, 5, [])),
    {"made/up": None},
]
"""What stands in the answer to `initialize` instead of a sound member."""

PAGES: list[dict[str, Any]] = [
    *({"nextCursor": value} for value in (None, "", 5, {}, [])),
    *({"_meta": value} for value in (None, 5, [])),
    *({"ttlMs": None, "cacheScope": value} for value in (None, 5, "everybody")),
    {"made/up": None},
]
"""What stands in a page of a list beside its items."""

NO_LISTS: list[Any] = [{}, {"tools": None}, {"tools": {}}, {"tools": "x"}, {"tools": [], "nextCursor": None}]
"""Pages of tools that have none."""

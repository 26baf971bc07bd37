"""Updates the tables of keys in docs/configuration.md from the schema: `python -m registry.schema.tables FILE`.

A table stands between `<!-- keys PATH -->` and `<!-- end -->`, where PATH leads to a mapping of the configuration as a
person writes it: `mcpServers.NAME.network`, `allowed_hosts[]` for one entry of a list, `.` for the whole file.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from registry.schema.generate import generate

BLOCK = re.compile(r"(<!-- keys (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
Node = Mapping[str, Any]


def sections(schema: Node) -> dict[str, dict[str, Node]]:
    """For each mapping with fixed keys its path, and its keys with their schemas."""
    return dict(walk(schema, schema, "."))


def walk(root: Node, node: Node, path: str) -> Iterator[tuple[str, dict[str, Node]]]:
    """This node's section, if it is one, and those below it."""
    for option in options(root, node):
        keys = option.get("properties", {})
        if keys:
            yield path, keys
        for key, child in keys.items():
            yield from walk(root, child, key if path == "." else f"{path}.{key}")
        for child in option.get("patternProperties", {}).values():
            yield from walk(root, child, f"{path}.NAME")
        if "items" in option:
            yield from walk(root, option["items"], f"{path}[]")


def options(root: Node, node: Node) -> list[Node]:
    """What may stand here, with references followed; `null` is no choice."""
    if "$ref" in node:
        return options(root, root["$defs"][node["$ref"].rpartition("/")[2]])
    if "anyOf" in node:
        return [found for option in node["anyOf"] for found in options(root, option)]
    return [] if node.get("type") == "null" else [node]


def table(root: Node, keys: Mapping[str, Node]) -> str:
    """The keys of one mapping, a row each."""
    rows = [f"| `{key}` | {values(root, node)} | {default(node)} | {about(node)} |" for key, node in keys.items()]
    return "\n".join(["| key | value | default | |", "| --- | --- | --- | --- |", *rows, ""])


def values(root: Node, node: Node) -> str:
    """The type of the value, in a word or two."""
    return " or ".join(dict.fromkeys(word for option in options(root, node) for word in words(root, option)))


def words(root: Node, option: Node) -> list[str]:
    if "enum" in option:
        return [f"`{value}`" for value in option["enum"]]
    if "const" in option:
        return [f"`{option['const']}`"]
    match option.get("type"):
        case "array":
            return ["list"]
        case "object":
            return ["mapping"]
        case "boolean":
            return ["`true`", "`false`"]
        case "integer":
            return ["whole number"]
        case "number":
            return ["number"]
        case _:
            return ["text"]


def default(node: Node) -> str:
    found = node.get("default")
    match found:
        case None | "":
            return ""
        case bool():
            return f"`{str(found).lower()}`"
        case float():
            return f"`{found:g}`"
        case int() if "512m" in node.get("examples", ()):
            return f"`{found // 2**20}m`"
        case _:
            return f"`{found}`"


def about(node: Node) -> str:
    return str(node.get("description", "")).replace("|", "\\|")


def fill(text: str) -> str:
    """The page with its tables made from the schema. Raises KeyError for a path that is no mapping of the configuration."""
    schema = generate()
    found = sections(schema)
    return BLOCK.sub(lambda match: f"{match[1]}\n{table(schema, found[match[2]])}\n{match[3]}", text)


def missing(text: str) -> set[str]:
    """The mappings of the configuration that have no table on the page."""
    return set(sections(generate())) - {match[2] for match in BLOCK.finditer(text)}


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(fill(page.read_text("utf-8")), "utf-8")

"""The product's texts call an MCP server a server; `backend` is the code's own word, and that of metrics and attributes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TELEMETRY_AND_FORMATS = {
    (
        "gateway/mcp/upstream/cache.py",
        '{"version": {}, "contested": {}, "backends": {',
    ),  # a file of the gateway's own
    ("egress/doors/ticket.py", "door, backend and nonce are strings"),  # between two processes of ours
}
"""What no person reads."""


def texts(path: Path) -> Iterator[str]:
    """Every text of a module that is no docstring, with {} for what is filled in."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):  # docstrings, of attributes too
            skipped.add(id(node.value))
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def is_said_of_a_backend(text: str) -> bool:
    """Whether this is a sentence, or a part of one, with that word; `--backend` is an option of some tool."""
    return " " in text and re.search(r"(?<!-)\bbackends?\b", text, re.IGNORECASE) is not None


@pytest.mark.parametrize("package", ["gateway", "egress", "registry"])
def test_no_text_for_people_says_backend(package: str) -> None:
    found = {
        (str(path.relative_to(ROOT)), text)
        for path in sorted((ROOT / package).rglob("*.py"))
        for text in texts(path)
        if is_said_of_a_backend(text)
    }
    assert found - TELEMETRY_AND_FORMATS == set()


def test_the_list_of_exceptions_is_needed() -> None:
    there = {(name, text) for name, text in TELEMETRY_AND_FORMATS if text in texts(ROOT / name)}
    assert there == TELEMETRY_AND_FORMATS

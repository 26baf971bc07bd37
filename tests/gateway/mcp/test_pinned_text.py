"""The texts by which a person compares definitions of a tool."""

from __future__ import annotations

from gateway.mcp.view.pinned_text import words


def test_definitions_that_differ_only_where_nothing_is_shown_are_told_apart() -> None:
    before, after = ({"name": "x", "description": "a" * 5_000 + end} for end in ("", ", and then send it all"))
    assert words(before) != words(after)
    assert len(words(after)) < 4_300
    assert "more characters are not shown" in words(after)
    assert words({"name": "x", "description": "short"}).startswith("short\n\n")

"""Filters and shapes, as tables."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.mcp.view.filters import Globs, Shape


@pytest.mark.parametrize(
    ("allow", "deny", "names", "passes"),
    [
        pytest.param(None, None, ["a"], True, id="nothing said shows all"),
        pytest.param([], None, ["a"], False, id="an empty allow shows nothing"),
        pytest.param(["a"], None, ["a"], True, id="exact"),
        pytest.param(["a"], None, ["ab"], False, id="a glob matches the whole name"),
        pytest.param(["a"], None, ["A"], False, id="case counts"),
        pytest.param(["github__search_*"], None, ["github__search_code"], True, id="star"),
        pytest.param(["x", "y?"], None, ["yz"], True, id="the second glob"),
        pytest.param(["*"], ["*delete*"], ["files__delete_all"], False, id="deny is stronger"),
        pytest.param(
            None, ["*delete*"], ["files__remove", "files__delete_all"], False, id="a rename escapes no deny"
        ),
        pytest.param(["files__remove"], ["x"], ["files__remove", "files__delete"], True, id="either name allows"),
        pytest.param(["a.b"], None, ["axb"], False, id="a dot is a dot"),
        pytest.param(["[ab]"], None, ["b"], True, id="a class"),
        pytest.param(["a*"], None, ["a\nb"], True, id="star matches a line break"),
    ],
)
def test_a_name_passes(allow: Any, deny: Any, names: list[str], passes: bool) -> None:
    assert Globs.of(allow, deny).passes(*names) is passes


TOOL: dict[str, Any] = {
    "name": "search",
    "description": "Search",
    "x-vendor": {"kept": True},
    "inputSchema": {
        "type": "object",
        "properties": {"repo": {"type": "string"}, "query": {"type": "string"}, "limit": {"type": "integer"}},
        "required": ["repo", "query", "limit"],
        "$defs": {"kept": {}},
    },
}


def test_a_plain_shape_changes_only_the_name() -> None:
    assert Shape().definition(TOOL, "github__search") == {**TOOL, "name": "github__search"}


def test_a_description_is_replaced_and_all_else_kept() -> None:
    shown = Shape(describe={"search": "Finds things"}).definition(TOOL, "search")
    assert shown == {**TOOL, "description": "Finds things"}


def test_fixed_arguments_vanish_from_the_schema_and_defaults_are_not_required() -> None:
    shape = Shape(fixed={"search": {"repo": "ours"}}, defaults={"search": {"limit": 5}})
    schema = shape.definition(TOOL, "search")["inputSchema"]
    assert set(schema["properties"]) == {"query", "limit"}
    assert schema["required"] == ["query"]
    assert schema["$defs"] == {"kept": {}}
    assert TOOL["inputSchema"]["required"] == ["repo", "query", "limit"]


@pytest.mark.parametrize("schema", [None, True, {}, {"properties": 5, "required": "repo"}])
def test_a_strange_schema_is_left_alone(schema: Any) -> None:
    shape = Shape(fixed={"search": {"repo": "ours"}})
    assert shape.definition({"name": "search", "inputSchema": schema}, "search")["inputSchema"] == schema


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (None, {"limit": 5, "repo": "ours"}),
        ({"query": "x"}, {"limit": 5, "query": "x", "repo": "ours"}),
        ({"limit": 9, "repo": "theirs"}, {"limit": 9, "repo": "ours"}),
    ],
)
def test_defaults_are_below_what_was_given_and_fixed_ones_above(given: Any, sent: Any) -> None:
    shape = Shape(fixed={"search": {"repo": "ours"}}, defaults={"search": {"limit": 5}})
    assert shape.arguments("search", given) == sent


def test_arguments_of_other_tools_are_the_same_object() -> None:
    given = {"a": 1}
    assert Shape(fixed={"search": {"repo": "ours"}}).arguments("other", given) is given


@pytest.mark.parametrize(
    ("shown", "original"),
    [("web_fetch", "fetch"), ("fetch", None), ("other", "other")],
    ids=["renamed", "the old name is gone", "not renamed"],
)
def test_a_shown_name_leads_back_to_the_backends(shown: str, original: str | None) -> None:
    shape = Shape(rename={"fetch": "web_fetch"})
    assert shape.original(shown) == original
    assert shape.shown_as("fetch") == "web_fetch"
    assert shape.shown_as("other") == "other"

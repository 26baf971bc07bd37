"""Items of lists are mended where that can be done without guessing, and left out where it cannot."""

from __future__ import annotations

from typing import Any

import mcp_types as t
import pytest

from gateway.mcp.view.items import MAX_ITEM, MAX_ITEMS, MAX_LIST, Sieve, Unfit, mended
from gateway.mcp.view.listing import MAX_NAMED, Flaws, Kind
from gateway.mcp.view.schemas import is_sound_output
from tests.attack import shapes

OBJECT = {"type": "object"}
MODELS = {
    Kind.TOOLS: t.Tool,
    Kind.PROMPTS: t.Prompt,
    Kind.RESOURCES: t.Resource,
    Kind.TEMPLATES: t.ResourceTemplate,
}
ALL = {
    Kind.TOOLS: shapes.tools(),
    Kind.PROMPTS: shapes.prompts(),
    Kind.RESOURCES: shapes.resources("uri"),
    Kind.TEMPLATES: shapes.resources("uriTemplate"),
}


def tool(**more: Any) -> dict[str, Any]:
    return {"name": "t", "inputSchema": OBJECT, **more}


@pytest.mark.parametrize("kind", Kind)
def test_every_item_that_is_shown_has_the_protocols_shape(kind: Kind) -> None:
    for item in ALL[kind]:
        try:
            fit, _ = mended(kind, item)
        except Unfit:
            continue
        MODELS[kind].model_validate(fit)
        assert mended(kind, fit) == (fit, []), "what was mended is sound"


@pytest.mark.parametrize(
    ("item", "shown"),
    [
        ({"name": "t"}, tool()),
        (tool(inputSchema=None), tool()),
        (tool(inputSchema={}), tool()),
        (tool(inputSchema=True), tool()),
        (tool(inputSchema={"anyOf": [OBJECT]}), tool(inputSchema={"anyOf": [OBJECT], "type": "object"})),
        (tool(inputSchema={"type": ["object", "null"]}), tool()),
        (
            tool(inputSchema={**OBJECT, "properties": {"a": True, "b": False, "c": None}}),
            tool(inputSchema={**OBJECT, "properties": {"a": {}, "b": {"not": {}}, "c": {}}}),
        ),
        (tool(inputSchema={**OBJECT, "required": [1, "a"]}), tool(inputSchema={**OBJECT, "required": ["a"]})),
        (tool(outputSchema=None), tool()),
        (tool(outputSchema={"type": "array"}), tool()),
        (tool(description=None, title=5, annotations="x", icons={}, execution=[], _meta=3), tool()),
        (
            tool(annotations={"readOnlyHint": "yes", "title": "x", "y": 1}),
            tool(annotations={"title": "x", "y": 1}),
        ),
        (tool(_meta={"stockade/egress": 1, "a": 2}), tool(_meta={"a": 2})),
        (tool(icons=[{"src": "a", "sizes": "1x1"}, {"src": 5}]), tool(icons=[{"src": "a"}])),
    ],
)
def test_a_tool_is_mended(item: dict[str, Any], shown: dict[str, Any]) -> None:
    fit, changed = mended(Kind.TOOLS, item)
    assert fit == shown
    assert changed


@pytest.mark.parametrize(
    "item",
    [
        tool(),
        tool(title="x", description="y", unknown={"a": None}, _meta={"k": 1}, annotations={"readOnlyHint": True}),
        tool(inputSchema={**OBJECT, "properties": {"a": {"type": "string", "pattern": "(?i)x"}}, "oneOf": [{}]}),
        tool(outputSchema={**OBJECT, "properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"type": "number"}}}),
        tool(outputSchema={**OBJECT, "properties": {"a": {"anyOf": [{"type": "null"}, {"type": "string"}]}}}),
        tool(outputSchema={**OBJECT, "properties": {"id": {"type": "string", "pattern": r"^[a-z]\d{2,}$"}}}),
    ],
)
def test_a_sound_tool_is_the_very_same(item: dict[str, Any]) -> None:
    fit, changed = mended(Kind.TOOLS, item)
    assert fit is item
    assert changed == []


@pytest.mark.parametrize(
    ("item", "why"),
    [
        (5, "no object"),
        ({"name": 5}, "no name"),
        (tool(inputSchema={"type": "array"}), "not one of an object"),
        (tool(name="a b"), "blank"),
        (tool(name="a\u202e"), "cannot be printed"),
        (tool(name="x" * 9000), "longer than 8192"),
    ],
)
def test_what_cannot_be_mended_is_left_out(item: Any, why: str) -> None:
    with pytest.raises(Unfit, match=why):
        mended(Kind.TOOLS, item)


def test_a_prompt_may_have_a_blank_in_its_name_and_a_resource_needs_no_name() -> None:
    assert mended(Kind.PROMPTS, {"name": "review code"})[1] == []
    assert mended(Kind.RESOURCES, {"uri": "x://a"})[0] == {"uri": "x://a", "name": "x://a"}
    assert mended(Kind.PROMPTS, {"name": "p", "arguments": [{"name": "a"}, 5]})[0]["arguments"] == [{"name": "a"}]


def test_a_schema_that_is_deep_or_refers_to_itself_is_looked_at_with_a_bound() -> None:
    deep: dict[str, Any] = dict(OBJECT)
    for _ in range(200):
        deep = {**OBJECT, "properties": {"a": deep}}
    assert not is_sound_output(deep)
    assert is_sound_output({**OBJECT, "properties": {"a": {"$ref": "#"}}})


def test_a_sieve_is_full_by_number_and_by_size() -> None:
    many = Sieve(Kind.TOOLS)
    for number in range(MAX_ITEMS):
        assert not many.full
        many.take(tool(name=f"t{number}"))
    assert many.full
    many.refuse(7)
    assert many.flaws.left_out == 7

    large = Sieve(Kind.TOOLS)
    for number in range(2 * MAX_LIST // MAX_ITEM):
        large.take(tool(name=f"t{number}", description="x" * (MAX_ITEM - 100)))
    assert large.full
    assert sum(len(str(item)) for item in large.items) <= MAX_LIST


def test_flaws_are_counted_all_and_named_in_part() -> None:
    flaws = Flaws()
    for number in range(100):
        flaws.leave_out(f"'t{number}'", "why")
        flaws.change(f"'u{number}'", ["title"])
    assert flaws.missing(Kind.TEMPLATES).startswith(
        "100 of its resource templates cannot be shown and are left out: 't0' (why)"
    )
    assert flaws.missing(Kind.TOOLS).count("why") == MAX_NAMED
    assert flaws.reshaped(Kind.TOOLS).count("title") == MAX_NAMED
    assert flaws.missing(Kind.TOOLS).endswith("; …")

"""Edits of JSON files keep everything that is not theirs."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.file.json_edit import EditRefused, load, remove_path, rewrite, set_path

ENTRY = {"url": "http://127.0.0.1:8420/mcp"}
COMMENTED = """\
// my settings, https://example.com
{
  "editor": "vi", /* , } */
  "servers": {
    // the first
    "one": {"url": "http://one/", "args": ["//", "/*"]}, // trailing
  },
  // the end
}
"""


def test_an_entry_is_added_and_every_comment_stays() -> None:
    text = set_path(COMMENTED, ["servers", "stockade"], ENTRY)
    assert [line for line in COMMENTED.splitlines() if line not in text.splitlines()] == []
    assert load(text)["servers"]["stockade"] == ENTRY


def test_what_was_added_can_be_removed_again_without_a_trace() -> None:
    assert load(remove_path(set_path(COMMENTED, ["servers", "stockade"], ENTRY), ["servers", "stockade"])) == load(
        COMMENTED
    )
    assert "// trailing" in remove_path(set_path(COMMENTED, ["servers", "stockade"], ENTRY), ["servers", "stockade"])


def test_an_entry_of_that_name_is_replaced_in_its_place() -> None:
    text = set_path(COMMENTED, ["servers", "one"], ENTRY)
    assert load(text)["servers"] == {"one": ENTRY}
    assert text.index('"one"') < text.index("// trailing")


@pytest.mark.parametrize("empty", ["", "\n", "{}", "{ }\n", "{\n}\n", "// nothing yet\n{}\n", "{ /* soon */ }"])
def test_an_empty_file_gets_the_whole_path(empty: str) -> None:
    text = set_path(empty, ["a", "b", "c"], ENTRY)
    assert load(text) == {"a": {"b": {"c": ENTRY}}}
    assert "soon" in text or "soon" not in empty


@pytest.mark.parametrize(
    ("text", "said"),
    [("[1]", "object"), ('{"servers": 3}', "not an object"), ("{oops", "not JSON"), ("'x'", "not JSON")],
)
def test_a_file_of_another_shape_is_refused(text: str, said: str) -> None:
    with pytest.raises(EditRefused, match=said):
        set_path(text, ["servers", "x"], ENTRY)


def test_the_files_own_indentation_is_used() -> None:
    text = set_path('{\n\t"a": 1\n}\n', ["servers", "x"], ENTRY)
    assert '\n\t"servers": {\n\t\t"x": {\n\t\t\t"url"' in text


def test_windows_line_ends_stay() -> None:
    text = set_path('{\r\n  "a": 1\r\n}\r\n', ["b"], 2)
    assert '"a": 1,' in text
    assert load(text) == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"a": 1, "b": 2}', {"a": 1}),
        ('{"b": 2, "a": 1}', {"a": 1}),
        ('{"b": 2}', {}),
        ('{"a": 1 /* x, y */, "b": 2 // z\n}', {"a": 1}),
        ('{\n "a": 1,\n "b": 2,\n}', {"a": 1}),
        ('{"a": 1}', {"a": 1}),
    ],
)
def test_removing_leaves_valid_json(before: str, after: dict[str, int]) -> None:
    assert load(remove_path(before, ["b"])) == after


def test_what_stands_on_one_line_stays_on_one_line() -> None:
    text = '{\n  "a": {"hosts": ["x", "y"], "n": 1}\n}\n'
    assert set_path(text, ("a", "hosts", 2), "z") == text.replace('"y"', '"y", "z"')
    assert set_path(text, ("a", "m"), {"k": [1]}) == text.replace('"n": 1', '"n": 1, "m": {"k": [1]}')
    assert set_path(text, ("a", "n"), {"k": 1}) == text.replace('"n": 1', '"n": {"k": 1}')


def test_an_item_goes_below_the_last_one_and_its_remark() -> None:
    text = '{\n    "hosts": [\n          "x", // why\n          "y" // and why\n    ]\n}\n'
    added = set_path(text, ("hosts", 2), "z")
    assert added == text.replace('"y" // and why\n', '"y", // and why\n          "z"\n')


def test_only_what_differs_is_rewritten() -> None:
    new = {"editor": "vi", "servers": {"one": {"url": "http://two/", "args": ["//", "/*", "more"]}}, "last": True}
    text = rewrite(COMMENTED, new)
    assert load(text) == new
    for remark in ("// my settings, https://example.com", "/* , } */", "// the first", "// trailing", "// the end"):
        assert remark in text
    assert '"one": {"url": "http://two/", "args": ["//", "/*", "more"]}, // trailing' in text
    assert load(rewrite(COMMENTED, {})) == {}
    assert rewrite(COMMENTED, load(COMMENTED)) == COMMENTED


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), VALUES, max_size=4), st.text(), VALUES, st.sampled_from([None, 0, 2]))
def test_any_object_can_take_any_key_and_give_it_back(
    data: dict[str, object], key: str, value: object, indent: int | None
) -> None:
    text = json.dumps(data, indent=indent, ensure_ascii=False)
    changed = set_path(text, [key], value)
    assert load(changed) == {**data, key: value}
    assert load(remove_path(changed, [key])) == {k: v for k, v in data.items() if k != key}

"""Reading YAML and JSON with places."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.file.document import blank_comments, parse
from registry.model.errors import ConfigError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=8), VALUES, max_size=4), st.sampled_from([None, 2, "\t"]))
def test_json_means_what_json_says(value: dict[str, object], indent: int | str | None) -> None:
    assert parse(json.dumps(value, indent=indent), "a.json").value == value


SCALARS = {
    "yes": "yes",
    "on": "on",
    "0o17": 15,
    "010": 10,
    "0x10": 16,
    "1_000": 1000,
    "1e3": 1000.0,
    "~": None,
    "null": None,
    "2026-01-02": "2026-01-02",
    "12:30": "12:30",
    "'8080'": "8080",
    "True": True,
}


@pytest.mark.parametrize(("text", "value"), SCALARS.items(), ids=SCALARS)
def test_a_scalar_has_the_type_of_yaml_1_2(text: str, value: object) -> None:
    found = parse(f"a: {text}\n", "a.yaml").value["a"]
    assert (found, type(found)) == (value, type(value))


def test_comments_and_trailing_commas_in_json_keep_every_place() -> None:
    text = '{ // one\n\t"a": [1, 2, ], /* two\n */ "b": "// no, comment", }'
    blanked = blank_comments(text)
    assert len(blanked) == len(text)
    assert json.loads(blanked) == {"a": [1, 2], "b": "// no, comment"}
    assert parse(text, "a.json").locate(("b",)) == (3, 10)


def test_a_merge_key_brings_in_what_is_not_written() -> None:
    value = parse("base: &b {x: 1, y: 2}\nmore: {<<: *b, y: 3}\n", "a.yaml").value
    assert value["more"] == {"x": 1, "y": 3}


BROKEN = {
    "json": ('{"a": 1,, "b": 2}', "a.json", "a.json:1:9: is not JSON: Expecting property name"),
    "json duplicate": ('{"a": 1,\n "a": 2}', "a.json", "a.json:2:2: a: is written twice; the first is on line 1"),
    "alias": ("a: *nothing\n", "a.yaml", "a.yaml:1:4: is not YAML: found undefined alias"),
    "tag": ("a: !!python/object:os.system x\n", "a.yaml", "which is not allowed here"),
    "own tag": ("a: !secret x\n", "a.yaml", "has the tag !secret, which is not allowed here"),
    "key": ("? [a, b]\n: 1\n", "a.yaml", "has a key that is itself a list or mapping"),
    "merge": ("a: {<<: 5}\n", "a.yaml", "`<<` takes a mapping"),
    "depth": ("[" * 5000, "a.yaml", "is nested too deeply"),
    "json depth": ("[" * 100_000, "a.json", "is nested too deeply"),
    "control character": ("a: \x01\n", "a.yaml", "is not YAML"),
}


@pytest.mark.parametrize(("text", "file", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_text_is_an_error_in_words(text: str, file: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, file)
    assert message in str(caught.value)


def test_aliases_cannot_unfold_without_bound() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(ConfigError, match="expands to too many values"):
        parse("\n".join(lines), "a.yaml")


@given(st.text(max_size=60))
def test_any_text_parses_or_is_a_config_error(text: str) -> None:
    for name in ("a.yaml", "a.json"):
        with contextlib.suppress(ConfigError):
            parse(text, name)

"""JSON Schemas of tools, in a form that lets every client read the list that has them.

The TypeScript SDK parses a list as a whole and compiles each `outputSchema` with Ajv; one that it refuses costs the client
every tool of every server. So an input schema is mended where its meaning allows it, and an output schema
that is not plainly sound is not shown: it only lets a client check results.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

_TYPES: Final = frozenset({"string", "number", "integer", "boolean", "array", "object", "null"})
_SCHEMA: Final = frozenset(
    {"not", "if", "then", "else", "additionalProperties", "additionalItems", "contains", "propertyNames", "items"}
    | {"unevaluatedItems", "unevaluatedProperties"}
)
_SCHEMAS: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_NAMED: Final = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_NUMBERS: Final = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_COUNTS: Final = frozenset(
    {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minContains", "maxContains"}
)
_TEXTS: Final = frozenset({"title", "description", "$comment", "format", "contentEncoding", "contentMediaType"})
_FLAGS: Final = frozenset({"uniqueItems", "readOnly", "writeOnly", "deprecated"})
_VALUES: Final = frozenset({"const", "default", "examples", "example", "discriminator"})
_DIALECTS: Final = re.compile(r"https?://json-schema\.org/(?:draft-07|draft/2019-09|draft/2020-12)/schema#?")
_TOKENS: Final = (
    r"[^\\(){}\[\]*+?|]",  # a character
    r"\\[dDwWsSbB.^$*+?()\[\]{}|\\/]",
    r"\[\^?(?:\w-\w|[\w .:/])+-?\]",
    r"\((?:\?:)?",
    r"[)|*+?]",
    r"\{\d{1,4}(?:,\d{0,4})?\}",
)
_PATTERN: Final = re.compile(f"(?:{'|'.join(_TOKENS)})*")
_PYTHONIC: Final = re.compile(r"[*+?}]\+|\(\?(?!:)")
_DEPTH: Final = 64


def input_schema(schema: Any) -> tuple[Any, bool]:
    """The schema as clients can read it (None if it is none), and whether it had to be changed.

    An empty array stands for an empty object: PHP cannot tell them apart.
    """
    if schema is None or schema is True or schema in ({}, []):
        return {"type": "object"}, True
    if not isinstance(schema, dict):
        return None, True
    kinds = schema.get("type")
    if kinds not in (None, "object") and not (isinstance(kinds, list) and "object" in kinds):
        return None, True
    shown = dict(schema) if kinds == "object" else {**schema, "type": "object"}
    properties, required = schema.get("properties"), schema.get("required")
    if "properties" in schema and not _mended_properties(shown, properties):
        return None, True
    if "required" in schema and not _all_text(required):
        del shown["required"]
        if isinstance(required, list):
            shown["required"] = [name for name in required if isinstance(name, str)]
    return (shown, True) if shown != schema or kinds != "object" else (schema, False)


def _mended_properties(shown: dict[str, Any], properties: Any) -> bool:
    """Give each property a schema that is an object; `true` and `false` are schemas too, but not for every client."""
    if properties is None or properties == []:
        del shown["properties"]
        return True
    if not isinstance(properties, dict):
        return False
    if not all(isinstance(one, dict) for one in properties.values()):
        shown["properties"] = {name: _as_object(one) for name, one in properties.items()}
    return True


def _as_object(schema: Any) -> Any:
    if isinstance(schema, dict):
        return schema
    return {"not": {}} if schema is False else {}


def _all_text(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def is_sound_output(schema: Any) -> bool:
    """Whether every client can compile the schema of a tool's output."""
    if not isinstance(schema, dict) or schema.get("type") != "object" or not _all_text(schema.get("required", [])):
        return False
    properties = schema.get("properties", {})
    if not isinstance(properties, dict) or not all(isinstance(one, dict) for one in properties.values()):
        return False
    return _is_sound(schema, schema)


def _is_sound(root: Mapping[str, Any], schema: Any) -> bool:
    todo: list[tuple[Any, int]] = [(schema, 0)]
    while todo:
        part, depth = todo.pop()
        if isinstance(part, bool):
            continue
        if not isinstance(part, dict) or depth > _DEPTH or ("nullable" in part):
            return False
        for keyword, value in part.items():
            if not _is_sound_keyword(root, keyword, value):
                return False
        todo += [(below, depth + 1) for below in _below(part)]
    return True


def _below(schema: Mapping[str, Any]) -> Iterator[Any]:
    for keyword, value in schema.items():
        if keyword in _NAMED:
            yield from value.values()
        elif keyword in _SCHEMAS or (keyword == "items" and isinstance(value, list)):
            yield from value
        elif keyword in _SCHEMA:
            yield value


def _is_sound_keyword(root: Mapping[str, Any], keyword: str, value: Any) -> bool:
    """Whether the keyword is a known one with a value of its kind. One that is unknown could mean anything to a client."""
    if keyword in _VALUES or keyword in _SCHEMA or keyword.startswith("x-"):
        return True
    return keyword in _CHECKS and _CHECKS[keyword](root, value)


def _is_type(_: Mapping[str, Any], value: Any) -> bool:
    kinds = value if isinstance(value, list) else [value]
    return (
        bool(kinds)
        and all(isinstance(kind, str) and kind in _TYPES for kind in kinds)
        and len({*kinds}) == len(kinds)
    )


def _is_local(root: Mapping[str, Any], ref: Any) -> bool:
    """Whether a `$ref` leads to a schema in the same document, by a plain JSON Pointer."""
    if not isinstance(ref, str) or not re.fullmatch(r"#(?:/[\w$.-]+)*", ref):
        return False
    found: Any = root
    for step in ref.split("/")[1:]:
        if not isinstance(found, dict) or step not in found:
            return False
        found = found[step]
    return isinstance(found, dict)


def _is_pattern(_: Mapping[str, Any], text: Any) -> bool:
    """Whether the pattern means the same to every regular expression engine, including JavaScript's Unicode mode."""
    if not isinstance(text, str) or len(text) > 1000 or _PYTHONIC.search(text) or not _PATTERN.fullmatch(text):
        return False
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53


def _named(_: Mapping[str, Any], value: Any) -> bool:
    return isinstance(value, dict)


_CHECKS: Final[Mapping[str, Callable[[Mapping[str, Any], Any], bool]]] = {
    **dict.fromkeys(_TEXTS, lambda _, value: isinstance(value, str)),
    **dict.fromkeys(_NUMBERS, lambda _, value: _number(value)),
    **dict.fromkeys(_COUNTS, lambda _, value: type(value) is int and 0 <= value < 2**53),
    **dict.fromkeys(_FLAGS, lambda _, value: isinstance(value, bool)),
    **dict.fromkeys(_SCHEMAS, lambda _, value: isinstance(value, list) and bool(value)),
    **dict.fromkeys(_NAMED, _named),
    "patternProperties": lambda root, value: _named(root, value) and all(_is_pattern(root, one) for one in value),
    "type": _is_type,
    "enum": lambda _, value: isinstance(value, list) and bool(value),
    "required": lambda _, value: _all_text(value),
    "multipleOf": lambda _, value: _number(value) and value > 0,
    "pattern": _is_pattern,
    "dependentRequired": lambda _, value: isinstance(value, dict) and all(map(_all_text, value.values())),
    "$ref": _is_local,
    "$schema": lambda _, value: isinstance(value, str) and _DIALECTS.fullmatch(value) is not None,
}

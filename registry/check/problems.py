"""Turns pydantic's errors into problems with a line and plain words."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from egress.policy.nearest import nearest
from registry.config import Config
from registry.file.document import Document
from registry.model.errors import Finding, Invalid, KeyPath, Problem
from registry.model.nearest import nearest_key

KINDS = {
    "string_type": "text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping (key: value)",
    "mapping_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
}


def problems_of(error: ValidationError, raw: Mapping[str, Any], document: Document) -> list[Problem]:
    """Every problem of a failed validation, each once."""
    problems = [
        document.problem(path, finding.message, finding.hint, at_key=at_key)
        for item in error.errors(include_url=False)
        for path, finding, at_key in findings(item, raw)
    ]
    return list(dict.fromkeys(problems))


def findings(item: Any, raw: Mapping[str, Any]) -> Iterator[tuple[KeyPath, Finding, bool]]:
    """The findings in one of pydantic's errors, with their whole paths and whether they concern the key."""
    path = locate(item["loc"], raw)
    cause = item.get("ctx", {}).get("error")
    if isinstance(cause, Invalid):
        for finding in cause.findings:
            yield (*path, *finding.path), finding, finding.at_key or item["loc"][-1:] == ("[key]",)
        return
    message, hint = words(item, path)
    yield path, Finding((), message, hint), item["type"] == "extra_forbidden"


def locate(loc: KeyPath, raw: Any) -> KeyPath:
    """The path in the file for pydantic's location, which also names union members and marks keys."""
    path: list[str | int] = []
    here = raw
    for index, part in enumerate(loc):
        last = index == len(loc) - 1
        if isinstance(here, Mapping) and (part in here or (last and part != "[key]")):
            path.append(part)
            here = here.get(part)
        elif isinstance(here, list | tuple) and isinstance(part, int) and part < len(here):
            path.append(part)
            here = here[part]
    return tuple(path)


def words(item: Any, path: KeyPath) -> tuple[str, str]:
    """Message and next step for one of pydantic's own error types."""
    given, kind, ctx = item["input"], item["type"], item.get("ctx", {})
    if kind == "extra_forbidden":
        if section := belongs_under(path):
            return f"unknown key {str(path[-1])!r}", f"It belongs under `{section}:`"
        return unknown_key(str(path[-1]), known_keys(path[:-1]))
    if kind == "missing":
        return "is missing", "Add it"
    if kind in KINDS:
        return f"must be {KINDS[kind]}, not {describe(given)}", advice(kind, given)
    if kind in ("enum", "literal_error"):
        return one_of(given, str(ctx.get("expected", "")))
    if kind == "string_too_short":
        return "must not be empty", ""
    if kind == "string_pattern_mismatch":
        return f"{given!r} holds a space or is not one word", "Remove the space"
    if kind == "value_error":
        return str(ctx.get("error")), ""
    return f"is not valid: {item['msg'][:1].lower()}{item['msg'][1:]}", ""


def describe(value: Any) -> str:
    """Describes a value without repeating a long one (or a secret)."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the text {value!r}" if len(value) <= 24 else "text"
        case Mapping():
            return "a mapping"
        case _:
            return "a list"


def advice(kind: str, given: Any) -> str:
    """The next step for a value of the wrong kind."""
    if (
        kind == "bool_type"
        and isinstance(given, str)
        and given.lower() in ("yes", "no", "on", "off", "true", "false")
    ):
        right = "true" if given.lower() in ("yes", "on", "true") else "false"
        return f"Write {right}, without quotes"
    if kind in ("int_type", "float_type") and isinstance(given, str) and given.strip().isdecimal():
        return f"Write {given.strip()}, without quotes"
    if kind == "string_type" and isinstance(given, int | float):
        return f'Put it in quotes: "{str(given).lower()}"'
    if kind == "tuple_type" and isinstance(given, Mapping):
        return "Write each item on a line that starts with `- `"
    return ""


def one_of(given: Any, expected: str) -> tuple[str, str]:
    choices = [choice.strip("' ") for choice in expected.replace(" or ", ", ").split(",")]
    near = nearest(str(given), choices)
    hint = f"Did you mean {near}?" if near else ""
    return f"{given!r} is not one of {', '.join(choices)}", hint


def unknown_key(key: str, known: list[str]) -> tuple[str, str]:
    """The message and hint for an unknown key, with the nearest known one."""
    if near := nearest_key(key, known):
        return f"unknown key {key!r}", f"Did you mean {near!r}?"
    return f"unknown key {key!r}", f"Known here: {', '.join(known)}" if known else "Remove it"


def known_keys(path: KeyPath) -> list[str]:
    """The keys that may stand in the mapping at `path` of a configuration."""

    here: Any = Config
    for part in path:
        here = step(here, part)
    return [field.alias or name for name, field in here.model_fields.items()] if is_model(here) else []


def belongs_under(path: KeyPath) -> str:
    """The section beside an unknown key that has a key of this very name; empty if there is none."""
    beside = known_keys(path[:-1])
    return next((section for section in beside if path[-1] in known_keys((*path[:-1], section))), "")


def step(annotation: Any, part: str | int) -> Any:
    """The annotation of what stands under `part` in something of this annotation."""
    if is_model(annotation):
        for name, field in annotation.model_fields.items():
            if part in (name, field.alias):
                return core(field.annotation)
        return None
    arguments = get_args(annotation)
    return core(arguments[1] if isinstance(part, str) and len(arguments) > 1 else arguments[0]) if arguments else None


def core(annotation: Any) -> Any:
    """The annotation without Annotated and `| None`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return core(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return core(next(part for part in get_args(annotation) if part is not type(None)))
    return annotation


def is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)

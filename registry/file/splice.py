"""Changes a YAML text so that it means a new value, and leaves every other character as it is.

Theory of operation. `splice(document, new)` compares the document's value with the new one and makes a list of
replacements in the text: a key added, a line appended, a value exchanged. The position of each value is known from
parsing. New parts are written in the style of their surroundings: inside brackets, or as lines. The caller parses the
result and compares: text that does not mean exactly the new value is never used.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from registry.file.document import Document
from registry.model.errors import KeyPath


@dataclass(frozen=True, slots=True, order=True)
class Replacement:
    """Replaces the text from `start` to `end` with `text`."""

    start: int
    end: int
    text: str


def splice(document: Document, new: Any) -> str:
    """The document's text with as little as possible changed, so that it means `new`."""
    text = document.text
    for change in sorted(differences(document, (), document.value, new), reverse=True):
        text = text[: change.start] + change.text + text[change.end :]
    return text


def differences(document: Document, path: KeyPath, old: Any, new: Any) -> Iterator[Replacement]:
    """The replacements that turn the value at `path` from `old` into `new`."""
    if old == new and type(old) is type(new):
        return
    if isinstance(old, dict) and isinstance(new, dict) and old and new and (old.keys() & new.keys()):
        yield from mapping_differences(document, path, old, new)
    elif isinstance(old, list) and isinstance(new, list) and old and new[: len(old)] == old:
        yield added(document, path, [Added(None, item) for item in new[len(old) :]], (*path, len(old) - 1))
    else:
        yield exchanged(document, path, new)


@dataclass(frozen=True, slots=True)
class Added:
    """A member to add: a key and value, or an item of a list (key None)."""

    key: str | None
    value: Any


def mapping_differences(
    document: Document, path: KeyPath, old: dict[str, Any], new: dict[str, Any]
) -> Iterator[Replacement]:
    for key in old:
        if key not in new:
            yield removed(document, path, key, list(old))
        else:
            yield from differences(document, (*path, key), old[key], new[key])
    if extra := [Added(key, new[key]) for key in new if key not in old]:
        last = max(old, key=lambda key: document.spans[(*path, key)].end if (*path, key) in document.spans else -1)
        yield added(document, path, extra, (*path, last))


def added(document: Document, path: KeyPath, members: list[Added], last: KeyPath) -> Replacement:
    """New members after the last one, in brackets or as lines."""
    span, before = document.spans[path], document.spans[last]
    text = document.text
    if not span.flow:
        column = column_of(text, span.start)
        at = line_end(text, before.end)
        return Replacement(at, at, "".join("\n" + indent(block(item), column) for item in members))
    multiline = "\n" in text[span.start : before.key_start]
    margin = " " * column_of(text, before.key_start)
    lead = f",\n{margin}" if multiline else ", "
    written = "".join(lead + flow(item) for item in members)
    return after(text, before.end, written)


def after(text: str, at: int, written: str) -> Replacement:
    """Inserts `written` after a member, past an existing comma and a comment on the same line."""
    rest = text[at : line_end(text, at)]
    if rest.lstrip().startswith(",") and "\n" in written:
        return Replacement(at, at, written)
    if "\n" in written and rest.strip().startswith("#"):
        return Replacement(at, at + len(rest), "," + rest + written[1:])
    return Replacement(at, at, written)


def removed(document: Document, path: KeyPath, key: str, keys: list[str]) -> Replacement:
    """Deletes a member (with its lines, or its comma)."""
    text, span, whole = document.text, document.spans[(*path, key)], document.spans[path]
    index = keys.index(key)
    if not whole.flow:
        start, end = line_start(text, span.key_start), line_end(text, span.end)
        return Replacement(start, min(end + 1, len(text)), "")
    if index > 0:
        return Replacement(document.spans[(*path, keys[index - 1])].end, span.end, "")
    following = document.spans[(*path, keys[1])] if len(keys) > 1 else None
    return Replacement(span.key_start, following.key_start if following else span.end, "")


def exchanged(document: Document, path: KeyPath, new: Any) -> Replacement:
    """Replaces one value with another."""
    span, text = document.spans[path], document.text
    if in_flow(document, path):
        return Replacement(span.start, span.end, written_flow(new))
    if not path:
        return Replacement(span.start, len(text), block_value(new))
    is_block = isinstance(new, dict | list) and new and not short(new)
    if not is_block:
        start = span.start if span.inline or span.flow else text.index(":", span.key_end) + 1
        lead = "" if start and text[start - 1] == " " else " "
        return Replacement(start, max(start, span.end), lead + block_value(new).rstrip("\n"))
    column = column_of(text, span.key_start)
    start = text.index(":", span.key_end) + 1 if isinstance(path[-1], str) else span.start
    return Replacement(start, max(start, span.end), "\n" + indent(block_value(new), column + 2))


def in_flow(document: Document, path: KeyPath) -> bool:
    """Whether a value stands inside brackets."""
    return any(document.spans[path[:length]].flow for length in range(len(path)))


def column_of(text: str, offset: int) -> int:
    return offset - line_start(text, offset)


def line_start(text: str, offset: int) -> int:
    return text.rfind("\n", 0, offset) + 1


def line_end(text: str, offset: int) -> int:
    end = text.find("\n", offset)
    return len(text) if end < 0 else end


def indent(text: str, columns: int) -> str:
    return "\n".join(" " * columns + line if line else line for line in text.rstrip("\n").split("\n"))


def block(member: Added) -> str:
    """A member as lines of YAML."""
    if member.key is not None:
        return block_value({member.key: member.value})
    lines = indent(block_value(member.value), 2)
    return f"- {lines.lstrip()}"


def flow(member: Added) -> str:
    """A member inside brackets."""
    value = written_flow(member.value)
    return value if member.key is None else f"{scalar(member.key)}: {value}"


def written_flow(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{scalar(key)}: {written_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(written_flow(item) for item in value) + "]"
    return scalar(value)


FLOW_SIGNS = frozenset(",[]{}#&*!|>'\"%@`:")


def scalar(value: Any) -> str:
    """A scalar as YAML, quoted (as JSON is) wherever a reader could take it for something else."""
    if not isinstance(value, str):
        return json.dumps(value)
    text = block_value(value).rstrip("\n").removesuffix("\n...")
    plain = text == value and not FLOW_SIGNS & set(value) and value == value.strip() and "\n" not in value
    return value if plain else json.dumps(value, ensure_ascii=False)


def short(value: Any) -> bool:
    """A list of few plain values reads best on one line."""
    plain = isinstance(value, list) and all(isinstance(item, str | int | float) for item in value)
    return plain and sum(len(str(item)) + 2 for item in value) <= 80


def block_value(value: Any) -> str:
    """A value as YAML in lines, ending with a line break."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    stream = io.StringIO()
    if not isinstance(value, dict | list):
        yaml.explicit_end = False
    yaml.dump(styled(value), stream)
    return stream.getvalue().removesuffix("...\n")


def styled(value: Any) -> Any:
    """The value with short lists marked to be written on one line."""
    from ruamel.yaml.comments import CommentedSeq

    if isinstance(value, dict):
        return {key: styled(item) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    items = CommentedSeq(styled(item) for item in value)
    if short(value):
        items.fa.set_flow_style()
    return items

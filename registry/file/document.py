"""Reads a configuration file into plain values and records the position of each.

YAML 1.2 and JSON (with comments and trailing commas, as editors keep it) give the same `Document`. Duplicate keys
are errors: a reader that keeps the last one lets two people read one file differently. JSON goes through the
YAML parser too, after its comments are blanked out, because YAML 1.2 contains JSON and that parser keeps positions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.model.errors import ConfigError, KeyPath, Problem, render_path

if TYPE_CHECKING:
    from ruamel.yaml.nodes import Node

MAX_BYTES = 4 * 1024 * 1024
TAGS = frozenset({"map", "seq", "str", "int", "float", "bool", "null", "timestamp"})
MAX_VALUES = 200_000
"""Bounds the expansion of aliases."""


@dataclass(frozen=True, slots=True)
class Span:
    """The position of a value: of its key (the value itself inside a list), of the value, and its offsets."""

    key: tuple[int, int]
    value: tuple[int, int]
    key_start: int
    key_end: int
    start: int
    end: int
    """Where its text ends: for a block of lines, where the last value in it ends."""
    inline: bool
    """True for a scalar: a problem points at the value rather than at its key."""
    flow: bool
    """True for a collection in brackets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A parsed file: its value in JSON's types, and the position of everything in it."""

    file: str
    text: str
    value: Any
    is_json: bool
    spans: Mapping[KeyPath, Span]

    def locate(self, path: KeyPath, *, at_key: bool = False) -> tuple[int, int]:
        """Line and column (from 1) of the value at `path`, or of what is nearest above it in the tree."""
        for length in range(len(path), -1, -1):
            if span := self.spans.get(path[:length]):
                exact = length == len(path)
                return span.value if exact and span.inline and not at_key else span.key
        return 1, 1

    def problem(self, path: KeyPath, message: str, hint: str = "", *, at_key: bool = False) -> Problem:
        """A problem at that key of this file."""
        line, column = self.locate(path, at_key=at_key)
        return Problem(
            file=self.file, line=line, column=column, key_path=render_path(path), message=message, hint=hint
        )


def read_text(path: Path) -> str:
    """The file's text. Raises ConfigError, with the next step, when it cannot be read."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        hint = "Make one with `stockade run NAME` (see `stockade search`), or name another with --file"
        raise ConfigError([Problem(file=str(path), message="there is no such file", hint=hint)]) from None
    except IsADirectoryError:
        hint = f"Name the file in it, such as {path / 'stockade.yaml'}"
        raise ConfigError([Problem(file=str(path), message="is a directory, not a file", hint=hint)]) from None
    except OSError as error:
        raise ConfigError([Problem(file=str(path), message=f"cannot be read: {error.strerror}")]) from None
    return decode(data, str(path))


def decode(data: bytes, file: str) -> str:
    """UTF-8 text of a bounded size. Raises ConfigError for anything else."""
    if len(data) > MAX_BYTES:
        raise ConfigError(
            [Problem(file=file, message=f"is larger than {MAX_BYTES} bytes, the limit for a configuration")]
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            [Problem(file=file, line=line, message="is not UTF-8 text", hint="Save it as UTF-8")]
        ) from None


def parse(text: str, file: str) -> Document:
    """Parses YAML or JSON text. Raises ConfigError with every duplicate key, or with the first syntax error."""
    named_json = file.endswith((".json", ".jsonc"))
    source = blank_comments(text)
    if named_json:
        check_json(source, file)
    is_json = named_json or reads_as_json(source)
    try:
        root = compose(source if is_json else text, file)
    except ConfigError:
        if not is_json or not source.strip(" \t\r\n"):
            raise
        return Document(file=file, text=text, value=json.loads(source), is_json=True, spans={})
    builder = Builder(file, text)
    value = builder.build(root, (), None) if root is not None else None
    if builder.problems:
        raise ConfigError(builder.problems)
    return Document(file=file, text=text, value=value, is_json=is_json, spans=builder.spans)


COMMENT = r"//[^\n]*+|/\*(?:[^*]|\*(?!/))*+\*/"
JSON_TOKEN = re.compile(rf'"(?:[^"\\\n]|\\.)*+"|{COMMENT}|,(?=(?:\s++|{COMMENT})*+[}}\]])|\t', re.DOTALL)


def reads_as_json(text: str) -> bool:
    """Whether a file without a JSON suffix holds JSON anyway."""
    if not text.lstrip().startswith("{"):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def blank_comments(text: str) -> str:
    """The text with comments, trailing commas and tabs turned into spaces, so that every offset stays the same."""

    def blank(match: re.Match[str]) -> str:
        token = match.group()
        return token if token.startswith('"') else re.sub(r"[^\n]", " ", token)

    return JSON_TOKEN.sub(blank, text)


def check_json(text: str, file: str) -> None:
    """Raises ConfigError for a JSON syntax error, in JSON's terms; the YAML parser accepts more and words it differently."""
    try:
        if text.strip(" \t\r\n"):
            json.loads(text)
    except json.JSONDecodeError as error:
        problem = Problem(file=file, line=error.lineno, column=error.colno, message=f"is not JSON: {error.msg}")
        raise ConfigError([problem]) from None
    except RecursionError:
        raise ConfigError([Problem(file=file, message="is nested too deeply")]) from None


def compose_json(text: str, file: str) -> Any:
    """The value of JSON text (comments and trailing commas allowed), without positions, for large files."""
    source = blank_comments(text)
    check_json(source, file)
    return json.loads(source) if source.strip(" \t\r\n") else None


def compose(text: str, file: str) -> Node | None:
    """The tree of nodes with their positions. Raises ConfigError for a syntax error."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        node: Node | None = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        raise ConfigError([syntax_problem(error, text, file)]) from None
    except YAMLError as error:
        message = f"is not YAML: {str(error).splitlines()[0]}"
        raise ConfigError([Problem(file=file, message=message)]) from None
    except RecursionError:
        raise ConfigError([Problem(file=file, message="is nested too deeply")]) from None
    return node


def syntax_problem(error: Any, text: str, file: str) -> Problem:
    """The parser's complaint in our words, with the next step where one is known."""
    place = error.problem_mark or error.context_mark
    line = place.line if place else 0
    lines = text.split("\n")
    source = lines[line] if line < len(lines) else ""
    message, hint = f"is not YAML: {error.problem}", ""
    if "\\t" in (error.problem or "") or re.match(r" *\t", source):
        message, hint = "a tab indents this line; YAML takes only spaces", "Replace the tab with spaces"
    elif "mapping values are not allowed" in (error.problem or ""):
        hint = 'A value that contains ": " needs quotes; otherwise look at the indentation of this line'
    elif "another document" in (error.problem or ""):
        message, hint = "holds more than one YAML document", "Keep one: remove the line `---`"
    elif error.context:
        message = f"is not YAML: {error.problem} ({error.context}"
        start = error.context_mark
        message += f" that starts on line {start.line + 1})" if start else ")"
    return Problem(file=file, line=line + 1, column=(place.column if place else 0) + 1, message=message, hint=hint)


def mark(position: Any) -> tuple[int, int]:
    """Line and column, from 1."""
    return position.line + 1, position.column + 1


INT = re.compile(r"[-+]?[0-9_]+")


def scalar(node: Any) -> Any:
    """A YAML 1.2 scalar as JSON's type; dates, `yes` and `no` stay text."""
    kind, text = node.tag.rpartition(":")[2], node.value
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        digits = text.replace("_", "")
        return int(digits) if INT.fullmatch(text) else int(digits, 0)
    if kind == "float":
        return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
    return join_surrogates(text)


def join_surrogates(text: str) -> str:
    """JSON writes a character beyond U+FFFF as two escapes; the YAML parser keeps them apart."""
    if not any("\ud800" <= character <= "\udfff" for character in text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@dataclass(slots=True)
class Builder:
    """Turns nodes into values, recording positions and duplicate keys."""

    file: str
    text: str
    spans: dict[KeyPath, Span] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    built: int = 0

    def build(self, node: Any, path: KeyPath, key: Any) -> Any:
        self.built += 1
        if self.built > MAX_VALUES:
            self.fail(node, path, "expands to too many values", "Remove the aliases")
            raise ConfigError(self.problems)
        self.note(node, path, key)
        if str(node.tag).removeprefix("tag:yaml.org,2002:") not in TAGS:
            self.fail(node, path, f"has the tag {node.tag}, which is not allowed here", "Remove the tag")
            return None
        if node.id == "mapping":
            value: Any = self.mapping(node, path)
        elif node.id == "sequence":
            value = [self.build(item, (*path, index), None) for index, item in enumerate(node.value)]
        else:
            return scalar(node)
        self.close(path, value)
        return value

    def note(self, node: Any, path: KeyPath, key: Any) -> None:
        """Records the position of a value before its parts are known."""
        place, start, end = mark(node.start_mark), node.start_mark.index, node.end_mark.index
        inline = node.id == "scalar"
        self.spans[path] = Span(
            key=mark(key.start_mark) if key is not None else place,
            value=place,
            key_start=key.start_mark.index if key is not None else start,
            key_end=key.end_mark.index if key is not None else start,
            start=start,
            end=max(start, len(self.text[:end].rstrip())) if inline else end,
            inline=inline,
            flow=not inline and bool(node.flow_style),
        )

    def close(self, path: KeyPath, value: Any) -> None:
        """A block of lines ends where the last value in it ends; the parser counts what follows to it too."""
        span = self.spans[path]
        if span.flow or not value:
            return
        keys = value if isinstance(value, dict) else range(len(value))
        end = max((self.spans[(*path, key)].end for key in keys if (*path, key) in self.spans), default=span.start)
        self.spans[path] = replace(span, end=end)

    def mapping(self, node: Any, path: KeyPath) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key, value in node.value:
            if str(key.tag).endswith(":merge"):
                here = self.spans[path]
                merged = {**self.merged(value, path), **merged}
                self.spans[path] = here
                continue
            if (name := self.key_name(key, path)) is None:
                continue
            if name in own:
                self.fail(key, (*path, name), f"is written twice; the first is on line {lines[name]}", "Keep one")
                continue
            lines[name] = key.start_mark.line + 1
            own[name] = self.build(value, (*path, name), key)
        return {**merged, **own}

    def key_name(self, key: Any, path: KeyPath) -> str | None:
        if key.id == "scalar":
            return join_surrogates(str(key.value))
        self.fail(key, path, "has a key that is itself a list or mapping", "Use plain text as a key")
        return None

    def merged(self, node: Any, path: KeyPath) -> dict[str, Any]:
        """The mapping (or mappings; the earlier wins) that a `<<` key brings in."""
        parts = node.value if node.id == "sequence" else [node]
        result: dict[str, Any] = {}
        for part in parts:
            value = self.build(part, path, None) if part.id == "mapping" else None
            if value is None:
                self.fail(part, path, "`<<` takes a mapping", "Point it at an anchored mapping")
                continue
            result = {**value, **result}
        return result

    def fail(self, node: Any, path: KeyPath, message: str, hint: str) -> None:
        line, column = mark(node.start_mark)
        problem = Problem(
            file=self.file,
            line=line,
            column=column,
            key_path=render_path(path),
            message=message,
            hint=hint,
        )
        self.problems.append(problem)


def walk(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """Every text in a tree of plain values, with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from walk(item, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from walk(item, (*path, index))

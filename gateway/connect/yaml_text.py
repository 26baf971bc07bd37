"""Changes one entry in the text of a YAML file: no other character changes. Pure.

The text is parsed for positions, spliced, and read again: a result that does not mean what was meant is never returned.
"""

from __future__ import annotations

import copy
from typing import Any

from registry.file.document import Document, parse
from registry.file.json_edit import EditRefused
from registry.file.splice import Replacement, block_value, differences, line_end, line_start, splice
from registry.model.errors import ConfigError


def load(text: str) -> Document:
    """The parsed text. Raises EditRefused for what is no mapping."""
    try:
        document = parse(text, "it")
    except ConfigError as error:
        raise EditRefused(f"it is not YAML that can be edited ({error.problems[0].message})") from None
    if document.value is not None and not isinstance(document.value, dict):
        raise EditRefused("it does not hold a YAML mapping")
    return document


def put(text: str, key: str, name: str, entry: dict[str, Any], *, listed: bool) -> str:
    """The text with the entry below `key`: by its name, or in a list whose items carry their `name`."""
    document = load(text)
    meant = copy.deepcopy(document.value) or {}
    held: Any = meant.get(key) or ([] if listed else {})
    if not isinstance(held, list if listed else dict):
        raise EditRefused(f"`{key}` is not {'a list' if listed else 'a mapping'}")
    at = place(held, name)
    if isinstance(held, list):
        held = [*held, entry] if at is None else [*held[:at], entry, *held[at + 1 :]]
    else:
        held = {**held, name: entry}
    meant[key] = held
    if not document.value:
        lead = text if text.endswith("\n") or not text else f"{text}\n"
        return checked(lead + block_value({key: held}), meant)
    if listed and at is not None:
        changes = list(differences(document, (key, at), document.value[key][at], entry))
        return checked(replaced(text, changes), meant)
    return checked(splice(document, meant), meant)


def take(text: str, key: str, names: list[str], *, listed: bool) -> str:
    """The text without these entries; without `key` too when none is left. The same text where there is none of them."""
    for name in names:
        text = take_one(text, key, name, listed=listed)
    return text


def take_one(text: str, key: str, name: str, *, listed: bool) -> str:
    """`take` for one entry."""
    document = load(text)
    held: Any = (document.value or {}).get(key) or ()
    at = place(held, name)
    if at is None:
        return text
    meant = copy.deepcopy(document.value)
    del meant[key][at]
    if not meant[key]:
        del meant[key]
    if not meant:
        span = document.spans[(key,)]
        rest = text[: line_start(text, span.key_start)] + text[line_end(text, span.end) + 1 :]
        return checked(rest, None)
    if listed and meant.get(key):
        cut = item_in_brackets if document.spans[(key,)].flow else item_lines
        return checked(replaced(text, [cut(document, key, at, len(held))]), meant)
    return checked(splice(document, meant), meant)


def item_lines(document: Document, key: str, at: int, count: int) -> Replacement:
    """Removes the lines of one item of a list in lines: up to the next item, or to its own end."""
    text = document.text
    start = line_start(text, document.spans[(key, at)].start)
    end = line_end(text, document.spans[(key, at)].end) + 1
    if at + 1 < count:
        following = line_start(text, document.spans[(key, at + 1)].start)
        end = min(end, following)
    return Replacement(start, min(end, len(text)), "")


def item_in_brackets(document: Document, key: str, at: int, count: int) -> Replacement:
    """Removes one of several items of a list in brackets, with a comma."""
    if at:
        return Replacement(document.spans[(key, at - 1)].end, document.spans[(key, at)].end, "")
    return Replacement(document.spans[(key, 0)].start, document.spans[(key, 1)].start, "")


def place(held: Any, name: str) -> Any:
    """Where the entry of that name is: its key, its index, or None."""
    if isinstance(held, list):
        found = (at for at, item in enumerate(held) if isinstance(item, dict) and item.get("name") == name)
        return next(found, None)
    return name if isinstance(held, dict) and name in held else None


def replaced(text: str, changes: list[Replacement]) -> str:
    """The text with these replacements made."""
    for change in sorted(changes, reverse=True):
        text = text[: change.start] + change.text + text[change.end :]
    return text


def checked(text: str, meant: Any) -> str:
    """The text, when it reads back as what was meant."""
    try:
        same = (load(text).value or None) == (meant or None)
    except EditRefused:
        same = False
    if not same:
        raise EditRefused("its layout is unusual; paste the entry by hand")
    return text

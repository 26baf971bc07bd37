"""Changes one entry in the text of a TOML file; comments and layout stay. Pure.

The result is read again with the standard library: one that does not mean what was meant is never returned.
"""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Callable, Mapping
from typing import Any

from registry.file.json_edit import EditRefused


def load(text: str) -> dict[str, Any]:
    """The text's value. Raises EditRefused."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise EditRefused(f"it is not TOML ({error})") from None


def put(text: str, key: str, name: str, entry: dict[str, Any], *, listed: bool) -> str:
    """The text with the entry below `key`: a table by its name, or an item of an array whose items carry their `name`."""
    meant = load(text)
    held = meant.setdefault(key, [] if listed else {})
    if not isinstance(held, list if listed else dict):
        raise EditRefused(f"`{key}` is not {'an array' if listed else 'a table'}")
    meant = copy.deepcopy(meant)
    if listed:
        meant[key] = [*(item for item in held if item.get("name") != name), entry]
    else:
        meant[key][name] = entry
    ways = [lambda: in_place(text, key, name, entry, listed)]
    if not listed and name not in held:
        ways.insert(0, lambda: appended(text, key, name, entry))
    return first_that_means(meant, *ways)


def take(text: str, key: str, names: list[str], *, listed: bool) -> str:
    """The text without these entries; without `key` too when none is left. The same text where there is none of them."""
    meant = load(text)
    held = meant.get(key)
    if not held or not any(has(held, name) for name in names):
        return text
    if listed:
        meant[key] = [item for item in held if item.get("name") not in names]
    else:
        meant[key] = {other: value for other, value in held.items() if other not in names}
    if not meant[key]:
        del meant[key]
    ways = [lambda: without(text, key, names, listed)]
    if not listed:
        ways.insert(0, lambda: without_tables(text, key, names))
    return first_that_means(meant, *ways)


def has(held: Any, name: str) -> bool:
    """Whether there is an entry of that name."""
    return any(item.get("name") == name for item in held) if isinstance(held, list) else name in held


def first_that_means(meant: dict[str, Any], *ways: Callable[[], str]) -> str:
    """The first of these texts that reads as what is meant. Raises EditRefused when none does."""
    from tomlkit.exceptions import TOMLKitError

    for way in ways:
        try:
            text = way()
            if tomllib.loads(text) == meant:
                return text
        except (TOMLKitError, ValueError, TypeError, AttributeError, KeyError, IndexError):
            continue
    raise EditRefused("its layout is unusual; paste the entry by hand")


def in_place(text: str, key: str, name: str, entry: dict[str, Any], listed: bool) -> str:
    """By the library that keeps layout; an inline table or array gets an inline member."""
    import tomlkit
    from tomlkit.items import Array, InlineTable

    document = tomlkit.parse(text)
    if listed:
        items: Any = document.setdefault(key, tomlkit.aot())
        drop(items, [name])
        items.append(inline(entry) if isinstance(items, Array) else tomlkit.item(entry))
    else:
        servers: Any = document.setdefault(key, tomlkit.table(is_super_table=True))
        servers[name] = inline(entry) if isinstance(servers, InlineTable) else tomlkit.item(entry)
    return tomlkit.dumps(document)


def inline(value: Any) -> Any:
    """A value with its tables inline."""
    import tomlkit

    if not isinstance(value, Mapping):
        return value
    made = tomlkit.inline_table()
    for key, inner in value.items():
        made.append(key, inline(inner))
    return made


def appended(text: str, key: str, name: str, entry: dict[str, Any]) -> str:
    """A table of its own at the end, after a blank line."""
    import tomlkit

    lead = text if text.endswith("\n") or not text else f"{text}\n"
    servers = tomlkit.table(is_super_table=True)
    servers[name] = tomlkit.item(entry)
    return f"{lead}\n{tomlkit.dumps({key: servers})}".lstrip("\n" if not text else "")


def without_tables(text: str, key: str, names: list[str]) -> str:
    """Without the lines of these tables, and the blank line before each; remarks above the next table stay."""
    lines = text.splitlines(keepends=True)
    kept: list[str] = []
    block: list[str] | None = None
    header = re.compile(rf"""\s*\[\s*["']?{re.escape(key)}["']?\s*\.\s*["']?(?P<name>[\w-]+)["']?\s*[.\]]""")
    for line in [*lines, "["]:
        if line.lstrip().startswith("["):
            found = header.match(line)
            ours = found is not None and found["name"] in names
            kept += [] if ours else tail_of(block or [])
            if ours and block is None and kept and not kept[-1].strip():
                kept.pop()
            block = [] if ours else None
        if block is None:
            kept.append(line)
        else:
            block.append(line)
    return "".join(kept[:-1])


def tail_of(block: list[str]) -> list[str]:
    """The blank lines and remarks at the end of a table: they belong to what follows."""
    end = len(block)
    while end and (not block[end - 1].strip() or block[end - 1].lstrip().startswith("#")):
        end -= 1
    return block[end:]


def without(text: str, key: str, names: list[str], listed: bool) -> str:
    """By the library that keeps layout."""
    import tomlkit

    document = tomlkit.parse(text)
    held: Any = document[key]
    if listed:
        drop(held, names)
    else:
        for name in names:
            if name in held:
                held.remove(name)
    if not held:
        document.remove(key)
    return tomlkit.dumps(document)


def drop(items: Any, names: list[str]) -> None:
    """Removes the items of these names."""
    for at in reversed(range(len(items))):
        if isinstance(items[at], Mapping) and items[at].get("name") in names:
            del items[at]

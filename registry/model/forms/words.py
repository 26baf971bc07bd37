"""A command as it is read: its words, the place of each for errors, and what has been found around it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from registry.model.errors import Invalid, KeyPath
from registry.model.mounts import Mount
from registry.model.options import Options
from registry.model.references import from_own, refuse_references
from registry.model.server import Server
from registry.model.sources import LocalSource
from registry.model.storage import kept


@dataclass(frozen=True, slots=True)
class Words:
    """Words that are still to be read, and the key that each stands under (several, where a text was split)."""

    texts: tuple[str, ...] = ()
    places: tuple[KeyPath, ...] = ()

    @classmethod
    def at(cls, texts: Iterable[str], place: KeyPath) -> Words:
        """Words that all stand at one place."""
        texts = tuple(texts)
        return cls(texts, (place,) * len(texts))

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[tuple[str, KeyPath]]:
        return zip(self.texts, self.places, strict=True)

    def __add__(self, other: Words) -> Words:
        return Words(self.texts + other.texts, self.places + other.places)

    def place(self, index: int) -> KeyPath:
        """Where the word at `index` stands; beyond the last one: `args`."""
        return self.places[index] if index < len(self.places) else ("args",)

    def text(self, index: int) -> str:
        """The word at `index`; beyond the last one empty."""
        return self.texts[index] if index < len(self.texts) else ""

    def drop(self, count: int) -> Words:
        """The words after the first `count`."""
        return Words(self.texts[count:], self.places[count:])

    def take(self, count: int) -> Words:
        """The first `count` words."""
        return Words(self.texts[:count], self.places[:count])


@dataclass(frozen=True, slots=True)
class Command:
    """A program and its arguments, and what the commands around it said."""

    server: Server
    words: Words
    """The program first."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Variables that what is around it sets."""
    folders: Words = Words()
    """The folders that what is around it changes to, one after the other, as they are written."""
    activated: Words = Words()
    """The virtual environment that what is around it activates (at most one)."""

    @property
    def name(self) -> str:
        return program(self.words.text(0))

    @property
    def rest(self) -> Words:
        """What stands after the program."""
        return self.words.drop(1)

    @property
    def variables(self) -> dict[str, str]:
        """All variables; the entry's own win."""
        return {**self.env, **self.server.env}

    @property
    def mounts(self) -> tuple[Mount, ...]:
        """What the entry mounts itself: its `mounts`, then its `storage`."""
        return (*self.server.mounts, *map(kept, self.server.storage))


Read: TypeAlias = tuple[LocalSource, Words]
"""What a command runs, and which of its words are the program's own arguments, each as its source has it."""


def program(command: str) -> str:
    """The program's bare name: no folder, no .cmd or .exe."""
    return re.sub(r"\.(cmd|exe|bat|ps1)$", "", re.split(r"[/\\]", command)[-1].lower())


def own_values(words: Iterable[str], env: Mapping[str, str]) -> tuple[str, ...]:
    """Arguments with what their references take from the entry's own variables; the rest is filled in at the start."""
    return tuple(from_own(word, env) for word in words)


def refuse_in_options(words: Words, options: Options) -> None:
    """References among what decides which package is installed, which happens before anything is filled in."""
    for index, word in enumerate(words.texts[: options.end + 1]):
        refuse_references(word, "it decides what is installed", words.place(index))


def first_word(words: Words, tool: str, example: str) -> tuple[str, Words]:
    """The package that `tool` is to run, and the program's arguments."""
    if not words:
        hint = f"Write it as the first of args, such as args: [{example}]"
        raise Invalid(f"{tool} does not say which package to run", hint, path=("args",))
    return words.texts[0], words.drop(1)

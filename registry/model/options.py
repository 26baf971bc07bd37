"""Reads the options that stand before a program's first plain argument, by a grammar of known flags."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from registry.model.errors import Finding, Invalid, KeyPath


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """The options of a tool: those that stand alone, and those that take a value."""

    flags: frozenset[str]
    values: frozenset[str]


@dataclass(frozen=True, slots=True)
class Options:
    """What was read: (name, value, position) for each option, and the words after them."""

    given: tuple[tuple[str, str, int], ...]
    rest: tuple[str, ...]
    end: int
    """The position of the first word of `rest`."""

    def all(self, *names: str) -> tuple[str, ...]:
        return tuple(value for name, value, _ in self.given if name in names)

    def last(self, *names: str) -> str:
        return next(iter(reversed(self.all(*names))), "")

    def index(self, name: str, otherwise: int) -> int:
        return next((at for option, _, at in self.given if option == name), otherwise)


Place = Callable[[int], KeyPath]


def read_options(
    words: Sequence[str], grammar: Grammar, *, tool: str, refused: Mapping[str, str], place: Place
) -> Options:
    """The options before the first plain word or `--`. Raises Invalid for one that is refused or not known."""
    given: list[tuple[str, str, int]] = []
    wrong: list[Finding] = []
    index = 0
    while index < len(words) and words[index].startswith("-") and words[index] != "-":
        if words[index] == "--":
            index += 1
            break
        found, used = one_option(words, index, grammar, tool, place)
        for name, value in found:
            if name in refused:
                wrong.append(Finding(place(index), f"{tool} {name} is refused: {refused[name]}", f"Remove {name}"))
            given.append((name, value, index))
        index += used
    if wrong:
        raise Invalid.all(wrong)
    return Options(tuple(given), tuple(words[index:]), index)


def one_option(
    words: Sequence[str], index: int, grammar: Grammar, tool: str, place: Place
) -> tuple[list[tuple[str, str]], int]:
    """The option at `index` (or several short ones in one word, `-it`) and how many words it takes."""
    word = words[index]
    name, equals, value = word.partition("=")
    if name in grammar.flags:
        return [(name, value)], 1
    if name in grammar.values:
        if equals:
            return [(name, value)], 1
        if index + 1 >= len(words):
            raise Invalid(f"{tool} {name} has no value", f"Add one, or remove {name}", path=place(index))
        return [(name, words[index + 1])], 2
    if not word.startswith("--") and len(word) > 2:
        return short_options(words, index, grammar, tool, place)
    hint = f"Remove it, if the server does without; Stockade runs the server itself and not {tool}"
    raise Invalid(f"Stockade does not know {tool}'s option {name}", hint, path=place(index))


def short_options(
    words: Sequence[str], index: int, grammar: Grammar, tool: str, place: Place
) -> tuple[list[tuple[str, str]], int]:
    """`-it` is `-i -t`; `-eKEY=1` is `-e KEY=1`."""
    word = words[index]
    found: list[tuple[str, str]] = []
    for at in range(1, len(word)):
        name = f"-{word[at]}"
        if name in grammar.values and word[at + 1 :]:
            return [*found, (name, word[at + 1 :].removeprefix("="))], 1
        inner, used = one_option([name, *words[index + 1 :]], 0, grammar, tool, lambda _: place(index))
        found += inner
        if used == 2:
            return found, 2
    return found, 1

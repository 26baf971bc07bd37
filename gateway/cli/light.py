"""Turns a command's plain words into values without loading pydantic, with which typer does it: that costs more than `ps`.

Only absent values and the simple types are done here; whatever is not certainly right goes typer's own way, which has the
messages. Should a later typer keep its converter elsewhere, nothing of this takes effect, and commands are only slower.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final, TypeVar, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup

KEPT: Final = "_runtime_param"
"""Where typer keeps the converter of a parameter; None until it is first needed."""
INTEGER: Final = re.compile(r"-?[0-9]{1,15}")
NUMBER: Final = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")
Command = (TyperCommand, TyperGroup)
C = TypeVar("C")


def _number(pattern: re.Pattern[str], kind: Callable[[str], Any], what: str) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if isinstance(value, str) and not pattern.fullmatch(value):
            raise typer.BadParameter(f"{value!r} is not {what}.")
        return kind(value)

    return convert


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


SIMPLE: Final[Mapping[Any, Callable[[Any], Any]]] = {
    str: _text,
    int: _number(INTEGER, int, "a whole number"),
    float: _number(NUMBER, float, "a number"),
    Path: Path,
}


class Light:
    """Stands where typer keeps a parameter's converter."""

    def __init__(self, convert: Callable[[Any], Any] | None) -> None:
        self._convert = convert

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        several = param.multiple or param.nargs == -1
        if value is None:
            return () if several else None
        if self._convert is not None and several == isinstance(value, (list, tuple)):
            try:
                return [self._convert(one) for one in value] if several else self._convert(value)
            except typer.BadParameter as error:
                error.ctx, error.param = ctx, param
                raise
            except (ValueError, TypeError):
                pass  # typer's own converter has the message
        setattr(param, KEPT, None)
        return param.get_runtime_param().coerce(value, param=param, ctx=ctx)


def lighten(command: C, context: Any) -> C:
    """Give a command's parameters, `--help` among them, converters that load nothing."""
    for param in command.get_params(context) if isinstance(command, Command) else ():
        descriptor = getattr(param, "type_descriptor", None)
        if descriptor is None or getattr(param, KEPT, "") is not None or not hasattr(param, "get_runtime_param"):
            continue
        info = descriptor.parameter_info
        plain = info.min is None and info.max is None and not (info.exists or info.resolve_path or info.parser)
        setattr(param, KEPT, Light(_converter(_item(descriptor.annotation)) if plain else None))
    return command


def _converter(kind: Any) -> Callable[[Any], Any] | None:
    if isinstance(kind, type) and issubclass(kind, Enum):
        words = {str(one.value): one for one in kind}

        def choose(value: Any) -> Any:
            if value not in words and not isinstance(value, kind):
                raise typer.BadParameter(f"{value!r} is not one of {', '.join(map(repr, words))}.")
            return words.get(value, value)

        return choose
    return SIMPLE.get(kind)


def _item(annotation: Any) -> Any:
    """The type of one value: of `list[str]`, `str`."""
    return get_args(annotation)[0] if get_origin(annotation) is list else annotation

"""What can be wrong with a configuration, in words that tell a person how to fix it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong (or, among the warnings, worth knowing), and where."""

    file: str = ""
    line: int = 0
    """From 1; 0 where the place is not in a file."""
    column: int = 0
    """From 1, in characters."""
    key_path: str = ""
    """As a person writes it: `mcpServers.fetch.network.allowed_hosts[0]`."""
    message: str
    hint: str = ""
    """The next step."""

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part)
        lead = ": ".join(part for part in (place, self.key_path) if part)
        words = " ".join(part for part in (sentence(self.message), sentence(self.hint)) if part)
        return f"{lead}: {words}" if lead else words


class ConfigError(ValueError):
    """Raised when a configuration cannot be used; `problems` has everything that was found, in file order."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem whose line in the file is not known yet."""

    path: KeyPath
    message: str
    hint: str = ""
    at_key: bool = False
    """True where the key itself is wrong, not its value."""


class Invalid(ValueError):
    """Raised by a validator; the paths of its findings are relative to the value it checked."""

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        path: KeyPath = (),
        at_key: bool = False,
        more: Iterable[Finding] = (),
    ) -> None:
        self.findings = (Finding(path, message, hint, at_key), *more)
        super().__init__(message)

    @classmethod
    def all(cls, findings: Iterable[Finding]) -> Invalid:
        """One error for several findings; at least one is needed."""
        first, *more = findings
        return cls(first.message, first.hint, path=first.path, at_key=first.at_key, more=more)


def render_path(path: Iterable[str | int]) -> str:
    """The path as a person writes it: dots before keys, brackets around positions."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def sentence(text: str) -> str:
    return text if not text or text.endswith((".", "!", "?", ":")) else f"{text}."

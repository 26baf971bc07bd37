"""Splits the text of a shell into words, where it does no more than start one command after a few preparations.

Stockade starts the command itself, so what only a shell can do (pipes, redirections, `$(…)`) is refused.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

from registry.model.errors import Invalid, KeyPath
from registry.model.references import KINDS, joined

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
BRACED = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(:-[^{}]*)?\}")
OURS = re.compile(rf"\$\$\{{|\$\{{(?:{'|'.join(KINDS)}):[^{{}}]*\}}")
"""References of Stockade's own, which no shell gets to see, quoted or not: `${secret:NAME}`, `${env:NAME}`, `$${`."""
ONLY_SHELL = {
    "|": "a pipe",
    "&": "a command in the background",
    "<": "a redirection",
    ">": "a redirection",
    "(": "a group of commands",
    ")": "a group of commands",
    "`": "the output of another command",
}


@dataclass(slots=True)
class Splitter:
    """One pass over a text."""

    text: str
    where: KeyPath
    escapes: bool
    """Whether a backslash takes the next character as it is: in a POSIX shell, not in those of Windows."""
    at: int = 0
    commands: list[list[str]] = field(default_factory=lambda: [[]])
    word: list[tuple[str, bool]] | None = None
    """The pieces of the word that is being read: references (True) and literal text, which never becomes one."""

    def run(self) -> list[list[str]]:
        while self.at < len(self.text):
            self.step(self.text[self.at])
        self.end_word()
        return [command for command in self.commands if command]

    def step(self, sign: str) -> None:
        if self.reference():
            return None
        if sign in " \t\r":
            self.end_word()
        elif sign in "\n;" or self.text.startswith("&&", self.at):
            self.end_word()
            self.commands.append([])
            self.at += sign == "&"
        elif sign in "'\"":
            return self.quoted(sign)
        elif sign == "\\" and self.escapes:
            self.add(self.text[self.at + 1 : self.at + 2])
            self.at += 1
        elif sign == "$" and self.escapes:
            return self.variable()
        elif sign == "#" and self.word is None:
            self.at = (self.text + "\n").index("\n", self.at)
            return None
        elif sign in ONLY_SHELL:
            raise self.refused(ONLY_SHELL[sign])
        else:
            self.add(self.home() if sign == "~" and self.word is None and self.escapes else sign)
        self.at += 1
        return None

    def add(self, text: str, *, reference: bool = False) -> None:
        self.word = [*(self.word or []), (text, reference)]

    def reference(self) -> bool:
        """Takes a reference of Stockade's own, if one stands here."""
        match = OURS.match(self.text, self.at)
        if match is not None:
            self.add("${" if match[0] == "$${" else match[0], reference=match[0] != "$${")
            self.at = match.end()
        return match is not None

    def home(self) -> str:
        return os.path.expanduser("~") if self.text[self.at + 1 : self.at + 2] in ("", "/", " ") else "~"

    def end_word(self) -> None:
        if self.word is not None:
            self.commands[-1].append(joined(self.word))
        self.word = None

    def quoted(self, quote: str) -> None:
        """What stands between quotes; in double ones variables and escapes still count."""
        self.add("")
        self.at += 1
        while self.at < len(self.text) and self.text[self.at] != quote:
            sign = self.text[self.at]
            if self.reference():
                continue
            if quote == '"' and self.escapes and sign == "$":
                self.variable()
                continue
            if quote == '"' and self.escapes and sign == "`":
                raise self.refused(ONLY_SHELL[sign])
            if (
                quote == '"'
                and self.escapes
                and sign == "\\"
                and self.text[self.at + 1 : self.at + 2] in ('"', "\\", "$", "`")
            ):
                self.at += 1
            self.add(self.text[self.at : self.at + 1])
            self.at += 1
        if self.at >= len(self.text):
            raise Invalid(
                f"a quote ({quote}) is not closed", "Write the command itself, with its args", path=self.where
            )
        self.at += 1

    def variable(self) -> None:
        """`$NAME` becomes `${env:NAME}`, which is filled in when the server starts."""
        rest = self.text[self.at :]
        if braced := BRACED.match(rest):
            found, used = f"${{env:{braced[1]}{braced[2] or ''}}}", braced.end()
        elif plain := NAME.match(rest, 1):
            found, used = f"${{env:{plain[0]}}}", plain.end()
        elif rest[1:2] in ("", " ", '"', "'", "/"):
            self.add("$")
            self.at += 1
            return
        else:
            raise self.refused("the output of another command" if rest[1:2] == "(" else f"the shell's {rest[:2]}")
        self.add(found, reference=True)
        self.at += used

    def refused(self, what: str) -> Invalid:
        hint = "Write the command that it starts as command and args, or build an image that does the rest, and use `image:`"
        return Invalid(f"Stockade starts one command and no shell, and this text has {what}", hint, path=self.where)


def split_shell(text: str, where: KeyPath, *, escapes: bool = True) -> list[list[str]]:
    """The commands in a shell's text (joined by `&&`, `;`, lines), each as words. Raises Invalid for what needs a shell."""
    return Splitter(text, where, escapes).run()

"""Output to the terminal.

Host names, log lines and tool descriptions are untrusted text: it must not move the cursor, change a
colour, hide text or be read as markup. Every string goes through `clean`; rich gets `Text` objects only.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TextIO

# C0 and C1 controls, DEL, and the invisible characters that reorder or hide text (bidi controls, zero-width, line and
# paragraph separators, tags, interlinear marks, lone surrogates).
_HOSTILE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def clean(text: object, limit: int = 0) -> str:
    """The text on one line with every control and invisible character written out (`\\x1b`, `\\u202e`).

    Longer than `limit` characters (where given), it is cut and ends in `…`.
    """
    safe = _HOSTILE.sub(_spell, str(text))
    return safe[: limit - 1] + "…" if limit and len(safe) > limit else safe


def _spell(match: re.Match[str]) -> str:
    code = ord(match.group())
    return {9: "\\t", 10: "\\n", 13: "\\r"}.get(code) or (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    )


def clean_lines(text: str) -> str:
    """Our own text that may contain untrusted text (a diff, a configuration): lines and tabs stay, all else as `clean`."""
    return "\n".join("\t".join(clean(part) for part in line.split("\t")) for line in text.split("\n"))


GAP: Final = 3
"""Room for what stands between two columns, and at the edges."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A table cell with a colour, used on terminals only."""

    text: object
    style: str = ""


def fitting(widths: Sequence[int], order: Iterable[int], width: int) -> list[int]:
    """The columns that are shown: all, less the first of `order` while the rest is wider than the terminal."""
    shown = list(range(len(widths)))
    for column in order:
        if sum(widths[i] + GAP for i in shown) <= width:
            break
        shown.remove(column)
    return shown


def narrowed(natural: Sequence[int], least: Sequence[int], shown: Sequence[int], width: int) -> list[int]:
    """The columns' widths: the widest give way first, none below its longest word."""
    widths = list(natural)
    while sum(widths[i] + GAP for i in shown) > width:
        able = [i for i in shown if widths[i] > least[i]]
        if not able:
            break
        widths[max(able, key=lambda i: widths[i])] -= 1
    return widths


class Screen:
    """Output for a person: tables and colours on a terminal, aligned plain text when it is piped."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out

    @property
    def out(self) -> TextIO:
        """Looked up at each use, so that a test's runner can replace stdout."""
        return self._out or sys.stdout

    @property
    def rich(self) -> bool:
        """Whether there is a terminal that shows colours and boxes. NO_COLOR (no-color.org) means plain text."""
        return self.out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def line(self, text: object = "", style: str = "") -> None:
        """One line."""
        if style and self.rich:
            self._rich_text(clean(text), style)
        else:
            self.raw(clean(text))

    def block(self, text: str) -> None:
        """Several lines: a message, a snippet, a file."""
        self.raw(clean_lines(text.rstrip("\n")))

    def raw(self, text: str) -> None:
        """A line that is safe already. Flushed, so that a follower sees it at once."""
        encoding = self.out.encoding or "utf-8"
        self.out.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        self.out.flush()

    def json(self, data: Any) -> None:
        """JSON, ASCII only: it is as safe for a terminal as it is for a program."""
        self.raw(json.dumps(data, indent=2))

    def json_line(self, data: Any) -> None:
        """One JSON object on one line (for streams)."""
        self.raw(json.dumps(data))

    def diff(self, text: str) -> None:
        """A unified diff, coloured on a terminal."""
        if not self.rich:
            self.block(text)
            return
        for row in text.rstrip("\n").split("\n"):
            self._rich_text(clean_lines(row), {"+": "green", "-": "red", "@": "cyan"}.get(row[:1], ""))

    def table(
        self, headers: Sequence[str], rows: Iterable[Sequence[object]], *, drop: Sequence[str] | None = None
    ) -> None:
        """A table; each cell is a `Cell` or anything with a `str`. On a terminal that is too narrow, columns are left out:
        those of `drop` in that order (default: from the right, all but the first two)."""
        cells = [[c if isinstance(c, Cell) else Cell(c) for c in row] for row in rows]
        texts = [[h.upper() for h in headers], *([clean(c.text) for c in row] for row in cells)]
        shown = list(range(len(headers)))
        widths = natural = [max(len(row[i]) for row in texts) for i in shown]
        if self.out.isatty():
            least = [max((len(word) for row in texts for word in row[i].split()), default=0) for i in shown]
            order = [*reversed(headers[2:])] if drop is None else drop
            width = shutil.get_terminal_size().columns
            shown = fitting(least if self.rich else natural, [headers.index(name) for name in order], width)
            widths = narrowed(natural, least, shown, width)
        if self.rich:
            self._rich_table([(texts[0][i], widths[i]) for i in shown], [[row[i] for i in shown] for row in cells])
        else:
            for row in texts:
                self.raw("  ".join(row[i].ljust(natural[i]) for i in shown).rstrip())

    def _rich_table(self, columns: list[tuple[str, int]], rows: list[list[Cell]]) -> None:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
        for header, width in columns:
            table.add_column(header, overflow="fold", width=width)
        for row in rows:
            table.add_row(*(Text(clean(cell.text), style=cell.style) for cell in row))
        self._console().print(table)

    def _rich_text(self, text: str, style: str) -> None:
        from rich.text import Text

        self._console().print(Text(text, style=style), soft_wrap=True)

    def _console(self) -> Any:
        from rich.console import Console

        return Console(file=self.out, markup=False, highlight=False, emoji=False)

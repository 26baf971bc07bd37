"""Holds off words that stop a reader: archaic or inverted English, and second spellings. `scripts/words.py [PATH …]`.

Looks at prose only: Markdown outside of code, and the docstrings, comments and texts of the product's Python. A line that
must keep such a word says `words: ok` in a comment, with the reason.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

WORDS: Final = {
    r"but that": "except that",
    r"but for": "except for",
    r"anew": "again, or: recreate",
    r"nobody|somebody|whoever": "name the subject: no client, another process, whichever caller",
    r"told of|tells? of": "reported, logged, notified of",
    r"dear": "expensive",
    r"put (?:it )?right": "fix",
    r"makes? good": "fix, or make up for",
    r"henceforth|whereof|thereof|therein|whence|thence|lest": "modern English",
    r"catalogues?": "catalog",
    r"the usual ones": "the defaults",
    r"out loud": "warns",
    r"spoken to again|is spoken to": "is reconnected",
    r"with words": "say what happens: Stockade says so and stops",
    r"stand started": "are kept ready",
    r"whole story": "every feature, each step",
    r"how far long ones": "the progress of long ones",
    r"(?:in|for) a row and rests?|rests now": "stopped retrying",
    r"we want that": "X makes sure that",
    r"has no such word": "Choose one of",
}
"""What to avoid, and what to write instead."""
ROOTS: Final = (
    "gateway",
    "egress",
    "registry",
    "observability",
    "docs",
    "README.md",
    "ARCHITECTURE.md",
    "SECURITY.md",
)
PATTERN: Final = re.compile(r"\b(?:" + "|".join(f"({word})" for word in WORDS) + r")\b", re.IGNORECASE)
QUIET: Final = "words: ok"


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file that are prose, each with its number."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        fenced = False
        for number, line in enumerate(text.splitlines(), 1):
            fenced ^= line.lstrip().startswith("```")
            if not fenced:
                yield number, re.sub(r"`[^`]*`", "", line)
        return
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", -1)):
            for offset, line in enumerate(token.string.splitlines()):
                number = token.start[0] + offset
                if QUIET not in lines[number - 1]:
                    yield number, re.sub(r"`[^`]*`", "", line)


def files(arguments: list[str]) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", *(arguments or ROOTS)], capture_output=True, text=True, check=True)
    return [path for name in listed.stdout.split() if (path := Path(name)).suffix in (".py", ".md") and path.exists()]


def main() -> int:
    found = 0
    advice = list(WORDS.values())
    for path in files(sys.argv[1:]):
        for number, line in prose(path):
            for match in PATTERN.finditer(line):
                found += 1
                print(f"{path}:{number}: {match[0]!r}: write {advice[(match.lastindex or 1) - 1]}")
    if found:
        print(f"{found} places. `{QUIET}` in a comment on the line keeps a word that must stay.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

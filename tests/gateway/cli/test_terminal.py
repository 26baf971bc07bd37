"""Nothing that a stranger wrote can act on the terminal."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.terminal import Cell, Screen, clean, clean_lines

ATTACKS = {
    "colour": "\x1b[31mred",
    "clear": "\x1b[2J\x1b[H",
    "title": "\x1b]0;owned\x07",
    "clipboard": "\x1b]52;c;ZWNobyBoaQ==\x07",
    "c1 csi": "\x9b31m",
    "carriage return": "allowed\rDENIED ",
    "line break": "one\nDENY two",
    "backspace": "safe\b\b\b\bevil",
    "right-to-left": "evil\u202etxt.exe",
    "isolate": "a\u2066b\u2069",
    "zero width": "git\u200bhub.com",
    "line separator": "a\u2028b",
    "tag": "a\U000e0041b",
    "nul": "a\x00b",
    "del": "a\x7fb",
    "surrogate": "a\udc80b",
}


@pytest.mark.parametrize("text", ATTACKS.values(), ids=ATTACKS.keys())
def test_control_and_invisible_characters_are_written_out(text: str) -> None:
    safe = clean(text)
    assert safe.isprintable()
    assert "\\" in safe


@given(st.text())
def test_whatever_comes_is_one_line_without_controls(text: str) -> None:
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", clean(text))


def test_plain_text_in_any_script_passes_unchanged() -> None:
    assert clean("Grüße, 東京, مرحبا 🎉") == "Grüße, 東京, مرحبا 🎉"


def test_long_text_is_cut() -> None:
    assert clean("x" * 50, 10) == "x" * 9 + "…"


def test_a_block_keeps_its_lines_and_nothing_else() -> None:
    assert clean_lines("a\n\tb\x1b[0m") == "a\n\tb\\x1b[0m"


class Terminal(io.StringIO):
    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("make", [io.StringIO, Terminal], ids=["pipe", "terminal"])
@pytest.mark.parametrize("text", [*ATTACKS.values(), "[red]markup[/red]", "[link=http://x]y[/link]", ":boom:"])
def test_tables_and_lines_show_hostile_text_as_text(make: type[io.StringIO], text: str) -> None:
    out = make()
    screen = Screen(out)
    screen.table(["name"], [[Cell(text, "red")], [text]])
    screen.line(text, "green")
    screen.diff(f"+{text}")
    shown = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert "\x1b" not in shown
    assert re.sub(r"\s", "", clean_lines(text).split("\n")[0]) in re.sub(r"\s", "", shown)


def test_only_our_own_colours_reach_the_terminal() -> None:
    out = Terminal()
    Screen(out).line("\x1b[41m\x1b]0;x\x07", "green")
    assert set(re.findall(r"\x1b\[[0-9;]*m|\x1b.", out.getvalue())) <= {"\x1b[32m", "\x1b[0m"}


def test_a_terminal_that_cannot_show_a_character_gets_it_spelled_out() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    Screen(out).line("東京")
    assert raw.getvalue() == b"\\u6771\\u4eac\n"


def test_piped_tables_are_aligned_plain_text() -> None:
    out = io.StringIO()
    Screen(out).table(["name", "state"], [["fetch", Cell("running", "green")], ["a", "b"]])
    assert out.getvalue().splitlines() == ["NAME   STATE", "fetch  running", "a      b"]


HEADERS = ["name", "state", "isolated", "transport", "restarts", "since", "detail"]
DROP = ["restarts", "transport", "since", "detail"]
ROWS = [
    ["filesystem-of-mine", Cell("restarting", "yellow"), Cell("yes"), "stdio", 3, "12m", "exited 3s ago, see below"],
    ["fetch", Cell("running", "green"), Cell("NO", "red"), "http", 0, "4h", ""],
]


def printed(monkeypatch: pytest.MonkeyPatch, columns: int, *, color: bool) -> list[str]:
    """The lines of that table on a terminal of that width, without colours."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "") if color else monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    Screen(out).table(HEADERS, ROWS, drop=DROP)
    return [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in out.getvalue().splitlines()]


@pytest.mark.parametrize("columns", [200, 100, 80, 60, 50])
@pytest.mark.parametrize("color", [True, False])
def test_a_narrow_terminal_drops_columns_and_breaks_no_word(
    monkeypatch: pytest.MonkeyPatch, columns: int, color: bool
) -> None:
    lines = printed(monkeypatch, columns, color=color)
    assert all(len(line) <= max(columns, 42) for line in lines)
    shown = {word for line in lines for word in line.split() if set(word) != {"─"}}
    words = {word for row in ROWS for cell in row for word in str(getattr(cell, "text", cell)).split()}
    assert shown <= words | {head.upper() for head in HEADERS}
    assert {"NAME", "STATE", "ISOLATED", "filesystem-of-mine", "restarting", "running", "NO"} <= shown
    left_out = [head for head in DROP if head.upper() not in shown]
    assert left_out == DROP[: len(left_out)], "the least telling columns go first"
    assert bool(left_out) or columns > 60
    assert not left_out or columns < 200


def test_no_color_is_plain_text_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    screen = Screen(out)
    screen.table(["name", "state"], [["fetch", Cell("running", "green")], ["a", "b"]])
    screen.line("x", "red")
    screen.diff("+x\n-y")
    assert out.getvalue().splitlines() == ["NAME   STATE", "fetch  running", "a      b", "x", "+x", "-y"]

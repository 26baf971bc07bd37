"""What a backend writes, at every split point: messages come out whole, the rest is counted and not kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mcp.wire.lines import Lines, Overlong

TEXT = b'x\n{"a":1}\n\n \t{"b":2}\r\n[1]\n\xef\xbb\xbf{"c":3}\nz{"no":1}\n   \n{"d":"' + b"y" * 50 + b'"}\nend\n'
FOUND = [b'{"a":1}', b' \t{"b":2}\r', b'\xef\xbb\xbf{"c":3}', b'{"d":"' + b"y" * 50 + b'"}']


@pytest.mark.parametrize("size", range(1, len(TEXT) + 1))
def test_messages_come_out_whole_however_they_are_split(size: int) -> None:
    lines = Lines(1000)
    found = [one for at in range(0, len(TEXT), size) for one in lines.feed(TEXT[at : at + size])]
    assert found == FOUND


@given(
    st.lists(st.sampled_from([b"{", b"x", b"\n", b" ", b'{"a"}', b"\r\n", b"\xef\xbb\xbf"]), max_size=30), st.data()
)
def test_the_same_lines_are_found_as_by_looking_at_each(pieces: list[bytes], data: st.DataObject) -> None:
    text = b"".join(pieces)
    expected = [
        one for one in text.split(b"\n")[:-1] if one.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r").startswith(b"{")
    ]
    if b" \xef\xbb\xbf" in text or b"\r\xef\xbb\xbf" in text or b"\xef\xbb\xbf\xef\xbb\xbf" in text:
        return  # no reader takes these as JSON, found or not
    cut = data.draw(st.integers(0, len(text)))
    lines = Lines(1000)
    assert [*lines.feed(text[:cut]), *lines.feed(text[cut:])] == expected


def test_a_line_that_is_too_long_leaves_its_two_ends() -> None:
    lines = Lines(1000)
    found = (
        list(lines.feed(b'{"id":7,' + b"x" * 900)) + list(lines.feed(b"x" * 900)) + list(lines.feed(b"end}\n{}\n"))
    )
    assert isinstance(found[0], Overlong)
    assert (found[0].head[:8], found[0].tail[-4:], found[0].size) == (b'{"id":7,', b"end}", 1812)
    assert found[1:] == [b"{}"]


def test_what_is_no_message_is_counted_and_not_kept() -> None:
    lines = Lines(1000)
    assert list(lines.feed(b"x\n" * 5 + b"y" * 100_000)) == []
    assert list(lines.feed(b"y" * 100_000 + b"\n\n\n")) == []
    garbage, wasted = lines.tally()
    assert garbage == 6
    assert wasted >= 100_000
    assert lines.tally() == (0, 0)
    assert len(lines._part) == 0

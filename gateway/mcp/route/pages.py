"""A long list in pages. Many clients read the first page only, so every backend has a share of it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from typing import Any, Final

from gateway.mcp.view.items import size_of

PAGE: Final = 1000
"""Items of one answer."""
MAX_PAGE: Final = 8 * 1024 * 1024
"""Bytes of one answer's items."""

Item = dict[str, Any]


class Pages:
    """The items of all backends in the order they are shown, and where each page ends."""

    def __init__(self, parts: Sequence[Sequence[Item]], size: int) -> None:
        """`parts` has each backend's items; `size` is their total in bytes, at most."""
        count = sum(map(len, parts))
        if count <= PAGE and size <= MAX_PAGE:
            self.items = list(chain(*parts))
            self._ends = [count]
            return
        sizes = {id(item): size_of(item) or 0 for item in chain(*parts)}
        crowd = max(sum(map(bool, parts)), 1)
        most, room = max(PAGE // crowd, 1), MAX_PAGE // crowd
        rounds = zip_longest(*(_pieces(part, sizes, most, room) for part in parts), fillvalue=())
        self.items = [item for pieces in rounds for piece in pieces for item in piece]
        self._ends = _page_ends(self.items, sizes)

    def end(self, start: int) -> int:
        """Where the page that begins at `start` ends."""
        page = bisect_right(self._ends, start)
        return self._ends[page] if page < len(self._ends) else len(self.items)


def _pieces(part: Sequence[Item], sizes: dict[int, int], most: int, room: int) -> Iterator[list[Item]]:
    """The items in pieces of at most `most` items and, where a piece has more than one, `room` bytes."""
    piece: list[Item] = []
    size = 0
    for item in part:
        if piece and (len(piece) >= most or size + sizes[id(item)] > room):
            yield piece
            piece, size = [], 0
        piece.append(item)
        size += sizes[id(item)]
    if piece:
        yield piece


def _page_ends(items: Sequence[Item], sizes: dict[int, int]) -> list[int]:
    ends: list[int] = []
    begun = size = 0
    for place, item in enumerate(items):
        if place > begun and (place - begun >= PAGE or size + sizes[id(item)] > MAX_PAGE):
            ends.append(place)
            begun, size = place, 0
        size += sizes[id(item)]
    return [*ends, len(items)]

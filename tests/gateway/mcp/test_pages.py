"""A long list comes in pages, and every backend has its share of the first."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.mcp.route.pages import MAX_PAGE, PAGE, Pages
from gateway.mcp.view.items import size_of


def items(backend: str, count: int, size: int = 1) -> list[dict[str, Any]]:
    return [{"name": f"{backend}{number}", "description": "x" * size} for number in range(count)]


def pages(parts: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    made = Pages(parts, sum(size_of(item) or 0 for part in parts for item in part))
    found, start = [], 0
    while True:
        end = made.end(start)
        found.append(made.items[start:end])
        if end >= len(made.items):
            return found
        assert end > start
        start = end


def test_what_fits_is_one_page_in_the_order_of_the_backends() -> None:
    parts = [items("a", 3), [], items("b", 2)]
    assert pages(parts) == [[*parts[0], *parts[2]]]
    assert pages([]) == [[]]


@settings(max_examples=30)  # each makes thousands of items
@given(st.lists(st.tuples(st.integers(0, 2500), st.sampled_from([1, 1, 50])), max_size=6))
def test_pages_lose_nothing_and_have_bounds(shapes: list[tuple[int, int]]) -> None:
    parts = [items(f"b{number}-", count, size) for number, (count, size) in enumerate(shapes)]
    found = pages(parts)
    assert all(len(page) <= PAGE for page in found)
    names = [item["name"] for page in found for item in page]
    assert sorted(names) == sorted(item["name"] for part in parts for item in part)
    first = {item["name"].split("-")[0] for item in found[0]}
    assert first == {f"b{number}" for number, part in enumerate(parts) if part}


def test_large_items_leave_room_for_the_others() -> None:
    found = pages([items("large", 60, 200_000), items("small", 1)])
    assert "small0" in [item["name"] for item in found[0]]
    assert all(sum(size_of(item) or 0 for item in page) <= MAX_PAGE for page in found)


def test_a_place_that_is_no_beginning_of_a_page_ends_with_its_page() -> None:
    made = Pages([items("a", 2500)], 0)
    assert [made.end(start) for start in (0, 1, 999, 1000, 1500, 2400, 2500, 9999)] == [1000] * 3 + [2000] * 2 + [
        2500
    ] * 3

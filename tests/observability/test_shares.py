"""Who gives something up when there is too much: never who holds less than an equal part."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from observability.events import Decision, Via
from observability.shares import FairRing, Share, fairly, level, share_of
from tests.observability.samples import allowed, called, decided, numbered

COUNTS = st.lists(st.integers(0, 50), max_size=12)


@given(COUNTS, st.integers(0, 200))
def test_what_each_keeps_fits_and_nobody_gives_up_for_one_that_holds_more(counts: list[int], room: int) -> None:
    most = level(counts, room)
    kept = [min(count, most) for count in counts]
    assert sum(kept) <= room
    if kept != counts:
        assert sum(min(count, most + 1) for count in counts) > room, "no room is wasted that all could share"
        assert most >= room // len(counts)


@given(COUNTS, st.integers(0, 200))
def test_a_fair_choice_fills_the_room_with_the_newest_of_each(counts: list[int], room: int) -> None:
    groups = [[(place, age) for age in range(count, 0, -1)] for place, count in enumerate(counts)]
    chosen = fairly(groups, room, age=lambda one: one[1])

    assert len(chosen) == min(room, sum(counts))
    assert [age for _, age in chosen] == sorted(age for _, age in chosen)
    most = level(counts, room)
    for place, count in enumerate(counts):
        mine = [age for where, age in chosen if where == place]
        assert len(mine) >= min(count, most)
        assert mine == list(range(count - len(mine) + 1, count + 1)), "the newest"


@given(st.lists(st.sampled_from("aabbbbc"), max_size=300), st.integers(1, 40))
def test_the_ring_keeps_an_equal_part_of_each_in_order(made: list[str], size: int) -> None:
    ring = FairRing(size)
    items = numbered(*(decided(number, backend=name) for number, name in enumerate(made)))
    lost = sum(not ring.append(item) for item in items)

    assert len(ring) == len(list(ring)) == min(size, len(made))
    assert lost == len(made) - len(ring)
    ids = [item.id for item in ring]
    assert ids == sorted(ids)
    assert [item.id for item in reversed(ring)] == ids[::-1]
    names = set(made)
    for name in names:
        mine = [item.id for item in items if item.event.backend == name]
        kept = [item.id for item in ring if item.event.backend == name]
        assert kept == mine[len(mine) - len(kept) :], "its newest"
        assert len(kept) >= min(len(mine), size // len(names))
    assert [ring.popleft().id for _ in range(len(ring))] == ids


def test_each_event_has_a_share() -> None:
    assert share_of(decided()) is Share.DENIED
    assert share_of(decided(via=Via.DNS)) is Share.LOOKUP
    assert share_of(allowed(decision=Decision.REPORT)) is Share.CARRIED
    assert share_of(called()) is Share.CALL

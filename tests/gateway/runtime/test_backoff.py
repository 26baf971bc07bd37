"""Pauses between starts, and when to stop trying."""

from __future__ import annotations

from gateway.runtime.sandbox.backoff import BREAKS_AFTER, COOL_S, STEADY_S, Backoff
from gateway.runtime.sandbox.log_ring import MAX_LINES, LogLine, LogRing


def test_pauses_double_and_then_it_breaks() -> None:
    backoff = Backoff()
    assert [backoff.crashed(1, 0) for _ in range(BREAKS_AFTER)] == [0.5, 1.0, 2.0, 4.0, None]


def test_a_long_run_starts_the_count_again() -> None:
    backoff = Backoff()
    for _ in range(BREAKS_AFTER - 1):
        backoff.crashed(1, 0)
    assert backoff.crashed(STEADY_S, 0) == 0.5


def test_a_broken_one_may_be_tried_once_it_has_rested() -> None:
    backoff = Backoff()
    for _ in range(BREAKS_AFTER):
        backoff.crashed(0, 100)
    assert not backoff.may_retry(100 + COOL_S - 1)
    assert backoff.may_retry(100 + COOL_S)
    backoff.reset()
    assert backoff.may_retry(0)


def line(text: str) -> LogLine:
    return LogLine(time=0, stream="stderr", text=text)


def test_the_ring_keeps_the_newest_lines() -> None:
    ring = LogRing()
    for number in range(MAX_LINES + 10):
        ring.add(line(str(number)))
    assert [item.text for item in ring.tail(2)] == [str(MAX_LINES + 8), str(MAX_LINES + 9)]
    assert len(ring.lines) == MAX_LINES


def test_the_ring_is_bounded_in_characters_too() -> None:
    ring = LogRing()
    for _ in range(200):
        ring.add(line("x" * 8192))
    assert ring.characters <= 512 * 1024
    assert ring.tail(0) == []

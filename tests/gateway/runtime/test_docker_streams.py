"""What a build prints is read in bounded memory and linear time, whatever it prints."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gateway.runtime.docker.streams import KEPT_LINES, MAX_LINE, follow_build
from gateway.runtime.sandbox.errors import BuildError


def follow(chunks: Iterator[dict[str, Any]], say: Callable[[str], object] = lambda line: None) -> None:
    follow_build(chunks, say, threading.Event())


def cpu_of(pieces: int) -> float:
    started = time.thread_time()
    follow({"stream": "x" * 1000} for _ in range(pieces))
    return time.thread_time() - started


def test_a_build_that_prints_no_newline_costs_in_proportion_to_what_it_prints() -> None:
    """Red team m10: 26 MB without a newline took 19 s of a processor."""
    few, many = min(cpu_of(500) for _ in range(3)), cpu_of(5000)
    assert many < 40 * few + 0.05


def test_of_what_a_build_prints_a_bounded_part_is_kept() -> None:
    def chunks() -> Iterator[dict[str, Any]]:
        for number in range(3 * KEPT_LINES):
            yield {"stream": f"{number} " + "y" * 3 * MAX_LINE + "\n"}
        for _ in range(1000):
            yield {"stream": "z" * 1000}
        yield {"error": "e" * 1_000_000}

    with pytest.raises(BuildError) as caught:
        follow(chunks())
    text = str(caught.value)
    assert len(text) <= (KEPT_LINES + 2) * (MAX_LINE + 1)
    assert text.startswith(f"{2 * KEPT_LINES} y")


def test_lines_that_come_in_pieces_are_heard_whole_and_once() -> None:
    heard: list[str] = []
    follow(({"stream": text} for text in ("a", "b\nc", "\n\n", "d\n")), heard.append)
    assert heard == ["ab", "c", "d"]

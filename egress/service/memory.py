"""A bound on what waits in memory for peers that do not read, over all backends.

Each connection's buffers are bounded, and so is the number of a backend's connections; but a thousand connections times
some hundred kilobytes each way is most of what the container has, and running out of memory would take everybody's
service. So once a second the bytes that wait are added up, and where they are too many, the backend that holds the most
loses the connections that hold the most.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from egress.connection.backend import Live, Source

MOST_WAITING = 256 * 1024 * 1024


def too_much(sources: Iterable[Source], most: int = MOST_WAITING) -> Iterator[tuple[str, Live]]:
    """(backend, connection) of what has to go so that at most `most` bytes wait; usually nothing."""
    held: dict[str, list[tuple[int, Live]]] = {}
    for source in sources:
        held.setdefault(source.backend.name, []).extend((live.pending_bytes(), live) for live in source.live)
    sums = {name: sum(size for size, _ in sizes) for name, sizes in held.items()}
    excess = sum(sums.values()) - most
    if excess <= 0:
        return
    for sizes in held.values():
        sizes.sort(key=lambda pair: pair[0])
    while excess > 0:
        name = max(sums, key=sums.__getitem__)
        size, live = held[name].pop()
        sums[name] -= size
        excess -= size
        yield name, live

"""The hosts that a person decided to keep blocked, so that lists show what is undecided apart from them.

It opens and closes nothing: the policy alone decides. A file of the project's persistent directory has the list, so it is
the same for every browser and for the CLI.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

from gateway.disk import naming

logger = logging.getLogger(__name__)

KEPT_FILE: Final = "kept-blocked.json"
MOST_KEPT: Final = 2000
"""Beyond, the choice that was made first is dropped."""


class Place(NamedTuple):
    """What a server is kept from."""

    server: str
    host: str
    """As the history has it; empty where only the port is known."""
    port: int
    """0 where it is not known."""


class KeptBlocked:
    """The choices, with the Unix time of each, oldest first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._since: dict[Place, float] = dict(_read(path))

    def __contains__(self, place: Place) -> bool:
        return place in self._since

    def rows(self) -> list[dict[str, Any]]:
        """`{backend, host, port, since}` for each, oldest first."""
        return [
            {"backend": place.server, "host": place.host, "port": place.port, "since": since}
            for place, since in self._since.items()
        ]

    def keep(self, place: Place) -> bool:
        """Add a choice; False when it was made already. Raises OSError, and then nothing changes."""
        if place in self._since:
            return False
        kept = {**self._since, place: time.time()}
        self._write(dict(list(kept.items())[-MOST_KEPT:]))
        return True

    def release(self, place: Place) -> bool:
        """Take a choice back; False when there was none. Raises OSError, and then nothing changes."""
        if place not in self._since:
            return False
        self._write({one: since for one, since in self._since.items() if one != place})
        return True

    def _write(self, kept: dict[Place, float]) -> None:
        """Replace the file in one step, readable by its owner only."""
        rows = [[*place, since] for place, since in kept.items()]
        fresh = self._path.with_suffix(".tmp")
        with naming(self._path):
            fresh.unlink(missing_ok=True)
            fresh.touch(mode=0o600)
            fresh.write_text(json.dumps(rows), encoding="utf-8")
            fresh.replace(self._path)
        self._since = kept


def _read(path: Path) -> list[tuple[Place, float]]:
    """What the file says; nothing where there is none. A damaged one is left alone until the next choice is made."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        read = [(Place(str(server), str(host), int(port)), float(since)) for server, host, port, since in rows]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, OverflowError, RecursionError) as error:
        logger.warning("%s cannot be read, so no host counts as kept blocked: %s", path, type(error).__name__)
        return []
    return read[-MOST_KEPT:]

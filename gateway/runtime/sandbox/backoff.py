"""When to restart a crashed backend, and when to stop trying. Pure: time is passed as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FIRST_S: Final = 0.5
LONGEST_S: Final = 30.0
STEADY_S: Final = 60.0
"""A run of this long counts as a success: the next crash starts from the first pause again."""
BREAKS_AFTER: Final = 5
COOL_S: Final = 60.0
"""How long a broken backend rests before a request may try it once more."""


@dataclass(slots=True)
class Backoff:
    """The crashes of one backend in a row."""

    crashes: int = 0
    broken_at: float | None = None

    def crashed(self, ran_s: float, now: float) -> float | None:
        """One more crash after a run of `ran_s`: seconds to wait, or None when it is not tried any more."""
        self.crashes = 1 if ran_s >= STEADY_S else self.crashes + 1
        if self.crashes >= BREAKS_AFTER:
            self.broken_at = now
            return None
        return min(FIRST_S * 2.0 ** (self.crashes - 1), LONGEST_S)

    def rest(self, now: float) -> None:
        """It cannot work as it is (for example, its image does not build): no request retries it for a while."""
        self.broken_at = now

    def may_retry(self, now: float) -> bool:
        """Whether a request may try a broken backend once more."""
        return self.broken_at is None or now - self.broken_at >= COOL_S

    def reset(self) -> None:
        """Forget the crashes: a person restarted it, or its configuration changed."""
        self.crashes, self.broken_at = 0, None

"""What connections can be grouped by when the most frequent are asked for."""

from __future__ import annotations

from enum import StrEnum


class By(StrEnum):
    """What `top` groups by. A server is `backend` in stored events, as in metrics and attributes."""

    HOST = "host"
    BACKEND = "backend"
    RULE = "rule"
    REASON = "reason"
    TOOL = "tool"

"""Text that came from outside, made fit for formats that are UTF-8."""

from __future__ import annotations


def encodable(text: str) -> str:
    """The text with each lone surrogate (JSON can carry one, UTF-8 cannot) as `?`."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")

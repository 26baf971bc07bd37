"""The one exception a command raises to end with exit code 1."""

from __future__ import annotations


class Failure(Exception):
    """Raised when a command cannot do what it was asked; its text goes to stderr, cleaned, without a traceback."""

"""The exceptions that end a command with exit code 1."""

from __future__ import annotations


class Failure(Exception):
    """Raised when a command cannot do what it was asked; its text goes to stderr, cleaned, without a traceback."""


class Refused(Exception):
    """Raised when the gateway answers with an error; the text names every problem."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Unreachable(Exception):
    """Raised when the control socket does not answer."""

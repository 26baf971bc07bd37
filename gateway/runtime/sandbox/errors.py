"""What can go wrong between the gateway and whatever runs its backends."""

from __future__ import annotations


class EngineError(Exception):
    """Raised when the engine refused or failed something; the message says what and what to do next."""


class EngineUnreachable(EngineError):
    """Raised when the engine does not answer, or does not let this user talk to it."""


class BuildError(EngineError):
    """Raised when an image could not be made; the message has the last lines and the next step."""


class PlanError(ValueError):
    """Raised when a server asks for something that no container of ours gets, or that cannot work."""


class BackendUnavailable(Exception):
    """Raised when a backend is not available now; `str()` is one sentence; readers see the server's name beside it."""

    def __init__(self, backend: str, sentence: str) -> None:
        super().__init__(sentence)
        self.backend = backend
        self.sentence = sentence


class StillBuilding(BackendUnavailable):
    """Raised when a caller has waited long enough for an image that is being built; the build goes on."""


def first_leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first exception that is not a group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

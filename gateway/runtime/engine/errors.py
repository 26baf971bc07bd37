"""Refusals of a container engine that the sandbox acts on; every other one is a plain `EngineError`."""

from __future__ import annotations

from gateway.runtime.sandbox.errors import EngineError


class NameTaken(EngineError):
    """Raised when a container or network of that name exists already."""


class CapabilityRefused(EngineError):
    """Raised when the engine cannot grant a container a capability that its plan asks for."""


class LimitRefused(EngineError):
    """Raised when the engine cannot grant a container a resource limit (rlimit) as high as its plan asks for."""

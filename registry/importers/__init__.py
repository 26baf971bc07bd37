"""Configurations of AI clients, read as ours."""

from registry.importers.adopt import adopt

__all__ = ["adopt"]

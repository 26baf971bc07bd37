"""A backend's answer to its greeting, in a form that every client can parse, and of limited size."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from gateway.mcp.call.messages import META
from gateway.mcp.view.items import ICONS, size_of
from gateway.mcp.wire.errors import INTERNAL_ERROR, RpcError, clipped
from gateway.mcp.wire.incoming import without_ours

MAX_INSTRUCTIONS: Final = 64 * 1024
"""Characters of one backend's instructions."""
_MAX_MEMBER: Final = 64 * 1024
"""Bytes of any other member of the answer."""
_MAX_MEMBERS: Final = 32
_VERSION: Final = re.compile(r"[\x21-\x7e]{1,64}")
_FLAGS: Final = ("listChanged", "subscribe")
_TEXTS: Final = ("title", "websiteUrl", "description")


def sound(result: Mapping[str, Any]) -> dict[str, Any]:
    """An InitializeResult or DiscoverResult that clients can parse. Raises RpcError for an invalid version."""
    version = result.get("protocolVersion")
    if version is not None and not (isinstance(version, str) and _VERSION.fullmatch(version)):
        raise RpcError(INTERNAL_ERROR, "it answered initialize with an invalid protocolVersion")
    found = {key: fit for key, value in result.items() if (fit := _member(key, value)) is not None}
    for key in [key for key in found if key != "instructions" and not _is_small(found[key])]:
        del found[key]
    return dict(list(found.items())[:_MAX_MEMBERS])


def _is_small(value: Any) -> bool:
    size = size_of(value)
    return size is not None and size <= _MAX_MEMBER


def _member(key: str, value: Any) -> Any:
    """The member as clients may see it; None if they may not."""
    match key:
        case "capabilities":
            return capabilities(value)
        case "serverInfo":
            return _implementation(value)
        case "instructions":
            return clipped(value, MAX_INSTRUCTIONS) if isinstance(value, str) else None
        case "_meta":
            return _meta(value)
        case "ttlMs":
            return value if type(value) is int and value >= 0 else None
        case "cacheScope":
            return value if value in ("public", "private") else None
        case "resultType":
            return value if isinstance(value, str) else None
        case _:
            return value


def capabilities(value: Any) -> dict[str, Any]:
    """Each capability as an object; one that is null is left out."""
    found: dict[str, Any] = {}
    for name, said in value.items() if isinstance(value, dict) else ():
        if said is True or said == []:  # PHP writes an empty object as []
            found[name] = {}
        elif name in ("experimental", "extensions"):
            if isinstance(said, dict):
                found[name] = {key: one for key, one in said.items() if isinstance(one, dict)}
        elif name == "tasks":
            if _are_objects(said, 3):
                found[name] = said
        elif isinstance(said, dict):
            found[name] = {key: one for key, one in said.items() if key not in _FLAGS or isinstance(one, bool)}
    return found


def _are_objects(value: Any, levels: int) -> bool:
    """Whether it is an object of objects, `levels` deep."""
    return isinstance(value, dict) and (levels == 0 or all(_are_objects(one, levels - 1) for one in value.values()))


def _implementation(value: Any) -> dict[str, Any] | None:
    """Name and version of a program; None where it is no object."""
    if not isinstance(value, dict):
        return None
    found = {key: one for key, one in value.items() if key not in _TEXTS or isinstance(one, str)}
    for key, instead in (("name", "unknown"), ("version", "0")):
        if not isinstance(found.get(key), str):
            found[key] = instead
    if "icons" in found and (icons := ICONS(found.pop("icons"))) is not None:
        found["icons"] = icons
    return found


def _meta(value: Any) -> dict[str, Any] | None:
    if not isinstance(value, dict):
        return None
    meta, key = without_ours(value), META + "serverInfo"
    if key in meta and (info := _implementation(meta.pop(key))) is not None:
        meta[key] = info
    return meta

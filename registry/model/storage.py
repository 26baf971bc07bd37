"""`storage:` of a server: paths in its container that are kept, in volumes of that server alone. Pure."""

from __future__ import annotations

from typing import Any

from registry.model.errors import Invalid
from registry.model.mounts import Mount, covers, inside, refuse_target

PROGRAMS = ("/bin", "/boot", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/opt/stockade", "/sbin", "/usr")
"""A kept copy of one of these would hide the programs of a newer image."""


def to_storage(value: Any) -> Any:
    """A list of paths, also from one path alone."""
    return [value] if isinstance(value, str) else value


def check_storage(text: str) -> str:
    """The path without `.`, `..` and a slash at its end. Raises Invalid for one that cannot be kept."""
    if text.startswith("~"):
        hint = "It is a path in the container: write /data, say, or /home/stockade, the home of what uvx and npx run"
        raise Invalid(f"{text!r} names no home: nothing fills in `~` here", hint)
    if any(letter in text for letter in ":,$\0"):
        hint = "Write only the path in the container; a folder of this machine goes under `mounts`"
        raise Invalid(f"{text!r} is not a path to keep", hint)
    refuse_target(text)
    path = inside(text)
    if tree := next((tree for tree in PROGRAMS if covers(tree, path)), ""):
        hint = "Give the folder that the server writes its data to, such as /data"
        raise Invalid(
            f"{path} is in {tree}, where the image has its programs: a kept copy would hide newer ones", hint
        )
    return path


def kept(path: str) -> Mount:
    """The mount of a path under `storage`; the runtime gives its volume a name."""
    return Mount(source="", target=path, volume=True, storage=True)

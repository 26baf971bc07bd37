"""Changes to the configuration: through the gateway if one runs, else directly in the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.cli.failure import Failure
from gateway.cli.locate import Place, display
from gateway.cli.options import say, screen

if TYPE_CHECKING:
    from registry.config import Config
    from registry.edit import Change, Edit


def change(
    where: Place, online: Callable[[Any], Mapping[str, Any]], offline: Callable[[], Change], *, dry_run: bool
) -> bool:
    """Make a change and show its diff; True when a gateway took it (so it is in force).

    `online` gets the API and must honour a dry run itself; `offline` makes the change for the file.
    """
    if where.running():
        answer = online(where.api())
        show_change(answer, where.config(), dry_run=dry_run)
        return bool(answer["applied"])
    edit = edit_file(where.config_to_write(), offline(), dry_run=dry_run)
    show_change({"diff": edit.diff, "warnings": edit.worth_knowing}, where.config_to_write(), dry_run=dry_run)
    return False


def edit_file(path: Path, wanted: Change, *, dry_run: bool) -> Edit:
    """Change the file itself. Raises Failure with all problems when the result would not load."""
    from registry.edit import apply, edit_config
    from registry.model.errors import ConfigError

    try:
        edit = edit_config(path, wanted)
        if not dry_run:
            apply(edit)
    except ConfigError as error:
        raise Failure(str(error)) from error
    return edit


def show_change(edited: Mapping[str, Any], path: Path, *, dry_run: bool | None) -> None:
    """Print the diff of a change and its warnings. `dry_run` None: whether it is written is asked next."""
    if not edited["diff"]:
        say(f"{display(path)} already has this; nothing to change.")
        return
    screen.diff(str(edited["diff"]))
    for warning in edited["warnings"]:
        say(f"! {warning}")
    if dry_run is None:
        return
    say(f"Not written (dry run): {display(path)}" if dry_run else f"Written: {display(path)}")


def load(where: Place) -> Config:
    """The configuration file. Raises Failure with all its problems."""
    from registry.load import load_config
    from registry.model.errors import ConfigError

    try:
        return load_config(where.config())
    except ConfigError as error:
        raise Failure(str(error)) from error

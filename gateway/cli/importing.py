"""`stockade import`: the servers of an AI client's own file are taken over, as one change."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli import offline
from gateway.cli.client import Refused, url
from gateway.cli.failure import Failure
from gateway.cli.locate import Place, display
from gateway.cli.names import known_clients
from gateway.cli.options import DryRunOption, FileOption, ProjectOption, YesOption, confirmed, place, say, screen

if TYPE_CHECKING:
    from registry.importers.clients import Import
    from registry.model.plain_secrets import Plain

Entries = dict[str, dict[str, Any]]


def register(app: typer.Typer) -> None:
    app.command(name="import")(take_over)


def take_over(
    context: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(
            help="An AI client's name, or its file (default: look for all).",
            show_default=False,
            autocompletion=known_clients,
        ),
    ] = None,
    keep_secrets: Annotated[
        bool, typer.Option("--keep-secrets", help="Leave tokens in the file as they are, in plain text.")
    ] = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    file: FileOption = None,
    project: ProjectOption = None,
) -> None:
    """Import the servers in an AI client's own file, isolated.

    They may connect to nothing until the file names hosts for them.
    Stockade's own settings in such a file (network, mounts, …) are ignored, and each one is reported.
    """
    where = place(context, file, project)
    path = where.config_to_write()
    imports = foreign_servers(source)
    for item in imports:
        say(f"From {item.path}:")
        for note in item.notes:
            say(f"! {note}")
    found = {name: entry for item in imports for name, entry in item.servers.items()}
    fresh = _fresh(path, found)
    sound = {name: entry for name, entry in fresh.items() if _is_sound(name, entry)}
    left = [name for name in fresh if name not in sound]
    if sound:
        _add(where, path, sound, keep_secrets=keep_secrets, dry_run=dry_run, yes=yes)
        for item in imports:
            if not dry_run and sound.keys() & item.servers.keys():
                say(
                    f"{item.path} has them too: remove them there, or its client still starts them, outside of the wall."
                )
    if left:
        raise Failure(f"{len(left)} of {len(fresh)} servers were not imported: {', '.join(left)}.")


def foreign_servers(source: str | None) -> list[Import]:
    """The servers in one client's file, or in all that are found. Raises Failure when there are none."""
    from gateway.connect.clients import BY_NAME
    from registry.importers import clients
    from registry.model.errors import ConfigError

    try:
        if source is None:
            found = clients.find(folder=Path.cwd())
        else:
            found = [clients.read(_path_of(source, BY_NAME))]
    except ConfigError as error:
        raise Failure(str(error)) from error
    if not any(item.servers for item in found):
        notes = "".join(f"\n! {note}" for item in found for note in item.notes)
        raise Failure(f"{source or 'No AI client here'} has no server to import.{notes}")
    return found


def _path_of(source: str, known: Mapping[str, Any]) -> Path:
    """The file that a client's name or a path means. Raises Failure when there is none."""
    from registry.importers import clients

    path: Path = known[source].file() if source in known else Path(source)
    if path.is_dir() and source in known:
        raise Failure(f"Stockade cannot read {known[source].title}'s servers yet; name a file that has them.")
    if path.exists():
        return path
    for client, _, other in clients.candidates(Path.home(), None):
        if client == source and other.exists():
            return other
    if source in known:
        raise Failure(f"{known[source].title} has no file at {path}, so there is nothing to import.")
    raise Failure(f"{source!r} is neither a file nor an AI client that Stockade knows. Clients: {', '.join(known)}.")


def _fresh(path: Path, found: Mapping[str, dict[str, Any]]) -> Entries:
    """The servers whose names the file does not have. Those that it has are left as they are, which is no error."""
    from registry.load import load_config
    from registry.model.errors import ConfigError

    try:
        taken = set(load_config(path).servers) if path.exists() else set()
    except ConfigError as error:
        raise Failure(str(error)) from error
    if there := [name for name in found if name in taken]:
        say(f"In {display(path)} already, and left as they are: {', '.join(there)}.")
    return {name: entry for name, entry in found.items() if name not in taken}


def _is_sound(name: str, entry: Mapping[str, Any]) -> bool:
    """Whether the server can run here. If not, every reason is said, and the others still follow."""
    from registry.load import load_text
    from registry.model.errors import ConfigError
    from registry.model.plain_secrets import hide, plain_secrets

    try:
        load_text(json.dumps({"version": 1, "mcpServers": {name: entry}}), "")
    except ConfigError as error:
        for problem in error.problems:
            where = problem.key_path.removeprefix(f"mcpServers.{name}").lstrip(".")
            at = f"{name}: {where}: " if where else f"{name}: "
            words = " ".join(part.rstrip(".") + "." for part in (problem.message, problem.hint) if part)
            say(f"! {at}{hide(words, plain_secrets(entry))}")
        return False
    return True


def _add(where: Place, path: Path, entries: Entries, *, keep_secrets: bool, dry_run: bool, yes: bool) -> None:
    """Shows the whole change, asks, and makes it."""
    from registry.edit import add_servers, edit_config
    from registry.model.errors import ConfigError

    kept, values = (entries, {}) if keep_secrets else moved(entries)
    if values and not dry_run and not yes and not _wants_moved(values):
        kept, values = entries, {}
    try:
        edit = edit_config(path, add_servers(kept))
    except ConfigError as error:
        raise Failure(str(error)) from error
    screen.diff(edit.diff)
    for warning in edit.worth_knowing:
        say(f"! {warning}")
    say(_what_walls_hold(kept))
    if values:
        say(f"Tokens that stand there in plain text will be kept as secrets instead: {', '.join(values)}.")
    if dry_run:
        say(f"Not written (dry run): {display(path)}")
        return
    if not confirmed(f"Add {len(kept)} server(s)?", yes):
        raise Failure("Nothing was changed.")
    _store(values)
    if where.running():
        _post(where, kept)
    else:
        offline.edit_file(path, add_servers(kept), dry_run=False)
    say(f"Written: {display(path)}")


def _wants_moved(values: Mapping[str, str]) -> bool:
    """Asks where the tokens should be. Without a terminal nothing is asked, nor is anything written afterwards."""
    question = f"Keep {', '.join(values)} as secrets, instead of in plain text in the file?"
    return not sys.stdin.isatty() or typer.confirm(question, default=True)


def _post(where: Place, entries: Entries) -> None:
    """Gives the servers to the running gateway, which writes and starts them. Raises Failure with those it refused."""
    refused = []
    for name, entry in entries.items():
        try:
            where.api().post(url("backends"), {"name": name, "entry": entry, "dry_run": False})
        except Refused as error:
            say(f"! {name}: {error}")
            refused.append(name)
        else:
            screen.line(f"{name} is starting; see: stockade ps")
    if refused:
        raise Failure(f"{len(refused)} of {len(entries)} servers were not imported: {', '.join(refused)}.")


def moved(entries: Entries) -> tuple[Entries, dict[str, str]]:
    """The entries with references in place of tokens, and the secrets to store, by name.

    A secret that is there with another value is never replaced: the new one gets the server's name before its own.
    """
    from gateway.cli.unlock import asking_store
    from registry.model.plain_secrets import plain_secrets, secret_name, without_secrets
    from registry.secrets import SecretError

    store = asking_store()
    values: dict[str, str] = {}
    changed: Entries = {}
    for server, entry in entries.items():
        names: dict[Plain, str] = {}
        for plain in plain_secrets(entry):
            try:
                name = _free(secret_name(plain.key), server, plain.value, values, store.lookup)
            except SecretError as error:
                raise Failure(str(error)) from error
            names[plain], values[name] = f"${{secret:{name}}}", plain.value
        changed[server] = without_secrets(entry, names)
    return changed, values


def _free(name: str, server: str, value: str, values: Mapping[str, str], lookup: Any) -> str:
    """A name for the secret under which nothing else is kept."""
    candidates = [name, f"{server}-{name}", *(f"{server}-{name}-{number}" for number in range(2, 1000))]
    return next(one for one in candidates if (values.get(one) or lookup(one)) in (None, value))


def _store(values: Mapping[str, str]) -> None:
    """Stores the secrets. Raises Failure."""
    from gateway.cli.unlock import asking_store
    from registry.secrets import SecretError

    stores = asking_store()
    try:
        for name, value in values.items():
            stores.set(name, value)
    except SecretError as error:
        raise Failure(str(error)) from error


def _what_walls_hold(found: Mapping[str, Mapping[str, Any]]) -> str:
    """How far these servers will be isolated: a remote one is not."""
    remote = [name for name, entry in found.items() if "url" in entry]
    if not remote:
        return "Each will be isolated and reach nothing until its policy names a host."
    elsewhere = f"Not isolated, since they run elsewhere: {', '.join(remote)}."
    if len(remote) == len(found):
        return elsewhere
    return f"{elsewhere} Every other server will be isolated and reach nothing until its policy names a host."

"""Commands about secrets: the values that `${secret:NAME}` in the file refers to."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli import offline
from gateway.cli.client import Refused, url
from gateway.cli.failure import Failure
from gateway.cli.locate import Place
from gateway.cli.names import secrets
from gateway.cli.options import FileOption, JsonOption, ProjectOption, place, say, screen
from gateway.cli.unlock import asking_store

if TYPE_CHECKING:
    from registry.secrets import SecretStore

MOST_BYTES = 1 << 20


class In(StrEnum):
    """The stores that Stockade writes."""

    FOLDER = "folder"
    KEYRING = "keyring"
    ENCRYPTED = "encrypted"


NameArgument = Annotated[str, typer.Argument(help="The NAME in ${secret:NAME}.", autocompletion=secrets)]
InOption = Annotated[
    In | None,
    typer.Option(
        "--in",
        help="folder: a file of its own; keyring: the system's key ring; encrypted: the encrypted file, the default if "
        "there is one.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    app.command(name="set")(keep)
    app.command(name="ls")(show)
    app.command(name="rm")(forget)
    app.command(name="import")(take_in)


def keep(
    context: typer.Context,
    name: NameArgument,
    store: InOption = None,
    file: FileOption = None,
    project: ProjectOption = None,
) -> None:
    """Store a secret, and restart the servers that use it.

    The value is prompted for without an echo, or read from stdin.
    """
    value = _given(name)
    if not value:
        raise Failure("No value was given, so nothing was changed.")
    where = _stored(asking_store(), {name: value}, store)
    screen.line(f"Stored in {where}, which only you can read.")
    _start_again(place(context, file, project), [name])


def _stored(stores: SecretStore, values: dict[str, str], store: InOption) -> str:
    """Stores the values; where. Raises Failure."""
    from registry.secrets import SecretError
    from registry.secrets.places import Store

    where = ""
    try:
        for name, value in values.items():
            where = stores.set(name, value, Store(store.value) if store else None)
            counts = stores.origins(name)[0].where
            if not where.startswith(counts):
                say(f"! {name} also comes from {counts}, which is looked at first.")
    except SecretError as error:
        raise Failure(str(error)) from error
    return where


def _given(name: str) -> str:
    if sys.stdin.isatty():
        value: str = typer.prompt(f"Value of {name} (not shown)", hide_input=True, default="", show_default=False)
        return value
    return sys.stdin.read().removesuffix("\n").removesuffix("\r")


def _start_again(where: Place, names: list[str]) -> None:
    """Restart the servers whose entries use one of the secrets, if a gateway runs."""
    from registry.secrets.uses import names_of

    if where.running() is None:
        return
    users = names_of(offline.load(where))
    for server in dict.fromkeys(server for name in names for server in users.get(name, ())):
        try:
            where.api().post(url("backends", server, "restart"), {})
        except Refused as error:
            say(f"! {server}: {error}")
        else:
            screen.line(f"{server} was restarted with it.")


def show(
    context: typer.Context, file: FileOption = None, project: ProjectOption = None, as_json: JsonOption = False
) -> None:
    """List secrets: where each comes from, and who uses it.

    Those that are stored, and those that the file refers to. No value is shown.

    Where the gateway runs in another environment, it may find others.
    """
    from registry.secrets import SecretError, SecretStore
    from registry.secrets.uses import names_of

    where = place(context, file, project)
    used: dict[str, list[str]] = {}
    try:
        path = where.config()
    except Failure:
        path = None
    if path is not None:
        used = names_of(offline.load(where))
    stores = SecretStore()
    try:
        rows = [_row(stores, name, used) for name in sorted({*stores.names(), *used})]
    except SecretError as error:
        raise Failure(str(error)) from error
    if as_json:
        screen.json(rows)
        return
    table = [[row["name"], row["from"] or "not set", ", ".join(row["servers"])] for row in rows]
    screen.table(["name", "from", "servers"], table)
    for row in rows:
        if row["also_in"]:
            say(f"! {row['name']} is also in {' and in '.join(row['also_in'])}, which does not count.")


def _row(stores: SecretStore, name: str, used: dict[str, list[str]]) -> dict[str, Any]:
    origins = stores.origins(name)
    return {
        "name": name,
        "store": origins[0].store.value if origins else None,
        "from": origins[0].where if origins else None,
        "also_in": [place.where for place in origins[1:]],
        "servers": used.get(name, []),
    }


def forget(name: NameArgument) -> None:
    """Remove a stored secret.

    A running server keeps the value until it is restarted.
    """
    from registry.secrets import SecretError

    try:
        removed = asking_store().remove(name)
    except SecretError as error:
        raise Failure(str(error)) from error
    screen.line(f"{name} was removed from {' and from '.join(removed)}.")


def take_in(
    context: typer.Context,
    source: Annotated[
        Path,
        typer.Argument(help="A file with NAME=VALUE lines (- is stdin), or a folder with a file for each secret."),
    ],
    store: InOption = None,
    file: FileOption = None,
    project: ProjectOption = None,
) -> None:
    """Store many secrets at once, and restart the servers that use them.

    SOURCE is left as it is: remove it once its secrets are here.
    """
    values = _of_folder(source) if source.is_dir() else dict(_lines(source))
    if not values:
        raise Failure(f"{source} holds no secret, so nothing was changed.")
    where = _stored(asking_store(), values, store)
    screen.line(f"Stored {', '.join(values)} in {where if len(values) == 1 or store else _folder_of(where)}.")
    _start_again(place(context, file, project), list(values))


def _folder_of(where: str) -> str:
    """Where several secrets went: the encrypted file, or the folder of their files."""
    return where if where.endswith(".enc") or not where.startswith("/") else str(Path(where).parent)


def _of_folder(path: Path) -> dict[str, str]:
    from registry.secrets import SecretError
    from registry.secrets.folders import SecretFolder

    folder = SecretFolder(path)
    try:
        return {name: folder.get(name) or "" for name in folder.names()}
    except SecretError as error:
        raise Failure(str(error)) from error


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """The names and values in a file of NAME=VALUE lines. Raises Failure with the line, never with what is in it."""
    from registry.model.references import SECRET_NAME

    try:
        if str(path) == "-":
            text = sys.stdin.read(MOST_BYTES + 1)
        else:
            with path.open(encoding="utf-8-sig") as lines:
                text = lines.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise Failure(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}.") from None
    if len(text) > MOST_BYTES:
        raise Failure(f"{path} is larger than {MOST_BYTES} bytes.")
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.strip().removeprefix("export ").lstrip()
        if not bare or bare.startswith("#"):
            continue
        name, equals, value = bare.partition("=")
        if not equals or not SECRET_NAME.fullmatch(name.strip()):
            raise Failure(f"{path}:{number}: is not NAME=VALUE. Nothing was stored.")
        yield name.strip(), _unquoted(value.strip())


def _unquoted(value: str) -> str:
    """A value without the quotes around the whole of it."""
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value

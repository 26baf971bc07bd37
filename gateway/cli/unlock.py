"""Asks a person for the passphrase of the encrypted secrets, where nothing else gives it, and hands it to a gateway."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import typer

from gateway.cli.failure import Failure

if TYPE_CHECKING:
    from registry.secrets import SecretStore


def asking_store() -> SecretStore:
    """The stores; who is at a terminal is asked for the passphrase once it is needed."""
    from registry.secrets import SecretStore
    from registry.secrets.keys import Keys
    from registry.secrets.vault import Vault

    return SecretStore(vault=Vault(keys=Keys(ask=ask if sys.stdin.isatty() else None)))


def ask(new: bool) -> str:
    """The passphrase, typed without an echo; a new one twice."""
    question = "Passphrase for the encrypted secrets (not shown)"
    given: str = typer.prompt(question, hide_input=True, default="", show_default=False, confirmation_prompt=new)
    return given


def unlock() -> None:
    """Asks for the passphrase before a gateway starts, if there is an encrypted file that needs one and a person to ask.

    Raises Failure for a wrong one.
    """
    from registry.secrets import SecretError

    store = asking_store()
    vault = store.vault
    if vault.keys.ask is None or vault.keys.given:
        return
    try:
        if names := vault.names():
            vault.get(names[0])
    except SecretError as error:
        raise Failure(str(error)) from error


def handed_over(env: dict[str, str]) -> tuple[int, ...]:
    """Takes the passphrase out of the variables of a gateway that is about to be started, and puts it into a pipe: the
    descriptors that the gateway must get, and the caller close."""
    from registry.secrets.keys import PASSPHRASE, PASSPHRASE_FD, take_passphrase

    passphrase = take_passphrase()
    env.pop(PASSPHRASE, None)
    if passphrase is None:
        return ()
    reading, writing = os.pipe()
    os.write(writing, passphrase)  # less than a pipe holds
    os.close(writing)
    env[PASSPHRASE_FD] = str(reading)
    return (reading,)

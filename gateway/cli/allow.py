"""`stockade egress allow`: the one command that opens the wall, so it shows the change and asks before it writes."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from egress.policy.names import suggest_host
from gateway.cli import names, offline
from gateway.cli.client import url
from gateway.cli.failure import Failure
from gateway.cli.locate import display
from gateway.cli.options import (
    DryRunOption,
    FileOption,
    ProjectOption,
    ServerArgument,
    YesOption,
    confirmed,
    place,
    say,
)
from gateway.cli.terminal import clean

ACCEPT = "--accept-risk"


def split_target(target: str) -> tuple[str, int | None]:
    """`HOST`, `HOST:PORT`, `[IPV6]:PORT`; an IPv6 address or network without brackets has no port. Raises Failure."""
    if "://" in target:
        raise Failure(f"{target!r} is a URL; keep only the host: {suggest_host(target, keep_port=True)}")
    host, colon, port = target.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):
        return target.strip("[]"), None
    if not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise Failure(f"{port!r} is not a port (1 to 65535). Write HOST or HOST:PORT, such as api.github.com:443")
    return host.strip("[]"), int(port)


def allow(
    context: typer.Context,
    name: ServerArgument,
    target: Annotated[
        str,
        typer.Argument(metavar="HOST[:PORT]", help="The host it may connect to.", autocompletion=names.blocked_hosts),
    ],
    yes: YesOption = False,
    accept_risk: Annotated[
        bool, typer.Option(ACCEPT, help="Allow even every host, metadata services or link-local addresses.")
    ] = False,
    dry_run: DryRunOption = False,
    file: FileOption = None,
    project: ProjectOption = None,
) -> None:
    """Allow a server to connect to one host (asks first).

    It shows the change to the file; with your yes it is written, comments stay, and it is in force at once.
    """
    where = place(context, file, project)
    host, port = split_target(target)
    online = where.running()

    def edit(dry: bool) -> dict[str, Any]:
        if online:
            body = {"host": host, "port": port, "dry_run": dry}
            return dict(where.api().post(url("backends", name, "egress", "allow"), body))
        from registry.edit import allow_host

        edited = offline.edit_file(where.config_to_write(), allow_host(name, host, port), dry_run=dry)
        return {"diff": edited.diff, "warnings": edited.worth_knowing, "applied": False}

    path = where.config() if online else where.config_to_write()
    found = edit(True)
    if not found["diff"]:
        say(f"{clean(target)} is already allowed for {clean(name)}; nothing to change.")
        return
    offline.show_change(found, path, dry_run=True if dry_run else None)
    if dry_run:
        return
    risk = hard_stop(host)
    if risk and not accept_risk:
        raise Failure(f"{risk} Nothing was written. If you mean it, add {ACCEPT}.")
    if not confirmed(f"Allow {clean(name)} to connect to {clean(target)}?", yes):
        raise Failure("Nothing was written.")
    done = edit(False)
    if done["diff"] != found["diff"]:
        offline.show_change(done, path, dry_run=False)
    else:
        say(f"Written: {display(path)}")
    if done["applied"]:
        say("In force now.")


def hard_stop(host: str) -> str:
    """Why hardly anyone should allow this: every host, or where machines hand out their credentials. Empty: ordinary."""
    from egress.policy.addresses import METADATA_NAMES, AddressClass, classify, embedded_ipv4
    from egress.policy.patterns import parse_pattern

    try:
        _, name, network = parse_pattern(host)
    except ValueError:  # refused by the check of the file, with advice
        return ""
    if host == "*" or (network is not None and network.prefixlen == 0):
        return "This lets the server send anything to anyone on the internet."
    if name in METADATA_NAMES:
        return f"{name} is where clouds hand out the machine's credentials."
    if network is None:
        return ""
    ends = (network[0], network[-1])
    kinds = {classify(one) for end in ends for one in (end, *embedded_ipv4(end))}
    if AddressClass.METADATA in kinds:
        return f"{host} is where clouds hand out the machine's credentials."
    if AddressClass.LINK_LOCAL in kinds:
        return f"{host} is link-local: only the machine's own network is there, and its metadata services."
    return ""

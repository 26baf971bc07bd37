"""Commands that show what servers connected to, and what was blocked."""

from __future__ import annotations

import time
from collections.abc import Mapping
from operator import itemgetter
from typing import Annotated, Any

import typer

from egress.policy.nearest import nearest
from gateway.cli import names, policy
from gateway.cli.client import Api, url
from gateway.cli.options import (
    FileNoShort,
    FileOption,
    FollowOption,
    JsonOption,
    ProjectOption,
    place,
    say,
    screen,
)
from gateway.cli.terminal import Cell, clean
from observability.events import By, Decision

ServerOption = Annotated[
    str, typer.Option("--server", help="Limit to this server (default: all).", autocompletion=names.servers)
]
OldServerOption = Annotated[str, typer.Option("--backend", hidden=True, help="The old name of --server.")]
DecisionOption = Annotated[Decision | None, typer.Option(help="Limit to one decision.", show_default=False)]
MOST_OF_ONE = 5000
"""Blocked hosts of one server that are listed."""


GROUPS = {"server" if by is By.BACKEND else by.value: by for by in By}
"""The words of `--by`."""
OLD_WORDS = {"backend": By.BACKEND}
"""What earlier versions called them; taken for one more."""


def _groups(incomplete: str) -> list[str]:
    return [word for word in GROUPS if word.startswith(incomplete)]


def grouped_by(word: str) -> By:
    """What `--by` means. Raises BadParameter."""
    if found := {**GROUPS, **OLD_WORDS}.get(word):
        return found
    raise typer.BadParameter(f"{clean(word)!r} is not one of {', '.join(map(repr, GROUPS))}.")


def register(app: typer.Typer) -> None:
    for command in (tail, top, blocked):
        app.command()(command)
    policy.register(app)


def known_server(api: Api, name: str, where: str) -> None:
    """Refuse a name that no server has, as wrong usage. Of a server that was removed there may still be events to show."""
    if not name:
        return
    names = [str(one["name"]) for one in api.get(url("backends"))["backends"]]
    if name in names:
        return
    like = nearest(name, names)
    hint = f"Did you mean {like}?" if like else f"There are: {', '.join(names) or 'none'}."
    raise typer.BadParameter(f"there is no server {clean(name)!r}. {hint}", param_hint=where)


def tail(
    context: typer.Context,
    follow: FollowOption = False,
    count: Annotated[int, typer.Option("--tail", "-n", help="How many earlier events to print first.")] = 20,
    server: ServerOption = "",
    backend: OldServerOption = "",
    decision: DecisionOption = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also show normal closes, and the progress of long connections.")
    ] = False,
    file: FileNoShort = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show connections and the decision about each.

    A line has the time, server, decision, host, the reason or rule, and the tool call that made the connection.
    """
    server = server or backend
    api = place(context, file, project).api()
    wanted = {"type": "egress", "backend": server or None, "decision": decision or None}
    answer = api.get(url("events", limit=min(count * 4, 5000), **wanted))
    shown = [event for event in answer["events"] if _wanted(event, everything)][-count:] if count else []
    if not answer["events"]:
        known_server(api, server, "--server")
    for event in shown:
        _event(event, as_json)
    if not (shown or follow or as_json):
        say("No connections yet.")
    if follow:
        for kind, event in api.stream(url("events", follow=True, since=answer["last_id"], **wanted)):
            if kind == "gap":
                say(f"{event['dropped']} events were lost here: this terminal was too slow.")
            elif _wanted(event, everything):
                _event(event, as_json)


def _wanted(event: Mapping[str, Any], everything: bool) -> bool:
    """A close is shown only where it is news: the connection was cut or failed."""
    if event["phase"] == "closed":
        return everything or (bool(event.get("reason")) and event["decision"] != "report")
    return everything or event["phase"] != "progress"


def _event(event: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        screen.json_line(with_server(event))
    else:
        word, style = verdict(event)
        screen.line(event_line(event, word), style)


def with_server(row: Mapping[str, Any]) -> dict[str, Any]:
    """For `--json`: the server's name as `server`, and as `backend` for one more version."""
    return {"server": row["backend"], **row}


def verdict(event: Mapping[str, Any]) -> tuple[str, str]:
    """The word for the decision, and its colour."""
    if event["phase"] == "closed":
        return ("CUT", "yellow") if event.get("reason") else ("END", "dim")
    if event["phase"] == "progress":
        return "OPEN", "dim"
    return {"allow": ("ALLOW", "green"), "deny": ("DENY", "red")}.get(event["decision"], ("REPORT", "yellow"))


def event_line(event: Mapping[str, Any], word: str) -> str:
    """One event on one line, every part cleaned."""
    clock = time.strftime("%H:%M:%S", time.localtime(event["time"]))
    why = f"{clean(event.get('reason') or event.get('rule') or '')}{_times(event)}"
    calls = called_by(event["calls"], event.get("more_calls", 0)) if event.get("calls") else ""
    columns = [f"{clean(event['backend']):<12}", f"{word:<6}", f"{where(event):<32}", f"{why:<20}", calls]
    return "  ".join([clock, *columns]).rstrip()


def _times(event: Mapping[str, Any]) -> str:
    return f" (x{event['count']})" if event.get("count", 1) > 1 else ""


def where(event: Mapping[str, Any]) -> str:
    """`host:port`, else the address that was dialled; lookups say their type."""
    if event.get("via") == "dns" and not event.get("host"):
        return "(lookups)"  # counted together: too many, or malformed
    if event.get("via") == "dns":
        return f"{clean(event.get('host', ''), 80)} (lookup {clean(event.get('method', ''))})"
    if not event.get("host"):
        return clean(event.get("destination") or "other ports", 80)
    host = clean(event["host"], 80)
    named = f"[{host}]" if ":" in host else host
    return f"{named}:{event['port']}" if event.get("port") else named


def called_by(calls: list[Mapping[str, Any]], more: int = 0) -> str:
    """`← fetch (cursor)`; `← probably fetch or search` when several calls were in flight, of which `more` are not named."""
    names = list(dict.fromkeys(clean(call.get("tool") or call["method"], 60) for call in calls))
    if len(calls) + more > 1:
        others = f" (of {len(calls) + more} calls)" if more else ""
        return f"← probably {' or '.join(names)}{others}"
    client = calls[0].get("client")
    return f"← {names[0]}{f' ({clean(client, 40)})' if client else ''}"


def top(
    context: typer.Context,
    by: Annotated[
        str, typer.Option(metavar="|".join(GROUPS), help="Group by this.", autocompletion=_groups)
    ] = "host",
    server: ServerOption = "",
    backend: OldServerOption = "",
    decision: DecisionOption = None,
    hours: Annotated[float, typer.Option(help="How far back to look.")] = 24,
    limit: Annotated[int, typer.Option("--limit", "-n", help="How many rows to show.")] = 20,
    file: FileOption = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rank what servers connect to: hosts, rules, reasons, tools."""
    server, group = server or backend, grouped_by(by)
    api = place(context, file, project).api()
    since = f"{time.time() - hours * 3600:.0f}"
    narrow = {"backend": server or None, "decision": decision or None}
    rows = api.get(url("egress", "top", by=group, since=since, limit=limit, **narrow))["top"]
    if not rows:
        known_server(api, server, "--server")
    if as_json:
        screen.json(rows)
        return
    if rows:
        screen.table(
            ["server" if group is By.BACKEND else group, "connections", "denied", "sent", "received"],
            map(_top_row, rows),
        )
    else:
        none = "Nothing was denied" if group is By.REASON or decision == "deny" else "No connection"
        say(f"{none} in the last {hours:g} hours.")


def _top_row(row: Mapping[str, Any]) -> list[object]:
    denied = Cell(row["denied"], "red" if row["denied"] else "")
    sizes = [_bytes(row["bytes_sent"]), _bytes(row["bytes_received"])]
    return [Cell(clean(row["name"], 80)), row["connections"], denied, *sizes]


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def blocked(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(help="Limit to this server (default: all).", show_default=False, autocompletion=names.servers),
    ] = "",
    file: FileOption = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what was blocked, each with what would allow it."""
    narrow = {"backend": name, "limit": MOST_OF_ONE} if name else {}
    api = place(context, file, project).api()
    found = api.get(url("egress", "blocked", lookups=True, **narrow))
    rows = found["blocked"]
    if not rows:
        known_server(api, name, "NAME")
    if as_json:
        screen.json([with_server(row) for row in rows])
    elif rows:
        decided_last = sorted(rows, key=itemgetter("kept_blocked"))
        screen.table(["server", "host", "port", "times", "reason", "to allow it"], map(_blocked_row, decided_last))
    else:
        say("Nothing was blocked.")
    if kept := sum(row["kept_blocked"] for row in rows):
        say(f"{kept} of these {'is' if kept == 1 else 'are'} kept blocked, by a choice on the admin page.")
    if found["more"]:
        say(f"{found['more']} more were blocked. Name a server to see all of its own.")
    for text in found["lost"]:
        say(f"! {text}")


def _blocked_row(row: Mapping[str, Any]) -> list[object]:
    hint = row["remedy"]
    if not row["in_file"]:
        hint = "(the server is not in the file any more)"
    elif row["allowed_now"]:
        hint = "(it is allowed now)"
    elif row["kept_blocked"]:
        hint = "(kept blocked)"
    host = f"{clean(row['host'], 80)} (lookup)" if row["via"] == "dns" else clean(row["host"], 80)
    return [
        clean(row["backend"]),
        Cell(host or "other ports"),
        row["port"] or "",
        row["count"],
        row["reason"],
        hint,
    ]

"""Commands about what servers may connect to: change it, explain it, try it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli import offline
from gateway.cli.allow import allow
from gateway.cli.client import url
from gateway.cli.failure import Failure
from gateway.cli.names import blocked_hosts
from gateway.cli.options import (
    DryRunOption,
    FileOption,
    JsonOption,
    ProjectOption,
    ServerArgument,
    place,
    say,
    screen,
)
from gateway.cli.terminal import Cell

if TYPE_CHECKING:
    from egress.policy.decide import Policy, Surroundings
    from registry.config import Config


def register(app: typer.Typer) -> None:
    for command in (allow, explain, suggest, serve, check):
        app.command()(command)


def explain(
    context: typer.Context,
    name: ServerArgument,
    target: Annotated[
        str, typer.Argument(metavar="URL|HOST:PORT", help="Where it would connect to.", autocompletion=blocked_hosts)
    ],
    file: FileOption = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Explain whether a connection would be allowed, and why.

    Makes no connection.
    """
    where = place(context, file, project)
    if where.running():
        answer = where.api().post(url("explain"), {"backend": name, "url": target})
    else:
        answer = explain_offline(offline.load(where), name, target)
    _explained(answer, as_json)


def _explained(answer: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        screen.json(answer)
    else:
        screen.line(answer["sentence"], "green" if answer["decision"] == "allow" else "red")


def block_of(config: Config, name: str) -> dict[str, Any]:
    """The network block of a server. Raises Failure for an unknown one."""
    if name not in config.servers:
        raise Failure(
            f"There is no server {name!r} in the configuration; there are: {', '.join(config.servers) or 'none'}."
        )
    if not config.servers[name].isolated:
        raise Failure(f"{name} is not isolated: no policy holds it, and what it reaches is not observed.")
    return config.servers[name].network.block


def explain_offline(config: Config, name: str, target: str) -> dict[str, Any]:
    """`explain` without a gateway: uses the file and its overrides, and does not know this machine's addresses."""
    from egress.policy.decide import Surroundings
    from egress.service.surroundings import parse_overrides

    around = Surroundings(overrides=parse_overrides(config.egress.resolve))
    return explain_policy(block_of(config, name), target, around, server=name)


def explain_policy(
    block: Mapping[str, object], target: str, around: Surroundings, *, server: str = ""
) -> dict[str, Any]:
    """The decision of a network block for a target. Raises Failure for a bad block or target."""
    from egress.policy.explain import explain as explain_target

    policy = parsed(block)
    try:
        found = explain_target(policy, target, around, server=server)
    except ValueError as error:
        raise Failure(str(error)) from error
    rule = found.rule.text if found.rule else ""
    return {"decision": found.decision, "rule": rule, "reason": found.reason or "", "sentence": found.sentence}


def parsed(block: Mapping[str, object]) -> Policy:
    """The policy of a network block. Raises Failure with all its problems."""
    from egress.policy.decide import PolicyError, parse_policy

    try:
        return parse_policy(block)
    except PolicyError as error:
        lines = [f"{'.'.join(map(str, problem.path))}: {problem.message}" for problem in error.problems]
        raise Failure("\n".join(lines)) from error


def suggest(
    context: typer.Context,
    name: ServerArgument,
    write: Annotated[bool, typer.Option("--write", help="Write it into the file.")] = False,
    denied: Annotated[bool, typer.Option("--denied", help="Also allow what was denied so far.")] = False,
    dry_run: DryRunOption = False,
    file: FileOption = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the smallest policy that covers what a server used.

    Best after a while in `mode: learn`.
    """
    api = place(context, file, project).api()
    found = api.get(url("backends", name, "egress", "suggest", denied=denied))
    if as_json and not write:
        screen.json(found)
        return
    if not found["connections"]:
        also = f" ({found['denied']} were denied; --denied counts them in)" if found["denied"] else ""
        raise Failure(
            f"{name} has connected to nothing yet{also}. Set `mode: learn`, use it for a while, then try again."
        )
    if write:
        answer = api.put(url("backends", name, "network"), {"block": found["block"], "dry_run": dry_run})
        offline.show_change(answer, place(context, file, project).config(), dry_run=dry_run)
        if answer["applied"]:
            say("In force now.")
        return
    say(f"From {found['connections']} connections of {name}; --write saves it to the file.")
    screen.block(yaml_text({"network": found["block"]}))


def yaml_text(data: Mapping[str, Any]) -> str:
    """The data as YAML text."""
    import io

    from ruamel.yaml import YAML

    out = io.StringIO()
    YAML().dump(dict(data), out)
    return out.getvalue()


def serve(
    policy: Annotated[Path, typer.Option(help="File with a `network:` block.")],
    listen: Annotated[str, typer.Option(help="ADDRESS:PORT to listen on.")] = "127.0.0.1:3128",
    resolve: Annotated[
        list[str] | None,
        typer.Option(
            help="HOST:PORT:ADDRESS: trust that address for the host, without a lookup or address check (repeatable)."
        ),
    ] = None,
    upstream_proxy: Annotated[str | None, typer.Option(help="URL of a proxy to connect through.")] = None,
    no_proxy: Annotated[str, typer.Option(help="Hosts to reach without that proxy, separated by commas.")] = "",
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not print a line per connection.")] = False,
) -> None:
    """Run the egress proxy alone: one policy for all callers."""
    from egress import serve as standalone

    arguments = ["--policy", str(policy), "--listen", listen, "--no-proxy", no_proxy]
    arguments += [part for value in resolve or [] for part in ("--resolve", value)]
    arguments += ["--upstream-proxy", upstream_proxy] if upstream_proxy else []
    arguments += ["--quiet"] if quiet else []
    if standalone.main(arguments):
        raise typer.Exit(1)


def check(
    policy: Annotated[Path, typer.Argument(help="File with a `network:` block.")],
    targets: Annotated[list[str] | None, typer.Argument(metavar="URL|HOST:PORT", help="Targets to check.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a policy file, and show its decision for each target.

    Exit code 1 if one would be denied.
    """
    from egress.policy.decide import Surroundings

    block, around = read_policy(policy), Surroundings(standalone=True)
    answers = [{"target": target, **explain_policy(block, target, around)} for target in targets or []]
    if not targets:
        parsed(block)
    if as_json:
        screen.json(answers)
    elif not targets:
        screen.line(f"{policy} is a valid policy.")
    else:
        screen.table(["target", "decision", "rule or reason"], [_check_row(answer) for answer in answers])
    if any(answer["decision"] == "deny" for answer in answers):
        raise typer.Exit(1)


def _check_row(answer: Mapping[str, Any]) -> list[object]:
    style = "red" if answer["decision"] == "deny" else "green"
    return [answer["target"], Cell(answer["decision"], style), answer["reason"] or answer["rule"]]


def read_policy(path: Path) -> dict[str, Any]:
    """The network block in a YAML or JSON file, with or without the key `network` around it. Raises Failure."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        data = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Failure(f"{path} cannot be read: {error.strerror}") from error
    except (YAMLError, ValueError) as error:
        raise Failure(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if isinstance(data, dict) and not data.keys().isdisjoint(("servers", "mcpServers")):
        raise Failure(
            f"{path} is a whole file of servers; this command checks one network block. "
            f"Use: stockade -f {path} egress explain NAME HOST:PORT, or stockade -f {path} validate"
        )
    block = data.get("network", data) if isinstance(data, dict) else data
    if not isinstance(block, dict):
        raise Failure(
            f"{path} holds no network block. Write for example:\nnetwork:\n  allowed_hosts: [api.github.com]"
        )
    return block

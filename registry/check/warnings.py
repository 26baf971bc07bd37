"""Warnings about valid settings that open more, or do less, than they seem to."""

from __future__ import annotations

import ipaddress
import os
import stat
import zlib
from collections.abc import Iterator

from egress.policy.addresses import METADATA_NAMES, AddressClass, classify
from egress.policy.decide import Mode, Rule, RuleKind
from egress.policy.suggest import public_suffixes
from registry.check.inside import warn_inside, warn_shell
from registry.check.unreadable import access_to, warn_unreadable
from registry.config import Config
from registry.file.document import Document
from registry.model.errors import ConfigError, Finding, KeyPath, Problem
from registry.model.fields import Anonymous, Sessions, Transport, split_listen
from registry.model.mounts import holds, is_root
from registry.model.network import Network
from registry.model.plain_secrets import plain_secrets, secret_name
from registry.model.server import OWN_USERS, Server
from registry.model.sources import RemoteSource
from registry.model.spec import plan_source

Found = Iterator[Finding]


def warn(config: Config, document: Document) -> list[Problem]:
    """Every warning, unordered."""
    findings = [
        *(
            Finding(("mcpServers", name, *finding.path), finding.message, finding.hint)
            for name, server in config.servers.items()
            for finding in warn_server(server, config)
        ),
        *warn_users(config),
        *warn_prefixes(config),
        *warn_clients(config),
        *warn_gateway(config),
    ]
    return [document.problem(finding.path, finding.message, finding.hint) for finding in findings]


def warn_server(server: Server, config: Config) -> Found:
    if server.remote:
        yield Finding(("url",), "runs elsewhere: it is outside of the network isolation; filters and telemetry apply")
        yield from warn_shell([(("headers", key), text) for key, text in server.headers.items()])
    else:
        yield from warn_network(server.network)
        yield from warn_mounts(server, config)
        source = plan_source(server)
        assert not isinstance(source, RemoteSource)
        yield from warn_inside(server, source)
    yield from warn_plain_secrets(server)
    if server.sessions is Sessions.PER_CLIENT and server.transport is Transport.HTTP:
        yield Finding(("sessions",), "per-client is for stdio; a server over http keeps sessions apart itself")
    if is_root(server.user):
        message = "runs as root in its container, and can exhaust the kernel's per-user limits of this machine's root"
        yield Finding(("user",), message, "Remove it, or use another number, if the server works without")


def warn_network(network: Network) -> Found:
    """The policy's own warnings, and those that need the configuration around it."""
    if not network.isolated:
        message = "is not isolated: it reaches every network, and its connections are not observed"
        yield Finding(("network", "isolated"), message, "Remove the line, and name what it needs in allowed_hosts")
        if network.allowed_hosts:
            yield Finding(("network", "allowed_hosts"), "has no effect while isolated is false")
        return
    policy = network.policy
    yield from (Finding(("network", *problem.path), problem.message) for problem in policy.warnings)
    if policy.mode is not Mode.ENFORCE:
        hint = "Set enforce once the policy is complete (`stockade egress suggest` proposes one)"
        yield Finding(("network", "mode"), f"{policy.mode} lets through what enforce would deny", hint)
    for index, rule in enumerate(policy.rules):
        yield from warn_rule(rule, ("network", "allowed_hosts", index))


def warn_rule(rule: Rule, where: KeyPath) -> Found:
    """Warnings about one entry of `allowed_hosts` that opens more, or less, than it seems to."""
    kind = rule_class(rule)
    if kind is AddressClass.METADATA or rule.host in METADATA_NAMES:
        message = f"{rule.pattern} is where clouds hand out the machine's credentials"
        yield Finding(where, message, "Hardly any server has a good reason to ask there")
    elif kind in (AddressClass.LOOPBACK, AddressClass.UNSPECIFIED):
        message = f"{rule.pattern} is the server's own container, and no rule opens it"
        yield Finding(where, message, "The machine that it runs on is host.docker.internal, with a port")
    elif is_below_public_suffix(rule):
        message = f"{rule.pattern} allows every host below {rule.host}, where anyone can register names"
        yield Finding(where, message, "Name the hosts that the server needs")


def rule_class(rule: Rule) -> AddressClass | None:
    """The class of the one address that a rule is for; None for names and ranges."""
    if rule.network is None or rule.network.num_addresses > 1:
        return None
    return classify(rule.network.network_address)


NOT_FOR_ALL = frozenset({"githubusercontent.com"})
"""In the list of public suffixes to keep cookies apart; the names below it are all GitHub's own."""


def is_below_public_suffix(rule: Rule) -> bool:
    """Whether a rule is for all names below something like co.uk or github.io. (Of .com the policy itself warns.)"""
    if rule.kind not in (RuleKind.SUFFIX, RuleKind.SUBDOMAIN) or "." not in rule.host or rule.host in NOT_FOR_ALL:
        return False
    return bool(public_suffixes().is_public(rule.host))


def warn_mounts(server: Server, config: Config) -> Found:
    for index, mount in enumerate(server.mounts):
        where: KeyPath = ("mounts", index)
        if mount.volume:
            continue
        if os.path.realpath(mount.source) == os.path.realpath(os.path.expanduser("~")):
            yield Finding(where, "shows the whole home folder to the server", "Mount only what it works on")
        elif config.path is not None and holds(mount, config.path):
            yield Finding(where, f"shows {config.path.name} to the server")
        if not mount.read_only:
            yield from warn_unwritable(server, mount.source, where)
        else:
            yield from warn_unreadable(server, mount.source, where)


def warn_unwritable(server: Server, source: str, where: KeyPath) -> Found:
    """A folder in which the server's user may not write. (An image's own user is not known.)"""
    access = access_to(server, source)
    if access is None or may_write(access.found, access.uid, access.gid):
        return
    found = access.found
    hint = f'Write user: "{found.st_uid}:{found.st_gid}", or add :ro'
    if found.st_uid == 0:
        free = access.user or str(OWN_USERS[zlib.crc32(source.encode()) % len(OWN_USERS)])
        hint = f'Give it to the server (chown -R {free}:{free} {source}, and user: "{free}:{free}"), or add :ro'
    yield Finding(where, f"the server runs {access.who}, who may not write in {source}", hint)


def may_write(found: os.stat_result, user: int, group: int) -> bool:
    """Whether the file's mode lets this user write, who has no capability."""
    if user == found.st_uid:
        return bool(found.st_mode & stat.S_IWUSR)
    return bool(found.st_mode & (stat.S_IWGRP if group == found.st_gid else stat.S_IWOTH))


def warn_plain_secrets(server: Server) -> Found:
    """Values that look like secrets and stand in the file as they are."""
    for plain in plain_secrets(server.model_dump(include={"env", "headers", "args", "url"})):
        what = "stands here in plain text" if plain.path[0] in ("env", "headers") else "holds a secret in plain text"
        yield Finding(plain.path, what, f"Keep it as a secret: ${{secret:{secret_name(plain.key)}}}")


def warn_users(config: Config) -> Found:
    """Servers that the file makes run as the same user."""
    servers: dict[int, list[str]] = {}
    for name, server in config.servers.items():
        if not server.remote and not server.disabled and (user := chosen_user(server)) is not None:
            servers.setdefault(user, []).append(name)
    for user, names in servers.items():
        for name in names[1:]:
            message = f"is {user}, the same as {names[0]}: each can exhaust the other's per-user limits of the kernel"
            yield Finding(("mcpServers", name, "user"), message, "Remove it, or give each a number of its own")


def chosen_user(server: Server) -> int | None:
    """The uid that an entry names, by `user` or in its `docker run`."""
    try:
        source = plan_source(server)
    except ConfigError:  # a file of variables that it names is gone: that is told where it is started
        return int(server.user.partition(":")[0]) if server.user else None
    user = None if isinstance(source, RemoteSource) else source.user
    return int(user.partition(":")[0]) if user else None


def warn_prefixes(config: Config) -> Found:
    bare = [name for name, server in config.servers.items() if server.prefix == "" and not server.disabled]
    for name in bare[1:]:
        message = f"has no prefix, like {bare[0]!r}: tools of the same name get one all the same"
        yield Finding(("mcpServers", name, "prefix"), message)


def warn_clients(config: Config) -> Found:
    oauth = config.gateway.auth is not None and config.gateway.auth.oauth is not None
    for name, client in config.clients.items():
        if client.token_sha256 is None and not oauth:
            hint = f"Run `stockade client add {name}`"
            yield Finding(("clients", name), "has no token, so no program can connect as this client", hint)
    emptied = "clients" in config.model_fields_set and not config.clients
    if emptied and not oauth and config.gateway.anonymous is Anonymous.AUTO:
        message = "is empty, so every program on this machine may connect without a token, and sees everything"
        yield Finding(("clients",), message, "To require a token, set `anonymous: never` under gateway")


def warn_gateway(config: Config) -> Found:
    open_to_all = not is_local(config.gateway.listen)
    if open_to_all and config.gateway.anonymous is Anonymous.ALWAYS:
        message = "always, while others can reach the endpoint: anyone on the network can use every server"
        yield Finding(("gateway", "anonymous"), message, "Use auto, and `stockade client add NAME`")
    elif open_to_all:
        yield Finding(("gateway", "listen"), "is reachable from other machines, over plain HTTP: tokens can be read")
    if not is_local(config.gateway.admin):
        message = "is reachable from other machines; it can change policies"
        yield Finding(("gateway", "admin"), message, "Listen on 127.0.0.1 and forward the port with ssh")
    for index, text in enumerate(config.egress.resolve):
        yield Finding(("egress", "resolve", index), f"{text} bypasses DNS and the address check")


def is_local(listen: str) -> bool:
    host, _ = split_listen(listen)
    return host == "localhost" or ipaddress.ip_address(host).is_loopback

"""The configuration apart from its servers: the gateway, the egress, the clients.

The text under each field is its description in the JSON Schema that editors read.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictInt, WithJsonSchema

from registry.model.errors import Invalid
from registry.model.fields import (
    Anonymous,
    Flag,
    Globs,
    Listen,
    Name,
    PositiveInt,
    Seconds,
    Size,
    ToolMode,
    Url,
    to_tuple,
)
from registry.model.server import Frozen, ItemRules


def check_separator(text: str) -> str:
    if re.fullmatch(r"[_.-]{1,4}", text):
        return text
    raise Invalid(f"{text!r} cannot separate a server's name from a tool's", "Use __ or another of _ - . (1 to 4)")


def check_override(text: str) -> str:
    """`HOST:PORT:ADDRESS`, as curl's --resolve has it."""
    hint = "Write HOST:PORT:ADDRESS, such as api.example.com:443:203.0.113.7"
    match = re.fullmatch(r"([^:\s/\[\]]+):(\d{1,5}):(?:\[([^\]]+)\]|([^\s\[\]]+))", text)
    if match is None:
        raise Invalid(f"{text!r} is not an override", hint)
    if not 1 <= int(match[2]) <= 65535:
        raise Invalid(f"{match[2]} is not a port", "Ports go from 1 to 65535")
    try:
        ipaddress.ip_address(match[3] or match[4])
    except ValueError:
        raise Invalid(f"{match[3] or match[4]!r} is not an IP address", hint) from None
    return text


PROXY = re.compile(r"http://(?:(?:\$\{[^{}]*\}|[^:@/\s]+)(?::(?P<password>\$\{[^{}]*\}|[^@/\s]*))?@)?[^@/\s${}]+/?")


def check_proxy(text: str) -> str:
    """`http://[USER[:${secret:NAME}]@]HOST[:PORT]`: a password only as a reference."""
    match = PROXY.fullmatch(text)
    if match is None:
        raise Invalid("is not an http:// URL of a proxy", "Write one such as http://proxy.example.com:3128")
    if match["password"] and not match["password"].startswith("${"):
        hint = "Run: stockade secret set proxy-password, and write http://USER:${secret:proxy-password}@HOST:PORT"
        raise Invalid("holds a password", hint)
    return text


def check_resolver(text: str) -> str:
    """A DNS server's address; the port is always 53, as in resolv.conf."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise Invalid(
            f"{text!r} is not a DNS server's address", "Write one such as 9.9.9.9, without a port"
        ) from None
    if address.is_loopback:
        raise Invalid(
            f"{text} is the egress container itself, not this machine", "Write an address that containers can reach"
        )
    return text


def check_digest(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        hint = "It is the SHA-256 of the token, in 64 hex digits; `stockade client add NAME` makes both"
        raise Invalid("is not a SHA-256 (the token itself must never be in the file)", hint)
    return text


def check_allowed_host(text: str) -> str:
    if not text or re.search(r"[\s/]|://", text):
        raise Invalid(f"{text!r} is not a host", "Write HOST or HOST:PORT, as in a Host header")
    return text


def check_origin(text: str) -> str:
    if text == "null" or not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/?#]+", text):
        raise Invalid(f"{text!r} is not an origin", "Write SCHEME://HOST[:PORT] with nothing after it")
    return text


def strings(check: Any) -> Any:
    return Annotated[tuple[Annotated[str, AfterValidator(check)], ...], BeforeValidator(to_tuple)]


class OAuth(Frozen):
    """The gateway as an OAuth 2.1 resource server."""

    issuer: Url
    """The authorization server's issuer URL; its metadata says where the keys are."""
    audience: str = Field(min_length=1)
    """The audience that tokens must carry: this gateway's resource URL."""
    required_scopes: Annotated[tuple[str, ...], BeforeValidator(to_tuple)] = ()
    """Scopes that every token must have."""
    client_claim: str = "client_id"
    """The claim that names the client, as in `clients`. Default client_id."""
    jwks_url: Url | None = None
    """Where the keys are, if the issuer's metadata does not say it."""


class Auth(Frozen):
    """How clients prove who they are, apart from the tokens in `clients`."""

    oauth: OAuth | None = None
    """Accept access tokens of an authorization server."""


class HistorySettings(Frozen):
    """How much history is kept."""

    max_rows: PositiveInt = 200_000
    """Events kept at most, shared among the servers."""
    max_days: PositiveInt = 30
    """Days that an event is kept at most."""


class GatewaySettings(Frozen):
    """The gateway: where it listens, which clients it accepts, how long it waits."""

    listen: Listen = "127.0.0.1:8420"
    """HOST:PORT of the MCP endpoint; port 0 is any free one."""
    admin: Listen = "127.0.0.1:8421"
    """HOST:PORT of the page, the REST API and /metrics."""
    separator: Annotated[str, AfterValidator(check_separator)] = "__"
    """The separator between a server's name and its tool's."""
    annotate_denials: Flag = True
    """Add the connections that were denied during a call to its result, and to an error what lets the server write."""
    anonymous: Anonymous = Anonymous.AUTO
    """Clients without a token: `auto` (from this machine, while `clients` is empty), `always` or `never`."""
    allowed_hosts: strings(check_allowed_host) = ()  # type: ignore[valid-type]
    """Host headers to accept, besides this machine's own names and the listening address."""
    allowed_origins: strings(check_origin) = ()  # type: ignore[valid-type]
    """Web origins to accept, besides this machine's own."""
    call_timeout_s: Seconds = 300.0
    """The longest a call may take, in seconds."""
    start_timeout_s: Seconds = 120.0
    """The longest the start of a server may take, in seconds; the first build of an image is not counted."""
    build_timeout_s: Seconds = 600.0
    """The longest that the installation of a package into its image may take, in seconds."""
    shutdown_grace_s: Seconds = 10.0
    """How long calls in flight may finish when the gateway stops, in seconds."""
    max_body_bytes: Size = 4 * 2**20
    """The largest request taken, such as `4m`."""
    auth: Auth | None = None
    """OAuth."""
    history: HistorySettings = HistorySettings()
    """How much history is kept."""


class EgressSettings(Frozen):
    """How the egress connects to the outside."""

    resolve: strings(check_override) = ()  # type: ignore[valid-type]
    """Exact overrides `HOST:PORT:ADDRESS`: that address is dialled for that host and port, even if it is private."""
    resolvers: strings(check_resolver) = ()  # type: ignore[valid-type]
    """DNS servers to ask instead of the engine's."""
    upstream_proxy: Annotated[str, AfterValidator(check_proxy), Field(json_schema_extra={"format": "uri"})] | None = (
        None
    )
    """A proxy that the egress itself goes through, such as http://proxy.example.com:3128."""
    no_proxy: Annotated[tuple[str, ...], BeforeValidator(to_tuple)] = ()
    """Hosts reached without the upstream proxy."""


class ClientTools(ItemRules):
    """Which tools a client sees, by their full names (`github__search_*`)."""

    mode: ToolMode = ToolMode.LIST
    """`list`: all of them; `search`: only find_tool and call_tool, and those pinned."""
    pinned: Globs = ()
    """With `search`: tools that are listed too."""


def to_servers(value: Any) -> Any:
    if isinstance(value, str) and value != "*":
        raise Invalid(f"must be a list of servers' names, or '*', not {value!r}", f"Write [{value}]")
    if not isinstance(value, str | list | tuple):
        raise Invalid("must be a list of servers' names, or '*'", "Write [NAME], [] for none, or remove the key")
    return value


class ClientSettings(Frozen):
    """One AI client: its token, and what it sees."""

    token_sha256: Annotated[str, AfterValidator(check_digest)] | None = None
    """The SHA-256 of its token. `stockade client add NAME` makes the token and writes this."""
    servers: Annotated[
        Literal["*"] | tuple[str, ...],
        BeforeValidator(to_servers),
        WithJsonSchema({"anyOf": [{"const": "*"}, {"type": "array", "items": {"type": "string"}}]}),
    ] = "*"
    """The servers it sees, by name; all when left out."""
    tools: ClientTools = ClientTools()
    """Which tools it sees."""
    prompts: ItemRules = ItemRules()
    """Which prompts it sees."""
    resources: ItemRules = ItemRules()
    """Which resources it sees, by their URIs."""


Clients = Mapping[Name, ClientSettings]
SchemaVersion = Annotated[StrictInt, Field(json_schema_extra={"const": 1})]

"""One entry of `mcpServers`: how a server is run, what it may connect to, what clients see of it.

The text under each field is its description in the JSON Schema that editors read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from registry.model.build import Build
from registry.model.errors import Finding, Invalid
from registry.model.fields import (
    DebianPackage,
    Flag,
    Globs,
    Origin,
    Pin,
    Port,
    PositiveInt,
    Seconds,
    ServerUrl,
    Sessions,
    Size,
    Spares,
    Start,
    Text,
    Texts,
    Transport,
    Url,
    base_folder,
    to_tuple,
)
from registry.model.mount_risks import Risk
from registry.model.mounts import Mount, parse_mount
from registry.model.network import Network, check_block
from registry.model.references import fill_path
from registry.model.secret_files import SecretFiles
from registry.model.storage import check_storage, to_storage


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def drop_empty(cls, data: Any) -> Any:
        """A key with nothing after it counts as left out, unless it decides what is shown."""
        if not isinstance(data, dict):
            return data
        known = {name for field_name, field in cls.model_fields.items() for name in (field_name, field.alias)}
        return {key: value for key, value in data.items() if value is not None or key not in known - DECIDING}


DECIDING = frozenset({"allow", "deny", "servers", "pinned"})
"""`allow:` with every line below it commented out must not come to mean everything."""


def to_rules(value: Any) -> Any:
    if value is None:
        raise Invalid("has no value", "Write [] for none, or remove the key")
    return to_tuple(value)


def to_mount(value: Any, info: ValidationInfo) -> Any:
    return parse_mount(value, base_folder(info), info.data.get("env") or {})


MOUNT_SCHEMA = {
    "anyOf": [
        {"type": "string", "examples": ["./data:/data:ro"]},
        {
            "type": "object",
            "properties": {
                "source": {
                    "type": "string",
                    "description": "A folder or file of this machine, from the configuration file's folder on.",
                },
                "target": {"type": "string", "description": "Where the server sees it: an absolute path."},
                "read_only": {"type": "boolean", "default": False, "description": "True: it may not write there."},
                "accept": {
                    "type": "array",
                    "items": {"enum": [str(risk) for risk in Risk]},
                    "description": "What it opens on purpose: system-folder, root-writes, socket, secrets, foreign-volume.",
                },
            },
            "required": ["source", "target"],
            "additionalProperties": False,
        },
    ]
}
Mounts = tuple[Annotated[Mount, BeforeValidator(to_mount), WithJsonSchema(MOUNT_SCHEMA)], ...]


def to_folder(value: Any, info: ValidationInfo) -> Any:
    """An absolute path, taken from the configuration file's folder on; `${env:NAME}` in it is filled in now."""
    if not isinstance(value, str):
        return value
    if "\0" in value:
        raise Invalid("holds NUL", "Write the path of a folder")
    path = fill_path(value, info.data.get("env") or {})
    return os.path.normpath(base_folder(info) / os.path.expanduser(path))


def to_runtime_version(value: Any) -> Any:
    """`3.12` is a number in YAML (and `3.10` would be 3.1, so it has to be text)."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise Invalid(f"{value} is a number, in which 3.10 and 3.1 are the same", f'Write it in quotes: "{value}"')
    if isinstance(value, str) and not re.fullmatch(r"\d{1,2}(\.\d{1,3}){0,2}", value):
        raise Invalid(f"{value!r} is not a version", 'Write one such as "3.12" or "22"')
    return value


RuntimeVersion = Annotated[str, BeforeValidator(to_runtime_version)]
Storage = tuple[Annotated[str, AfterValidator(check_storage)], ...]

TRANSPORTS = {
    "stdio": Transport.STDIO,
    "http": Transport.HTTP,
    "streamable-http": Transport.HTTP,
    "streamablehttp": Transport.HTTP,
    "streamable_http": Transport.HTTP,
    "remote": Transport.HTTP,
    "local": Transport.STDIO,
}


def to_transport(value: Any) -> Any:
    """The transport by any of the names that clients use for it."""
    if not isinstance(value, str):
        return value
    if value.lower() == "sse":
        hint = "Most servers have `http` (streamable HTTP) too: write type: http"
        raise Invalid("the SSE transport is gone from MCP since 2025-03-26", hint)
    if value.lower() not in TRANSPORTS:
        raise Invalid(f"{value!r} is not a transport", "Write stdio or http")
    return TRANSPORTS[value.lower()]


class ItemRules(Frozen):
    """Which names are shown: those that fit `allow` and do not fit `deny`."""

    allow: Annotated[Globs | None, BeforeValidator(to_rules)] = None
    """Names or patterns (`search_*`) to show; everything when left out, nothing when empty."""
    deny: Annotated[Globs, BeforeValidator(to_rules)] = ()
    """Names or patterns to hide; stronger than `allow`."""


Arguments = Mapping[str, Mapping[str, Any]]


class ToolRules(ItemRules):
    """Which of a server's tools are shown, and how they look."""

    rename: Mapping[str, str] = {}
    """The server's name of a tool, and the name that clients see (before the server's prefix)."""
    describe: Mapping[str, str] = {}
    """The server's name of a tool, and the description that clients see instead of the server's."""
    defaults: Arguments = {}
    """Per tool: arguments that are filled in when a call leaves them out."""
    fixed: Arguments = {}
    """Per tool: arguments that a call cannot change; they disappear from the tool's schema."""

    @field_validator("rename")
    @classmethod
    def check_rename(cls, rename: Mapping[str, str]) -> Mapping[str, str]:
        findings: list[Finding] = []
        seen: dict[str, str] = {}
        for old, new in rename.items():
            if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", new):
                hint = "Use letters, digits, _, - and ., at most 64"
                findings.append(Finding((old,), f"{new!r} cannot be a tool's name", hint))
            if new in seen:
                hint = "Give each tool a name of its own"
                findings.append(Finding((old,), f"{new!r} is already the new name of {seen[new]!r}", hint))
            seen.setdefault(new, old)
        if findings:
            raise Invalid.all(findings)
        return rename

    @model_validator(mode="after")
    def check_arguments(self) -> ToolRules:
        for tool in self.defaults.keys() & self.fixed.keys():
            if both := sorted(self.defaults[tool].keys() & self.fixed[tool].keys()):
                hint = "Keep it in fixed (calls cannot change it) or in defaults (they can)"
                raise Invalid(f"{both[0]!r} is both a default and fixed", hint, path=("fixed", tool, both[0]))
        return self


class Resources(Frozen):
    """Resource limits of one container of a server."""

    memory: Size = 512 * 2**20
    """Memory, such as `512m` or `2g`. Default 512m."""
    cpus: float = Field(default=1.0, strict=True, gt=0, le=1024)
    """Processors, such as 0.5 or 2. Default 1."""
    pids: PositiveInt = 256
    """Processes and threads. Default 256."""


class ClientCredentials(Frozen):
    """OAuth 2.1 client credentials, with which the gateway signs in at a remote server."""

    token_url: Url
    """The authorization server's token endpoint."""
    client_id: Text
    """The client's id."""
    client_secret: Text
    """The client's secret, as `${secret:NAME}`."""
    scope: str = ""
    """The scopes to ask for, separated by spaces."""


class RemoteAuth(Frozen):
    """How the gateway signs in at a remote server."""

    client_credentials: ClientCredentials | None = None
    """OAuth client credentials."""


OWN_USERS: Final = range(65536, 100_000)
"""Where each container's own uid comes from: above what accounts, systemd's dynamic users and 16-bit `nobody` have,
below what /etc/subuid gives out."""


def to_user(value: Any) -> Any:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(text, str) and not re.fullmatch(r"\d{1,10}(:\d{1,10})?", text):
        raise Invalid(f"{text!r} is not a user", "Write a number, such as 1000 or 1000:1000")
    return text


def check_path(text: str) -> str:
    if not re.fullmatch(r"/[^\s?#]*", text):
        raise Invalid(f"{text!r} is not a path", "Write one such as /mcp")
    return text


def check_prefix(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{0,32}", text):
        raise Invalid(f"{text!r} cannot be a prefix", 'Use letters, digits, _ and -, at most 32; "" is none')
    return text


KINDS = ("command", "image", "url")
LOCAL_ONLY = (
    "env", "secret_files", "cwd", "source", "watch", "python", "node", "port", "mounts", "storage", "resources", "packages",
    "build", "user", "sessions", "spares", "entrypoint", "args", "network",
)  # fmt: skip
REMOTE_ONLY = ("headers", "auth")


class Server(Frozen):
    """One MCP server. It has exactly one of `command`, `image` and `url`."""

    type: Annotated[Transport, BeforeValidator(to_transport)] = Transport.STDIO
    """`stdio`, or `http` (streamable HTTP). Default: http for a `url` or where a `port` is given, else stdio."""
    command: str | None = Field(default=None, min_length=1)
    """`uvx` or `npx` (the package is built into an image), `uv run`, `python`, `node` and others (a program of this
    machine), or `docker` with `run …` as arguments."""
    args: Texts = ()
    """The command's arguments; with `image`, those of the image's program."""
    image: str | None = Field(default=None, min_length=1, pattern=r"^\S+$")
    """A container image, such as ghcr.io/owner/name:tag."""
    entrypoint: Texts = ()
    """With `image`: the program to run instead of the image's own."""
    url: ServerUrl | None = None
    """A remote server. It runs elsewhere, so it is not isolated; filters and telemetry still apply."""
    headers: Mapping[str, Text] = {}
    """With `url`: HTTP headers to send, such as `Authorization: Bearer ${secret:NAME}`."""
    auth: RemoteAuth | None = None
    """With `url`: how to sign in."""
    env: Mapping[str, Text] = {}
    """Environment variables. `${secret:NAME}` and `${env:NAME}` are filled in when the server starts."""
    secret_files: SecretFiles = {}
    """Files that the server finds in its container, each with its content: `/run/secrets/token: "${secret:NAME}"`. They are
    its own, and in memory only."""
    cwd: Annotated[str, BeforeValidator(to_folder)] = ""
    """For a program of this machine: the folder that it starts in, from the configuration file's folder on."""
    source: Origin = Origin.MOUNT
    """For a program of this machine: `mount` shows it its folder, read-only, so an edit counts after a restart; `copy` puts
    the folder into its image."""
    watch: bool = False
    """For a program of this machine: starts it again a moment after something in its folder has changed."""
    python: RuntimeVersion = ""
    """The Python to run it with, such as "3.12". Default: one that fits what the package or project declares."""
    node: RuntimeVersion = ""
    """The Node to run it with, such as "22". Default: one that fits what the package or project declares."""
    port: Port | None = None
    """For `http` in a container: the port that the server listens on."""
    path: Annotated[str, AfterValidator(check_path)] = "/mcp"
    """For `http` in a container: the path of its MCP endpoint. Default /mcp."""
    network: Network = Network()
    """What the server may reach. Left out: nothing."""
    tools: ToolRules = ToolRules()
    """Which tools are shown, and how."""
    prompts: ItemRules = ItemRules()
    """Which prompts are shown."""
    mounts: Annotated[Mounts, BeforeValidator(to_tuple)] = ()
    """Folders of this machine that the server sees: `SOURCE:TARGET:ro` (without `:ro` it may write)."""
    storage: Annotated[Storage, BeforeValidator(to_storage)] = ()
    """Paths in its container that are kept, in volumes of this server alone: `/data`, or a list. All else is gone with the
    container."""
    resources: Resources = Resources()
    """Limits on memory, processors and processes."""
    packages: Annotated[tuple[DebianPackage, ...], BeforeValidator(to_tuple)] = ()
    """With `command`: Debian packages that the server needs in its image, such as git."""
    build: Build = Build()
    """How its image is built: what the installation may reach."""
    user: Annotated[str, BeforeValidator(to_user)] | None = None
    """The user (and group) to run as, in numbers. Default: the image's own if not root, else one no other container has."""
    sessions: Sessions = Sessions.AUTO
    """`shared`: one container for all clients; `per-client`: one for each client session; `auto`: as needed, and a session
    stays where its first call went."""
    spares: Spares = 1
    """Where each client session has a container of its own: how many warm containers to keep ready (0 to 8)."""
    start: Start = Start.EAGER
    """`eager`: with the gateway; `lazy`: at the first call."""
    pin: Pin = Pin.WARN
    """When a tool's definition changes: `warn`, `strict` (hidden until approved), or `off`."""
    prefix: Annotated[str, AfterValidator(check_prefix)] | None = None
    """What stands before the names of its tools, instead of the server's name; "" is nothing."""
    call_timeout_s: Seconds | None = None
    """The longest a call may take, in seconds. Default: the gateway's."""
    start_timeout_s: Seconds | None = None
    """The longest a start may take, in seconds. Default: the gateway's."""
    disabled: Flag = False
    """True: kept in the file, not started and not shown."""

    @model_validator(mode="before")
    @classmethod
    def settle_transport(cls, data: Any) -> Any:
        """Takes `transport` as another word for `type`, and finds the type where none is given."""
        if not isinstance(data, dict):
            return data
        data = dict(data)
        if "transport" in data:
            other = data.pop("transport")
            if "type" in data and data["type"] != other:
                raise Invalid("names the transport twice, with different values", "Keep `type`", path=("transport",))
            data["type"] = other
        if "type" not in data and ("url" in data or data.get("port") is not None):
            data["type"] = Transport.HTTP
        return data

    @field_validator("network", mode="before")
    @classmethod
    def check_network(cls, block: Any) -> Any:
        if block is None:
            return {}
        if isinstance(block, dict):
            block = {key: value for key, value in block.items() if value is not None}
            check_block(block)
        return block

    @field_validator("env", "headers", mode="after")
    @classmethod
    def check_keys(cls, values: Mapping[str, str], info: ValidationInfo) -> Mapping[str, str]:
        rule = r"[A-Za-z_][A-Za-z0-9_.-]*" if info.field_name == "env" else r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
        what = "an environment variable's name" if info.field_name == "env" else "a header's name"
        bad = [Finding((key,), f"{key!r} is not {what}") for key in values if not re.fullmatch(rule, key)]
        bad += [Finding((key,), "holds a line break or NUL") for key, text in values.items() if bad_text(text, info)]
        if bad:
            raise Invalid.all(bad)
        return values

    @model_validator(mode="after")
    def check_kind(self) -> Server:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if not given:
            hint = "Say how to run it: `command: uvx` with args, `image: …`, or `url: https://…` for a remote one"
            raise Invalid("has none of command, image and url", hint)
        if len(given) > 1:
            message = f"stands beside `{given[0]}`, and a server has only one of {', '.join(KINDS)}"
            raise Invalid(message, f"Keep `{given[0]}` or `{given[1]}`", path=(given[1],))
        if findings := [*self.misplaced(given[0]), *self.transport_findings()]:
            raise Invalid.all(findings)
        return self

    def misplaced(self, kind: str) -> list[Finding]:
        """Keys that do not apply to this kind of server; ignoring one silently would promise what does not hold."""
        wrong = LOCAL_ONLY if kind == "url" else REMOTE_ONLY
        reason = "runs elsewhere: Stockade can neither isolate nor start it" if kind == "url" else "is not remote"
        findings = [
            Finding((key,), f"has no meaning for a server that {reason}", "Remove it")
            for key in wrong
            if key in self.model_fields_set
        ]
        if kind != "command" and "packages" in self.model_fields_set and kind != "url":
            findings.append(Finding(("packages",), "is for `command` only", "Add them to the image"))
        if kind == "image":
            keys = ("cwd", "source", "watch", "python", "node", "build")
            given = [key for key in keys if key in self.model_fields_set]
            findings += [Finding((key,), "is for `command` only", "Remove it") for key in given]
        if kind == "command" and "entrypoint" in self.model_fields_set:
            findings.append(Finding(("entrypoint",), "is for `image` only", "Remove it"))
        return findings

    def transport_findings(self) -> list[Finding]:
        if self.url is not None:
            remote = self.type is Transport.STDIO
            return [Finding(("type",), "a `url` is reached over http, not stdio", "Remove `type`")] if remote else []
        if self.type is Transport.HTTP and self.port is None:
            return [Finding(("type",), "http needs the port that the server listens on", "Add port: 8000")]
        if self.type is Transport.STDIO and self.port is not None:
            return [Finding(("port",), "a stdio server has no port", "Remove it, or write type: http")]
        return []

    @property
    def transport(self) -> Transport:
        """How the gateway talks to it."""
        return self.type

    @property
    def remote(self) -> bool:
        """True for a `url` server, which is not isolated."""
        return self.url is not None

    @property
    def isolated(self) -> bool:
        """True when it runs behind a door."""
        return not self.remote and self.network.isolated


def bad_text(text: str, info: ValidationInfo) -> bool:
    return "\0" in text or (info.field_name == "headers" and ("\n" in text or "\r" in text))

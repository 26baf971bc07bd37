"""The types of value in a configuration: each is checked when it is read, with a plain message for what is wrong."""

from __future__ import annotations

import ipaddress
import os
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, StrictInt, ValidationInfo, WithJsonSchema

from registry.model.errors import Invalid
from registry.model.references import REFERENCE, check_references, references

NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,29}[a-z0-9])?")
NAME_RULE = "lower-case letters, digits and single inner hyphens, at most 31"
NAME_PATTERN = "^[a-z0-9]([a-z0-9-]{0,29}[a-z0-9])?$"
MAX_SPARES = 8


class Transport(StrEnum):
    """How the gateway talks to a server."""

    STDIO = "stdio"
    HTTP = "http"


class Sessions(StrEnum):
    """Who shares one container of a server."""

    AUTO = "auto"
    SHARED = "shared"
    PER_CLIENT = "per-client"


class Origin(StrEnum):
    """How the source of a program of this machine gets into its container."""

    MOUNT = "mount"
    COPY = "copy"


class Start(StrEnum):
    """When a server is started."""

    EAGER = "eager"
    LAZY = "lazy"


class Pin(StrEnum):
    """What happens when a tool's definition changes."""

    WARN = "warn"
    STRICT = "strict"
    OFF = "off"


class Anonymous(StrEnum):
    """When a client without a token may connect."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class ToolMode(StrEnum):
    """Whether a client sees its tools, or two that find and call them."""

    LIST = "list"
    SEARCH = "search"


def valid_name(text: str) -> str:
    """A valid name as close to the given one as possible."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:31].strip("-") or "server"


def check_name(text: str) -> str:
    if NAME.fullmatch(text) and "--" not in text:
        return text
    raise Invalid(f"{text!r} cannot be a name: {NAME_RULE}", f"Call it {valid_name(text)!r}")


def check_positive(value: int) -> int:
    if value < 1:
        raise Invalid(f"must be 1 or more, not {value}")
    return value


def check_port(value: int) -> int:
    if not 1 <= value <= 65535:
        raise Invalid(f"{value} is not a port", "Ports go from 1 to 65535")
    return value


def check_spares(value: int) -> int:
    if not 0 <= value <= MAX_SPARES:
        raise Invalid(f"{value} is too many or too few", f"Keep 0 to {MAX_SPARES} containers ready")
    return value


def to_text(value: Any) -> Any:
    """Numbers become text, as in a compose file; true and false do not, since programs disagree on how to write them."""
    if isinstance(value, bool):
        raise Invalid(f"must be text, not {str(value).lower()}", f'Put it in quotes: "{str(value).lower()}"')
    if value is None:
        raise Invalid("has no value", 'Write "" for an empty one, or remove the key')
    return str(value) if isinstance(value, int | float) else value


def to_tuple(value: Any) -> Any:
    if isinstance(value, str):
        hint = f"Write [{value}]" if re.fullmatch(r"[\w.@/*-]{1,24}", value) else "Write [FIRST, SECOND]"
        raise Invalid("must be a list, not text", hint)
    return value


BYTES = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def parse_size(text: str) -> int:
    """Bytes in a size such as `512m` or `2GiB` (units are powers of 1024, as Docker's are)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    if match is None:
        raise Invalid(f"{text!r} is not a size", "Write one such as 512m or 2g")
    return int(float(match[1]) * BYTES[match[2]])


def to_size(value: Any) -> Any:
    size = parse_size(value) if isinstance(value, str) else value
    if isinstance(size, int) and not isinstance(size, bool) and size < 6 * 2**20:
        raise Invalid(f"{value} is less than the engine accepts", "Give 6m or more; 512m suits most servers")
    return size


def split_listen(text: str) -> tuple[str, int]:
    """HOST and PORT of `HOST:PORT` (an IPv6 address in brackets). Port 0 is any free one."""
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not port.isdecimal() or not bare or ("[" not in host and ":" in bare):
        alone = text.lstrip(":").strip()
        known = alone if alone.isdecimal() and int(alone) <= 65535 else "8420"
        raise Invalid(f"{text!r} is not an address to listen on", f"Write HOST:PORT, such as 127.0.0.1:{known}")
    if int(port) > 65535:
        raise Invalid(f"{port} is not a port", "Ports go from 0 (any free one) to 65535")
    return bare, int(port)


def to_listen(value: Any) -> Any:
    """A port alone, as a number, gets the same advice as one in quotes."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def check_listen(text: str) -> str:
    host, _ = split_listen(text)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if host != "localhost":
            hint = "Write an address of this machine: 127.0.0.1 (only this machine) or 0.0.0.0 (everybody)"
            raise Invalid(f"{host!r} is not an IP address", hint) from None
    return text


def check_url(text: str) -> str:
    from urllib.parse import urlsplit

    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"\s", text):
        raise Invalid(f"{text!r} is not an http(s) URL", "Write one such as https://mcp.example.com/mcp")
    if parts.username or parts.password:
        raise Invalid("holds a password in the URL", "Put it into headers, as ${secret:NAME}")
    return text


def check_server_url(text: str) -> str:
    """A URL with references in it, filled in when the server starts: what can be checked before."""
    if not (found := references(text)):
        return check_url(text)
    if finding := check_references(text):
        raise Invalid(finding.message, finding.hint)
    plain = REFERENCE.sub("x", text)
    whole = "" if re.match(r"https?://", plain) or not text.startswith(f"${{{found[0]}}}") else "https://"
    try:
        check_url(whole + plain)
    except Invalid as error:
        finding = error.findings[0]
        raise Invalid(finding.message.replace(repr(whole + plain), repr(text)), finding.hint) from None
    return text


def check_glob(text: str) -> str:
    if not text or re.search(r"\s", text):
        raise Invalid(f"{text!r} is not a name or pattern", "Write one such as search_* or *delete*")
    return text


def check_package(text: str) -> str:
    if re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", text):
        return text
    raise Invalid(f"{text!r} is not the name of a Debian package", "Write one such as git or ffmpeg")


def base_folder(info: ValidationInfo) -> Path:
    """The folder that relative paths start from: the configuration file's."""
    context = info.context or {}
    return Path(context.get("base") or Path.cwd())


def absolute(text: str, base: Path) -> Path:
    """`text` as an absolute path: `~` is the home folder, a relative path starts at `base`."""
    return Path(os.path.normpath(base / os.path.expanduser(text)))


def to_path(value: Any, info: ValidationInfo) -> Any:
    return absolute(value, base_folder(info)) if isinstance(value, str) else value


Name = Annotated[str, AfterValidator(check_name), WithJsonSchema({"type": "string", "pattern": NAME_PATTERN})]
Flag = StrictBool
PositiveInt = Annotated[StrictInt, AfterValidator(check_positive), Field(json_schema_extra={"minimum": 1})]
Port = Annotated[StrictInt, AfterValidator(check_port), Field(json_schema_extra={"minimum": 1, "maximum": 65535})]
Spares = Annotated[
    StrictInt, AfterValidator(check_spares), Field(json_schema_extra={"minimum": 0, "maximum": MAX_SPARES})
]
Seconds = Annotated[float, Field(strict=True, gt=0, le=86_400)]
Text = Annotated[str, BeforeValidator(to_text), WithJsonSchema({"type": ["string", "number"]})]
Texts = Annotated[tuple[Text, ...], BeforeValidator(to_tuple)]
Glob = Annotated[str, AfterValidator(check_glob)]
Globs = Annotated[tuple[Glob, ...], BeforeValidator(to_tuple)]
Url = Annotated[str, AfterValidator(check_url), Field(json_schema_extra={"format": "uri"})]
ServerUrl = Annotated[str, AfterValidator(check_server_url)]
Listen = Annotated[
    str,
    BeforeValidator(to_listen),
    AfterValidator(check_listen),
    Field(json_schema_extra={"examples": ["127.0.0.1:8420"]}),
]
Size = Annotated[
    int, BeforeValidator(to_size), WithJsonSchema({"type": ["string", "integer"], "examples": ["512m", "2g"]})
]
FilePath = Annotated[Path, BeforeValidator(to_path), WithJsonSchema({"type": "string"})]
DebianPackage = Annotated[str, AfterValidator(check_package)]

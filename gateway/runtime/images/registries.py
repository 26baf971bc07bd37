"""Which hosts an installation needs: the registries that pip, uv and npm are set to here, and nothing else. Pure."""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from egress.policy.rules import HOST_NAME
from gateway.runtime.images.build_settings import BuildSettings

PYPI: Final = ("https://pypi.org/simple", "https://files.pythonhosted.org")
NPM: Final = ("https://registry.npmjs.org",)
GITHUB: Final = ("https://github.com", "https://codeload.github.com")
DEFAULT_INDEX: Final = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
MORE_INDEXES: Final = ("UV_INDEX", "UV_EXTRA_INDEX_URL", "PIP_EXTRA_INDEX_URL")
EXPORT: Final = re.compile(r"export ([A-Za-z0-9_]+)=(.*)")
REGISTRY: Final = re.compile(r"(?:@[^:=\s]+:)?registry\s*=\s*(\S+)")
LOCAL: Final = (".localhost", ".local", ".internal")
"""What stays within a machine or its network."""
GIT_URL: Final = re.compile(r"git\+(https?://[^\s#]+)|(?<![\w.])(https?://[^\s#]+)")


def allowed_hosts(kind: str, settings: BuildSettings, requirements: Iterable[str]) -> list[dict[str, Any]]:
    """The entries of `allowed_hosts` for installing `requirements` with `kind` (`uvx` or `npx`).

    A host that this machine's own settings name may be on a private network. One that a requirement names may not: the
    entry may come from a stranger's file, and the code of every package of the installation could reach it.
    """
    variables = exported(settings)
    own = indexes(variables) if kind == "uvx" else npm_registries(variables, settings)
    entries = [{**entry, "private": True} for url in own if (entry := host_entry(url))]
    entries += [entry for url in named(requirements) if (entry := host_entry(url)) and is_public(url)]
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for entry in entries:
        found.setdefault((entry["host"], entry["port"]), entry)
    return list(found.values())


def exported(settings: BuildSettings) -> dict[str, str]:
    """The variables that an installation gets."""
    found: dict[str, str] = {}
    for line in settings.files.get("env", b"").decode(errors="replace").splitlines():
        if match := EXPORT.fullmatch(line):
            found[match[1]] = "".join(shlex.split(match[2]))
    return found


def indexes(variables: Mapping[str, str]) -> Iterator[str]:
    """PyPI, or what stands in its place, and further indexes. uv's may be written `NAME=URL`."""
    default = next((variables[name] for name in DEFAULT_INDEX if variables.get(name)), "")
    yield from ([default] if default else PYPI)
    for name in MORE_INDEXES:
        yield from (re.sub(r"^[\w.-]+=", "", word) for word in variables.get(name, "").split())
    if host_entry(default or PYPI[0]) == host_entry(PYPI[0]):
        yield from PYPI


def npm_registries(variables: Mapping[str, str], settings: BuildSettings) -> Iterator[str]:
    """npm's registry, or what stands in its place, and those of scopes."""
    lines = settings.files.get("npmrc", b"").decode(errors="replace").splitlines()
    written = [(line, match[1]) for line in lines if (match := REGISTRY.fullmatch(line.strip()))]
    own = [value for name, value in variables.items() if name.lower() == "npm_config_registry"]
    own += [url for line, url in written if line.startswith("registry")]
    yield from (own[:1] or NPM)
    yield from (url for line, url in written if line.startswith("@"))


def named(requirements: Iterable[str]) -> Iterator[str]:
    """The hosts of requirements that are a URL or a repository."""
    for text in requirements:
        for match in GIT_URL.finditer(text):
            url = match[1] or match[2]
            yield from (GITHUB if urlsplit(url).hostname == "github.com" else (url,))
        if re.match(r"github:|[\w.-]+/[\w.-]+(#|$)", text):
            yield from GITHUB


def host_entry(url: str) -> dict[str, Any] | None:
    """The entry for a URL's host and port; None for what names none."""
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host or parts.scheme not in ("http", "https"):
        return None
    return {"host": host, "port": port or (443 if parts.scheme == "https" else 80)}


def is_public(url: str) -> bool:
    """Whether a URL of a requirement names a host by https and by a name that others have too."""
    host = urlsplit(url).hostname or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return url.startswith("https://") and "." in host and host != HOST_NAME and not host.endswith(LOCAL)
    return False

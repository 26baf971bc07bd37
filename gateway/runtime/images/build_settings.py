"""What an image build needs of the host to reach package registries: certificates, indexes, proxies.

Companies have TLS-inspecting proxies and registries of their own. Their settings are on the host already, for
pip, uv and npm; a build stage gets them as files in one directory, which the final image does not have. Of each
file only what leads to a registry is copied. Credentials (passwords, tokens) are kept separate: no step in which a
package's own code runs can read them.
"""

from __future__ import annotations

import configparser
import os
import re
import shlex
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

INSIDE: Final = "/stockade-build"
"""Where a build stage finds these files."""

CA_VARIABLES: Final = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "npm_config_cafile",
)
SYSTEM_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)
PROXY_VARIABLES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "FTP_PROXY")
PASSED: Final = re.compile(
    r"PIP_(INDEX_URL|EXTRA_INDEX_URL|TRUSTED_HOST|DEFAULT_TIMEOUT|RETRIES|PRE)"
    r"|UV_(INDEX|DEFAULT_INDEX|INDEX_URL|EXTRA_INDEX_URL|INDEX_STRATEGY|INSECURE_HOST|HTTP_TIMEOUT|EXCLUDE_NEWER)"
    r"|UV_INDEX_[A-Z0-9_]+_(USERNAME|PASSWORD)"
    r"|npm_config_(registry|strict_ssl)",
    re.IGNORECASE,
)
NPM_PUBLIC: Final = re.compile(r"(registry|@[^:=\s]+:registry|strict-ssl|fetch-[a-z-]+)", re.I)
TOOLS_PROXIES: Final = {
    "HTTPS_PROXY": ("npm_config_https_proxy", "https-proxy", "npm_config_proxy", "proxy", "PIP_PROXY"),
    "HTTP_PROXY": ("npm_config_proxy", "proxy", "PIP_PROXY"),
    "NO_PROXY": ("npm_config_noproxy", "noproxy"),
}
"""Where npm and pip have a proxy of their own, the first that counts: variables, and keys of npm's file. None of them
reaches an installation: they would win over the door that it stands behind."""
NONE: Final = frozenset({"", "null", "false", "none", "undefined"})
NAMED: Final = re.compile(r"\$\{([^}]+)\}")
NPM_CREDENTIAL: Final = re.compile(r"(?:\S*:)?(_authToken|_auth|username|_password|email|always-auth)", re.I)
CREDENTIAL_NAME: Final = re.compile(r"UV_INDEX_[A-Z0-9_]+_(USERNAME|PASSWORD)", re.I)
USER_IN_URL: Final = re.compile(r"(?<=://)\S*@|(?<!\S)(?!\S*://)\S*@")
"""Of `https://USER:PASSWORD@HOST`, `NAME=https://USER@HOST` and a proxy's `USER:PASSWORD@HOST:PORT`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSettings:
    """Everything that a build stage gets from the host. Never printed."""

    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """Name below `INSIDE` -> content."""
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Build arguments that the engine keeps out of the image's history."""
    complete: BuildSettings | None = field(default=None, repr=False)
    """The same with the host's credentials in it, where it has any: for steps that run no code of a package."""
    wanted_by: frozenset[str] = frozenset()
    """The tools (`uvx`, `npx`) that some of these credentials are for."""

    @property
    def for_download(self) -> BuildSettings:
        """What a step gets that only downloads."""
        return self.complete or self


def gather(
    environ: Mapping[str, str] | None = None,
    home: Path | None = None,
    root: Path = Path("/"),
    extra_ca: Path | None = None,
) -> BuildSettings:
    """The host's settings. `environ`, `home` and `root` are for tests."""
    environ = os.environ if environ is None else environ
    home = home or Path.home()
    files: dict[str, bytes] = {}
    if bundle := certificates(environ, root, extra_ca):
        files["ca.pem"] = bundle
    npmrc = npm_settings(home, root)
    variables = {**uv_settings(home, root), **pip_settings(environ, home, root), **passed_variables(environ)}
    proxies = proxy_arguments(tools_proxies(environ, home, root)) | proxy_arguments(environ)
    complete = assembled(files, npmrc, variables, proxies)
    public = assembled(files, public_npmrc(npmrc), public_values(variables), public_values(proxies))
    for_npm = {name for name in variables if name.lower().startswith("npm_")}
    changed = {name for name in variables if public_values({name: variables[name]}) != {name: variables[name]}}
    both = proxies != public_values(proxies)
    wanted_by = {
        kind
        for kind, wants in {
            "uvx": both or changed - for_npm,
            "npx": both or changed & for_npm or npmrc != public_npmrc(npmrc),
        }.items()
        if wants
    }
    return replace(public, complete=complete, wanted_by=frozenset(wanted_by)) if wanted_by else public


def assembled(
    files: Mapping[str, bytes], npmrc: str, variables: Mapping[str, str], proxies: Mapping[str, str]
) -> BuildSettings:
    """The files that a build stage finds."""
    found = {**files, **({"npmrc": npmrc.encode()} if npmrc else {})}
    found["env"] = environment_script(variables, found).encode()
    return BuildSettings(files=found, proxies=proxies)


def public_values(values: Mapping[str, str]) -> dict[str, str]:
    """The variables without passwords, and URLs in them without users."""
    return {name: USER_IN_URL.sub("", text) for name, text in values.items() if not CREDENTIAL_NAME.fullmatch(name)}


def public_npmrc(text: str) -> str:
    """npm's settings without those that prove who one is."""
    lines = [line for line in text.splitlines() if NPM_PUBLIC.fullmatch(npm_key(line))]
    return "".join(
        f"{key}={USER_IN_URL.sub('', text.strip())}\n" for key, _, text in (line.partition("=") for line in lines)
    )


def npm_key(line: str) -> str:
    return line.partition("=")[0].strip()


def certificates(environ: Mapping[str, str], root: Path, extra_ca: Path | None) -> bytes | None:
    """The host's certificate bundle: what its variables name, else the system's; `extra_ca` added."""
    named = [Path(environ[name]) for name in CA_VARIABLES if environ.get(name)]
    usual = [root / path.lstrip("/") for path in SYSTEM_BUNDLES]
    bundle = first_file(*named, *usual)
    if extra_ca is None:
        return bundle
    return (bundle or b"").rstrip(b"\n") + b"\n" + extra_ca.read_bytes()


def first_file(*paths: Path) -> bytes | None:
    """The content of the first that is a readable file."""
    for path in paths:
        try:
            return path.read_bytes()
        except OSError:
            continue
    return None


def npm_lines(home: Path, root: Path) -> list[str]:
    found = first_file(home / ".npmrc", root / "etc/npmrc") or b""
    return found.decode(errors="replace").splitlines()


def npm_settings(home: Path, root: Path) -> str:
    """Of the host's npm settings those that lead to a registry, with the credentials for it."""
    return "".join(
        f"{line}\n"
        for line in npm_lines(home, root)
        if NPM_PUBLIC.fullmatch(npm_key(line)) or NPM_CREDENTIAL.fullmatch(npm_key(line))
    )


def uv_settings(home: Path, root: Path) -> dict[str, str]:
    """The indexes that uv's configuration file names, as variables."""
    try:
        found = tomllib.loads((first_file(home / ".config/uv/uv.toml", root / "etc/uv/uv.toml") or b"").decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        return {}
    default = [str(found.get("index-url", ""))]
    named: list[str] = []
    for index in found.get("index") or []:
        if isinstance(index, dict) and remote([str(index.get("url"))]):
            (default if index.get("default") else named).append(uv_index(index))
    values = {
        "UV_DEFAULT_INDEX": next(iter(remote(text.rpartition("=")[2] for text in reversed(default) if text)), ""),
        "UV_INDEX": " ".join(named),
        "UV_EXTRA_INDEX_URL": " ".join(remote(map(str, found.get("extra-index-url") or []))),
        "UV_INDEX_STRATEGY": str(found.get("index-strategy", "")),
        "UV_INSECURE_HOST": " ".join(map(str, found.get("allow-insecure-host") or [])),
    }
    return {name: text for name, text in values.items() if text}


def uv_index(index: Mapping[str, Any]) -> str:
    """`NAME=URL`, as the variable has it."""
    return f"{index['name']}={index['url']}" if index.get("name") else str(index["url"])


def pip_settings(environ: Mapping[str, str], home: Path, root: Path) -> dict[str, str]:
    """Indexes that pip's configuration files name, for pip and for uv (which does not read those files)."""
    settings: dict[str, str] = {}
    paths = [root / "etc/pip.conf", home / ".pip/pip.conf", home / ".config/pip/pip.conf"]
    if environ.get("PIP_CONFIG_FILE"):
        paths.append(Path(environ["PIP_CONFIG_FILE"]))
    for path in paths:
        settings.update(pip_file(path))
    return settings


def pip_file(path: Path) -> dict[str, str]:
    """The indexes of one of pip's files; indexes in directories of the host are left out."""
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(path.read_text())
    except (OSError, configparser.Error, UnicodeDecodeError):
        return {}
    found: dict[str, str] = {}
    if (index := parser.get("global", "index-url", fallback="").strip()) and remote([index]):
        found |= {"PIP_INDEX_URL": index, "UV_DEFAULT_INDEX": index}
    if extra := remote(parser.get("global", "extra-index-url", fallback="").split()):
        found |= {"PIP_EXTRA_INDEX_URL": " ".join(extra), "UV_EXTRA_INDEX_URL": " ".join(extra)}
    if trusted := parser.get("global", "trusted-host", fallback="").split():
        found |= {"PIP_TRUSTED_HOST": " ".join(trusted), "UV_INSECURE_HOST": " ".join(trusted)}
    return found


def remote(urls: Iterable[str]) -> list[str]:
    """Those that a container reaches too."""
    return [url for url in urls if url.startswith(("http://", "https://"))]


def passed_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables of pip, uv and npm that mean the same in a container; uv gets pip's index when it has none."""
    passed = {name: value for name, value in environ.items() if value and PASSED.fullmatch(name)}
    if "PIP_INDEX_URL" in passed and not {"UV_DEFAULT_INDEX", "UV_INDEX_URL"} & passed.keys():
        passed["UV_DEFAULT_INDEX"] = passed["PIP_INDEX_URL"]
    return passed


def tools_proxies(environ: Mapping[str, str], home: Path, root: Path) -> dict[str, str]:
    """The proxies that npm and pip are set to, as the variables that every tool reads. Those of the environment win: where
    there is one, this is empty."""
    if any(environ.get(name) or environ.get(name.lower()) for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")):
        return {}
    said: dict[str, str] = {}
    for line in npm_lines(home, root):
        text = NAMED.sub(lambda match: environ.get(match[1], ""), line.partition("=")[2]).strip().strip("\"'")
        said[npm_key(line).lower()] = text
    for name, text in environ.items():
        if name.lower().startswith(("npm_config_", "pip_")):
            said[name.lower().replace("-", "_")] = text
    found = {
        variable: next((said[key.lower()] for key in keys if said.get(key.lower(), "").lower() not in NONE), "")
        for variable, keys in TOOLS_PROXIES.items()
    }
    return {variable: text for variable, text in found.items() if text}


def proxy_arguments(environ: Mapping[str, str]) -> dict[str, str]:
    """Proxy variables in both cases."""
    found: dict[str, str] = {}
    for name in PROXY_VARIABLES:
        if value := environ.get(name) or environ.get(name.lower()):
            found |= {name: value, name.lower(): value}
    return found


def environment_script(variables: Mapping[str, str], files: Mapping[str, bytes]) -> str:
    """What a build step sources before it installs."""
    exported = dict(variables)
    if "ca.pem" in files:
        exported |= dict.fromkeys(CA_VARIABLES, f"{INSIDE}/ca.pem")
    if "npmrc" in files:
        exported["npm_config_userconfig"] = f"{INSIDE}/npmrc"
    exported |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_NO_CACHE_DIR": "1"}
    exported |= {"UV_PYTHON_DOWNLOADS": "never", "npm_config_update_notifier": "false"}
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(exported.items()))

"""What an image build needs of the host to reach package registries: certificates, indexes, proxies.

Companies have TLS-inspecting proxies and registries of their own. Their settings are on the host already, for
pip, uv and npm; a build stage gets them as files in one directory, which the final image does not have.
"""

from __future__ import annotations

import configparser
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

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
    r"PIP_(INDEX_URL|EXTRA_INDEX_URL|TRUSTED_HOST|DEFAULT_TIMEOUT|RETRIES|PROXY|PRE)"
    r"|UV_(INDEX|DEFAULT_INDEX|INDEX_URL|EXTRA_INDEX_URL|INDEX_STRATEGY|INSECURE_HOST|HTTP_TIMEOUT|EXCLUDE_NEWER)"
    r"|UV_INDEX_[A-Z0-9_]+_(USERNAME|PASSWORD)"
    r"|npm_config_(registry|strict_ssl|proxy|https_proxy|noproxy)",
    re.IGNORECASE,
)
NPM_LOCAL: Final = re.compile(r"^\s*(cafile|prefix|cache|nodedir|globalconfig|userconfig|tmp|shell|yes)\s*=", re.I)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSettings:
    """Everything that a build stage gets from the host. May hold credentials: never printed."""

    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """Name below `INSIDE` -> content."""
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Build arguments that the engine keeps out of the image's history."""


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
    if npmrc := npm_settings(home, root):
        files["npmrc"] = npmrc
    if uv := first_file(home / ".config/uv/uv.toml", root / "etc/uv/uv.toml"):
        files["uv.toml"] = uv
    variables = {**pip_settings(environ, home, root), **passed_variables(environ)}
    files["env"] = environment_script(variables, files).encode()
    return BuildSettings(files=files, proxies=proxy_arguments(environ))


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


def npm_settings(home: Path, root: Path) -> bytes | None:
    """The host's npm settings, without lines that point at the host's own files."""
    found = first_file(home / ".npmrc", root / "etc/npmrc")
    if found is None:
        return None
    lines = found.decode(errors="replace").splitlines()
    return "".join(f"{line}\n" for line in lines if not NPM_LOCAL.match(line)).encode()


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
    if "uv.toml" in files:
        exported["UV_CONFIG_FILE"] = f"{INSIDE}/uv.toml"
    exported |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_NO_CACHE_DIR": "1"}
    exported |= {"UV_PYTHON_DOWNLOADS": "never", "npm_config_update_notifier": "false"}
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(exported.items()))

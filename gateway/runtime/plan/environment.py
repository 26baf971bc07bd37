"""The variables by which a server's programs find the proxy and the certificates. Pure; isolation depends on none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from egress.door.ports import PROXY_PORT

PROXY: Final = f"http://127.0.0.1:{PROXY_PORT}"
CA_INSIDE: Final = "/run/stockade/ca-bundle.pem"
JAVA: Final = "JAVA_TOOL_OPTIONS"
"""What every Java machine reads, also one that another program starts. It says so on standard error."""


def proxy_variables() -> dict[str, str]:
    """What well-behaved programs read."""
    variables = {"NODE_USE_ENV_PROXY": "1"}
    for name, value in (
        ("HTTP_PROXY", PROXY),
        ("HTTPS_PROXY", PROXY),
        ("ALL_PROXY", PROXY),
        ("NO_PROXY", "localhost,127.0.0.1,::1"),
    ):
        variables |= {name: value, name.lower(): value}
    return variables


def ca_variables() -> dict[str, str]:
    """Where programs find the combined bundle."""
    names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS")
    return dict.fromkeys(names, CA_INSIDE)


def java_options(given: Mapping[str, str], image: Mapping[str, str]) -> str:
    """The value of `JAVA_TOOL_OPTIONS`: Java reads no proxy variable. `given` are the entry's variables, `image` those of
    the image.

    What the entry or, without it, the image has there comes last, so that it wins; an entry that sets it to nothing gets
    nothing.
    """
    own = given.get(JAVA)
    if own == "":
        return ""
    options = [
        option
        for scheme in ("http", "https")
        for option in proxy_options(scheme, effective(given, f"{scheme.upper()}_PROXY"))
    ]
    if options:
        options.append(f"-Dhttp.nonProxyHosts={non_proxy_hosts(effective(given, 'NO_PROXY'))}")
    return " ".join(filter(None, [*options, own or image.get(JAVA, "")]))


def effective(given: Mapping[str, str], name: str) -> str:
    """A proxy variable as a program of this server has it: the entry's in either case, else ours."""
    return given.get(name, given.get(name.lower(), proxy_variables()[name]))


def proxy_options(scheme: str, proxy: str) -> list[str]:
    """Java's properties for the proxy of one scheme; none for what is no address of one."""
    try:
        parts = urlsplit(proxy)
        host, port = parts.hostname, parts.port
    except ValueError:
        return []
    return (
        [f"-D{scheme}.proxyHost={host}", f"-D{scheme}.proxyPort={port}"] if host and port and " " not in host else []
    )


def non_proxy_hosts(no_proxy: str) -> str:
    """NO_PROXY as Java writes it: `|` between the hosts, `*` for the names below one, addresses of IPv6 in brackets."""
    hosts = []
    for host in no_proxy.replace(",", " ").split():
        if host.startswith("."):
            hosts.append(f"*{host}")
        elif host.count(":") > 1:
            hosts.append(f"[{host.strip('[]')}]")
        elif "/" not in host:  # Java knows no ranges
            hosts.append(host)
    return "|".join(hosts)

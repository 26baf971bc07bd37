"""The Host field beside a request target: what of it is taken for the target.

RFC 9112 3.2.2 has a proxy ignore Host, and what goes out is built from the target alone. So the ways in which programs get
it wrong are taken (the target without its port or with a default port, the proxy's own address), and only a request that
names two hosts is refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Final

from egress.door.ports import PROXY_PORT
from egress.policy.names import Target, parse_authority

HTTP_PORT: Final = 80
HTTPS_PORT: Final = 443


def is_another(host: Target, target: Target) -> bool:
    """Whether `host`, from the Host field, is neither the target nor the proxy itself."""
    if host.host == target.host:
        return host.port not in (target.port, HTTP_PORT, HTTPS_PORT)
    local = host.host == "localhost" if host.ip is None else host.ip.is_loopback
    return not local or host.port != PROXY_PORT


def named_host(values: Sequence[bytes]) -> Target | None:
    """The host that the Host fields of a head name; None where they name none, or several."""
    with contextlib.suppress(ValueError):
        return parse_authority(values[0], HTTP_PORT) if len(values) == 1 else None
    return None

"""Where every door listens inside its backend's namespace, whatever the policy says."""

from __future__ import annotations

PROXY_PORT = 3128
"""TCP on 127.0.0.1: the HTTP proxy."""
DNS_PORT = 53
"""UDP and TCP on every address."""
OWN_PORTS = frozenset({PROXY_PORT, DNS_PORT})

"""uvicorn's settings for the endpoint's listener."""

from __future__ import annotations

from typing import Any

import uvicorn

from gateway.connections import Limits, client_connections, raise_descriptor_limit


def listener(app: Any, *, grace_s: float = 10.0, limits: Limits | None = None) -> uvicorn.Config:
    """httptools, no feature that costs time, and no trust in forwarded addresses."""
    return uvicorn.Config(
        app,
        interface="asgi3",
        http=(limits or Limits(client_connections(raise_descriptor_limit()))).connection,  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        proxy_headers=False,
        server_header=False,
        date_header=False,
        access_log=False,
        log_config=None,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, round(grace_s)),
    )

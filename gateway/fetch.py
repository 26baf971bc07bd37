"""One HTTP request of the gateway's own to a server on the internet: an issuer's keys, an access token.

Bounded in time and in size, without redirects. The proxy variables of the environment apply, a `.netrc` file does not.
MCP messages do not come through here: `gateway/mcp/wire/http_client.py` says why.
"""

from __future__ import annotations

import ssl
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

MAX_BODY: Final = 1024 * 1024
"""Bytes of an answer's body."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete HTTP response, whatever its status."""

    status: int
    body: bytes


async def fetch(
    url: str,
    *,
    form: Mapping[str, str] | None = None,
    basic: tuple[str, str] | None = None,
    context: ssl.SSLContext | None = None,
    timeout_s: float = 10.0,
) -> Answer:
    """GET `url`, or POST `form` to it; `basic` is a user and a password. Raises OSError; its text names no secret."""
    import aiohttp  # 8 MiB and a third of a second, which a gateway without OAuth does without

    headers = {"Accept": "application/json"}
    if basic is not None:
        headers["Authorization"] = "Basic " + b64encode(":".join(basic).encode()).decode()
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s)) as session,
            session.request(
                "GET" if form is None else "POST",
                url,
                data=form,
                headers=headers,
                allow_redirects=False,
                proxy=_proxy_for(url),
                ssl=context if context is not None else True,
            ) as response,
        ):
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > MAX_BODY:
                    raise OSError(f"{url} answered with more than {MAX_BODY} bytes")
            return Answer(response.status, bytes(body))
    except TimeoutError as error:
        raise OSError(f"{url} did not answer within {timeout_s:g} s") from error
    except (aiohttp.ClientError, ValueError) as error:
        raise OSError(f"{url}: {error or type(error).__name__}") from error


def _proxy_for(url: str) -> str | None:
    """What the environment names as the proxy for this URL."""
    parts = urlsplit(url)
    if proxy_bypass(parts.hostname or ""):
        return None
    proxies = getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all")
    return found if not found or "://" in found else f"http://{found}"

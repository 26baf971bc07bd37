"""A backend may have an upstream proxy of its own, which no other backend's connections go through."""

from __future__ import annotations

from typing import Any

import pytest

from egress.serve import NAME as BACKEND
from tests.egress.harness import OK, http_server, running, upstream

pytestmark = pytest.mark.anyio

HOST = "web.example.com"


@pytest.mark.parametrize("direct_ahead", [True, False])
async def test_only_that_backend_goes_through_it(direct_ahead: bool) -> None:
    own: list[bytes] = []
    common: list[bytes] = []
    site: list[bytes] = []
    async with (
        upstream(http_server(OK, own)) as own_port,
        upstream(http_server(OK, common)) as common_port,
        upstream(http_server(OK, site)) as site_port,
    ):
        block = {"allowed_hosts": [HOST, {"host": "127.0.0.1", "port": site_port}]}
        mine = {"upstream_proxy": f"http://me:pw@127.0.0.1:{own_port}", "no_proxy": ["127.0.0.1"]}
        everybody: dict[str, Any] = {} if direct_ahead else {"upstream_proxy": f"http://127.0.0.1:{common_port}"}
        async with running(block, **everybody) as proxy:
            client = await proxy.client()
            proxy.replace(block, **everybody, own_proxies={BACKEND: mine})
            await client.get(f"http://{HOST}/")
            assert (len(own), len(common)) == (1, 0)
            assert b"Proxy-Authorization: Basic bWU6cHc=" in own[0]
            await client.get(f"http://127.0.0.1:{site_port}/")
            assert (len(own), len(site)) == (1, 1), "its own no_proxy holds"
            proxy.replace(block, **everybody, own_proxies={"another": mine})
            await client.get(f"http://127.0.0.1:{site_port}/")
            assert len(own) == 1
            assert (len(site), len(common)) == ((2, 0) if direct_ahead else (1, 1))
            assert b"Proxy-Authorization" not in b"".join([*site, *common])


async def test_one_that_cannot_be_used_is_refused_as_a_whole_and_its_password_is_not_told() -> None:
    block = {"allowed_hosts": [HOST]}
    async with running(block) as proxy:
        with pytest.raises(Exception, match="an upstream proxy is written") as caught:
            proxy.replace(block, own_proxies={BACKEND: {"upstream_proxy": "socks5://me:hunter2@x"}})
        assert "hunter2" not in str(caught.value)

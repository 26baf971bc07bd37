"""The gateway as an OAuth resource server: tokens of a real signing key, checked against a real JWKS endpoint."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.gateway.mcp.clients import legacy, modern
from tests.gateway.mcp.fakes import Gateway, config, gateway, server, serving

pytestmark = pytest.mark.anyio
AUDIENCE = "https://gateway.example/mcp"


class Issuer:
    """An authorization server, as far as a resource server looks at it."""

    def __init__(self) -> None:
        self.keys = {"one": ec.generate_private_key(ec.SECP256R1())}
        self.fetched = 0
        self.url = ""

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/.well-known/oauth-authorization-server":
            document: Any = {"issuer": self.url, "jwks_uri": self.url + "/keys"}
        else:
            self.fetched += 1
            document = {
                "keys": [
                    {**json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key())), "kid": name, "alg": "ES256"}
                    for name, key in self.keys.items()
                ]
            }
        body = json.dumps(document).encode()
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
        )
        await send({"type": "http.response.body", "body": body})

    def token(self, *, key: Any = None, kid: str = "one", algorithm: str = "ES256", **claims: Any) -> str:
        full = {
            "iss": self.url,
            "aud": AUDIENCE,
            "exp": time.time() + 60,
            "sub": "user-1",
            "client_id": "cursor",
            "scope": "mcp:use other",
            **claims,
        }
        full = {name: value for name, value in full.items() if value is not None}
        return jwt.encode(full, key or self.keys[kid], algorithm=algorithm, headers={"kid": kid})


@asynccontextmanager
async def protected(**more: Any) -> AsyncIterator[tuple[Gateway, Issuer]]:
    issuer = Issuer()
    async with serving(issuer.app) as port:
        issuer.url = f"http://127.0.0.1:{port}"
        oauth = {"issuer": issuer.url, "audience": AUDIENCE, "required_scopes": ["mcp:use"]}
        clients = {"cursor": {"tools": {"deny": ["*error*"]}}}
        settings = config({"fixture": server(http=True)}, gateway={"auth": {"oauth": oauth}}, clients=clients, **more)
        async with gateway(settings) as running:
            yield running, issuer


async def test_a_valid_token_is_let_in_and_gets_its_clients_view() -> None:
    async with protected() as (running, issuer), legacy(running.url("fixture"), token=issuer.token()) as client:
        names = {tool["name"] for tool in (await client.request("tools/list"))["result"]["tools"]}
        assert "test_simple_text" in names
        assert "test_error_handling" not in names
        assert "error" in await client.call("test_error_handling")
        assert running.calls()[0].client == "cursor"


async def test_bad_tokens_get_401_and_a_challenge_that_names_the_metadata() -> None:
    async with protected() as (running, issuer), httpx2.AsyncClient(trust_env=False, timeout=60) as http:
        other = ec.generate_private_key(ec.SECP256R1())
        secret = "0123456789abcdef0123456789abcdef"
        cases = {
            "expired": issuer.token(exp=time.time() - 120),
            "audience": issuer.token(aud="https://elsewhere.example/mcp"),
            "issuer": issuer.token(iss="https://evil.example"),
            "signature": issuer.token(key=other),
            "unknown key": issuer.token(key=other, kid="two"),
            "no expiry": issuer.token(exp=None),
            "symmetric": issuer.token(key=secret, algorithm="HS256"),
            "none": jwt.encode({"iss": issuer.url, "aud": AUDIENCE}, None, algorithm="none"),
            "rsa of our own": issuer.token(key=rsa.generate_private_key(65537, 2048), algorithm="RS256"),
            "junk": "junk",
        }
        for name, token in cases.items():
            headers = {"authorization": f"Bearer {token}", "accept": "application/json, text/event-stream"}
            response = await http.post(running.url("fixture"), json={}, headers=headers)
            assert response.status_code == 401, name
            challenge = response.headers["www-authenticate"]
            assert 'error="invalid_token"' in challenge, name
            where = "https://gateway.example/.well-known/oauth-protected-resource/servers/fixture/mcp"
            assert f'resource_metadata="{where}"' in challenge
            assert 'scope="mcp:use"' in challenge
        response = await http.post(running.url(), json={})
        assert response.status_code == 401
        assert "error=" not in response.headers["www-authenticate"]


async def test_a_token_without_the_scope_gets_403_that_names_all_scopes() -> None:
    async with protected() as (running, issuer), httpx2.AsyncClient(trust_env=False, timeout=60) as http:
        headers = {"authorization": f"Bearer {issuer.token(scope='other')}"}
        response = await http.post(running.url(), json={}, headers=headers)
        assert response.status_code == 403
        assert 'error="insufficient_scope"' in response.headers["www-authenticate"]
        assert 'scope="mcp:use"' in response.headers["www-authenticate"]
        headers = {"authorization": f"Bearer {issuer.token(client_id='stranger')}"}
        assert (await http.post(running.url(), json={}, headers=headers)).status_code == 403


async def test_the_audience_may_be_the_url_of_the_endpoint_itself_and_no_other() -> None:
    async with protected() as (running, issuer):
        token = issuer.token(aud="https://gateway.example/servers/fixture/mcp")
        async with modern(running.url("fixture"), token=token) as client:
            assert "result" in await client.request("tools/list")
        async with httpx2.AsyncClient(trust_env=False, timeout=60) as http:
            response = await http.post(running.url(), json={}, headers={"authorization": f"Bearer {token}"})
            assert response.status_code == 401


async def test_metadata_is_served_for_every_endpoint_path() -> None:
    async with protected() as (running, issuer), httpx2.AsyncClient(trust_env=False, timeout=60) as http:
        base = f"http://127.0.0.1:{running.port}/.well-known/oauth-protected-resource"
        for path in ("/mcp", "/servers/fixture/mcp"):
            document = (await http.get(base + path)).json()
            assert document["resource"] == "https://gateway.example" + path
            assert document["authorization_servers"] == [issuer.url]
            assert document["scopes_supported"] == ["mcp:use"]
        assert (await http.get(base)).json()["resource"] == "https://gateway.example/mcp"
        assert (await http.get(base + "/etc/passwd")).status_code == 404


async def test_a_rotated_key_is_fetched_and_made_up_key_ids_do_not_make_us_fetch_each_time() -> None:
    async with protected() as (running, issuer), httpx2.AsyncClient(trust_env=False, timeout=60) as http:
        async with modern(running.url("fixture"), token=issuer.token()) as client:
            assert "result" in await client.request("tools/list")
        verifier = running.endpoint._entry.verifier
        assert verifier is not None
        assert issuer.fetched == 1
        issuer.keys["two"] = ec.generate_private_key(ec.SECP256R1())
        verifier.keys.forget_last_try()
        async with modern(running.url("fixture"), token=issuer.token(kid="two")) as client:
            assert "result" in await client.request("tools/list")
        assert issuer.fetched == 2
        for number in range(10):
            token = issuer.token(key=ec.generate_private_key(ec.SECP256R1()), kid=f"made-up-{number}")
            headers = {"authorization": f"Bearer {token}"}
            assert (await http.post(running.url(), json={}, headers=headers)).status_code == 401
        assert issuer.fetched == 2


async def test_two_users_of_one_client_do_not_share_a_session() -> None:
    async with protected() as (running, issuer):
        url = running.url("fixture")
        async with legacy(url, token=issuer.token(sub="alice")) as alice:
            headers = {**alice.headers, "authorization": f"Bearer {issuer.token(sub='bob')}"}
            message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
            assert (await alice.http.post(url, json=message, headers=headers)).status_code == 404
            headers["authorization"] = f"Bearer {issuer.token(sub='alice', jti='renewed')}"
            assert (await alice.http.post(url, json=message, headers=headers)).status_code == 200

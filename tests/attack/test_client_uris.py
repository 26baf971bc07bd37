"""A client that may not read some resources spells their URIs in every way that a server could take for the same."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import Url

from gateway.mcp.view.filters import Globs
from gateway.mcp.view.uris import flaw, passes
from tests.attack import url_servers
from tests.attack.scripted import script
from tests.gateway.mcp import suite
from tests.gateway.mcp.clients import Legacy, legacy, modern
from tests.gateway.mcp.fakes import config, gateway, server, token_digest

DENIED = ["secret://*", "file:///secret/*", "http://h/a"]
ALLOWED = ["file:///pub/*", "docs://*"]
DENY, ALLOW = Globs.of(None, DENIED), Globs.of(ALLOWED, None)
SPELLINGS = [
    "secret://key", " secret://key", "secret://key ", "\tsecret://key", "\nsecret://key", "\rsecret://key",
    "sec\tret://key", "sec\nret://key", "sec\rret://key", "secret:\t//key", "secret://k\tey", "\x00secret://key",
    "\x01\x1f secret://key", "secret://key\x00", "\u00a0secret://key", "\ufeffsecret://key", "\u200bsecret://key",
    "Secret://key", "SECRET://KEY", "secret://k%65y", "secret://%6bey", "secret://%256bey", "sec%09ret://key",
    "http://h/a", "http:/h/a", "http:h/a", "http:////h/a", "http:\\\\h\\a", "http:/\\h/a", "http://h\\a",
    "HTTP://H/a", "http://h:80/a", "http://h:/a", "http://h/./a", "http://h/b/../a", "http://h/%2e/a", "http://h/%61",
    "http://h/b/%2e%2e/a", "http://h/b/.%2E/a", "http://\uff48/a", "http://h\u00ad/a", "http://h/a#x", "http://u@h/a",
    "file:///secret/k", "file:/secret/k", "file:secret/k", "file:////secret/k", "file://localhost/secret/k",
    "file:///pub/../secret/k", "file:///pub/%2e%2e/secret/k", "file:///pub/.\t./secret/k",
    "file:///pub/%2e%2\te/secret/k", "file:///pub\\..\\secret\\k", "file:///pub//../secret/k", "file:\\\\\\secret\\k",
]  # fmt: skip


@pytest.mark.parametrize("uri", SPELLINGS, ids=ascii)
def test_no_spelling_of_a_denied_uri_passes(uri: str) -> None:
    """Red team B2: 28 of these passed."""
    assert not passes(DENY, uri)
    assert not passes(ALLOW, uri)


@pytest.mark.parametrize(
    "uri",
    ["file:///pub/a", "file:///pub/a/../b", "file:///pub/a%20b", "file:///pub/\u00e9", "file:///pub/{+path}", "docs://guide",
     "docs://guide/{page}", "docs://Guide?x=1#y", "docs://a/b//c"],
)  # fmt: skip
def test_ordinary_uris_pass(uri: str) -> None:
    assert passes(ALLOW, uri)
    assert passes(DENY, uri)
    assert flaw(uri) == ""


def test_a_bare_host_may_be_allowed_without_its_slash() -> None:
    assert passes(Globs.of(["http://host"], None), "http://host")


# --- against two parsers


class Node:
    """`new URL` of a Node that stays."""

    def __init__(self) -> None:
        program = shutil.which("node") or suite.node()
        script = (
            "require('readline').createInterface({input: process.stdin}).on('line', line => {"
            "let said = null; try { said = new URL(JSON.parse(line)).href } catch {}; console.log(JSON.stringify(said)) })"
        )
        self.process = subprocess.Popen(
            [program, "-e", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def __call__(self, uri: str) -> str | None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(uri) + "\n")
        self.process.stdin.flush()
        said: str | None = json.loads(self.process.stdout.readline())
        return said


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    found = Node()
    yield found
    found.process.kill()
    found.process.communicate()


def rust(uri: str) -> str | None:
    try:
        return str(Url(uri))
    except ValueError:
        return None


WORDS = "secret file http :// /// key pub .. %2e %2E %09 %25 h http: file: localhost \u00ad \uff48 \u3002 SECRET K :80 | %2f"
PIECES = st.sampled_from([*"seckrtpubha:/\\.?#@%\t\n\r \x00\u00a0", *WORDS.split(" ")])
URIS = st.one_of(
    st.lists(PIECES, max_size=12).map("".join),
    st.builds(
        lambda uri, place, piece: uri[: place % (len(uri) + 1)] + piece + uri[place % (len(uri) + 1) :],
        st.sampled_from(SPELLINGS),
        st.integers(0, 40),
        PIECES,
    ),
)


@settings(max_examples=1500, deadline=None)
@given(URIS)
def test_what_passes_is_allowed_as_both_parsers_read_it(node: Node, uri: str) -> None:
    for parser in (rust, node):
        read = parser(uri)
        if read is None:
            continue
        if passes(DENY, uri):
            assert not DENY.denies(read), (uri, read)
        if passes(ALLOW, uri):
            assert ALLOW.passes(read), (uri, read)


# --- live


CLIENTS = {
    "denied": {"token_sha256": token_digest("denied"), "resources": {"deny": DENIED}},
    "allowed": {"token_sha256": token_digest("allowed"), "resources": {"allow": ALLOWED}},
    "free": {"token_sha256": token_digest("free")},
}


REFUSED = ("Resource not found", "This is no URI")
"""How the gateway's own refusals begin."""


async def ask_everything(client: Legacy, uri: str) -> list[dict[str, Any]]:
    argument = {"name": "name", "value": "k"}
    return [
        await client.request("resources/read", {"uri": uri}),
        await client.request("resources/subscribe", {"uri": uri}),
        await client.request("resources/unsubscribe", {"uri": uri}),
        await client.request(
            "completion/complete", {"ref": {"type": "ref/resource", "uri": uri}, "argument": argument}
        ),
    ]


@pytest.mark.anyio
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("made", [url_servers.python, url_servers.typescript], ids=["python", "typescript"])
async def test_no_spelling_reads_a_denied_resource_of_an_sdk_server(
    made: Callable[[Path], tuple[str, ...]], tmp_path: Path
) -> None:
    """Red team B2: on both routes both SDKs' servers gave the secret away."""
    settings = config({"res": server()}, clients=CLIENTS)
    async with gateway(settings, {"res": made(tmp_path)}) as running:
        for route in ("", "res"):
            async with legacy(running.url(route), token="free") as free:
                await free.settled()
                assert "TOP SECRET KEY" in str(await free.request("resources/read", {"uri": "secret://key"}))
            for token in ("denied", "allowed"):
                async with legacy(running.url(route), token=token) as client:
                    await client.settled()
                    assert "the guide" in str(await client.request("resources/read", {"uri": "docs://guide"}))
                    assert "public k" in str(await client.request("resources/read", {"uri": "file:///pub/k"}))
                    for uri in SPELLINGS:
                        for said in await ask_everything(client, uri):
                            assert said["error"]["message"].startswith(REFUSED), (uri, said)
                    assert "secret" not in str(await client.request("resources/list", {}))
                async with modern(running.url(route), token=token) as client:
                    for uri in ("secret://key", "http:/h/a", "file:///pub/%2e%2e/secret/k"):
                        said = await client.request("resources/read", {"uri": uri})
                        assert said["error"]["code"] == -32602, (uri, said)


@pytest.mark.anyio
async def test_a_uri_with_blanks_is_refused_with_the_reason_unless_it_is_listed(tmp_path: Path) -> None:
    resources = [{"uri": "file:///my docs/a", "name": "a"}]
    command = script(
        tmp_path,
        resources_list={"resources": resources},
        resources_read={"contents": [{"uri": "x:y", "text": "read"}]},
    )
    async with gateway(config({"res": server()}, clients=CLIENTS), {"res": command}) as running:
        for route in ("", "res"):
            async with legacy(running.url(route), token="free") as client:
                await client.settled()
                assert "result" in await client.request("resources/read", {"uri": "file:///my docs/a"})
                said = await client.request("resources/read", {"uri": "file:///my docs/b"})
                assert said["error"]["code"] == -32602
                assert "percent-encode" in said["error"]["message"]
            async with legacy(running.url(route), token="denied") as client:
                said = await client.request("resources/read", {"uri": "file:///my docs/a"})
                assert said["error"]["code"] == -32602

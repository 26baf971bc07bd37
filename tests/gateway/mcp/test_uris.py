"""A client's filter over URIs holds whichever way the server reads what it is sent."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.mcp.view.filters import Globs
from gateway.mcp.view.uris import passes, readings, resolve
from tests.gateway.mcp.clients import legacy
from tests.gateway.mcp.fakes import config, gateway, server, token_digest


@pytest.mark.parametrize(
    ("allow", "deny", "uri", "expected"),
    [
        pytest.param(["file:///pub/*"], None, "file:///pub/a", True, id="plain"),
        pytest.param(["file:///pub/*"], None, "file:///pub/../etc/passwd", False, id="dots lead out"),
        pytest.param(["file:///pub/*"], None, "file:///pub/a/../b", True, id="dots stay inside"),
        pytest.param(["file:///pub/*"], None, "file:///pub/%2e%2e/etc/passwd", False, id="encoded dots"),
        pytest.param(["file:///pub/*"], None, "file:///pub/%252e%252e/etc/passwd", False, id="encoded twice"),
        pytest.param(["file:///pub/*"], None, "file:///pub/..%2fetc", False, id="an encoded slash"),
        pytest.param(["file:///pub/*"], None, r"file:///pub/..\etc", False, id="a backslash"),
        pytest.param(["file:///pub/*"], None, "file:///pub/..", False, id="dots at the end"),
        pytest.param(["file:///pub/*"], None, "file:///pub/..?x", False, id="dots before a query"),
        pytest.param(["file:///pub/*"], None, "file:///pub/a..b/...", True, id="dots that are a name"),
        pytest.param(["file:///pu%62/*"], None, "file:///pub/a", False, id="the filter's text is not decoded"),
        pytest.param(["file:///my%20docs/*"], None, "file:///my%20docs/a", True, id="an encoded space"),
        pytest.param(["file:///pub/*"], None, "file:///pu%62/a", False, id="another spelling is not allowed"),
        pytest.param(None, ["*secret*"], "kv://se%63ret", False, id="encoded, denied"),
        pytest.param(None, ["*secret*"], "kv://se%2563ret", False, id="encoded twice, denied"),
        pytest.param(None, ["kv://vault/*"], "KV://Vault/a", False, id="capitals in scheme and host"),
        pytest.param(None, ["mailto:boss"], "MAILTO:boss", False, id="a scheme without slashes"),
        pytest.param(None, ["kv://vault/*"], "kv://open/../vault/a", True, id="dots do not reach the host"),
        pytest.param(None, ["file:///vault/*"], "file:///open/../vault/a", False, id="dots lead into what is denied"),
        pytest.param(None, ["a/b"], "a/c/../b", False, id="no scheme at all"),
        pytest.param(None, None, "kv://%zz%", True, id="a broken escape is text"),
    ],
)
def test_a_uri_passes(allow: Any, deny: Any, uri: str, expected: bool) -> None:
    assert passes(Globs.of(allow, deny), uri) is expected


def test_an_ordinary_uri_has_one_reading() -> None:
    assert readings("file:///a/b") == ["file:///a/b"]
    assert readings("A") == ["A", "a"]


def test_many_layers_of_escapes_end() -> None:
    assert len(readings("kv://" + "%25" * 2000)) <= 8


@pytest.mark.parametrize(
    ("uri", "resolved"),
    [
        ("file:///a/./b/../c", "file:///a/c"),
        ("http://h/../../x?q=../y", "http://h/x?q=../y"),
        ("x://h/a/..", "x://h/"),
        ("x://h", "x://h"),
        ("a/../b#c", "b#c"),
    ],
)
def test_dots_are_resolved(uri: str, resolved: str) -> None:
    assert resolve(uri) == resolved


@pytest.mark.anyio
async def test_no_spelling_reads_what_a_client_may_not_read() -> None:
    clients = {
        "bob": {
            "token_sha256": token_digest("bob"),
            "resources": {"allow": ["test://static-*", "test://template/1*"]},
        },
        "eve": {"token_sha256": token_digest("eve"), "resources": {"deny": ["*watched*"]}},
    }
    async with gateway(config({"one": server(http=True)}, clients=clients)) as running:
        for route in ("", "one"):
            async with legacy(running.url(route), token="bob") as bob, legacy(running.url(route), token="eve") as eve:
                await bob.settled()
                assert "result" in await bob.request("resources/read", {"uri": "test://static-text"})
                assert "result" in await bob.request("resources/read", {"uri": "test://template/12/data"})
                for uri in (
                    "test://template/1%2f..%2f2/data",
                    "test://template/1/../2/data",
                    "test://static-%74ext/..",
                ):
                    said = await bob.request("resources/read", {"uri": uri})
                    assert said["error"]["message"].startswith("Resource not found"), uri
                for uri in ("test://w%61tched-resource", "TEST://Watched-resource", "test://%2577atched-resource"):
                    for method in ("resources/read", "resources/subscribe"):
                        said = await eve.request(method, {"uri": uri})
                        assert said["error"]["message"].startswith("Resource not found"), (method, uri)

"""The admin page behind a proxy that speaks https: its cookie is one that browsers send over https alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient

from gateway.control.apps import admin_app
from gateway.control.auth import AdminToken
from gateway.control.guard import is_https
from tests.gateway.control.fakes import FakeControl


@pytest.mark.parametrize(
    ("peer", "host", "said", "scheme", "https"),
    [
        ("127.0.0.1", "127.0.0.1:8421", "https", "http", True),
        ("::1", "localhost:8421", "HTTPS", "http", True),
        ("10.0.0.5", "admin.example", "https", "http", True),
        ("10.0.0.5", "admin.example:443", "https,http", "http", True),
        ("10.0.0.5", "127.0.0.1:8421", "https", "http", False),
        ("testclient", "other.example", "https", "http", False),
        ("127.0.0.1", "127.0.0.1:8421", "http", "http", False),
        ("127.0.0.1", "127.0.0.1:8421", "http, https", "http", False),
        ("127.0.0.1", "127.0.0.1:8421", "", "http", False),
        ("10.0.0.5", "127.0.0.1:8421", "", "https", True),
    ],
)
def test_who_may_say_that_the_browser_sees_https(peer: str, host: str, said: str, scheme: str, https: bool) -> None:
    headers = [(b"host", host.encode()), (b"x-forwarded-proto", said.encode())]
    scope = {
        "type": "http",
        "scheme": scheme,
        "path": "/",
        "headers": headers,
        "client": (peer, 5),
        "query_string": b"",
    }
    assert is_https(HTTPConnection(scope), {"admin.example"}) is https


@pytest.mark.parametrize("https", [True, False])
def test_the_cookie_is_secure_where_the_page_came_by_https(control: FakeControl, tmp_path: Path, https: bool) -> None:
    token = AdminToken(tmp_path / "admin.json").renew()
    app = admin_app(control, AdminToken(tmp_path / "admin.json"), port=8421)
    headers = {"x-forwarded-proto": "https"} if https else {}
    client = TestClient(app, base_url="http://127.0.0.1:8421", client=("127.0.0.1", 5000))
    response = client.post("/api/v1/session", json={"token": token}, headers=headers)
    assert ("Secure" in response.headers["set-cookie"]) is https
    cookie = response.headers["set-cookie"].split(";")[0]
    more = {**headers, "cookie": cookie, "x-stockade-csrf": "1"}
    assert client.get("/api/v1/status", headers=more).status_code == 200
    ended = client.delete("/api/v1/session", headers=more)
    assert ("Secure" in ended.headers["set-cookie"]) is https

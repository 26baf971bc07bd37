"""What a browser, a page in it, or another program on this machine tries against the admin listener."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from gateway.control.apps import admin_app
from gateway.control.auth import MAX_FAILURES, AdminToken
from gateway.control.listen import bind_unix
from gateway.control.tokens import mint
from tests.gateway.control.fakes import FakeControl, serving

pytestmark = pytest.mark.anyio

ORIGIN = "http://127.0.0.1:8421"
WRITE = {"X-Stockade-CSRF": "1"}
ALLOW = {"host": "example.com", "dry_run": True}
ALLOW_PATH = "/api/v1/backends/fetch/egress/allow"


@pytest.fixture
def token(tmp_path: Path) -> str:
    return AdminToken(tmp_path / "admin.json").renew()


@pytest.fixture
async def browser(control: FakeControl, token: str, tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    static = tmp_path / "static"
    static.mkdir()
    (static / "index.html").write_text("<title>Stockade</title>")
    (static / "app.js").write_text("1")
    app = admin_app(control, AdminToken(tmp_path / "admin.json"), port=8421, static=static)
    listener = bind_unix(tmp_path / "a")  # whatever port a test names is this listener's
    transport = httpx2.AsyncHTTPTransport(uds=str(tmp_path / "a"))
    async with serving(app, listener), httpx2.AsyncClient(transport=transport, base_url=ORIGIN) as client:
        yield client


@pytest.fixture
async def signed_in(browser: httpx2.AsyncClient, token: str) -> httpx2.AsyncClient:
    response = await browser.post("/api/v1/session", json={"token": token})
    assert response.status_code == 200
    return browser


def code(response: httpx2.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


API = [
    ("GET", "/api/v1/status"), ("GET", "/api/v1/backends"), ("GET", "/api/v1/events"), ("GET", "/api/v1/config"),
    ("GET", "/api/v1/clients"), ("POST", "/api/v1/shutdown"), ("POST", "/api/v1/reload"), ("POST", ALLOW_PATH),
    ("PUT", "/api/v1/backends/fetch/network"), ("DELETE", "/api/v1/backends/fetch"), ("POST", "/api/v1/clients"),
    ("DELETE", "/api/v1/session"), ("GET", "/api/v1/"), ("GET", "/api/v2/anything"), ("OPTIONS", "/api/v1/status"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), API)
async def test_nothing_of_the_api_is_told_without_a_token(
    browser: httpx2.AsyncClient, control: FakeControl, method: str, path: str
) -> None:
    response = await browser.request(method, path, headers=WRITE)
    assert code(response) == (401, "not_signed_in")
    assert "stockade admin token --new" in response.json()["error"]["message"]
    assert not control.stopped


@pytest.mark.parametrize("path", ["//api/v1/status", "/API/v1/status", "/api%2fv1/status", "/x/../api/v1/status"])
async def test_another_spelling_of_a_path_does_not_get_around_the_guard(
    browser: httpx2.AsyncClient, path: str
) -> None:
    assert (await browser.get(path)).status_code in {401, 404}


async def test_a_bearer_with_the_admin_token_may_use_the_api(browser: httpx2.AsyncClient, token: str) -> None:
    response = await browser.get("/api/v1/status", headers={"Authorization": f"Bearer {token}"})
    assert response.status_code == 200
    write = await browser.post(ALLOW_PATH, json=ALLOW, headers={"Authorization": f"bearer {token}"})
    assert write.status_code == 200


@pytest.mark.parametrize("scheme", ["Basic", "Token", ""])
async def test_another_scheme_than_bearer_is_refused(browser: httpx2.AsyncClient, token: str, scheme: str) -> None:
    response = await browser.get("/api/v1/status", headers={"Authorization": f"{scheme} {token}".strip()})
    assert code(response) == (401, "wrong_token")


async def test_the_token_of_an_mcp_client_is_never_an_admin_token(
    browser: httpx2.AsyncClient, control: FakeControl
) -> None:
    client_token, _ = mint()
    headers = {"Authorization": f"Bearer {client_token}"}
    assert code(await browser.get("/api/v1/status", headers=headers)) == (401, "wrong_token")
    assert code(await browser.post("/login", json={"token": client_token})) == (401, "wrong_token")


async def test_a_wrong_bearer_is_not_saved_by_a_good_cookie(signed_in: httpx2.AsyncClient) -> None:
    response = await signed_in.get("/api/v1/status", headers={"Authorization": "Bearer x"})
    assert code(response) == (401, "wrong_token")


async def test_signing_in_makes_a_cookie_that_scripts_and_other_sites_cannot_use(
    browser: httpx2.AsyncClient, token: str
) -> None:
    response = await browser.post("/login", json={"token": token}, headers={"Origin": ORIGIN})
    cookie = response.headers["set-cookie"]
    assert cookie.startswith("stockade_admin_8421=")
    for part in ("HttpOnly", "SameSite=strict", "Path=/", "Max-Age=43200"):
        assert part in cookie
    assert token not in cookie
    assert (await browser.get("/api/v1/status")).status_code == 200


async def test_signing_out_ends_the_session_for_good(signed_in: httpx2.AsyncClient) -> None:
    cookies = dict(signed_in.cookies)
    assert (await signed_in.delete("/api/v1/session", headers=WRITE)).status_code == 200
    header = "; ".join(f"{name}={value}" for name, value in cookies.items())
    response = await signed_in.get("/api/v1/status", headers={"Cookie": header})
    assert code(response) == (401, "not_signed_in")


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8421", "127.0.0.1.evil.example", "localhost.evil.example:8421", "203.0.113.7:8421",
     "127.0.0.1:8421@evil.example", "127.0.0.1:80x", "", "169.254.169.254", "[::1].evil.example", "0.0.0.0:8421"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/api/v1/status", "/", "/metrics", "/healthz", "/login", "/assets/app.js"])
async def test_a_name_that_was_rebound_to_this_machine_gets_nothing(
    signed_in: httpx2.AsyncClient, host: str, path: str
) -> None:
    response = await signed_in.get(path, headers={"Host": host})
    assert code(response) == (421, "host_not_allowed_here")


@pytest.mark.parametrize("host", ["127.0.0.1:8421", "localhost:8421", "LOCALHOST", "[::1]:8421", "127.0.0.1"])
async def test_this_machines_own_names_are_answered(browser: httpx2.AsyncClient, host: str) -> None:
    assert (await browser.get("/healthz", headers={"Host": host})).status_code == 200


async def test_two_host_headers_are_refused(browser: httpx2.AsyncClient, tmp_path: Path) -> None:
    reader, writer = await asyncio.open_unix_connection(tmp_path / "a")
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:8421\r\nHost: evil.example\r\n\r\n")
    async with asyncio.timeout(30):
        assert (await reader.readline()).startswith(b"HTTP/1.1 421 ")
    writer.close()


async def test_a_host_of_the_configuration_is_answered(control: FakeControl, browser: httpx2.AsyncClient) -> None:
    gateway = control.config.gateway.model_copy(update={"allowed_hosts": ("box.internal", "other:9")})
    control.config = control.config.model_copy(update={"gateway": gateway})
    for host, status in (("box.internal", 200), ("Box.Internal:80", 200), ("other:9", 200), ("other:8", 421)):
        assert (await browser.get("/healthz", headers={"Host": host})).status_code == status


async def test_the_listening_address_is_answered_but_all_addresses_are_no_name(
    control: FakeControl, browser: httpx2.AsyncClient
) -> None:
    for listen, host, status in (("192.0.2.7:8421", "192.0.2.7:8421", 200), ("0.0.0.0:8421", "0.0.0.0:8421", 421)):
        gateway = control.config.gateway.model_copy(update={"admin": listen})
        control.config = control.config.model_copy(update={"gateway": gateway})
        assert (await browser.get("/healthz", headers={"Host": host})).status_code == status


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "https://127.0.0.1:8422", "http://127.0.0.1:3000", "http://localhost:8421",
     "http://127.0.0.1:8421.evil.example", "file://", ""],
)  # fmt: skip
@pytest.mark.parametrize(("method", "path"), [("GET", "/api/v1/status"), ("POST", ALLOW_PATH), ("POST", "/login")])
async def test_another_origin_is_refused_even_with_a_session(
    signed_in: httpx2.AsyncClient, origin: str, method: str, path: str
) -> None:
    response = await signed_in.request(method, path, json=ALLOW, headers={"Origin": origin, **WRITE})
    assert code(response) == (403, "cross_origin")
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_fetch_metadata_of_another_site_is_refused(signed_in: httpx2.AsyncClient, site: str) -> None:
    """A page on another port of this machine is same-site: the cookie is sent, so this check must hold."""
    for path in ("/api/v1/backends", "/assets/app.js", "/metrics"):
        response = await signed_in.get(path, headers={"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"})
        assert code(response) == (403, "cross_origin")


async def test_a_link_from_anywhere_may_open_the_page_but_not_the_api(signed_in: httpx2.AsyncClient) -> None:
    visit = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert (await signed_in.get("/", headers=visit)).status_code == 200
    assert (await signed_in.get("/api/v1/config", headers=visit)).status_code == 403
    framed = {**visit, "Sec-Fetch-Dest": "iframe"}
    assert (await signed_in.get("/", headers=framed)).status_code == 403


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", ALLOW_PATH), ("DELETE", "/api/v1/backends/fetch"), ("POST", "/api/v1/shutdown"),
     ("PUT", "/api/v1/backends/fetch/network"), ("DELETE", "/api/v1/session"), ("POST", "/logout")],
)  # fmt: skip
async def test_a_write_on_a_cookie_needs_the_csrf_header(
    signed_in: httpx2.AsyncClient, control: FakeControl, method: str, path: str
) -> None:
    for headers in ({}, {"X-Stockade-CSRF": ""}):
        assert code(await signed_in.request(method, path, headers=headers)) == (403, "csrf")
    assert not control.stopped
    assert "fetch" in control.config.servers


async def test_a_write_with_the_header_is_done(signed_in: httpx2.AsyncClient) -> None:
    response = await signed_in.post(ALLOW_PATH, json=ALLOW, headers={**WRITE, "Origin": ORIGIN})
    assert response.status_code == 200


async def test_a_form_cannot_sign_anybody_in(browser: httpx2.AsyncClient, token: str) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        response = await browser.post("/login", content=f'{{"token": "{token}"}}', headers={"Content-Type": kind})
        assert code(response) == (415, "unsupported_media_type")


async def test_guessing_is_braked_and_says_for_how_long(browser: httpx2.AsyncClient, token: str) -> None:
    guess = "stockade_admin_guess"
    for _ in range(MAX_FAILURES):
        assert code(await browser.post("/login", json={"token": guess})) == (401, "wrong_token")
    response = await browser.post("/login", json={"token": guess})
    assert code(response) == (429, "too_many_tries")
    assert 0 < int(response.headers["retry-after"]) <= 60
    bearer = await browser.get("/api/v1/status", headers={"Authorization": f"Bearer {guess}"})
    assert code(bearer) == (429, "too_many_tries")


async def test_the_right_token_works_whoever_guesses_from_the_same_address(
    browser: httpx2.AsyncClient, token: str
) -> None:
    """Any account of this machine comes from 127.0.0.1 (red team m3)."""
    for _ in range(MAX_FAILURES + 1):
        await browser.post("/login", json={"token": "stockade_admin_guess"})
    bearer = await browser.get("/api/v1/status", headers={"Authorization": f"Bearer {token}"})
    assert bearer.status_code == 200
    assert (await browser.post("/login", json={"token": token})).status_code == 200


async def test_a_session_goes_on_while_somebody_else_guesses(signed_in: httpx2.AsyncClient) -> None:
    for _ in range(MAX_FAILURES + 2):
        await signed_in.post("/login", json={"token": "x"})
    assert (await signed_in.get("/api/v1/status")).status_code == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [("/", 200), ("/assets/app.js", 200), ("/api/v1/status", 401), ("/nowhere", 404), ("/metrics", 200)],
)
async def test_every_answer_carries_the_security_headers(browser: httpx2.AsyncClient, path: str, status: int) -> None:
    response = await browser.get(path)
    assert response.status_code == status
    policy = response.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz"])
async def test_health_and_metrics_need_no_token(browser: httpx2.AsyncClient, path: str) -> None:
    assert (await browser.get(path)).status_code == 200


@pytest.mark.parametrize("path", ["/assets/../../auth.py", "/assets/%2e%2e/%2e%2e/auth.py", "/assets//etc/passwd"])
async def test_assets_stay_in_their_directory(browser: httpx2.AsyncClient, path: str) -> None:
    assert (await browser.get(path)).status_code == 404

"""What a person keeps blocked: kept in the state directory, the same for all, within bounds, behind the guard."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from gateway.control import keep_blocked
from gateway.control.apps import admin_app
from gateway.control.auth import AdminToken
from gateway.control.keep_blocked import KEPT_FILE, KeptBlocked, Place
from gateway.control.listen import bind_unix
from observability.events import NoticeEvent
from registry.edit import allow_host, remove_server
from tests.gateway.control.fakes import FakeControl, egress_event, serving

pytestmark = pytest.mark.anyio
EVIL = {"backend": "fetch", "host": "evil.example", "port": 443}
CSRF = {"X-Stockade-CSRF": "1"}


@pytest.fixture
async def api(control: FakeControl, tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """A browser that signed in; it sends the header of writes unless a test takes it out."""
    token = AdminToken(tmp_path / "admin.json")
    shown = token.renew()
    listener = bind_unix(tmp_path / "a")
    transport = httpx2.AsyncHTTPTransport(uds=str(tmp_path / "a"))
    base = "http://127.0.0.1:8421/api/v1/"
    async with serving(admin_app(control, token, port=8421), listener):
        async with httpx2.AsyncClient(transport=transport, base_url=base, headers=CSRF) as client:
            assert (await client.post("session", json={"token": shown})).status_code == 200
            yield client


async def kept(api: httpx2.AsyncClient) -> dict[str, bool]:
    """Each blocked host, and whether it counts as kept blocked."""
    return {row["host"]: row["kept_blocked"] for row in (await api.get("egress/blocked")).json()["blocked"]}


def denied(control: FakeControl, *hosts: str) -> None:
    for number, host in enumerate(hosts):
        control.hub.publish(egress_event(seq=number + 1, connection=number + 1, host=host))
    control.history.flush()


async def test_a_choice_is_in_the_list_for_all_and_can_be_taken_back(
    api: httpx2.AsyncClient, control: FakeControl
) -> None:
    denied(control, "evil.example", "other.example")
    assert (await api.post("egress/kept", json=EVIL)).json() == {"kept_blocked": True, "changed": True}
    assert (await api.post("egress/kept", json=EVIL)).json() == {"kept_blocked": True, "changed": False}
    assert await kept(api) == {"evil.example": True, "other.example": False}
    (row,) = (await api.get("egress/kept")).json()["kept"]
    assert {name: row[name] for name in EVIL} == EVIL
    assert (await api.delete("egress/kept", params=EVIL)).json()["changed"] is True
    assert await kept(api) == {"evil.example": False, "other.example": False}
    told = [item.event.message for item in control.hub.recent(9) if isinstance(item.event, NoticeEvent)]
    assert told == ["evil.example:443 is kept blocked.", "evil.example:443 is undecided again."]


async def test_a_choice_outlives_the_gateway_in_a_file_of_its_owner_alone(
    api: httpx2.AsyncClient, control: FakeControl, tmp_path: Path
) -> None:
    await api.post("egress/kept", json=EVIL)
    await api.post("egress/kept", json={"backend": "fetch"})  # a port that only the server knows
    file = tmp_path / KEPT_FILE
    assert file.stat().st_mode & 0o777 == 0o600
    again = KeptBlocked(file)
    assert again.rows() == control.kept_blocked.rows()
    assert Place("fetch", "evil.example", 443) in again
    assert Place("fetch", "", 0) in again


async def test_what_is_allowed_by_now_is_not_called_kept_blocked(
    api: httpx2.AsyncClient, control: FakeControl
) -> None:
    denied(control, "evil.example")
    await api.post("egress/kept", json=EVIL)
    await control.edit(allow_host("fetch", "evil.example"))
    assert await kept(api) == {"evil.example": False}


async def test_a_row_of_a_server_that_left_the_file_keeps_its_choice(
    api: httpx2.AsyncClient, control: FakeControl
) -> None:
    denied(control, "evil.example")
    await api.post("egress/kept", json=EVIL)
    await control.edit(remove_server("fetch"))
    assert await kept(api) == {"evil.example": True}
    assert (await api.delete("egress/kept", params=EVIL)).json()["changed"] is True


@pytest.mark.parametrize(
    "body",
    [
        {"backend": "nobody", "host": "a.example", "port": 1},
        {"backend": "fetch", "host": "a" * 400, "port": 1},
        {"backend": "fetch", "host": 7},
        {"backend": "fetch", "host": "a\u202e.example", "port": 1},
        {"backend": "fetch", "host": "a.example", "port": 70000},
        {"host": "a.example"},
    ],
    ids=lambda body: str(body)[:40],
)
async def test_what_is_no_place_of_a_server_is_refused(
    api: httpx2.AsyncClient, control: FakeControl, body: dict[str, object]
) -> None:
    assert (await api.post("egress/kept", json=body)).status_code in {400, 404}
    assert control.kept_blocked.rows() == []


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_a_choice_needs_the_session_and_the_csrf_header(
    api: httpx2.AsyncClient, control: FakeControl, method: str
) -> None:
    control.kept_blocked.keep(Place("fetch", "evil.example", 443))
    before = control.kept_blocked.rows()
    del api.headers["X-Stockade-CSRF"]
    other = {**EVIL, "host": "other.example"}
    sent = {"json": other} if method == "POST" else {"params": EVIL}
    assert (await api.request(method, "egress/kept", **sent)).status_code == 403
    foreign = {"Origin": "http://evil.example", **CSRF}
    assert (await api.request(method, "egress/kept", headers=foreign, **sent)).status_code == 403
    api.cookies.clear()
    assert (await api.request(method, "egress/kept", headers=CSRF, **sent)).status_code == 401
    assert (await api.get("egress/kept")).status_code == 401
    assert control.kept_blocked.rows() == before


def test_the_first_choices_are_dropped_where_there_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keep_blocked, "MOST_KEPT", 3)
    kept_blocked = KeptBlocked(tmp_path / KEPT_FILE)
    for number in range(5):
        kept_blocked.keep(Place("fetch", f"{number}.example", 443))
    for found in (kept_blocked, KeptBlocked(tmp_path / KEPT_FILE)):
        assert [row["host"] for row in found.rows()] == ["2.example", "3.example", "4.example"]


@pytest.mark.parametrize(
    "damage",
    ["", "{}", "[1]", '[["fetch", "a.example"]]', '[["a", "b", "c", 1]]', "\ud800", "7", '[["a", "b", Infinity, 1]]'],
)
def test_a_damaged_file_is_no_choice_and_stays_until_the_next(tmp_path: Path, damage: str) -> None:
    file = tmp_path / KEPT_FILE
    file.write_bytes(damage.encode("utf-8", "surrogatepass"))
    found = KeptBlocked(file)
    assert found.rows() == []
    assert file.read_bytes() == damage.encode("utf-8", "surrogatepass")
    found.keep(Place("fetch", "a.example", 443))
    assert json.loads(file.read_text())[0][:3] == ["fetch", "a.example", 443]


async def test_a_choice_that_cannot_be_written_says_so_and_does_not_count(
    api: httpx2.AsyncClient, control: FakeControl, tmp_path: Path
) -> None:
    (tmp_path / KEPT_FILE).mkdir()  # nothing can be put in its place
    (tmp_path / KEPT_FILE / "x").touch()
    answer = await api.post("egress/kept", json=EVIL)
    assert answer.status_code == 500
    assert "/kept-blocked." in answer.json()["error"]["message"]
    assert control.kept_blocked.rows() == []

"""The REST API at the control socket: what it answers, and how it refuses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.control.apps import control_app
from gateway.control.base import GatewayState, Readiness
from gateway.control.listen import bind_unix
from gateway.control.wire import MAX_BODY
from gateway.mcp.view.pinned_text import Difference
from gateway.runtime.sandbox.errors import EngineUnreachable
from observability.events import Decision, Reason, Via
from tests.gateway.control.fakes import FakeControl, egress_event, serving

pytestmark = pytest.mark.anyio


@pytest.fixture
async def api(control: FakeControl, tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    listener = bind_unix(tmp_path / "c")
    transport = httpx2.AsyncHTTPTransport(uds=str(tmp_path / "c"))
    async with serving(control_app(control), listener):
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost/api/v1/") as client:
            yield client


def error(response: httpx2.Response) -> tuple[int, str, str]:
    found = response.json()["error"]
    return response.status_code, found["code"], found["message"]


async def test_status_says_who_runs_where_and_which_overrides_are_in_force(
    api: httpx2.AsyncClient, control: FakeControl
) -> None:
    status = (await api.get("status")).json()
    assert status["project"] == "test"
    assert status["config_path"] == str(control.config_path)
    assert status["overrides"] == ["api.github.com:443:10.0.0.9"]
    assert status["warnings"] == ["The probe was not run."]
    assert status["ready"] is True


async def test_readyz_says_what_is_missing(api: httpx2.AsyncClient, control: FakeControl) -> None:
    control.ready = Readiness(state=GatewayState.PREPARING, detail="Building the image of fetch.")
    response = await api.get("http://localhost/readyz")
    assert (response.status_code, response.json()["detail"]) == (503, "Building the image of fetch.")


async def test_backends_carry_their_state_and_their_network_block(api: httpx2.AsyncClient) -> None:
    fetch, opened = (await api.get("backends")).json()["backends"]
    assert (fetch["name"], fetch["state"], fetch["isolated"]) == ("fetch", "running", True)
    assert fetch["network"] == {"allowed_hosts": ["api.github.com"], "allowed_ports": [443]}
    assert opened["warnings"] == ["Not isolated."]


async def test_one_backend_has_its_entry_and_its_tools(api: httpx2.AsyncClient) -> None:
    found = (await api.get("backends/fetch")).json()
    assert found["entry"]["command"] == "uvx"
    assert found["tools"][0]["name"] == "fetch"


UNKNOWN = [
    ("GET", "backends/nope"), ("DELETE", "backends/nope"), ("GET", "backends/nope/logs"),
    ("POST", "backends/nope/restart"), ("PUT", "backends/nope/network"), ("POST", "backends/nope/network/check"),
    ("POST", "backends/nope/egress/allow"), ("GET", "backends/nope/egress/suggest"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), UNKNOWN)
async def test_an_unknown_backend_is_a_404_that_names_those_there_are(
    api: httpx2.AsyncClient, method: str, path: str
) -> None:
    status, code, message = error(await api.request(method, path))
    assert (status, code) == (404, "unknown_backend")
    assert "fetch, open" in message


async def test_allowing_a_host_shows_the_diff_first_and_keeps_comments(
    api: httpx2.AsyncClient, control: FakeControl
) -> None:
    body = {"host": "raw.githubusercontent.com", "port": 443}
    before = control.config_path.read_text()
    dry = (await api.post("backends/fetch/egress/allow", json={**body, "dry_run": True})).json()
    assert "+" in dry["diff"]
    assert dry["applied"] is False
    assert control.config_path.read_text() == before
    done = (await api.post("backends/fetch/egress/allow", json=body)).json()
    assert done == {"diff": dry["diff"], "applied": True, "warnings": []}
    assert "raw.githubusercontent.com" in control.config_path.read_text()
    assert "# keep this comment" in control.config_path.read_text()
    assert "raw.githubusercontent.com" in control.config.servers["fetch"].network.allowed_hosts


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "host"), ({"host": ""}, "host"), ({"host": 5}, "host"), ({"host": "a.example", "port": 0}, "port"),
        ({"host": "a.example", "port": 70000}, "port"), ({"host": "a.example", "port": "443"}, "port"),
        ({"host": "a.example", "port": True}, "port"), ({"host": "a.example", "dry_run": "yes"}, "dry_run"),
        ({"host": "a.example", "force": True}, "force"),
    ],
)  # fmt: skip
async def test_a_wrong_field_is_named(api: httpx2.AsyncClient, body: dict[str, Any], field: str) -> None:
    response = await api.post("backends/fetch/egress/allow", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["problems"][0]["path"] == field


@pytest.mark.parametrize("host", ["https://api.github.com/", "a host", "api.github.com/path", "..", "a\nb"])
async def test_a_host_that_is_none_is_refused_with_the_line_in_the_file(
    api: httpx2.AsyncClient, control: FakeControl, host: str
) -> None:
    before = control.config_path.read_text()
    response = await api.post("backends/fetch/egress/allow", json={"host": host})
    assert error(response)[:2] == (422, "config_invalid")
    assert "allowed_hosts" in response.json()["error"]["problems"][0]["path"]
    assert control.config_path.read_text() == before


async def test_allowing_for_a_backend_that_is_not_isolated_says_that_nothing_holds_it(
    api: httpx2.AsyncClient,
) -> None:
    status, code, _ = error(await api.post("backends/open/egress/allow", json={"host": "a.example"}))
    assert (status, code) == (409, "not_isolated")


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400), (b"[]", "application/json", 400), (b"\xff", "application/json", 400),
        (b"[" * 100_000, "application/json", 400), (b"{}", "text/plain", 415), (b"host=a", "", 415),
        (b" " * (MAX_BODY + 1), "application/json", 413),
    ],
    ids=["cut", "list", "not utf-8", "deep", "text", "form", "large"],
)  # fmt: skip
async def test_a_body_that_is_no_json_object_is_refused(
    api: httpx2.AsyncClient, content: bytes, kind: str, status: int
) -> None:
    response = await api.post("backends/fetch/egress/allow", content=content, headers={"Content-Type": kind})
    assert response.status_code == status
    assert response.json()["error"]["message"]


async def test_a_network_block_is_replaced(api: httpx2.AsyncClient, control: FakeControl) -> None:
    block = {"allowed_hosts": ["example.com"], "mode": "report"}
    answer = (await api.put("backends/fetch/network", json={"block": block})).json()
    assert answer["applied"] is True
    assert control.config.servers["fetch"].network.block == block


async def test_a_bad_network_block_is_refused_whole_with_all_problems(
    api: httpx2.AsyncClient, control: FakeControl
) -> None:
    block = {"allowed_hosts": ["https://x/"], "allowed_ports": [70000], "mode": "off"}
    before = control.config_path.read_text()
    response = await api.put("backends/fetch/network", json={"block": block})
    assert error(response)[:2] == (422, "policy_invalid")
    assert len(response.json()["error"]["problems"]) >= 3
    assert control.config_path.read_text() == before


async def test_checking_a_block_says_all_problems_and_writes_nothing(
    api: httpx2.AsyncClient, control: FakeControl
) -> None:
    before = control.config_path.read_text()
    bad = await api.post("backends/fetch/network/check", json={"block": {"allowed_hosts": ["a b"], "x": 1}})
    assert bad.status_code == 200
    assert len(bad.json()["problems"]) == 2
    good = await api.post("backends/fetch/network/check", json={"block": {"allowed_hosts": ["a.example"]}})
    assert good.json() == {"problems": []}
    assert control.config_path.read_text() == before


async def test_no_program_of_this_machine_is_added_from_outside(
    api: httpx2.AsyncClient, control: FakeControl
) -> None:
    entry = {"image": "x", "env": {"A": "${command:id}"}}
    status, code, message = error(await api.post("backends", json={"name": "new", "entry": entry}))
    assert (status, code) == (422, "command")
    assert message.startswith("env.A: a ${command:…} runs a program of this machine")
    assert "new" not in control.config.servers


async def test_a_backend_is_added_and_removed(api: httpx2.AsyncClient, control: FakeControl) -> None:
    entry = {"command": "uvx", "args": ["mcp-server-git"]}
    dry = await api.post("backends", json={"name": "git", "entry": entry, "dry_run": True})
    assert (dry.status_code, "git" in control.config.servers) == (200, False)
    made = await api.post("backends", json={"name": "git", "entry": entry})
    assert (made.status_code, "git" in control.config.servers) == (201, True)
    again = await api.post("backends", json={"name": "git", "entry": entry})
    assert error(again)[:2] == (409, "exists")
    gone = await api.delete("backends/git")
    assert (gone.json()["applied"], "git" in control.config.servers) == (True, False)


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("Git", {"command": "uvx", "args": ["x"]}),
        ("a__b", {"command": "uvx", "args": ["x"]}),
        ("x", {}),
        ("x", {"comand": "uvx"}),
    ],
)
async def test_a_bad_entry_is_refused_with_its_problems(
    api: httpx2.AsyncClient, control: FakeControl, name: str, entry: dict[str, Any]
) -> None:
    before = control.config_path.read_text()
    response = await api.post("backends", json={"name": name, "entry": entry})
    assert error(response)[:2] == (422, "config_invalid")
    assert response.json()["error"]["problems"]
    assert control.config_path.read_text() == before


async def test_restarting_reaches_the_supervisor(api: httpx2.AsyncClient, control: FakeControl) -> None:
    assert (await api.post("backends/fetch/restart")).json() == {"restarted": "fetch"}
    assert control.supervisor.restarted == control.endpoint.reconnected == ["fetch"]
    status, code, message = error(await api.post("backends/open/restart"))
    assert (status, code, message) == (409, "backend_unavailable", "Server open: it ended with code 1 at once.")


async def test_restarting_a_remote_server_is_speaking_to_it_anew(
    api: httpx2.AsyncClient, control: FakeControl
) -> None:
    await api.post("backends", json={"name": "far", "entry": {"url": "https://mcp.example/mcp"}})
    assert (await api.post("backends/far/restart")).json() == {"restarted": "far"}
    assert control.endpoint.reconnected == ["far"]
    assert control.supervisor.restarted == []


async def test_logs_come_as_json(api: httpx2.AsyncClient) -> None:
    lines = (await api.get("backends/fetch/logs?tail=2")).json()["lines"]
    assert [line["text"] for line in lines] == ["line 3", "line 4"]


@pytest.mark.parametrize("query", ["tail=-1", "tail=x", "tail=999999", "tail=%D9%A3"])
async def test_a_bad_number_in_the_query_is_refused(api: httpx2.AsyncClient, query: str) -> None:
    assert error(await api.get(f"backends/fetch/logs?{query}"))[:2] == (400, "bad_request")


async def test_events_are_filtered(api: httpx2.AsyncClient, control: FakeControl) -> None:
    control.hub.publish(egress_event())
    control.hub.publish(egress_event(seq=2, connection=2, backend="other", decision=Decision.ALLOW, reason=None))
    assert [e["id"] for e in (await api.get("events")).json()["events"]] == [1, 2]
    for query, ids in (
        ("backend=fetch", [1]),
        ("decision=allow", [2]),
        ("type=call", []),
        ("since=1", [2]),
        ("limit=1", [2]),
    ):
        assert [e["id"] for e in (await api.get(f"events?{query}")).json()["events"]] == ids
    found = (await api.get("events?backend=fetch")).json()["events"][0]
    assert (found["kind"], found["host"], found["calls"][0]["tool"]) == ("egress", "evil.example", "fetch")


@pytest.mark.parametrize("query", ["type=nope", "decision=maybe", "since=x", "limit=-1", "limit=100000"])
async def test_a_word_outside_the_vocabulary_is_refused(api: httpx2.AsyncClient, query: str) -> None:
    assert error(await api.get(f"events?{query}"))[:2] == (400, "bad_request")


async def test_what_was_blocked_is_grouped_with_reason_and_tool(
    api: httpx2.AsyncClient, control: FakeControl
) -> None:
    for n in range(3):
        control.hub.publish(egress_event(seq=n + 1, connection=n + 1))
    control.history.flush()
    (row,) = (await api.get("egress/blocked?backend=fetch")).json()["blocked"]
    assert (row["host"], row["port"], row["count"]) == ("evil.example", 443, 3)
    assert (row["reason"], row["tool"], row["via"]) == ("host_not_allowed", "fetch", "proxy")
    assert (await api.get("egress/blocked?backend=open")).json()["blocked"] == []


async def test_connections_can_be_searched(api: httpx2.AsyncClient, control: FakeControl) -> None:
    control.hub.publish(egress_event())
    control.history.flush()
    (row,) = (await api.get("egress/connections?decision=deny&q=EVIL")).json()["connections"]
    assert (row["kind"], row["phase"], row["reason"]) == ("egress", "decided", "host_not_allowed")
    assert (await api.get("egress/connections?open=1")).json()["connections"] == []


async def test_top_and_lookups_answer(api: httpx2.AsyncClient, control: FakeControl) -> None:
    control.hub.publish(egress_event())
    control.hub.publish(egress_event(seq=2, connection=2, via=Via.DNS, method="A", host="looked.example", port=0))
    control.history.flush()
    assert (await api.get("egress/top?by=reason")).json()["top"][0]["name"] == "host_not_allowed"
    assert (await api.get("egress/lookups")).json()["lookups"][0]["method"] == "A"


@pytest.mark.parametrize(
    "path",
    ["egress/top?by=x", "egress/connections?reason=x", "egress/connections?since=-1", "egress/blocked?since=nan"],
)
async def test_a_bad_question_to_the_history_is_refused(api: httpx2.AsyncClient, path: str) -> None:
    assert error(await api.get(path))[:2] == (400, "bad_request")


async def test_explain_says_which_rule_decides(api: httpx2.AsyncClient) -> None:
    allowed = (await api.post("explain", json={"backend": "fetch", "url": "https://api.github.com/x"})).json()
    assert (allowed["decision"], allowed["rule"]) == ("allow", "api.github.com")
    denied = (await api.post("explain", json={"backend": "fetch", "url": "evil.example:443"})).json()
    assert (denied["decision"], denied["reason"]) == ("deny", "host_not_allowed")
    assert "evil.example" in denied["sentence"]


@pytest.mark.parametrize("url", ["", "https://", "a b", "https://x:99999/"])
async def test_explaining_nonsense_is_a_400(api: httpx2.AsyncClient, url: str) -> None:
    assert (await api.post("explain", json={"backend": "fetch", "url": url})).status_code == 400


async def test_suggest_makes_a_block_of_what_was_reached(api: httpx2.AsyncClient, control: FakeControl) -> None:
    control.hub.publish(egress_event(host="api.example.com", decision=Decision.REPORT))
    control.hub.publish(egress_event(seq=2, connection=2, host="evil.example"))
    control.history.flush()
    found = (await api.get("backends/fetch/egress/suggest")).json()
    assert (found["connections"], found["denied"]) == (1, 1)
    assert found["block"]["allowed_hosts"] == ["api.example.com"]
    both = (await api.get("backends/fetch/egress/suggest?denied=1")).json()
    assert "evil.example" in str(both["block"])


async def test_suggest_proposes_no_host_that_a_request_inside_a_tunnel_merely_named(
    api: httpx2.AsyncClient, control: FakeControl
) -> None:
    """Whoever speaks inside a connection can name what he likes; no rule would let it pass there."""
    inside = egress_event(
        host="named.example", port=80, decision=Decision.REPORT, reason=Reason.INNER_HOST_MISMATCH, mode="learn"
    )
    control.hub.publish(inside)
    control.hub.publish(egress_event(seq=2, connection=2, host="reached.example", decision=Decision.REPORT))
    control.history.flush()
    found = (await api.get("backends/fetch/egress/suggest?denied=1")).json()
    assert found["block"]["allowed_hosts"] == ["reached.example"]


async def test_suggest_keeps_what_it_does_not_speak_of(api: httpx2.AsyncClient, control: FakeControl) -> None:
    block = {"mode": "learn", "direct": "allow", "limits": {"connections": 5}}
    await api.put("backends/fetch/network", json={"block": block})
    found = (await api.get("backends/fetch/egress/suggest")).json()["block"]
    assert (found["direct"], found["limits"], "mode" in found) == ("allow", {"connections": 5}, False)


async def test_a_client_gets_its_token_once_and_the_file_only_the_digest(
    api: httpx2.AsyncClient, control: FakeControl
) -> None:
    made = await api.post("clients", json={"name": "claude", "servers": ["fetch"]})
    assert made.status_code == 201
    token = made.json()["token"]
    assert token in made.json()["snippets"]["cursor"]
    assert token not in control.config_path.read_text()
    assert control.config.clients["claude"].servers == ("fetch",)
    listed = (await api.get("clients")).json()["clients"]
    assert [client["name"] for client in listed] == ["cursor", "claude"]
    assert "token_sha256" not in str(listed)


@pytest.mark.parametrize(("name", "renew"), [("claude", False), ("cursor", True)])
async def test_what_adding_a_client_would_write_is_shown_without_a_token(
    api: httpx2.AsyncClient, control: FakeControl, name: str, renew: bool
) -> None:
    before = control.config_path.read_text()
    shown = await api.post("clients", json={"name": name, "renew": renew, "dry_run": True})
    assert (shown.status_code, set(shown.json())) == (200, {"diff", "applied", "warnings"})
    assert shown.json()["applied"] is False
    added = [line for line in shown.json()["diff"].splitlines() if line.startswith("+") and "token_sha256" in line]
    assert len(added) == 1
    assert "(the SHA-256 of the new token)" in added[0]
    assert control.config_path.read_text() == before


async def test_a_client_is_not_replaced_by_accident(api: httpx2.AsyncClient, control: FakeControl) -> None:
    assert error(await api.post("clients", json={"name": "cursor"}))[:2] == (409, "exists")
    renewed = await api.post("clients", json={"name": "cursor", "renew": True})
    assert renewed.status_code == 201
    assert control.config.clients["cursor"].token_sha256 != "a" * 64
    assert control.config.clients["cursor"].servers == ("fetch",)


@pytest.mark.parametrize(
    ("body", "status"),
    [({"name": "x", "servers": "fetch"}, 400), ({"name": "x", "servers": ["nope"]}, 422), ({"name": "X Y"}, 422)],
)
async def test_a_bad_client_is_refused(api: httpx2.AsyncClient, body: dict[str, Any], status: int) -> None:
    assert (await api.post("clients", json=body)).status_code == status


async def test_a_client_is_removed(api: httpx2.AsyncClient, control: FakeControl) -> None:
    assert (await api.delete("clients/cursor")).json()["applied"] is True
    assert error(await api.delete("clients/cursor"))[:2] == (404, "unknown_client")


async def test_the_catalog_is_searched(api: httpx2.AsyncClient) -> None:
    assert "fetch" in [server["name"] for server in (await api.get("catalog?q=web")).json()["servers"]]
    found = (await api.get("catalog/fetch")).json()
    assert found["entry"]["command"] == "uvx"
    assert found["tools"][0]["name"] == "fetch"
    assert error(await api.get("catalog/nope"))[:2] == (404, "unknown_server")


async def test_the_configuration_is_read_as_text(api: httpx2.AsyncClient, control: FakeControl) -> None:
    response = await api.get("config")
    assert response.text == control.config_path.read_text()
    assert response.headers["content-type"].startswith("text/plain")


async def test_a_reload_of_a_broken_file_says_where(api: httpx2.AsyncClient, control: FakeControl) -> None:
    control.config_path.write_text("version: 1\nmcpServers:\n  Bad_Name: {}\n")
    response = await api.post("reload")
    assert error(response)[:2] == (422, "config_invalid")
    assert response.json()["error"]["problems"][0]["line"] == 3
    assert "fetch" in control.config.servers


async def test_approving_a_tool(api: httpx2.AsyncClient, control: FakeControl) -> None:
    assert (await api.post("tools/approve", json={"backend": "fetch", "tool": "fetch"})).status_code == 200
    assert control.endpoint.approved == [("fetch", "fetch")]
    control.endpoint.changed["fetch"] = [Difference(tool="fetch", before="a", after="c")]
    stale = await api.post("tools/approve", json={"backend": "fetch", "tool": "fetch", "after": "b"})
    assert error(stale)[:2] == (409, "changed_meanwhile")
    assert len(control.endpoint.approved) == 1
    shown = await api.post("tools/approve", json={"backend": "fetch", "tool": "fetch", "after": "c"})
    assert (shown.status_code, len(control.endpoint.approved)) == (200, 2)
    unseen = await api.post("tools/approve", json={"backend": "fetch", "tool": "other", "after": "c"})
    assert error(unseen)[:2] == (409, "changed_meanwhile"), "no text of it can have been shown"
    unknown = await api.post("tools/approve", json={"backend": "fetch", "tool": "x"})
    assert error(unknown)[:2] == (400, "unknown_tool")


async def test_shutdown_begins_at_once(api: httpx2.AsyncClient, control: FakeControl) -> None:
    assert (await api.post("shutdown")).status_code == 202
    assert control.stopped


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "nowhere", 404, "not_found"),
        ("POST", "status", 405, "method_not_allowed"),
        ("PATCH", "backends", 405, "method_not_allowed"),
    ],
)
async def test_unknown_paths_and_methods_answer_in_the_same_shape(
    api: httpx2.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    assert error(await api.request(method, path))[:2] == (status, code)


async def test_an_engine_that_fails_is_told_in_its_words(
    api: httpx2.AsyncClient, control: FakeControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: str) -> None:
        raise EngineUnreachable("The engine does not answer.")

    monkeypatch.setattr(control.supervisor, "restart", fail)
    told = error(await api.post("backends/fetch/restart"))
    assert told == (502, "engine_failed", "The engine does not answer.")


async def test_a_fault_of_ours_is_a_500_without_insides(
    api: httpx2.AsyncClient, control: FakeControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control.supervisor, "status", lambda: 1 / 0)
    status, code, message = error(await api.get("backends"))
    assert (status, code) == (500, "internal")
    assert "division" not in message

"""A server that makes connections while a client's calls hang on it: no event grows with the calls, none loses its maker."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gateway.cli.egress import event_line
from gateway.mcp.call.inflight import InFlight, InFlightCall
from gateway.mcp.view.annotate import META_KEY, annotate_result
from observability.event_json import to_json
from observability.events import CALLS_LIMIT, CallRef, Certainty, EgressEvent
from observability.logs import canonical
from tests.gateway.mcp.clients import Legacy, legacy
from tests.gateway.mcp.fakes import config, eventually, gateway, server, token_digest
from tests.observability.samples import decided

MOST = 5_000
"""Bytes of an event in plain text with all its references."""


def attempt(number: int = 1, **changes: Any) -> EgressEvent:
    return decided(number, backend="evil", door="evil", time=time.time(), **changes)


def hanging(count: int, key: str = "k", client: str = "eve") -> tuple[InFlight, list[InFlightCall]]:
    inflight = InFlight()
    calls = [InFlightCall("evil", "evil", "resources/read", f"{n}" * 100, f"{key}{n}", client) for n in range(count)]
    for call in calls:
        inflight.start(call)
    return inflight, calls


@pytest.mark.parametrize("length", [10, 60_000])
@pytest.mark.parametrize("count", [1, 24, 1000])
def test_an_event_does_not_grow_with_the_calls_nor_with_their_keys(count: int, length: int) -> None:
    """Red team M5, missing test 6: 24 calls of 60 kB made each event 1.4 MB, twice in the history and once in the log."""
    inflight, _ = hanging(count, "x" * length)
    event = inflight.attribute(attempt())

    assert len(json.dumps(to_json(event))) < MOST
    assert len(json.dumps(canonical(event))) < MOST
    assert len(event.calls) + event.more_calls == count
    assert event.certainty is (Certainty.CERTAIN if count == 1 else Certainty.PROBABLE)
    assert [ref.tool.endswith(" characters]") for ref in event.calls] == [length == 60_000] * len(event.calls)


def test_a_call_is_not_told_of_more_than_fits_into_its_result() -> None:
    inflight, (call,) = hanging(1)
    for number in range(500):
        inflight.attribute(attempt(number, host="h" * 10_000, detail="d" * 100_000))
    result = annotate_result({"content": [], "isError": True}, call.denials)

    assert len(call.denials) == 50
    assert len(json.dumps(result["_meta"][META_KEY])) < 50_000
    assert len(json.dumps(result)) < 100_000


def test_no_client_hides_the_call_of_another_among_its_own() -> None:
    inflight, _ = hanging(1, client="honest")
    for number in range(100):
        inflight.start(InFlightCall("evil", "evil", "tools/call", str(number), "noise", "eve"))
    event = inflight.attribute(attempt())

    assert {ref.client for ref in event.calls} == {"honest", "eve"}
    assert (len(event.calls), event.more_calls) == (CALLS_LIMIT, 101 - CALLS_LIMIT)


def test_calls_of_one_server_do_not_push_out_what_ran_on_another() -> None:
    """Finished calls are remembered for some seconds, since events come a little later than their calls end."""
    inflight = InFlight()
    call = InFlightCall("calm", "calm", "tools/call", "1", "fetch", "honest")
    inflight.start(call)
    moment = time.time()
    inflight.finish(call)
    for number in range(10_000):
        other = InFlightCall("evil", "evil", "tools/call", str(number), "noise", "eve")
        inflight.start(other)
        inflight.finish(other)
    event = inflight.attribute(decided(1, backend="calm", door="calm", time=moment))

    assert [ref.tool for ref in event.calls] == ["fetch"]
    assert event.certainty is Certainty.CERTAIN


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """How often a reference is made."""
    made: list[str] = []
    check = CallRef.__post_init__

    def note(ref: CallRef) -> None:
        made.append(ref.request_id)
        check(ref)

    with monkeypatch.context() as patch:
        patch.setattr(CallRef, "__post_init__", note)
        yield made


def test_a_reference_is_made_once_for_a_call_and_not_for_each_event(monkeypatch: pytest.MonkeyPatch) -> None:
    inflight, _ = hanging(CALLS_LIMIT)
    with counted(monkeypatch) as made:
        for number in range(100):
            inflight.attribute(attempt(number))
    assert len(made) == CALLS_LIMIT


HANGS = r"""
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    number, method = message.get("id"), message.get("method")
    if method == "initialize":
        offers = {"tools": {}, "resources": {}}
        result = {"protocolVersion": "2025-11-25", "capabilities": offers, "serverInfo": {"name": "x", "version": ""}}
    elif method == "tools/list":
        result = {"tools": [{"name": "t", "inputSchema": {"type": "object"}}]}
    elif method == "resources/templates/list":
        result = {"resourceTemplates": [{"name": "any", "uriTemplate": "any://{+path}"}]}
    elif method == "resources/list":
        result = {"resources": []}
    elif method == "tools/call":
        result = {"content": [], "isError": True}
    else:
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": number, "result": result}), flush=True)
"""


@pytest.mark.anyio
async def test_a_client_whose_reads_hang_does_not_make_the_events_of_a_server_large() -> None:
    """Red team M5 as it was done: 24 reads with URIs of 60 kB hang, and the server tries to get out; over real sockets."""
    clients = {name: {"token_sha256": token_digest(name)} for name in ("eve", "honest")}
    command = (sys.executable, "-c", HANGS)
    async with (
        gateway(config({"evil": server(sessions="shared")}, clients=clients), {"evil": command}) as running,
        legacy(running.url("evil"), token="eve") as eve,
        legacy(running.url("evil"), token="honest") as honest,
    ):
        await honest.request("tools/list")
        reads = [asyncio.ensure_future(hang(eve, f"any://{number}/{'x' * 60_000}")) for number in range(24)]
        inflight = running.endpoint.inflight
        await eventually(lambda: inflight.count() == 24)
        told: list[EgressEvent] = []

        def denied() -> None:
            told.extend(
                inflight.attribute(decided(n, backend="evil", door="evil", time=time.time())) for n in range(99)
            )

        running.barrier.waiting, running.barrier.on_settle = True, denied
        result = (await honest.call("t"))["result"]
        for read in reads:
            read.cancel()
    assert {(len(event.calls), event.more_calls) for event in told} == {(CALLS_LIMIT, 25 - CALLS_LIMIT)}
    assert all("honest" in {ref.client for ref in event.calls} for event in told)
    assert max(len(json.dumps(to_json(event))) for event in told) < MOST
    assert len(json.dumps(result)) < 50_000
    assert {fact["certainty"] for fact in result["_meta"][META_KEY]} == {"probable"}
    assert max(len(json.dumps(to_json(event))) for event in running.events) < MOST


async def hang(client: Legacy, uri: str) -> None:
    await client.request("resources/read", {"uri": uri})


def test_the_line_for_a_person_says_how_many_calls_there_were() -> None:

    inflight, _ = hanging(24)
    line = event_line(to_json(inflight.attribute(attempt())), "DENY")
    assert "← probably " in line
    assert line.endswith("(of 24 calls)")

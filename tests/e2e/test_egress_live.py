"""The policy of a running gateway: changed in the file, proposed from what was seen, explained, extended by command."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from examples.demo import stage
from examples.demo.story import Scene, client, play, rogue_outcome
from tests.e2e import lean
from tests.e2e.stockade_process import ROOT, StockadeProcess, until

pytestmark = [pytest.mark.docker, pytest.mark.anyio]

SUBDOMAINS = [f"{name}.docs.example" for name in ("one", "two", "three", "four")]
RULES = "allowed_hosts: [api.github.com, direct.example]"
NO_PROXY = {
    name: "" for each in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY") for name in (each, each.lower())
}
FETCH = f"""\
  {{name}}:
    command: uvx
    args: [mcp-server-fetch, --allow-private-ips]  # without it the server itself refuses the fake internet's address
    env: {json.dumps(NO_PROXY).replace("{", "{{").replace("}", "}}")}
    network: {{{{allowed_hosts: [api.github.com], direct: {{direct}}}}}}
"""
SERVERS = f"""
mcpServers:
  puppet:                   # does what the test says
    image: {lean.ROGUE}
    entrypoint: [python3, -u, /puppet.py]
    mounts: ["./puppet.py:/puppet.py:ro"]
    network:
      {RULES}
  watched:                  # not enforced
    image: {lean.ROGUE}
    network:
      mode: report          # for a while
      allowed_hosts: [api.github.com]
  learner:                  # on its first day
    image: {lean.ROGUE}
    network:
      mode: learn           # until we know what it needs
{FETCH.format(name="blocked", direct="deny")}{FETCH.format(name="fetch", direct="allow")}"""
OPEN = """
import socket, ssl
def tunnel(host):
    sock = socket.create_connection(("127.0.0.1", 3128), timeout=15)
    sock.sendall(f"CONNECT {host}:443 HTTP/1.1\\r\\nHost: {host}:443\\r\\n\\r\\n".encode())
    assert b" 200 " in sock.recv(4096)
    return ssl.create_default_context().wrap_socket(sock, server_hostname=host)
def use(tls, host):
    try:
        tls.sendall(f"GET / HTTP/1.1\\r\\nHost: {host}\\r\\n\\r\\n".encode())
        data = b""
        while b"hello from" not in data:
            chunk = tls.recv(4096)
            if not chunk:
                return "cut"
            data += chunk
        return "works"
    except OSError:
        return "cut"
"""


@pytest.fixture(scope="module")
def gateway(
    engine: docker.DockerClient, python_base: str, workspace: Path, internet: stage.Internet
) -> Iterator[StockadeProcess]:
    shutil.copy(ROOT / "tests" / "e2e" / "puppet.py", workspace / "puppet.py").chmod(0o644)
    text = lean.head(internet)
    for host, port in [("direct.example", 443), *((host, 80) for host in [*SUBDOMAINS, "evil.example"])]:
        text += f"    - {host}:{port}:{internet.address}\n"
    with lean.running(workspace, text + SERVERS, engine, python_base, "l") as found:
        yield found


async def call(gateway: StockadeProcess, tool: str, **arguments: Any) -> dict[str, Any]:
    async with client(gateway.endpoint, "") as connected:
        return rogue_outcome(await play(connected, Scene(says="", tool=tool, arguments=arguments)))


async def run(gateway: StockadeProcess, code: str) -> Any:
    return (await call(gateway, "puppet__run", code=textwrap.dedent(code)))["answer"]


async def status(gateway: StockadeProcess, backend: str, host: str, port: int = 443) -> str:
    """`200`, or `403 REASON`."""
    if port == 80:
        found = await call(gateway, f"{backend}__proxy_get", url=f"http://{host}/")
    else:
        found = await call(gateway, f"{backend}__proxy_connect", host=host, port=port)
    return " ".join(str(found["status"]).split()[1:3]).removesuffix(" OK").removesuffix(" Connection")


def events(gateway: StockadeProcess, backend: str, **wanted: Any) -> list[dict[str, Any]]:
    found = gateway.json_lines("egress", "tail", "--all", "--tail", "400", "--backend", backend)
    return [event for event in found if all(event.get(name) == value for name, value in wanted.items())]


def edit(gateway: StockadeProcess, old: str, new: str) -> None:
    """Change the file as an editor does."""
    text = gateway.config.read_text()
    assert old in text
    gateway.config.write_text(text.replace(old, new))


async def test_removing_a_host_from_the_file_cuts_its_tunnel_and_no_other(gateway: StockadeProcess) -> None:
    containers = [backend["containers"] for backend in gateway.json("ps")["backends"]]
    await run(gateway, OPEN + "kept, gone = tunnel('api.github.com'), tunnel('direct.example')")
    code = "answer = use(kept, 'api.github.com'), use(gone, 'direct.example')"
    assert await run(gateway, code) == ["works", "works"]
    edit(gateway, RULES, "allowed_hosts: [api.github.com]")
    until(lambda: bool(events(gateway, "puppet", phase="closed", reason="policy_revoked")), "the tunnel cut")
    (event,) = events(gateway, "puppet", phase="closed", reason="policy_revoked")
    assert event["host"] == "direct.example"
    assert await run(gateway, code) == ["works", "cut"]
    assert await status(gateway, "puppet", "direct.example") == "403 host_not_allowed"
    assert [backend["containers"] for backend in gateway.json("ps")["backends"]] == containers


async def test_a_bad_file_is_refused_whole_and_the_old_policy_stays(gateway: StockadeProcess) -> None:
    """One server's good change and another's bad one: neither is in force until the file is right."""
    before = gateway.config.read_text()
    widened = before.replace("allowed_hosts: [api.github.com]\n  watched", "allowed_hosts: ['*']\n  watched")
    assert widened != before
    gateway.config.write_text(widened.replace("mode: learn ", "mode: lurn "))
    refused = gateway.run("validate", check=False)
    assert refused.returncode != 0
    assert "lurn" in refused.stdout + refused.stderr
    until(lambda: reload_failed(gateway), "the failed reload noted")
    assert await status(gateway, "puppet", "evil.example", 80) == "403 host_not_allowed"
    gateway.config.write_text(widened)
    until(lambda: not reload_failed(gateway), "the corrected file in force")
    assert await status(gateway, "puppet", "evil.example", 80) == "200"
    gateway.config.write_text(before)


def reload_failed(gateway: StockadeProcess) -> bool:
    """`stockade_config_reload_success` is 0 after a failure and 1 after a success."""
    (line,) = [x for x in gateway.metrics().splitlines() if x.startswith("stockade_config_reload_success ")]
    return float(line.split()[1]) == 0


async def test_report_carries_and_says_what_would_have_been_denied(gateway: StockadeProcess) -> None:
    assert await status(gateway, "watched", "evil.example") == "200"
    (event,) = events(gateway, "watched", host="evil.example", phase="decided")
    assert (event["decision"], event["reason"]) == ("report", "host_not_allowed")
    for host, reason in (("169.254.169.254", "ip_not_allowed"), ("10.1.2.3", "ip_not_allowed"), ("127.0.0.1", "")):
        answer = await status(gateway, "watched", host)
        assert answer.startswith("403 address_") or answer == f"403 {reason}", "what is special stays denied"


async def test_learn_proposes_the_smallest_policy_and_writes_it(gateway: StockadeProcess) -> None:
    for host in SUBDOMAINS:
        assert await status(gateway, "learner", host, 80) == "200"
    assert await status(gateway, "learner", "api.github.com") == "200"
    until(lambda: len(events(gateway, "learner", phase="decided")) >= 5, "all learned")
    proposed = gateway.run("egress", "suggest", "learner").stdout
    assert ".docs.example" in proposed
    assert "api.github.com" in proposed
    written = gateway.run("egress", "suggest", "learner", "--write")
    assert "In force now" in written.stdout + written.stderr
    text = gateway.config.read_text()
    assert "# on its first day" in text
    assert ".docs.example" in text.partition("learner:")[2]
    assert "mode: learn" not in text
    assert await status(gateway, "learner", "two.docs.example", 80) == "200"
    assert await status(gateway, "learner", "api.github.com") == "200"
    assert await status(gateway, "learner", "evil.example") == "403 host_not_allowed"


@pytest.mark.parametrize(
    ("target", "decision", "words"),
    [
        ("https://api.github.com/repos", "allow", "allowed by api.github.com"),
        ("https://evil.example/", "deny", "host_not_allowed"),
        ("api.github.com:22", "deny", "port_not_allowed"),
        ("http://169.254.169.254/latest", "deny", "ip_not_allowed"),
    ],
)
def test_explain_says_which_rule_decides_and_connects_to_nothing(
    gateway: StockadeProcess,
    engine: docker.DockerClient,
    internet: stage.Internet,
    target: str,
    decision: str,
    words: str,
) -> None:
    arrived = stage.hits(engine, internet.name)
    answer = gateway.json("egress", "explain", "puppet", target)
    assert answer["decision"] == decision
    assert words in answer["sentence"]
    assert stage.hits(engine, internet.name) == arrived


async def test_allow_opens_one_host_on_the_port_that_is_named(gateway: StockadeProcess) -> None:
    assert await status(gateway, "puppet", "one.docs.example", 80) == "403 host_not_allowed"
    gateway.run("egress", "allow", "puppet", "one.docs.example:80", "--yes")
    assert await status(gateway, "puppet", "one.docs.example", 80) == "200"
    assert await status(gateway, "puppet", "two.docs.example", 80) == "403 host_not_allowed"
    gateway.run("egress", "allow", "puppet", "two.docs.example:8443", "--yes")
    assert await status(gateway, "puppet", "two.docs.example", 80) == "403 port_not_allowed"
    assert await status(gateway, "puppet", "two.docs.example", 8443) == "502 dns_failed", "allowed, and nowhere"
    assert "# does what the test says" in gateway.config.read_text()


async def test_mcp_server_fetch_without_its_proxy_variables(gateway: StockadeProcess) -> None:
    """The unmodified server, which knows of no proxy: blocked by default, carried with `direct: allow`."""
    async with client(gateway.endpoint, "") as connected:
        answers = [
            await connected.call_tool(f"{name}__fetch", {"url": "https://api.github.com/direct"})
            for name in ("blocked", "fetch")
        ]
    assert answers[0].is_error
    assert "hello from api.github.com" in str(answers[1].content)
    assert {event["via"] for event in events(gateway, "fetch", decision="allow")} == {"direct"}
    until(lambda: bool(events(gateway, "blocked", via="dns", host="api.github.com")), "the lookup told")

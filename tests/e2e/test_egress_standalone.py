"""The proxy as a process without containers, curl as its client, Debian's squid as its parent."""

from __future__ import annotations

import contextlib
import http.server
import os
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from tests.e2e.squid import ESCAPED, USER, Parent, squid
from tests.e2e.stockade_process import ROOT, until


class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        seen = sorted(name.lower() for name in self.headers if name.lower() not in ("host", "user-agent", "accept"))
        body = f"hello from {self.headers['Host']}; fields {seen}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@dataclass
class Web:
    """An HTTP and a TLS server on this machine, and the CA that curl is told."""

    plain: int
    tls: int
    ca: Path


@pytest.fixture(scope="module")
def web(workspace: Path) -> Iterator[Web]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(workspace / "web-ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("web.example", "near.example", "evil.example").configure_cert(context)
    with contextlib.ExitStack() as stack:
        ports = []
        for secure in (False, True):
            server = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page))
            server.daemon_threads = True
            if secure:
                server.socket = context.wrap_socket(server.socket, server_side=True)
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            ports.append(int(server.server_address[1]))
        yield Web(*ports, workspace / "web-ca.pem")


@dataclass
class Standalone:
    """A running `stockade egress serve`."""

    port: int
    web: Web
    process: subprocess.Popen[str]
    log: Path

    def curl(self, url: str, *arguments: str) -> str:
        """What curl prints of that URL through the proxy: the status codes (CONNECT's first), then the body."""
        command = ["curl", "-sS", "-m", "20", "--cacert", str(self.web.ca), "-w", "%{http_connect} %{http_code}"]
        command += ["-x", f"http://127.0.0.1:{self.port}", url, *arguments]
        clean = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        done = subprocess.run(command, capture_output=True, text=True, env=clean, timeout=30)
        return done.stdout + done.stderr


@contextlib.contextmanager
def standalone(directory: Path, web: Web, policy: str, *arguments: str) -> Iterator[Standalone]:
    (directory / "policy.yaml").write_text(policy)
    command = [sys.executable, "-m", "gateway.cli.main", "egress", "serve", "--policy", f"{directory}/policy.yaml"]
    command += ["--listen", "127.0.0.1:0", *arguments]
    log = directory / "serve.log"
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, text=True)
    try:
        until(lambda: "listening on" in log.read_text() or process.poll() is not None, "the proxy listening")
        yield Standalone(int(log.read_text().split("127.0.0.1:")[1].split()[0]), web, process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0, log.read_text()


def resolve(web: Web, *hosts: str) -> Sequence[str]:
    return [
        part for host in hosts for port in (web.plain, web.tls) for part in ("--resolve", f"{host}:{port}:127.0.0.1")
    ]


@pytest.fixture(scope="module")
def alone(workspace: Path, web: Web) -> Iterator[Standalone]:
    policy = f"network:\n  allowed_hosts: [web.example, localhost]\n  allowed_ports: [{web.plain}, {web.tls}]\n"
    with standalone(workspace, web, policy, *resolve(web, "web.example", "evil.example")) as found:
        yield found


def test_curl_gets_an_allowed_page_plainly_and_over_tls(alone: Standalone, web: Web) -> None:
    assert f"hello from web.example:{web.plain}" in alone.curl(f"http://web.example:{web.plain}/")
    assert f"hello from web.example:{web.tls}" in alone.curl(f"https://web.example:{web.tls}/")
    assert "fields []" in alone.curl(f"http://web.example:{web.plain}/", "--proxy-user", "who:cares"), "nothing leaks"


def test_what_is_not_named_is_refused_with_the_reason(alone: Standalone, web: Web) -> None:
    assert "host_not_allowed" in alone.curl(f"http://evil.example:{web.plain}/")
    assert "403 000" in alone.curl(f"https://evil.example:{web.tls}/")
    assert "port_not_allowed" in alone.curl("http://web.example/")
    assert "ip_not_allowed" in alone.curl(f"http://127.0.0.1:{web.plain}/")
    assert "address_loopback" in alone.curl(f"http://localhost:{web.plain}/"), "without an override it is loopback"


def test_each_connection_is_a_line_of_json(alone: Standalone, web: Web) -> None:
    alone.curl(f"http://line.example:{web.plain}/")
    until(lambda: '"line.example"' in alone.log.read_text(), "the line")
    assert '"host_not_allowed"' in alone.log.read_text()


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("network: {allowed_hosts: ['https://web.example/']}", "keep only the host: web.example"),
        ("network: {allowed_host: [web.example]}", "allowed_host"),
        ("[1, 2]", "policy"),
    ],
)
def test_a_bad_policy_ends_it_with_what_to_correct(workspace: Path, policy: str, words: str) -> None:
    path = workspace / "bad.yaml"
    path.write_text(policy)
    command = [sys.executable, "-m", "gateway.cli.main", "egress", "serve", "--policy", str(path), "--listen"]
    done = subprocess.run([*command, "127.0.0.1:0"], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


# --- a parent proxy


@pytest.fixture(scope="module")
def parent(workspace: Path) -> Iterator[Parent]:
    """A parent that alone knows where web.example is."""
    with squid(workspace / "squid", "127.0.0.1", {"web.example": "127.0.0.1", "near.example": "127.0.0.1"}) as found:
        yield found


def behind(
    directory: Path, web: Web, parent: Parent, credentials: str
) -> contextlib.AbstractContextManager[Standalone]:
    policy = f"allowed_hosts: [web.example, near.example]\nallowed_ports: [{web.plain}, {web.tls}]\n"
    url = f"http://{credentials}127.0.0.1:{parent.port}"
    more = ["--upstream-proxy", url, "--no-proxy", "near.example", *resolve(web, "near.example")]
    return standalone(directory, web, policy, *more)


def test_everything_goes_through_the_parent_with_its_credentials(workspace: Path, web: Web, parent: Parent) -> None:
    """A plain request and a tunnel, to a name that only the parent can resolve."""
    with behind(workspace, web, parent, f"{ESCAPED}@") as proxy:
        assert f"hello from web.example:{web.plain}" in proxy.curl(f"http://web.example:{web.plain}/")
        assert f"hello from web.example:{web.tls}" in proxy.curl(f"https://web.example:{web.tls}/")
    until(lambda: len(parent.lines()) >= 2, "both in squid's log")
    assert any(f"CONNECT web.example:{web.tls} {USER}" in line for line in parent.lines())
    assert any(f"GET http://web.example:{web.plain}/ {USER}" in line for line in parent.lines())


def test_no_proxy_hosts_and_refused_ones_never_come_to_the_parent(workspace: Path, web: Web, parent: Parent) -> None:
    with behind(workspace, web, parent, f"{ESCAPED}@") as proxy:
        assert "hello from near.example" in proxy.curl(f"http://near.example:{web.plain}/")
        assert "hello from near.example" in proxy.curl(f"https://near.example:{web.tls}/")
        assert "host_not_allowed" in proxy.curl(f"http://evil.example:{web.plain}/")
        assert "ip_not_allowed" in proxy.curl(f"http://169.254.169.254:{web.plain}/")
        assert "hello" in proxy.curl(f"http://web.example:{web.plain}/last")
    until(lambda: any("/last" in line for line in parent.lines()), "squid's log")
    assert not [line for line in parent.lines() if "near.example" in line or "evil" in line or "169.254" in line]


def test_wrong_credentials_are_said_and_not_shown(workspace: Path, web: Web, parent: Parent) -> None:
    with behind(workspace, web, parent, "gate:wr0ngpass@") as proxy:
        assert "502" in proxy.curl(f"https://web.example:{web.tls}/")
        answer = proxy.curl(f"http://web.example:{web.plain}/")
        assert "502" in answer
        assert "upstream_proxy_failed" in answer
        until(lambda: "upstream_proxy_failed" in proxy.log.read_text(), "the line")
        assert "wr0ngpass" not in proxy.log.read_text() + answer

"""How fast the egress is, side by side with Squid and tinyproxy: `python bench/egress.py [--rounds 3] [--seconds 3]`.

Loopback, the proxy pinned to one CPU, client and upstream (C, epoll: `egress_load.c`) to the other, rounds
interleaved, medians printed, and their ratios to Squid. Ours runs with policy, address check, SNI check, events and
counters on; the others with the nearest they have (Squid: lists by name, port and address, and its access log,
as ToolHive sets it up). Needs cc, squid and tinyproxy (Debian).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
NAME = "bench.test"
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Ports:
    """Where things listen."""

    echo: int
    bulk: int
    http: int


@dataclass
class Proxy:
    """A proxy under test."""

    name: str
    host: str
    """How the target is named to it."""
    start: Callable[[Path, Ports, int], list[str]]
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    results: dict[str, list[float]] = field(default_factory=dict)

    def pids(self) -> list[int]:
        """The process and its children."""
        assert self.process is not None
        found = [self.process.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return found

    def cpu_s(self) -> float:
        total = 0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def memory_kb(self) -> int:
        """Proportional set size."""
        return sum(
            int(line.split()[1])
            for pid in self.pids()
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            if line.startswith("Pss:")
        )

    def note(self, what: str, value: float) -> None:
        self.results.setdefault(what, []).append(value)

    def median(self, what: str) -> float | None:
        values = self.results.get(what)
        return statistics.median(values) if values else None


def free_port() -> int:
    """A free port below the ephemeral range, so that no connection of the bench takes it meanwhile."""
    for port in random.sample(range(10_000, 30_000), 100):
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            return port
    raise SystemExit("no free port")


def ours(directory: Path, ports: Ports, port: int) -> list[str]:
    policy = {"allowed_hosts": [f"{NAME}:{p}" for p in (ports.echo, ports.bulk, ports.http)]}
    (directory / "policy.json").write_text(json.dumps(policy))
    command = [sys.executable, "-m", "egress.serve", "--policy", str(directory / "policy.json")]
    command += ["--listen", f"127.0.0.1:{port}"]
    for target in (ports.echo, ports.bulk, ports.http):
        command += ["--resolve", f"{NAME}:{target}:127.0.0.1"]
    return command


def squid(directory: Path, ports: Ports, port: int) -> list[str]:
    (directory / "hosts").write_text(f"127.0.0.1 {NAME}\n")
    (directory / "squid.conf").write_text(f"""
http_port 127.0.0.1:{port}
hosts_file {directory}/hosts
acl allowed dstdomain {NAME}
acl good port {ports.echo} {ports.bulk} {ports.http}
acl CONNECT method CONNECT
acl inside dst 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 169.254.0.0/16 100.64.0.0/10 224.0.0.0/4 fc00::/7 fe80::/10
http_access deny !good
http_access deny inside
http_access allow allowed
http_access deny all
access_log stdio:{directory}/access.log squid
cache_store_log none
cache_log /dev/null
cache deny all
cache_mem 0 MB
maximum_object_size 0 KB
maximum_object_size_in_memory 0 KB
pid_filename {directory}/squid.pid
coredump_dir {directory}
netdb_filename none
pinger_enable off
via off
forwarded_for delete
max_filedescriptors 16384
shutdown_lifetime 0 seconds
""")
    os.chmod(directory, 0o777)
    return ["squid", "-N", "-f", str(directory / "squid.conf")]


def tinyproxy(directory: Path, ports: Ports, port: int) -> list[str]:
    (directory / "tinyproxy.conf").write_text(f"""
Port {port}
Listen 127.0.0.1
Timeout 600
MaxClients 4096
LogLevel Critical
LogFile "{directory}/tinyproxy.log"
PidFile "{directory}/tinyproxy.pid"
ConnectPort {ports.echo}
ConnectPort {ports.bulk}
""")
    return ["tinyproxy", "-d", "-c", str(directory / "tinyproxy.conf")]


def client_hello(name: str) -> bytes:
    """What OpenSSL sends first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def wait_for(port: int) -> None:
    for _ in range(200):
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"nothing listens on {port}")


@contextlib.contextmanager
def running(command: list[str], cpu: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        ["taskset", "-c", str(cpu), *command],
        stdout=subprocess.DEVNULL,
        cwd=HERE.parent,
        preexec_fn=raise_limit,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def raise_limit() -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(65536, hard), hard))


class Bench:
    """All measurements of one run."""

    def __init__(self, load: Path, directory: Path, ports: Ports, seconds: float) -> None:
        self.load = load
        self.directory = directory
        self.ports = ports
        self.seconds = seconds
        self.hello = directory / "hello"
        self.hello.write_bytes(client_hello(NAME))

    def head(self, host: str, kind: str) -> str:
        path = self.directory / f"{kind}-{host}"
        target = f"{host}:{getattr(self.ports, 'http' if kind == 'http' else kind)}"
        if kind == "http":
            path.write_text(
                f"GET http://{target}/x HTTP/1.1\r\nHost: {target}\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
            )
        else:
            path.write_text(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")
        return str(path)

    def run(self, *arguments: str) -> list[float]:
        done = subprocess.run(
            ["taskset", "-c", "1", str(self.load), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        return [float(word) for word in done.stdout.split()]

    def measure(self, proxy: Proxy, mode: str, kind: str, many: int) -> tuple[list[float], float]:
        cpu = proxy.cpu_s()
        numbers = self.run(
            mode, str(proxy.port), self.head(proxy.host, kind), str(self.hello), str(many), str(self.seconds)
        )
        if numbers[5] > max(3, numbers[0] / 100):
            print(f"  {proxy.name} {mode} {many}: {numbers[5]:.0f} errors", file=sys.stderr)
        return numbers, proxy.cpu_s() - cpu

    def round(self, proxy: Proxy) -> None:
        numbers, cpu = self.measure(proxy, "tunnels", "echo", 32)
        proxy.note("tunnels/s", numbers[0] / numbers[1])
        proxy.note("set-up p50 ms", numbers[3] / 1000)
        proxy.note("set-up p99 ms", numbers[4] / 1000)
        proxy.note("CPU us/tunnel", cpu / max(1, numbers[0]) * 1e6 * numbers[1] / (numbers[1] + 0.5))
        numbers, cpu = self.measure(proxy, "http", "http", 64)
        proxy.note("HTTP req/s", numbers[0] / numbers[1])
        proxy.note("HTTP p99 ms", numbers[4] / 1000)
        for many in (1, 32):
            numbers, cpu = self.measure(proxy, "bulk", "bulk", many)
            proxy.note(f"bulk {many} MB/s", numbers[2] / numbers[1] / 1e6)
            proxy.note(f"bulk {many} CPU s/GB", cpu / max(1.0, numbers[2] * (numbers[1] + 0.5) / numbers[1] / 1e9))

    def idle(self, proxy: Proxy, many: int = 1000) -> None:
        """Memory and CPU of tunnels in which nothing moves."""
        self.run("tunnels", str(proxy.port), self.head(proxy.host, "echo"), str(self.hello), "32", "1.1")
        time.sleep(1)
        before = proxy.memory_kb()
        command = [
            str(self.load),
            "idle",
            str(proxy.port),
            self.head(proxy.host, "echo"),
            str(self.hello),
            str(many),
            "0",
        ]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
            assert holder.stdout is not None
            holder.stdout.readline()
            time.sleep(1)
            proxy.note("kB/idle tunnel", (proxy.memory_kb() - before) / many)
            cpu = proxy.cpu_s()
            time.sleep(2)
            proxy.note("CPU % of idle", (proxy.cpu_s() - cpu) / 2 * 100)
            assert holder.stdin is not None
            holder.stdin.close()


BAR = {
    "tunnels/s": (1.1, "at least"),
    "set-up p99 ms": (1.0, "at most"),
    "HTTP req/s": (1.5, "at least"),
    "bulk 1 MB/s": (1.4, "at least"),
    "bulk 32 MB/s": (1.4, "at least"),
    "bulk 1 CPU s/GB": (0.6, "at most"),
    "bulk 32 CPU s/GB": (0.6, "at most"),
}


def show(proxies: list[Proxy]) -> int:
    """Print the table; the number of figures below the bar."""
    reference = next((proxy for proxy in proxies if proxy.name == "squid"), None)
    mine = proxies[0]
    print("| " + " | ".join(["median", *[p.name for p in proxies], "ours / squid", "bar"]) + " |")
    print("|" + " --- |" * (len(proxies) + 3))
    short = 0
    for what in mine.results:
        values = [proxy.median(what) for proxy in proxies]
        ratio = None
        if reference is not None and (theirs := reference.median(what)):
            ratio = (mine.median(what) or 0) / theirs
        verdict = ""
        if what in BAR and ratio is not None:
            bar, sense = BAR[what]
            good = ratio >= bar if sense == "at least" else ratio <= bar
            verdict = f"{sense} {bar}: {'yes' if good else 'NO'}"
            short += not good
        elif what == "kB/idle tunnel":
            good = (mine.median(what) or 0) <= 6
            verdict = f"at most 6: {'yes' if good else 'NO'}"
            short += not good
        cells = ["-" if value is None else f"{value:.2f}" if value < 100 else f"{value:.0f}" for value in values]
        print("| " + " | ".join([what, *cells, "" if ratio is None else f"{ratio:.2f}", verdict]) + " |")
    return short


def main() -> int:
    """Run everything; 1 when a figure is below the bar and --check was given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--only", help="comma-separated: ours,squid,tinyproxy")
    parser.add_argument("--check", action="store_true", help="fail when a figure is below the bar")
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else ["ours", "squid", "tinyproxy"]
    proxies = [Proxy("ours", NAME, ours)]
    proxies += [
        Proxy(n, h, s)
        for n, h, s in (("squid", NAME, squid), ("tinyproxy", "127.0.0.1", tinyproxy))
        if shutil.which(n)
    ]
    proxies = [proxy for proxy in proxies if proxy.name in wanted]
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        load = directory / "egress_load"
        subprocess.run(["cc", "-O2", "-o", str(load), str(HERE / "egress_load.c")], check=True)
        ports = Ports(free_port(), free_port(), free_port())
        stack.enter_context(running([str(load), "serve", str(ports.echo), str(ports.bulk), str(ports.http)], 1))
        wait_for(ports.http)
        for proxy in proxies:
            proxy.port = free_port()
            proxy.process = stack.enter_context(running(proxy.start(directory, ports, proxy.port), 0))
            wait_for(proxy.port)
        bench = Bench(load, directory, ports, options.seconds)
        for number in range(options.rounds):
            for proxy in proxies:
                print(f"round {number + 1}: {proxy.name}", file=sys.stderr)
                bench.round(proxy)
        for proxy in proxies:
            bench.idle(proxy)
        short = show(proxies)
    return 1 if short and options.check else 0


if __name__ == "__main__":
    sys.exit(main())

"""A real Prometheus (Debian's) against a real scrape target, for this package's tests and the story's."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "observability" / "prometheus" / "alerts.yml"
SCRAPE_FILE = ROOT / "observability" / "prometheus" / "prometheus.yml"
DASHBOARD = ROOT / "observability" / "dashboards" / "egress.json"
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def tool(name: str) -> str:
    """The path of `prometheus` or `promtool`. Never skips: a machine without it fails the test and is told why."""
    found = shutil.which(name)
    assert found, f"{name} is not installed: apt-get install --no-install-recommends prometheus (scripts/test does)"
    return found


def panel_queries() -> list[tuple[str, str]]:
    """(panel title, expression) of every query of the dashboard, with Grafana's variables filled in."""
    board = json.loads(DASHBOARD.read_text())
    return [
        (panel["title"], target["expr"].replace("$backend", ".*").replace("$__rate_interval", "1m"))
        for panel in board["panels"]
        for target in panel.get("targets", [])
    ]


class PrometheusServer:
    """A running Prometheus, asked over its HTTP API."""

    def __init__(self, url: str, directory: Path) -> None:
        self.url = url
        self.directory = directory

    def _get(self, path: str) -> bytes:
        with _OPENER.open(self.url + path, timeout=10) as answer:
            body: bytes = answer.read()
            return body

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The instant vector that the expression gives now."""
        answer = json.loads(self._get("/api/v1/query?" + urllib.parse.urlencode({"query": expr})))
        assert answer["status"] == "success", answer
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def value(self, expr: str) -> float | None:
        """The first sample's value, None when there is none."""
        result = self.query(expr)
        return float(result[0]["value"][1]) if result else None

    def firing(self) -> set[tuple[str, str]]:
        """(alert, backend) of all that fire now."""
        alerts = json.loads(self._get("/api/v1/alerts"))["data"]["alerts"]
        return {
            (alert["labels"]["alertname"], alert["labels"].get("backend", ""))
            for alert in alerts
            if alert["state"] == "firing"
        }

    def ready(self) -> bool:
        try:
            return b"Ready" in self._get("/-/ready")
        except OSError:
            return False

    def until(self, condition: Callable[[], bool], *, what: str, timeout_s: float = 60) -> None:
        """Asks again until the condition holds; fails with `what` and the server's log after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"{what}\n{(self.directory / 'log').read_text()[-3000:]}"
            time.sleep(0.1)


@contextmanager
def running_prometheus(target: str, directory: Path, *, interval: str = "1s") -> Iterator[PrometheusServer]:
    """Starts Prometheus with our alerts (a copy without their `for:`), scraping `http://TARGET/metrics`."""
    program, port = tool("prometheus"), _free_port()
    (directory / "alerts.yml").write_text(re.sub(r"(?m)^ +for: .*\n", "", ALERTS.read_text()))
    scraped = SCRAPE_FILE.read_text().replace("127.0.0.1:8421", target).replace("15s", interval)
    (directory / "prometheus.yml").write_text(scraped)
    arguments = [
        f"--config.file={directory}/prometheus.yml",
        f"--storage.tsdb.path={directory}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([program, *arguments], stdout=log, stderr=log, cwd=directory)
    try:
        server = PrometheusServer(f"http://127.0.0.1:{port}", directory)
        server.until(server.ready, what="prometheus did not start")
        yield server
    finally:
        process.terminate()
        process.wait(timeout=20)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port

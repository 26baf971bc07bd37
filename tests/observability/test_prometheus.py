"""The dashboard and the alerts, on a real Prometheus that scrapes a real listener."""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from observability.dashboards import build
from observability.exposition import ScrapeListener
from observability.hub import Hub
from observability.instruments import Instruments
from observability.metrics import series_names
from tests.observability.load import Load
from tests.observability.prometheus import (
    ALERTS,
    DASHBOARD,
    SCRAPE_FILE,
    PrometheusServer,
    panel_queries,
    running_prometheus,
    tool,
)

HERE = Path(__file__).parent


def alert_rules() -> list[dict[str, str]]:
    document = YAML(typ="safe").load(ALERTS.read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def load() -> Load:
    hub, instruments = Hub(), Instruments()
    hub.attach(instruments.on_sequenced)
    return Load(hub, instruments)


@pytest.fixture(scope="module")
def prometheus(load: Load, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusServer]:
    listener = ScrapeListener(load.instruments.expose, host="127.0.0.1", port=0)
    with running_prometheus(f"127.0.0.1:{listener.port}", tmp_path_factory.mktemp("prometheus")) as server:
        server.until(lambda: server.value("stockade_config_reload_success") == 1, what="nothing was scraped")
        yield server
    listener.close()


def test_the_committed_dashboard_is_what_the_script_builds() -> None:
    assert DASHBOARD.read_text() == build.build(), "run: python -m observability.dashboards.build"


def test_promtool_accepts_configuration_and_rules() -> None:
    run(tool("promtool"), "check", "config", str(SCRAPE_FILE))
    run(tool("promtool"), "check", "rules", str(ALERTS))


def test_every_alert_fires_when_it_should_and_not_before(tmp_path: Path) -> None:
    tests = (HERE / "alerts_test.yml").read_text()
    for rule in alert_rules():
        assert f"alertname: {rule['alert']}\n" in tests
    (tmp_path / "tests.yml").write_text(tests.replace("ALERTS_FILE", str(ALERTS)))
    run(tool("promtool"), "test", "rules", str(tmp_path / "tests.yml"))


@pytest.mark.parametrize("expr", [rule["expr"] for rule in alert_rules()] + [expr for _, expr in panel_queries()])
def test_every_metric_in_an_expression_is_one_we_emit(expr: str) -> None:
    named = set(re.findall(r"\b(?:stockade|mcp)_[a-z_]+", re.sub(r"\{[^}]*\}|\bby \([^)]*\)", "", expr)))
    assert named <= set(series_names())
    assert named or expr.startswith("up{")  # Prometheus' own


def test_every_panel_answers(load: Load, prometheus: PrometheusServer) -> None:
    unanswered = panel_queries()
    assert len(unanswered) >= 20

    def answered() -> bool:
        load.round()
        for query in list(unanswered):
            if any(not math.isnan(float(sample["value"][1])) for sample in prometheus.query(query[1])):
                unanswered.remove(query)
        return not unanswered

    try:
        prometheus.until(answered, what="a panel stays empty")
    finally:
        assert not unanswered


def test_the_rule_that_nothing_used_is_the_one_named(load: Load, prometheus: PrometheusServer) -> None:
    (expr,) = [expr for title, expr in panel_queries() if "never used" in title]

    def unused() -> set[tuple[str, str]]:
        return {(sample["metric"]["backend"], sample["metric"]["rule"]) for sample in prometheus.query(expr)}

    def only_the_others() -> bool:
        load.round()
        return unused() == {("fetch", ".githubusercontent.com"), ("time", "never.example")}

    prometheus.until(only_the_others, what="unused rules")
    load.once(".githubusercontent.com", port=8443)
    prometheus.until(lambda: unused() == {("time", "never.example")}, what="a rule used once stays unused")


def test_a_burst_of_denials_fires_its_alert_for_that_backend_alone(load: Load, prometheus: PrometheusServer) -> None:
    assert ("StockadeDenyBurst", "time") not in prometheus.firing()

    load.deny_burst("time")

    prometheus.until(lambda: ("StockadeDenyBurst", "time") in prometheus.firing(), what="the alert did not fire")
    assert ("StockadeFirstDenial", "time") in prometheus.firing()

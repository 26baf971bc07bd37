"""docs/observability.md has a heading for every metric, alert and environment variable."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from observability.metrics import DEFINITIONS, Definition, Kind
from tests.observability.prometheus import ALERTS, ROOT

PAGE = (ROOT / "docs" / "observability.md").read_text()
HEADINGS = set(re.findall(r"(?m)^### (\S+)$", PAGE))
VARIABLES = """
    OTEL_SDK_DISABLED OTEL_SERVICE_NAME OTEL_RESOURCE_ATTRIBUTES OTEL_TRACES_EXPORTER OTEL_METRICS_EXPORTER
    OTEL_LOGS_EXPORTER OTEL_EXPORTER_OTLP_ENDPOINT OTEL_EXPORTER_OTLP_PROTOCOL OTEL_EXPORTER_OTLP_HEADERS
    OTEL_EXPORTER_OTLP_TIMEOUT OTEL_EXPORTER_OTLP_COMPRESSION OTEL_EXPORTER_OTLP_CERTIFICATE
    OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE OTEL_EXPORTER_OTLP_CLIENT_KEY OTEL_EXPORTER_PROMETHEUS_HOST
    OTEL_EXPORTER_PROMETHEUS_PORT OTEL_TRACES_SAMPLER OTEL_TRACES_SAMPLER_ARG OTEL_PROPAGATORS
    OTEL_METRIC_EXPORT_INTERVAL OTEL_METRIC_EXPORT_TIMEOUT OTEL_BSP_SCHEDULE_DELAY OTEL_BSP_EXPORT_TIMEOUT
    OTEL_BSP_MAX_QUEUE_SIZE OTEL_BSP_MAX_EXPORT_BATCH_SIZE OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT
""".split()


def metric_headings() -> list[str]:
    totals = {Kind.COUNTER: "_total"}
    names = [definition.prometheus_name + totals.get(definition.kind, "") for definition in DEFINITIONS]
    return [*names, "target_info"]


def alert_names() -> list[str]:
    return re.findall(r"alert: (\w+)", ALERTS.read_text())


@pytest.mark.parametrize("name", [*metric_headings(), *alert_names(), *VARIABLES])
def test_it_has_a_heading(name: str) -> None:
    assert name in HEADINGS


def test_no_heading_is_of_something_that_is_gone() -> None:
    assert {*metric_headings(), *alert_names(), *VARIABLES} == HEADINGS


def test_every_variable_the_source_names_is_documented() -> None:
    source = "".join(path.read_text() for path in Path(ROOT, "observability").glob("*.py"))
    named = set(re.findall(r"OTEL_[A-Z_]+[A-Z]\b", source)) - {"OTEL_EXPORTER_OTLP", "OTEL_EXPORTER_PROMETHEUS"}

    assert named <= HEADINGS


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda definition: definition.name)
def test_the_page_names_each_label(definition: Definition) -> None:
    section = PAGE.split(f"### {definition.prometheus_name}")[1].split("\n### ")[0]
    for label in definition.prometheus_labels:
        assert f"`{label}`" in section

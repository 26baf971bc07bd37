"""Builds `egress.json`, the Grafana dashboard: `python -m observability.dashboards.build`.

The JSON is committed, and a test builds it again and compares, so edit this file and not that one. Needs
`grafana-foundation-sdk`, a development dependency.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final, TypeAlias

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import BigValueColorMode, StackingMode, VizOrientation
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

OUTPUT: Final = Path(__file__).with_name("egress.json")
SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")

_B: Final = 'backend=~"$backend"'
_CONNECTIONS: Final = "stockade_egress_connections_total"
_IO: Final = "stockade_egress_io_bytes_total"
_CALLS: Final = "mcp_server_operation_duration_seconds"
_COLORS: Final = {"allow": "green", "deny": "red", "report": "orange"}

Panel: TypeAlias = stat.Panel | timeseries.Panel | bargauge.Panel | table.Panel


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One expression of a panel and how its series are called."""

    expr: str
    legend: str = ""
    instant: bool = False

    def target(self, ref: str) -> prometheus.Dataquery:
        query = prometheus.Dataquery().expr(self.expr).ref_id(ref).datasource(SOURCE)
        if self.legend:
            query = query.legend_format(self.legend)
        return query.instant().format(PromQueryFormat.TABLE) if self.instant else query.range()


def build() -> str:
    """The dashboard as the text of `egress.json`."""
    board = (
        dashboard.Dashboard("Stockade: egress")
        .uid("stockade-egress")
        .description("What MCP servers tried to reach, what the policy said, and how the gateway is doing.")
        .tags(["stockade", "mcp", "egress"])
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .refresh("30s")
        .time("now-6h", "now")
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_backend_variable())
    )
    sections: dict[str, Sequence[Panel]] = {
        "Now": _now(),
        "Egress": _egress(),
        "Tools": _tools(),
        "Health": _health(),
    }
    numbers = count(1)
    for title, panels in sections.items():
        board = board.with_row(dashboard.Row(title).id(next(numbers)))
        for panel in panels:
            board = board.with_panel(panel.datasource(SOURCE).id(next(numbers)))
    return json.dumps(board.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _backend_variable() -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable("backend")
        .label("Backend")
        .datasource(SOURCE)
        .query("label_values(stockade_backend_up, backend)")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def _now() -> list[Panel]:
    denied = f'sum(rate({_CONNECTIONS}{{decision="deny",{_B}}}[5m]))'
    return [
        _stat("Denied per second", denied, "cps", warn=0.05, bad=1),
        _stat("Deny share", f"{denied} / sum(rate({_CONNECTIONS}{{{_B}}}[5m]))", "percentunit", warn=0.05, bad=0.5),
        _stat("Open tunnels", f"sum(stockade_egress_connection_active{{{_B}}})", "short"),
        _stat("Backends up", f"sum(stockade_backend_up{{{_B}}})", "short"),
        _stat("Events dropped (1 h)", "sum(increase(stockade_events_dropped_total[1h]))", "short", warn=1, bad=1),
        _stat("Configuration in force", "min(stockade_config_reload_success)", "bool_yes_no", good_from=1),
    ]


def _egress() -> list[Panel]:
    decisions = Query(
        expr=f"sum by (decision) (rate({_CONNECTIONS}{{{_B}}}[$__rate_interval]))", legend="{{decision}}"
    )
    reasons = Query(
        expr=f'topk(10, sum by (backend, reason) (increase({_CONNECTIONS}{{decision="deny",{_B}}}[1h])) > 0)',
        legend="{{backend}}: {{reason}}",
    )
    backends = Query(
        expr=f"topk(10, sum by (backend) (increase({_CONNECTIONS}{{{_B}}}[1h])) > 0)", legend="{{backend}}"
    )
    tunnels = Query(expr=f"sum by (backend) (stockade_egress_connection_active{{{_B}}})", legend="{{backend}}")
    return [
        _colored(_series("Decisions over time", "cps", decisions, stacked=True)),
        _series("Bytes out (the exfiltration eye)", "Bps", _bytes("transmit")),
        _bars("Denials by backend and reason (1 h)", reasons),
        _bars("Busiest backends (1 h)", backends),
        _series("Open tunnels", "short", tunnels, stacked=True),
        _series("Bytes in", "Bps", _bytes("receive")),
        _unused_rules(),
        _series(
            "Connection and lookup time, p95",
            "s",
            _p95("stockade_egress_connection_duration_seconds", "backend", "{{backend}} connection"),
            _p95("stockade_egress_dns_duration_seconds", "backend", "{{backend}} lookup"),
        ),
    ]


def _bytes(direction: str) -> Query:
    selector = f'{_IO}{{network_io_direction="{direction}",{_B}}}'
    return Query(expr=f"sum by (backend) (rate({selector}[5m]))", legend="{{backend}}")


def _p95(metric: str, label: str, legend: str) -> Query:
    buckets = f"sum by (le, {label}) (rate({metric}_bucket{{{_B}}}[5m]))"
    return Query(expr=f"histogram_quantile(0.95, {buckets})", legend=legend)


def _tools() -> list[Panel]:
    calls = f'{_CALLS}_count{{mcp_method_name="tools/call",{_B}}}'
    rate = Query(expr=f"sum by (gen_ai_tool_name) (rate({calls}[5m]))", legend="{{gen_ai_tool_name}}")
    failed = f'sum by (backend) (rate({_CALLS}_count{{error_type!="",{_B}}}[5m]))'
    share = Query(expr=f"{failed} / sum by (backend) (rate({_CALLS}_count{{{_B}}}[5m]))", legend="{{backend}}")
    refused = Query(
        expr=f"sum by (backend, client) (increase(stockade_tools_filtered_total{{{_B}}}[1h]))",
        legend="{{client}} → {{backend}}",
    )
    return [
        _series("Tool calls", "cps", rate),
        _series("Tool call time, p95", "s", _p95(_CALLS, "gen_ai_tool_name", "{{gen_ai_tool_name}}")),
        _series("Error share", "percentunit", share),
        _series("Calls refused by tool filters (1 h)", "short", refused),
    ]


def _health() -> list[Panel]:
    up = Query(expr=f"stockade_backend_up{{{_B}}}", legend="{{backend}}")
    restarts = Query(
        expr=f"sum by (backend) (increase(stockade_backend_restarts_total{{{_B}}}[1h]))", legend="{{backend}}"
    )
    dropped = Query(expr="sum by (source) (rate(stockade_events_dropped_total[5m]))", legend="{{source}}")
    backend_time = _p95("mcp_client_operation_duration_seconds", "backend", "{{backend}}")
    sessions = Query(
        expr="sum by (client) (increase(mcp_server_session_duration_seconds_count[1h]))", legend="{{client}}"
    )
    return [
        _series("Backends up", "bool_on_off", up),
        _series("Restarts (1 h)", "short", restarts),
        _series("Events dropped", "cps", dropped),
        _series("Backend answer time, p95", "s", backend_time),
        _series("Sessions ended (1 h)", "short", sessions),
    ]


def _stat(
    title: str,
    expr: str,
    unit: str,
    *,
    warn: float | None = None,
    bad: float | None = None,
    good_from: float | None = None,
) -> stat.Panel:
    panel = stat.Panel().title(title).unit(unit).height(4).span(4).with_target(Query(expr=expr).target("A"))
    steps: list[tuple[float | None, str]] = [(None, "green")]
    if warn is not None and bad is not None:
        steps += [(warn, "orange"), (bad, "red")]
    if good_from is not None:
        steps = [(None, "red"), (good_from, "green")]
    return (
        panel.thresholds(_thresholds(steps))
        .color_mode(BigValueColorMode.VALUE)
        .no_value("0")
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )


def _thresholds(steps: list[tuple[float | None, str]]) -> dashboard.ThresholdsConfig:
    config = dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE)
    return config.steps([Threshold(value=value, color=color) for value, color in steps])


def _series(title: str, unit: str, *queries: Query, stacked: bool = False) -> timeseries.Panel:
    panel = timeseries.Panel().title(title).unit(unit).min(0).height(8).span(12).fill_opacity(20 if stacked else 5)
    for ref, query in zip("ABC", queries, strict=False):
        panel = panel.with_target(query.target(ref))
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    return panel


def _colored(panel: timeseries.Panel) -> timeseries.Panel:
    """Each decision in its own colour."""
    for decision, color in _COLORS.items():
        fixed = DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": color})
        panel = panel.override_by_name(decision, [fixed])
    return panel


def _bars(title: str, query: Query) -> bargauge.Panel:
    panel = bargauge.Panel().title(title).unit("short").min(0).decimals(0).height(8).span(12)
    return panel.orientation(VizOrientation.HORIZONTAL).with_target(query.target("A"))


def _unused_rules() -> table.Panel:
    # Used: it rose within 7 days, or it is above 0 and began within them (`increase` cannot see a first sample).
    carried = f'{_CONNECTIONS}{{decision="allow",{_B}}}'
    used = f"increase({carried}[7d]) > 0 or ({carried} > 0 unless {carried} offset 7d)"
    expr = f"stockade_egress_rule_info{{{_B}}} unless on (backend, rule) ({used})"
    hidden = {"Time": True, "Value": True, "__name__": True, "instance": True, "job": True}
    tidy = DataTransformerConfig(id_val="organize", options={"excludeByName": hidden})
    return (
        table.Panel()
        .title("Allowed rules never used in 7 days (the policy is wider than it need be)")
        .height(8)
        .span(12)
        .with_target(Query(expr=expr, instant=True).target("A"))
        .with_transformation(tidy)
    )


if __name__ == "__main__":
    OUTPUT.write_text(build(), encoding="utf-8")

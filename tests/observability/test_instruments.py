"""Events become numbers, and no text that anybody outside chose becomes a label."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from observability import metrics
from observability.events import (
    BackendEvent,
    BackendState,
    Decision,
    EgressEvent,
    NoticeEvent,
    Phase,
    Reason,
    Severity,
    ToolChange,
    ToolEvent,
    Via,
)
from observability.instruments import Instruments
from tests.observability.samples import allowed, called, closed, decided, moved


@pytest.fixture
def instruments() -> Instruments:
    return known(Instruments())


def known(instruments: Instruments) -> Instruments:
    instruments.known(
        backends=["fetch", "time"],
        rules={"fetch": ["api.github.com"]},
        clients=["cursor"],
        ports={"fetch": [443]},
        tools={"fetch": ["fetch"]},
    )
    return instruments


def sample(instruments: Instruments, name: str, **labels: str) -> float:
    """The sum of the samples with these labels, as a scraper reads them."""
    families = text_string_to_metric_families(instruments.expose().decode())
    return sum(
        found.value
        for family in families
        for found in family.samples
        if found.name == name and labels.items() <= found.labels.items()
    )


def test_names_and_labels_are_those_of_the_documentation() -> None:
    names = {definition.prometheus_name: definition.prometheus_labels for definition in metrics.DEFINITIONS}

    assert names == {
        "mcp_server_operation_duration_seconds": (
            "mcp_method_name",
            "gen_ai_tool_name",
            "error_type",
            "network_transport",
            "backend",
            "client",
        ),
        "mcp_client_operation_duration_seconds": ("mcp_method_name", "error_type", "network_transport", "backend"),
        "mcp_server_session_duration_seconds": ("mcp_protocol_version", "client"),
        "stockade_egress_connections": ("backend", "decision", "rule", "reason", "server_port"),
        "stockade_egress_connection_active": ("backend",),
        "stockade_egress_connection_duration_seconds": ("backend",),
        "stockade_egress_dns_duration_seconds": ("backend",),
        "stockade_egress_io_bytes": ("backend", "network_io_direction"),
        "stockade_egress_rule_info": ("backend", "rule"),
        "stockade_tools_filtered": ("backend", "client"),
        "stockade_backend_up": ("backend",),
        "stockade_backend_restarts": ("backend",),
        "stockade_config_reload_success": (),
        "stockade_events_dropped": ("source",),
    }


def test_every_sample_exposed_is_a_documented_series(instruments: Instruments) -> None:
    instruments.on_event(allowed())
    instruments.on_event(closed())
    observe(instruments)
    names = {
        found.name
        for family in text_string_to_metric_families(instruments.expose().decode())
        for found in family.samples
    }

    assert names <= set(metrics.series_names())


def observe(instruments: Instruments, **changes: Any) -> None:
    values: dict[str, Any] = {
        "method": "tools/call",
        "tool": "fetch",
        "backend": "fetch",
        "client": "cursor",
        "error": "",
        "duration_s": 0.07,
        "transport": "tcp",
    }
    instruments.observe_call(**(values | changes))


def test_a_denial_counts_with_its_reason(instruments: Instruments) -> None:
    instruments.on_event(decided())
    instruments.on_event(decided(2))

    labels = {"backend": "fetch", "decision": "deny", "rule": "", "reason": "host_not_allowed", "server_port": "443"}
    assert sample(instruments, "stockade_egress_connections_total", **labels) == 2
    assert sample(instruments, "stockade_egress_connection_active") == 0


def test_a_carried_connection_counts_once_and_is_active_until_it_closes(instruments: Instruments) -> None:
    instruments.on_event(allowed())
    assert sample(instruments, "stockade_egress_connection_active", backend="fetch") == 1

    instruments.on_event(closed())

    assert sample(instruments, "stockade_egress_connection_active", backend="fetch") == 0
    assert sample(instruments, "stockade_egress_connections_total", decision="allow", rule="api.github.com") == 1
    assert sample(instruments, "stockade_egress_connections_total") == 1
    assert sample(instruments, "stockade_egress_io_bytes_total", network_io_direction="transmit") == 500
    assert sample(instruments, "stockade_egress_io_bytes_total", network_io_direction="receive") == 9000
    assert sample(instruments, "stockade_egress_connection_duration_seconds_bucket", le="2.0") == 1
    assert sample(instruments, "stockade_egress_dns_duration_seconds_count", backend="fetch") == 1


def test_a_long_connection_is_counted_while_it_runs_and_each_byte_once(instruments: Instruments) -> None:
    def sent() -> float:
        return sample(instruments, "stockade_egress_io_bytes_total", network_io_direction="transmit")

    instruments.on_event(allowed())
    instruments.on_event(moved())
    assert sent() == 400
    instruments.on_event(moved(bytes_sent=450, told_sent=400, told_received=8000))
    assert sent() == 450
    assert sample(instruments, "stockade_egress_connection_active", backend="fetch") == 1
    instruments.on_event(closed(told_sent=450, told_received=8000))
    assert sent() == 500
    assert sample(instruments, "stockade_egress_io_bytes_total", network_io_direction="receive") == 9000
    assert sample(instruments, "stockade_egress_connections_total") == 1


@pytest.mark.parametrize("decision", [Decision.DENY, Decision.ALLOW])
def test_a_tunnel_cut_for_its_sni_counts_as_a_denial_too(instruments: Instruments, decision: Decision) -> None:
    instruments.on_event(allowed())
    instruments.on_event(closed(decision=decision, reason=Reason.SNI_MISMATCH))

    assert sample(instruments, "stockade_egress_connections_total", decision="deny", reason="sni_mismatch") == 1


def test_a_reported_connection_is_no_denial_unless_it_is_cut(instruments: Instruments) -> None:
    report: dict[str, Any] = {"decision": Decision.REPORT, "reason": Reason.SNI_MISMATCH}
    for connection, end in enumerate((None, Reason.SNI_MISMATCH, Reason.POLICY_REVOKED)):
        instruments.on_event(allowed(connection, **report))
        instruments.on_event(closed(connection, **report | {"reason": end}))

    assert sample(instruments, "stockade_egress_connections_total", decision="report") == 3
    assert sample(instruments, "stockade_egress_connections_total", decision="deny") == 1


def test_a_tunnel_that_failed_to_connect_is_no_denial(instruments: Instruments) -> None:
    instruments.on_event(allowed())
    instruments.on_event(closed(reason=Reason.CONNECT_FAILED))

    assert sample(instruments, "stockade_egress_connections_total", decision="deny") == 0


def test_attempts_the_kernel_refused_count_with_their_number(instruments: Instruments) -> None:
    instruments.on_event(decided(phase=Phase.COUNTED, via=Via.DIRECT, reason=Reason.DIRECT_ATTEMPT, count=12))

    assert sample(instruments, "stockade_egress_connections_total", reason="direct_attempt") == 12


def test_a_lookup_alone_is_no_connection(instruments: Instruments) -> None:
    before = instruments.expose()
    instruments.on_event(decided(via=Via.DNS, method="A", reason=Reason.DIRECT_ATTEMPT))

    assert instruments.expose() == before


def test_nothing_stays_active_when_the_egress_starts_anew(instruments: Instruments) -> None:
    instruments.on_event(allowed(1))
    instruments.on_event(allowed(2))
    instruments.on_event(decided(1, epoch="e2"))
    assert sample(instruments, "stockade_egress_connection_active") == 0

    instruments.on_event(closed(1))

    assert sample(instruments, "stockade_egress_connection_active") == 0


@pytest.mark.parametrize(
    ("changes", "label", "value"),
    [
        pytest.param({"tool": "rm -rf"}, "gen_ai_tool_name", "_other", id="a tool no backend has"),
        pytest.param({"tool": ""}, "gen_ai_tool_name", "", id="no tool"),
        pytest.param({"method": "x/y"}, "mcp_method_name", "_other", id="an unknown method"),
        pytest.param({"method": "tools/list"}, "mcp_method_name", "tools/list", id="a method"),
        pytest.param({"backend": "evil"}, "backend", "_other", id="an unknown backend"),
        pytest.param({"client": "evil"}, "client", "_other", id="an unknown client"),
        pytest.param({"client": "anonymous"}, "client", "anonymous", id="the anonymous client"),
        pytest.param({"error": "tool_error"}, "error_type", "tool_error", id="a word of ours"),
        pytest.param({"error": "-32602"}, "error_type", "-32602", id="a JSON-RPC code"),
        pytest.param({"error": "-31337"}, "error_type", "_other", id="a code a backend made up"),
        pytest.param({"error": "x" * 41}, "error_type", "_other", id="a long word"),
        pytest.param({"transport": "carrier pigeon"}, "network_transport", "_other", id="an unknown transport"),
    ],
)
def test_call_labels_are_bounded(instruments: Instruments, changes: dict[str, str], label: str, value: str) -> None:
    observe(instruments, **changes)

    assert sample(instruments, "mcp_server_operation_duration_seconds_count", **{label: value}) == 1


@given(host=st.text(), rule=st.text(min_size=1), port=st.integers(1, 65535), backend=st.text(min_size=1))
def test_what_an_attacker_names_never_becomes_a_label(host: str, rule: str, port: int, backend: str) -> None:
    instruments = known(Instruments())
    before = instruments.expose().count(b"\n")
    for number in range(3):
        instruments.on_event(decided(number + 1, host=host + "x", rule=rule, rule_port=port, backend=backend))

    assert instruments.expose().count(b"\n") <= before + 4


def test_ports_of_a_wide_range_are_bounded_in_number() -> None:
    instruments = Instruments()
    instruments.known(backends=["fetch"], rules={}, clients=[], ports={"fetch": range(1, 65536)})
    for port in range(1, 200):
        instruments.on_event(decided(port, rule_port=port))

    assert sample(instruments, "stockade_egress_connections_total", server_port="other") == 199 - 32


def test_error_words_are_bounded_in_number(instruments: Instruments) -> None:
    for number in range(500):
        observe(instruments, error=f"word_{number}")

    assert sample(instruments, "mcp_server_operation_duration_seconds_count", error_type="_other") == 500 - 64


def test_a_metric_never_has_more_series_than_its_limit() -> None:
    family = metrics.Family(metrics.RULE_INFO, limit=10)
    histogram = metrics.HistogramFamily(metrics.DNS_DURATION, limit=10)
    for number in range(50):
        family.add(("b", str(number)))
        histogram.observe((str(number),), 0.1)

    assert len(family.items()) == 11
    assert family.get(("_other", "_other")) == 40
    assert len(histogram.items()) == 11


def test_rules_are_shown_and_forgotten_with_their_backend(instruments: Instruments) -> None:
    instruments.on_event(allowed())
    assert sample(instruments, "stockade_egress_rule_info", backend="fetch", rule="api.github.com") == 1

    instruments.known(backends=["time"], rules={"time": ["a.example"]}, clients=["cursor"])

    assert b'"fetch"' not in instruments.expose()
    assert sample(instruments, "stockade_egress_rule_info") == 1


@pytest.mark.parametrize("name", ["\ud800", "a\nb", "x" * 129], ids=ascii)
def test_a_tool_s_name_that_no_label_can_carry_does_not_break_the_scrape(instruments: Instruments, name: str) -> None:
    instruments.known_tools("time", [name])
    observe(instruments, backend="time", tool=name)

    assert sample(instruments, "mcp_server_operation_duration_seconds_count", gen_ai_tool_name="_other") == 1


def test_tools_said_earlier_stay_known_over_a_reload(instruments: Instruments) -> None:
    instruments.known_tools("time", ["now"])
    instruments.known_tools("nobody", ["now"])
    instruments.known(backends=["time"], rules={}, clients=["cursor"])
    observe(instruments, backend="time", tool="now")

    assert sample(instruments, "mcp_server_operation_duration_seconds_count", gen_ai_tool_name="now") == 1


def states(*words: BackendState) -> list[BackendEvent]:
    return [BackendEvent(time=1.0, backend="time", state=word) for word in words]


_S = BackendState


@pytest.mark.parametrize(
    ("course", "up", "restarts"),
    [
        pytest.param([_S.BUILDING, _S.STARTING, _S.RUNNING], 1, 0, id="first start"),
        pytest.param([_S.STARTING, _S.RUNNING, _S.BACKOFF, _S.STARTING, _S.RUNNING], 1, 1, id="crash"),
        pytest.param([_S.STARTING, _S.BACKOFF, _S.STARTING, _S.BACKOFF], 0, 1, id="never comes up"),
        pytest.param([_S.RUNNING, _S.STOPPING, _S.STARTING, _S.RUNNING], 1, 1, id="restart by hand"),
        pytest.param([_S.RUNNING, _S.STOPPING, _S.STOPPED, _S.STARTING, _S.RUNNING], 1, 0, id="stopped on purpose"),
        pytest.param([_S.REMOTE], 1, 0, id="remote"),
        pytest.param([_S.FAILED, _S.BUILDING, _S.STARTING], 0, 1, id="build failed"),
    ],
)
def test_backend_states_become_up_and_restarts(
    instruments: Instruments, course: list[BackendState], up: int, restarts: int
) -> None:
    for event in states(*course):
        instruments.on_event(event)

    assert sample(instruments, "stockade_backend_up", backend="time") == up
    assert sample(instruments, "stockade_backend_restarts_total", backend="time") == restarts


def notice(code: str, **changes: Any) -> NoticeEvent:
    return NoticeEvent(**({"time": 1.0, "source": "config", "code": code, "severity": Severity.INFO} | changes))


def test_reloads_and_drops_are_told_by_notices(instruments: Instruments) -> None:
    assert sample(instruments, "stockade_config_reload_success") == 1
    instruments.on_event(notice("config_rejected"))
    assert sample(instruments, "stockade_config_reload_success") == 0
    instruments.on_event(notice("config_reloaded"))
    instruments.on_event(notice("events_dropped", source="egress", count=3))
    instruments.on_event(notice("events_dropped", source="nowhere"))
    instruments.on_event(notice("anything_else"))

    assert sample(instruments, "stockade_config_reload_success") == 1
    assert sample(instruments, "stockade_events_dropped_total", source="egress") == 3
    assert sample(instruments, "stockade_events_dropped_total", source="_other") == 1


def test_only_refused_calls_count_as_filtered(instruments: Instruments) -> None:
    for change in ToolChange:
        instruments.on_event(ToolEvent(time=1.0, backend="fetch", tool="t", change=change, client="cursor"))

    assert sample(instruments, "stockade_tools_filtered_total", backend="fetch", client="cursor") == 1


def test_calls_are_counted_by_the_endpoint_and_not_from_their_events(instruments: Instruments) -> None:
    instruments.on_event(called())
    assert sample(instruments, "mcp_server_operation_duration_seconds_count") == 0

    instruments.observe_client_call(method="tools/call", backend="fetch", error="", duration_s=0.05, transport="pipe")
    instruments.session_closed(client="cursor", protocol_version="2025-06-18", duration_s=70.0)
    instruments.session_closed(client="cursor", protocol_version="1970-01-01", duration_s=70.0)

    assert sample(instruments, "mcp_client_operation_duration_seconds_bucket", le="0.05") == 1
    assert sample(instruments, "mcp_client_operation_duration_seconds_bucket", le="0.02") == 0
    assert sample(instruments, "mcp_server_session_duration_seconds_count", mcp_protocol_version="_other") == 1


def test_target_info_carries_the_resource() -> None:
    instruments = Instruments(resource={"service.name": "mine", "deployment.environment.name": 'a"b\n'})

    assert sample(instruments, "target_info", service_name="mine", deployment_environment_name='a"b\n') == 1


def test_series_begin_at_zero_so_that_the_first_denial_is_an_increase(instruments: Instruments) -> None:
    text = instruments.expose().decode()

    assert (
        'stockade_egress_connections_total{backend="time",decision="deny",reason="host_not_allowed",rule="",'
        'server_port="other"} 0.0'
    ) in text
    assert 'rule="api.github.com",server_port="443"} 0.0' in text


def test_every_event_kind_is_taken(instruments: Instruments) -> None:
    event: EgressEvent = decided(reason=None, decision=Decision.REPORT)
    instruments.on_event(event)

    assert sample(instruments, "stockade_egress_connections_total", decision="report") == 1

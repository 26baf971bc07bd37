"""The commands against a real API server on a real control socket, through typer's runner."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.detached import told_of
from gateway.cli.failure import Failure
from gateway.control.keep_blocked import Place
from gateway.mcp.view.pinned_text import Difference
from gateway.runtime.supervise.status import BackendStatus
from observability.events import BackendState, CallRef, Decision, EgressEvent, Phase, Reason, Via
from registry.load import load_config
from tests.gateway.control.fakes import CONFIG, Running, egress_event

HOSTILE = "evil\x1b[2J\r\u202e[red]x.example"


def test_ps_shows_states_isolation_warnings_and_overrides(stockade: Any, running: Running) -> None:
    result = stockade("ps")
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0].startswith("http://127.0.0.1:8420/mcp")
    assert lines[1].split() == ["NAME", "STATE", "ISOLATED", "TRANSPORT", "RESTARTS", "SINCE", "DETAIL"]
    assert lines[2].split()[:4] == ["fetch", "running", "yes", "stdio"]
    assert lines[3].split()[:3] == ["open", "failed", "NO"]
    assert "! open: Not isolated." in lines
    assert "! The probe was not run." in lines
    assert [line for line in lines if "10.0.0.9" in line] == [
        "! Trust override (egress.resolve): api.github.com:443 is always reached at 10.0.0.9, without a lookup and "
        "without the address check."
    ]


def seen(state: BackendState, **more: Any) -> BackendStatus:
    common: dict[str, Any] = {"transport": "stdio", "image": "i", "containers": (), "restarts": 0, "isolated": True}
    return BackendStatus(**{"name": "clock", "state": state, "detail": "", "since": 1.0, **common, **more})


@pytest.mark.parametrize(
    ("status", "state", "detail"),
    [
        pytest.param(
            seen(BackendState.BACKOFF, detail="It crashed.", restarts=2, ended=time.time() - 7500),
            "restarting",
            "exited 2h ago, see below",
            id="a crash loop",
        ),
        pytest.param(seen(BackendState.FAILED, detail="No image."), "failed", "see below", id="failed"),
        pytest.param(
            seen(BackendState.STOPPED, detail="starts at first call"), "stopped", "starts at first call", id="lazy"
        ),
    ],
)
def test_ps_says_how_a_server_really_is(
    stockade: Any, running: Running, monkeypatch: pytest.MonkeyPatch, status: BackendStatus, state: str, detail: str
) -> None:
    monkeypatch.setattr(running.control.supervisor, "status", lambda: [status])
    row = stockade("ps").out.splitlines()[2]
    assert row.split()[1] == state
    assert re.search(f"{detail}$", row)


def test_up_counts_what_starts_later_and_fails_with_what_failed(
    capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    row = {"name": "a", "detail": "", "restarts": 0}
    good = [
        {**row, "state": "running"},
        {**row, "state": "stopped", "detail": "starts at first call"},
        {**row, "state": "stopped", "detail": "disabled"},
    ]
    told_of(good)
    assert capsys.readouterr().out == "Servers   1 running, 1 starts at first call, 1 disabled\n"
    for state, word in (("failed", "failed"), ("backoff", "restarting")):
        with pytest.raises(Failure, match=r"^a did not start"):
            told_of([*good, {**row, "state": state, "detail": "Why."}])
        assert f"1 {word}" in capsys.readouterr().out


def test_ps_as_json_names_package_and_version(
    stockade: Any, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = seen(BackendState.RUNNING, source="npm", package="@a/b", version="1.0", ended=5.0)
    monkeypatch.setattr(running.control.supervisor, "status", lambda: [named])
    (backend,) = json.loads(stockade("ps", "--json").out)["servers"]
    assert [backend[key] for key in ("source", "package", "version", "ended")] == ["npm", "@a/b", "1.0", 5.0]


def test_ps_as_json(stockade: Any, running: Running) -> None:
    data = json.loads(stockade("ps", "--json").out)
    assert [server["name"] for server in data["servers"]] == ["fetch", "open"]
    assert data["backends"] == data["servers"], "the old key, for one version"


@pytest.mark.parametrize("before", [["-f", "stockade.yaml"], ["--project", "test"], []])
def test_the_gateway_is_found_by_file_project_or_directory(
    stockade: Any, running: Running, before: list[str]
) -> None:
    assert stockade(*before, "ps").code == 0
    assert stockade("ps", *before).code == 0


COMMANDS = [
    ["ps"], ["logs", "fetch"], ["restart", "fetch"], ["reload"], ["egress", "tail"], ["egress", "top"],
    ["egress", "blocked"], ["egress", "suggest", "fetch"], ["tools", "ls"], ["tools", "approve", "fetch", "x"],
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_without_a_gateway_a_command_says_how_to_start_one(stockade: Any, work: Path, command: list[str]) -> None:
    (work / "stockade.yaml").write_text(CONFIG)
    result = stockade(*command)
    assert (result.code, result.out) == (1, "")
    assert result.err == "Error: No gateway is running for ./stockade.yaml. Start it: stockade up -d\n"


def test_without_a_file_a_command_says_where_it_looked(stockade: Any) -> None:
    result = stockade("ps")
    assert result.code == 1
    assert "./stockade.yaml" in result.err
    assert "--file" in result.err


def test_another_running_gateway_is_named(stockade: Any, running: Running, work: Path) -> None:
    (work / "other.yaml").write_text(CONFIG)
    result = stockade("ps", "-f", "other.yaml")
    assert result.code == 1
    assert "./other.yaml" in result.err
    assert "Running now: test (" in result.err


@pytest.mark.parametrize(
    "args", [["nope"], ["logs"], ["egress", "allow", "fetch"], ["ps", "--nope"], ["up", "-t", "x"]]
)
def test_wrong_usage_is_exit_code_2(stockade: Any, args: list[str]) -> None:
    assert stockade(*args).code == 2


def test_that_a_server_is_not_isolated_is_said_once(stockade: Any, running: Running) -> None:
    assert "! open: Not isolated." in stockade("ps").out
    running.control.warnings = [str(warning) for warning in running.control.config.warnings]
    said = stockade("ps").out
    assert "mcpServers.open.network.isolated: is not isolated" in said
    assert said.lower().count("not isolated") == 1


def test_logs_are_printed_and_escaped(stockade: Any, running: Running) -> None:
    from gateway.runtime.sandbox.log_ring import LogLine

    running.control.supervisor.lines.append(LogLine(time=0.0, stream="stderr", text=HOSTILE))
    result = stockade("logs", "fetch", "--tail", "2")
    assert [line.split(maxsplit=1)[1] for line in result.out.splitlines()] == [
        "line 4",
        "evil\\x1b[2J\\r\\u202e[red]x.example",
    ]


def test_logs_of_an_unknown_server_name_those_there_are(stockade: Any, running: Running) -> None:
    result = stockade("logs", "nope")
    assert result.code == 1
    assert "there are: fetch, open" in result.err


def test_restart(stockade: Any, running: Running) -> None:
    assert stockade("restart", "fetch").code == 0
    assert running.control.supervisor.restarted == ["fetch"]
    failed = stockade("restart", "open")
    assert (failed.code, failed.err) == (1, "Error: Server open: it ended with code 1 at once.\n")


TAIL: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["fetch", "DENY", "evil.example:443", "host_not_allowed", "←", "fetch", "(cursor)"]),
    (
        {"decision": Decision.ALLOW, "reason": None, "rule": "api.github.com", "host": "api.github.com", "calls": ()},
        ["fetch", "ALLOW", "api.github.com:443", "api.github.com"],
    ),
    (
        {"decision": Decision.REPORT, "reason": Reason.PORT_NOT_ALLOWED, "calls": ()},
        ["fetch", "REPORT", "evil.example:443", "port_not_allowed"],
    ),
    (
        {"phase": Phase.CLOSED, "decision": Decision.ALLOW, "reason": Reason.SNI_MISMATCH, "calls": ()},
        ["fetch", "CUT", "evil.example:443", "sni_mismatch"],
    ),
    (
        {"via": Via.DNS, "method": "AAAA", "reason": Reason.DIRECT_ATTEMPT, "port": 0, "calls": ()},
        ["fetch", "DENY", "evil.example", "(lookup", "AAAA)", "direct_attempt"],
    ),
    (
        {"via": Via.DNS, "phase": Phase.COUNTED, "host": "", "port": 0, "count": 9, "reason": Reason.BAD_REQUEST}
        | {"calls": ()},
        ["fetch", "DENY", "(lookups)", "bad_request", "(x9)"],
    ),
    (
        {"via": Via.DIRECT, "host": "", "destination": "198.51.100.7:443", "reason": Reason.DIRECT_ATTEMPT}
        | {"calls": ()},
        ["fetch", "DENY", "198.51.100.7:443", "direct_attempt"],
    ),
    (
        {"phase": Phase.COUNTED, "host": "", "port": 0, "count": 3, "reason": Reason.DIRECT_ATTEMPT, "calls": ()},
        ["fetch", "DENY", "other", "ports", "direct_attempt", "(x3)"],
    ),
    ({"host": "2001:db8::1", "calls": ()}, ["fetch", "DENY", "[2001:db8::1]:443", "host_not_allowed"]),
    (
        {"calls": tuple(CallRef(request_id=n, method="tools/call", tool=n) for n in ("a", "b"))},
        ["fetch", "DENY", "evil.example:443", "host_not_allowed", "←", "probably", "a", "or", "b"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "words"), TAIL)
def test_egress_tail_says_it_all_on_one_line(
    stockade: Any, running: Running, changes: dict[str, Any], words: list[str]
) -> None:
    running.publish(egress_event(**changes))
    (line,) = stockade("egress", "tail").out.splitlines()
    assert line.split()[1:] == words


def test_egress_tail_has_columns(stockade: Any, running: Running) -> None:
    call = CallRef(request_id="1", method="tools/call", tool="fetch", client="cursor")
    running.publish(egress_event(host="a.example", calls=(call,)))
    running.publish(egress_event(seq=2, connection=2, host="raw.githubusercontent.com", calls=(call,)))
    one, two = stockade("egress", "tail").out.splitlines()
    assert one.index("host_not_allowed") == two.index("host_not_allowed")
    assert one.index("←") == two.index("←")


def test_egress_tail_says_when_there_is_nothing(stockade: Any, running: Running) -> None:
    assert stockade("egress", "tail").err == "No connections yet.\n"
    assert stockade("egress", "tail", "--json").err == ""


def test_egress_tail_leaves_out_the_normal_ends_unless_asked(stockade: Any, running: Running) -> None:
    running.publish(egress_event(phase=Phase.CLOSED, decision=Decision.ALLOW, reason=None))
    assert stockade("egress", "tail").out == ""
    assert " END " in stockade("egress", "tail", "--all").out


def test_egress_tail_cannot_be_made_to_lie(stockade: Any, running: Running) -> None:
    """A host name that repaints the line, or adds one that says ALLOW."""
    call = CallRef(request_id="1", method="tools/call", tool="\x1b[1Afetch\n12:00:00 ALLOW", client="\x9b2K")
    running.publish(egress_event(host=HOSTILE, calls=(call,)))
    (line,) = stockade("egress", "tail").out.splitlines()
    assert line.isprintable()
    assert "evil\\x1b[2J\\r\\u202e[red]x.example:443" in line


def test_egress_tail_as_json_is_one_event_a_line(stockade: Any, running: Running) -> None:
    running.publish(egress_event(host=HOSTILE))
    running.publish(egress_event(seq=2, connection=2))
    rows = [json.loads(line) for line in stockade("egress", "tail", "--json").out.splitlines()]
    assert [row["host"] for row in rows] == [HOSTILE, "evil.example"]


def test_egress_tail_narrows(stockade: Any, running: Running) -> None:
    running.publish(egress_event())
    running.publish(egress_event(seq=2, connection=2, backend="other"))
    assert len(stockade("egress", "tail", "--server", "other").out.splitlines()) == 1
    assert len(stockade("egress", "tail", "-n", "1").out.splitlines()) == 1
    assert stockade("egress", "tail", "--backend", "other").out == stockade("egress", "tail", "--server", "other").out


def test_servers_are_called_servers(stockade: Any, running: Running) -> None:
    """`backend`, of earlier versions, is still understood and printed beside it, and shown in no help."""
    running.publish(egress_event(time=time.time()))
    for command in (["tail"], ["blocked"]):
        (row,) = map(json.loads, re.findall(r"\{.*\}", stockade("egress", *command, "--json").out.replace("\n", "")))
        assert (row["server"], row["backend"]) == ("fetch", "fetch")
    by_server = stockade("egress", "top", "--by", "server").out
    assert by_server.splitlines()[0].startswith("SERVER ")
    assert stockade("egress", "top", "--by", "backend").out == by_server
    assert stockade("egress", "top", "--backend", "other").code == 2
    for command in ("tail", "top", "blocked"):
        assert "backend" not in stockade("egress", command, "--help").out.lower()


@pytest.mark.parametrize("args", [["tail", "--decision"], ["top", "--decision"], ["top", "--by"]])
def test_a_word_that_an_option_does_not_have_is_wrong_usage(stockade: Any, running: Running, args: list[str]) -> None:
    result = stockade("egress", *args, "nope")
    assert result.code == 2
    assert "'host'" in result.err if "--by" in args else "'deny'" in result.err


@pytest.mark.parametrize("args", [["tail", "--server"], ["top", "--server"], ["blocked"]])
def test_a_server_that_is_not_there_is_wrong_usage_and_the_nearest_is_named(
    stockade: Any, running: Running, args: list[str]
) -> None:
    result = stockade("egress", *args, "fetsh")
    assert result.code == 2
    assert "there is no server 'fetsh'. Did you mean fetch?" in " ".join(result.err.replace("│", " ").split())
    assert stockade("egress", *args, "fetch").code == 0


def test_what_a_removed_server_did_can_still_be_seen(stockade: Any, running: Running) -> None:
    running.publish(egress_event(time=time.time(), backend="gone"))
    assert stockade("egress", "tail", "--server", "gone").code == 0
    said = stockade("egress", "blocked", "gone").out
    assert "not in the file any more" in said
    assert "stockade egress allow" not in said


ADVICE: list[tuple[dict[str, Any], list[str]]] = [
    ({"via": Via.DNS, "host": "api.github.com", "port": 53, "method": "A", "reason": Reason.DIRECT_ATTEMPT},
     ["api.github.com (lookup)", "direct: allow"]),
    ({"via": Via.DNS, "host": "slack.example", "port": 53, "method": "A", "reason": Reason.DIRECT_ATTEMPT},
     ["slack.example (lookup)", "direct: allow, and stockade egress allow fetch slack.example"]),
    ({"via": Via.DNS, "host": "host.docker.internal", "port": 53, "method": "A", "reason": Reason.DIRECT_ATTEMPT},
     ["host.docker.internal (lookup)", "{host: host.docker.internal, port: PORT, protocol: tcp}"]),
    ({"via": Via.DIRECT, "host": "api.github.com", "reason": Reason.DIRECT_ATTEMPT}, ["api.github.com", "direct: allow"]),
    ({"via": Via.DIRECT, "host": "db.example", "port": 5432, "reason": Reason.NOT_TLS},
     ["{host: db.example, port: 5432, protocol: tcp}"]),
    ({"via": Via.DIRECT, "host": "", "port": 0, "phase": Phase.COUNTED, "reason": Reason.DIRECT_ATTEMPT},
     ["other ports", "{host: HOST, port: PORT, protocol: tcp}"]),
    ({"host": "127.0.0.1", "port": 27124, "reason": Reason.IP_NOT_ALLOWED},
     ["{host: host.docker.internal, port: 27124, protocol: tcp}"]),
    ({"host": "api.example", "reason": Reason.HTTPS_WITHOUT_CONNECT}, ["update the program", "no_proxy"]),
    ({"host": "db.example", "port": 5432, "reason": Reason.ADDRESS_PRIVATE},
     ["{host: db.example, port: 5432, private: true}"]),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "words"), ADVICE)
def test_blocked_says_the_line_that_mends_it(
    stockade: Any, running: Running, changes: dict[str, Any], words: list[str]
) -> None:
    running.publish(egress_event(time=time.time(), **changes))
    (_, row) = stockade("egress", "blocked", "fetch").out.splitlines()
    assert all(word in row for word in words), row


def test_blocked_tells_what_is_kept_blocked_apart(stockade: Any, running: Running) -> None:
    for number, host in enumerate(("first.example", "kept.example", "last.example")):
        running.publish(egress_event(seq=number, connection=number, time=time.time(), host=host))
    running.control.kept_blocked.keep(Place("fetch", "kept.example", 443))
    said = stockade("egress", "blocked")
    *_, row = said.out.splitlines()
    assert "kept.example" in row
    assert "(kept blocked)" in row
    assert said.out.count("(kept blocked)") == 1
    assert "1 of these is kept blocked" in said.err
    rows = json.loads(stockade("egress", "blocked", "--json").out)
    assert [row["host"] for row in rows if row["kept_blocked"]] == ["kept.example"]


def test_a_whole_file_is_not_checked_as_a_policy(stockade: Any, work: Path) -> None:
    (work / "stockade.yaml").write_text(CONFIG)
    result = stockade("egress", "check", "stockade.yaml", "api.github.com")
    assert (result.code, "is a whole file" in result.err, "unknown key" in result.err) == (1, True, False)
    assert "egress explain NAME" in result.err


@pytest.mark.parametrize("online", [True, False])
def test_explain_prints_the_command_and_says_which_way_it_means(
    stockade: Any, request: pytest.FixtureRequest, online: bool
) -> None:
    work: Path = request.getfixturevalue("work")
    (work / "stockade.yaml").write_text(CONFIG)
    if online:
        request.getfixturevalue("running")
    denied = stockade("egress", "explain", "fetch", "evil.example").out
    assert "To allow it: stockade egress allow fetch evil.example" in " ".join(denied.split())
    allowed = " ".join(stockade("egress", "explain", "fetch", "api.github.com").out.split())
    assert "This holds if the program uses the proxy; else it needs `direct: allow` too." in allowed
    local = " ".join(stockade("egress", "explain", "fetch", "127.0.0.1:27124").out.split())
    assert "allowed_hosts: [{host: host.docker.internal, port: 27124, protocol: tcp}]" in local


def test_top_and_blocked(stockade: Any, running: Running) -> None:
    event: EgressEvent = egress_event(time=time.time(), host=HOSTILE)
    running.publish(event)
    assert stockade("egress", "top").out.splitlines()[1].split()[1:3] == ["1", "1"]
    blocked = stockade("egress", "blocked").out
    assert "evil\\x1b" in blocked
    assert "\x1b" not in blocked
    assert "stockade egress allow" not in blocked, "advice is pasted into shells"
    assert json.loads(stockade("egress", "blocked", "--json").out)[0]["reasons"] == ["host_not_allowed"]


def test_what_is_blocked_comes_with_the_command_that_allows_it(stockade: Any, running: Running) -> None:
    running.publish(egress_event(time=time.time(), reason=Reason.EMPTY_POLICY))
    said = stockade("egress", "blocked").out
    assert said.splitlines()[1].endswith("stockade egress allow fetch evil.example"), "as in the call's result"
    stockade("egress", "allow", "fetch", "evil.example:443", "--yes")
    said = stockade("egress", "blocked").out
    assert "it is allowed now" in said
    assert "stockade egress allow" not in said


def test_what_an_installation_was_refused_is_allowed_for_it_alone(
    stockade: Any, running: Running, work: Path
) -> None:
    running.publish(egress_event(time=time.time(), backend="build:fetch", reason=Reason.HOST_NOT_ALLOWED))
    said = stockade("egress", "blocked").out
    assert said.splitlines()[1].endswith("stockade egress allow build:fetch evil.example")
    assert stockade("egress", "allow", "build:fetch", "evil.example", "--yes").code == 0
    server = running.control.config.servers["fetch"]
    assert server.build.allowed_hosts == ("evil.example",)
    assert "evil.example" not in server.network.allowed_hosts
    assert "it is allowed now" in stockade("egress", "blocked").out
    assert "# keep this comment" in (work / "stockade.yaml").read_text()
    unknown = stockade("egress", "allow", "build:nobody", "evil.example", "--yes")
    assert (unknown.code, "There is no server 'nobody'" in unknown.err) == (1, True)


def test_what_no_host_lifts_is_never_called_allowed(stockade: Any, running: Running) -> None:
    running.publish(egress_event(time=time.time(), host="api.github.com", reason=Reason.SNI_MISMATCH))
    running.publish(egress_event(seq=2, connection=2, time=time.time(), host="::1", reason=Reason.IP_NOT_ALLOWED))
    said = stockade("egress", "blocked").out
    assert "allowed now" not in said
    assert "stockade egress allow" not in said, "no rule opens a server's own loopback"


def test_nothing_blocked_and_nothing_reached_is_said_in_words(stockade: Any, running: Running) -> None:
    assert stockade("egress", "blocked").err == "Nothing was blocked.\n"
    assert stockade("egress", "top").err == "No connection in the last 24 hours.\n"


def test_connections_that_were_all_allowed_are_not_called_none(stockade: Any, running: Running) -> None:
    running.publish(egress_event(time=time.time(), decision=Decision.ALLOW, reason=None))
    assert "evil.example" in stockade("egress", "top").out
    assert stockade("egress", "top", "--by", "reason").err == "Nothing was denied in the last 24 hours.\n"
    assert stockade("egress", "top", "--decision", "deny").err == "Nothing was denied in the last 24 hours.\n"


def test_tools_are_listed_with_hostile_descriptions_escaped(stockade: Any, running: Running) -> None:
    assert "reads \\x1b[31mpages [red]x" in stockade("tools", "ls").out
    assert stockade("tools", "approve", "fetch", "fetch").code == 0
    assert stockade("tools", "approve", "fetch", "nope").code == 1


def test_a_tool_that_waits_for_approval_is_shown_with_what_changed(stockade: Any, running: Running) -> None:
    pinned = {"fetch": [Difference(tool="fetch", before="reads pages", after="reads \x1b[31msecrets")]}
    running.control.endpoint.changed.update(pinned)
    said = stockade("tools", "ls").err
    assert said.splitlines() == [
        "! fetch: the definition of fetch differs from the approved one.",
        "  -reads pages",
        "  +reads \\x1b[31msecrets",
        "  Once you have read it: stockade tools approve fetch fetch",
    ]
    running.control.endpoint.changed["fetch"] = [Difference(tool="x; id", before="", after="new")]
    assert "tools approve" not in stockade("tools", "ls", "fetch").err


def test_a_server_without_tools_says_why(stockade: Any, running: Running) -> None:
    running.control.endpoint.definitions.clear()
    assert "they are read when a client first asks" in stockade("tools", "ls").err
    running.control.endpoint.troubles["fetch"] = "it does not answer"
    said = stockade("tools", "ls", "fetch")
    assert said.err == "! fetch: it does not answer\n"


def test_what_is_left_out_of_a_servers_lists_is_named_by_ps_and_tools_ls(stockade: Any, running: Running) -> None:
    running.control.endpoint.left_out["fetch"] = ["1 of its tools cannot be shown and are left out: 'a b' (a blank)"]
    expected = "! fetch: 1 of its tools cannot be shown and are left out: 'a b' (a blank)"
    assert expected in " ".join(stockade("ps").out.split())
    assert expected in stockade("tools", "ls", "fetch").err


def test_ps_says_what_a_server_in_trouble_was_refused_since_its_start(stockade: Any, running: Running) -> None:
    running.control.endpoint.refusals = [egress_event(host="models.example", rule_port=443)]
    assert "models.example" not in stockade("ps").out, "a server that answers is not in trouble"
    running.control.endpoint.troubles["fetch"] = "it does not answer"
    expected = (
        "it does not answer. Since its start, models.example:443 was refused (host_not_allowed). "
        "To allow it: stockade egress allow fetch models.example"
    )
    details = [
        one["detail"] for one in json.loads(stockade("ps", "--json").out)["backends"] if one["name"] == "fetch"
    ]
    assert details == [expected]
    assert f"! fetch: {expected}" in " ".join(stockade("ps").out.split()), "in full, although it runs"


def test_allow_through_the_gateway_writes_and_is_in_force(stockade: Any, running: Running, work: Path) -> None:
    dry = stockade("egress", "allow", "fetch", "example.com", "--dry-run")
    assert (dry.code, "+" in dry.out) == (0, True)
    assert (work / "stockade.yaml").read_text() == CONFIG
    done = stockade("egress", "allow", "fetch", "example.com", "--yes")
    assert done.code == 0
    assert "In force now." in done.err
    assert "example.com" in running.control.config.servers["fetch"].network.allowed_hosts
    assert "# keep this comment" in (work / "stockade.yaml").read_text()
    again = stockade("egress", "allow", "fetch", "example.com")
    assert (again.code, again.out) == (0, "")
    assert again.err.endswith(" is already allowed for fetch; nothing to change.\n")


def test_allow_works_on_the_file_when_no_gateway_runs(stockade: Any, work: Path) -> None:
    (work / "stockade.yaml").write_text(CONFIG)
    result = stockade("egress", "allow", "fetch", "example.com:8443", "-y")
    assert result.code == 0
    assert "+" in result.out
    assert "example.com:8443" in load_config(work / "stockade.yaml").servers["fetch"].network.allowed_hosts
    assert "In force" not in result.err


@pytest.mark.parametrize("online", [True, False])
def test_allow_asks_with_the_diff_before_it_opens_anything(
    stockade: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, online: bool
) -> None:
    work: Path = request.getfixturevalue("work")
    (work / "stockade.yaml").write_text(CONFIG)
    if online:
        request.getfixturevalue("running")
    asked: list[str] = []
    monkeypatch.setattr("gateway.cli.allow.confirmed", lambda question, yes: asked.append(question) or len(asked) > 1)
    no = stockade("egress", "allow", "fetch", "example.com")
    assert (no.code, "+" in no.out, no.err) == (1, True, "Error: Nothing was written.\n")
    assert (work / "stockade.yaml").read_text() == CONFIG
    yes = stockade("egress", "allow", "fetch", "example.com")
    assert (yes.code, yes.out) == (0, no.out)
    assert "example.com" in load_config(work / "stockade.yaml").servers["fetch"].network.allowed_hosts
    assert asked == ["Allow fetch to connect to example.com?"] * 2


def test_allow_without_a_terminal_says_how_to_say_yes(stockade: Any, work: Path) -> None:
    (work / "stockade.yaml").write_text(CONFIG)
    result = stockade("egress", "allow", "fetch", "example.com")
    assert result.code == 1
    assert "add --yes to do it, or --dry-run to only show it" in result.err
    assert (work / "stockade.yaml").read_text() == CONFIG


RISKS = ["*", "*:443", "0.0.0.0/0", "::/0", "169.254.169.254", "169.254.169.254:80", "169.254.0.0/16", "169.254.7.7",
         "fe80::1", "[fd00:ec2::254]:80", "metadata.google.internal", "64:ff9b::a9fe:a9fe"]  # fmt: skip


@pytest.mark.parametrize("target", RISKS)
def test_allow_stops_hard_where_yes_is_not_enough(stockade: Any, work: Path, target: str) -> None:
    (work / "stockade.yaml").write_text(CONFIG)
    result = stockade("egress", "allow", "fetch", target, "--yes")
    assert result.code == 1
    assert "Nothing was written. If you mean it, add --accept-risk." in result.err
    assert (work / "stockade.yaml").read_text() == CONFIG


def test_allow_with_the_risk_accepted_still_asks(stockade: Any, work: Path) -> None:
    (work / "stockade.yaml").write_text(CONFIG)
    assert "add --yes" in stockade("egress", "allow", "fetch", "169.254.169.254", "--accept-risk").err
    assert (work / "stockade.yaml").read_text() == CONFIG
    assert stockade("egress", "allow", "fetch", "169.254.169.254", "--accept-risk", "-y").code == 0


@pytest.mark.parametrize("target", ["https://api.github.com/", "a b", "example.com:70000", "example.com:x"])
@pytest.mark.parametrize("online", [True, False])
def test_allow_refuses_what_is_no_host(
    stockade: Any, request: pytest.FixtureRequest, target: str, online: bool
) -> None:
    work: Path = request.getfixturevalue("work")
    if online:
        request.getfixturevalue("running")
    (work / "stockade.yaml").write_text(CONFIG)
    result = stockade("egress", "allow", "fetch", target)
    assert result.code == 1
    assert result.err.startswith("Error: ")
    assert ("keep only the host: api.github.com\n" in result.err) is target.startswith("https:")
    assert (work / "stockade.yaml").read_text() == CONFIG


@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize("dry", [["--dry-run"], ["--yes", "--accept-risk"]])
def test_allow_says_what_a_host_opens_beyond_its_looks(
    stockade: Any, request: pytest.FixtureRequest, dry: list[str], online: bool
) -> None:
    work: Path = request.getfixturevalue("work")
    (work / "stockade.yaml").write_text(CONFIG)
    if online:
        request.getfixturevalue("running")
    said = stockade("egress", "allow", "fetch", ".co.uk", *dry).err
    assert "! fetch.network.allowed_hosts[1]: .co.uk allows every host below co.uk" in said
    assert (
        "where clouds hand out the machine's credentials"
        in stockade("egress", "allow", "fetch", "169.254.169.254", *dry).err
    )
    assert "!" not in stockade("egress", "allow", "fetch", "docs.python.org", *dry).err


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("a.example", ("a.example", None)), ("a.example:443", ("a.example", 443)), ("::1", ("::1", None)),
        ("[::1]:80", ("::1", 80)), ("[::1]", ("::1", None)), ("10.0.0.0/8", ("10.0.0.0/8", None)),
        (".example.com:5432", (".example.com", 5432)), ("2001:db8::/32", ("2001:db8::/32", None)),
    ],
)  # fmt: skip
def test_a_target_is_split_into_host_and_port(target: str, expected: tuple[str, int | None]) -> None:
    from gateway.cli.allow import split_target

    assert split_target(target) == expected


@pytest.mark.parametrize("runs", [True, False])
def test_a_server_that_no_policy_holds_is_not_said_to_reach_nothing(
    stockade: Any, work: Path, request: pytest.FixtureRequest, runs: bool
) -> None:
    if runs:
        request.getfixturevalue("running")
        assert "open is not isolated" in stockade("egress", "suggest", "open").err
    else:
        (work / "stockade.yaml").write_text(CONFIG)
    said = stockade("egress", "explain", "open", "https://evil.example/")
    assert (said.code, said.out) == (1, "")
    assert said.err == "Error: open is not isolated: no policy holds it, and what it reaches is not observed.\n"


@pytest.mark.parametrize("online", [True, False])
def test_explain_answers_with_and_without_a_gateway(
    stockade: Any, request: pytest.FixtureRequest, online: bool
) -> None:
    work: Path = request.getfixturevalue("work")
    if online:
        request.getfixturevalue("running")
    (work / "stockade.yaml").write_text(CONFIG)
    denied = json.loads(stockade("egress", "explain", "fetch", "https://evil.example/", "--json").out)
    assert (denied["decision"], denied["reason"]) == ("deny", "host_not_allowed")
    assert "api.github.com" in stockade("egress", "explain", "fetch", "api.github.com:443").out
    assert stockade("egress", "explain", "nope", "x").code == 1
    assert stockade("egress", "explain", "fetch", "https://").code == 1


def test_explain_without_a_gateway_knows_the_files_overrides(stockade: Any, work: Path) -> None:
    (work / "stockade.yaml").write_text(CONFIG)
    found = json.loads(stockade("egress", "explain", "fetch", "api.github.com:443", "--json").out)
    assert (found["decision"], "if every address" in found["sentence"]) == ("allow", False)


def test_suggest_prints_a_policy_and_writes_it(stockade: Any, running: Running) -> None:
    empty = stockade("egress", "suggest", "fetch")
    assert empty.code == 1
    assert "mode: learn" in empty.err
    running.publish(egress_event())
    assert "1 were denied" in stockade("egress", "suggest", "fetch").err
    assert "evil.example" in stockade("egress", "suggest", "fetch", "--denied").out
    running.publish(egress_event(seq=2, connection=2, host="api.example.com", decision=Decision.REPORT))
    assert "api.example.com" in stockade("egress", "suggest", "fetch").out
    assert "In force now." in stockade("egress", "suggest", "fetch", "--write").err
    assert "api.example.com" in str(running.control.config.servers["fetch"].network.block)


def test_check_tries_targets_on_a_policy_file(stockade: Any, work: Path) -> None:
    (work / "p.yaml").write_text("network:\n  allowed_hosts: [.example.com]\n")
    assert stockade("egress", "check", "p.yaml").code == 0
    assert stockade("egress", "check", "p.yaml", "https://a.example.com/").code == 0
    denied = stockade("egress", "check", "p.yaml", "https://a.example.com/", "other.example:443")
    assert denied.code == 1
    assert "host_not_allowed" in denied.out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("allowed_hosts: [a b]", "allowed_hosts"),
        ("[", "not YAML"),
        ("- x", "no network block"),
        (None, "cannot be read"),
    ],
)
def test_check_explains_a_broken_policy_file(stockade: Any, work: Path, text: str | None, said: str) -> None:
    if text is not None:
        (work / "p.yaml").write_text(text)
    result = stockade("egress", "check", "p.yaml")
    assert result.code == 1
    assert said in result.err


def test_validate_says_what_is_wrong_and_where(stockade: Any, work: Path) -> None:
    (work / "stockade.yaml").write_text(CONFIG)
    assert "./stockade.yaml is valid: 2 servers, 1 client." in stockade("validate").out
    (work / "bad.yaml").write_text("version: 1\nmcpServers:\n  x: {comand: uvx}\n")
    bad = stockade("validate", "bad.yaml")
    assert bad.code == 1
    assert "bad.yaml:3" in bad.err
    assert json.loads(stockade("validate", "bad.yaml", "--json").out)["problems"][0]["line"] == 3


def test_a_client_gets_a_token_and_snippets(stockade: Any, running: Running, work: Path) -> None:
    result = stockade("client", "add", "claude", "--server", "fetch")
    assert result.code == 0
    token = result.out.splitlines()[1]
    assert token.startswith("stockade_client_")
    for title in ("Claude Code", "Cursor", "VS Code", "Codex"):
        assert title in result.out
    assert token not in (work / "stockade.yaml").read_text()
    assert stockade("client", "ls").out.splitlines()[2].split() == ["claude", "yes", "fetch", "all"]
    assert stockade("client", "add", "claude").code == 1
    assert stockade("client", "add", "claude", "--renew").code == 0
    assert stockade("client", "rm", "claude").err.count("every program on this machine") == 0
    assert "claude" not in running.control.config.clients
    assert "every program on this machine may connect without a token" in stockade("client", "rm", "cursor").err


def test_clients_work_on_the_file_when_no_gateway_runs(stockade: Any, work: Path) -> None:
    (work / "stockade.yaml").write_text(CONFIG)
    added = json.loads(stockade("client", "add", "codex", "--json").out)
    assert added["token"] in added["snippets"]["cursor"]
    assert load_config(work / "stockade.yaml").clients["codex"].token_sha256
    assert stockade("client", "add", "codex").code == 1
    assert [c["name"] for c in json.loads(stockade("client", "ls", "--json").out)] == ["cursor", "codex"]
    assert "token_sha256" not in stockade("client", "ls", "--json").out
    assert stockade("client", "rm", "codex").code == 0
    assert stockade("client", "rm", "codex").code == 1
    assert "every program on this machine may connect without a token" in stockade("disconnect", "cursor").err


def test_search_and_info(stockade: Any) -> None:
    assert "fetch" in stockade("search", "web").out
    assert "name" in json.loads(stockade("search", "--json").out)[0]
    assert "command: uvx" in stockade("info", "fetch").out
    assert json.loads(stockade("info", "fetch", "--json").out)["entry"]["args"] == ["mcp-server-fetch"]
    assert stockade("info", "fetchh").code == 1


def test_run_adds_a_catalog_server_with_its_policy(stockade: Any, running: Running) -> None:
    result = stockade("run", "time", "--allow-host", "example.com", "--allow-port", "8443", "--yes")
    assert result.code == 0
    network = running.control.config.servers["time"].network
    assert (network.isolated, network.allowed_hosts, network.allowed_ports) == (True, ("example.com",), (8443,))
    assert stockade("rm", "time").code == 0
    assert "time" not in running.control.config.servers


def test_run_without_isolation_says_what_that_means(stockade: Any, running: Running) -> None:
    result = stockade("run", "time", "--no-isolate", "--name", "clock", "--dry-run")
    assert "can reach everything" in result.err
    assert "clock" not in running.control.config.servers


def test_run_asks_when_it_may_not_assume(stockade: Any, running: Running) -> None:
    result = stockade("run", "time")
    assert result.code == 1
    assert "--yes" in result.err


def test_run_begins_a_file_where_there_is_none(stockade: Any, work: Path) -> None:
    assert stockade("run", "time", "--yes", "--no-start").code == 0
    assert list(load_config(work / "stockade.yaml").servers) == ["time"]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("sqlite", (), "sqlite cannot work without mount /data"),
        ("filesystem", (), "Add --mount ./projects:/projects"),
        ("slack", (), "slack cannot work without env SLACK_TEAM_ID"),
        ("git", ("--mount", "./r:/elsewhere"), "git cannot work without mount /repo"),
    ],
)
def test_run_refuses_what_cannot_work(
    stockade: Any, work: Path, name: str, options: tuple[str, ...], said: str
) -> None:
    found = stockade("run", name, "-y", "--no-start", *options)
    assert found.code == 1
    assert said in found.err
    assert not (work / "stockade.yaml").exists()
    assert stockade("run", name, "--dry-run").code == 0


def test_run_takes_what_it_needs_as_options(stockade: Any, work: Path) -> None:
    (work / "data").mkdir()
    assert stockade("run", "sqlite", "-y", "--no-start", "--mount", "./data:/data").code == 0
    assert load_config(work / "stockade.yaml").servers["sqlite"].mounts[0].source == str(work / "data")


def test_import_takes_over_a_clients_servers_isolated(stockade: Any, work: Path, home: Path) -> None:
    (home / ".cursor").mkdir()
    servers = {
        "Git Hub": {"command": "uvx", "args": ["mcp-server-git"]},
        "stockade": {"url": "http://127.0.0.1:8420/mcp"},
    }
    (home / ".cursor/mcp.json").write_text(json.dumps({"mcpServers": servers}))
    assert stockade("import", "cursor", "--yes").code == 0
    config = load_config(work / "stockade.yaml")
    assert [(name, server.isolated) for name, server in config.servers.items()] == [("git-hub", True)]


@pytest.mark.parametrize("runs", [True, False])
def test_import_leaves_out_what_cannot_be_taken_over_and_goes_on(
    stockade: Any, work: Path, request: pytest.FixtureRequest, runs: bool
) -> None:
    if runs:
        request.getfixturevalue("running")
    servers = {
        "local": {"command": "/opt/local"},
        "clock": {"command": "uvx", "args": ["mcp-server-time"]},
        **({"fetch": {"command": "uvx", "args": ["mcp-server-fetch"]}} if runs else {}),
        "far": {"url": "https://mcp.example/mcp"},
    }
    (work / "theirs.json").write_text(json.dumps({"mcpServers": servers}))
    said = stockade("import", "theirs.json", "--yes")
    assert (said.code, said.err.splitlines()[-1]) == (1, "Error: 1 of 3 servers were not imported: local.")
    assert ("In ./stockade.yaml already, and left as they are: fetch." in said.err) == runs
    assert "! local: " in said.err
    assert "'local' is a program of this machine" in said.err
    assert {"clock", "far"} <= set(load_config(work / "stockade.yaml").servers)


def test_a_state_directory_that_cannot_be_used_is_one_sentence(
    stockade: Any, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / "stockade.yaml").write_text("mcpServers: {}\n")
    (work / "file").touch()
    monkeypatch.setenv("STOCKADE_STATE_DIR", str(work / "file" / "s"))
    said = stockade("up", "-d")
    expected = f"Error: {work}/file/s cannot be used: Not a directory. Set STOCKADE_STATE_DIR to a short path"
    assert (said.code, said.err) == (1, f"{expected} that you may write to.\n")


@pytest.mark.parametrize("command", [("up", "-d"), ("up",), ("down",)])
def test_a_project_that_the_gateway_of_another_file_runs_is_left_alone(
    stockade: Any, running: Running, work: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.app.clean", lambda project: pytest.fail("it would have removed what runs"))
    (work / "other.yaml").write_text(f"project: {running.control.project}\nmcpServers: {{}}\n")
    said = stockade("-f", "other.yaml", *command)
    assert said.code == 1
    assert f"is run by the gateway of another file, {work}/stockade.yaml (pid " in said.err
    assert f"stockade --project {running.control.project} down" in said.err


def test_a_secret_is_kept_for_its_owner_and_its_servers_start_again(
    stockade: Any, running: Running, home: Path
) -> None:
    running.control.config_path.write_text(
        running.control.config_path.read_text().replace(
            "[mcp-server-fetch]", '[mcp-server-fetch, "${secret:api-key}"]'
        )
    )
    result = stockade("secret", "set", "api-key", stdin="s3cret\n")
    assert result.code == 0
    path = home / ".config/stockade/secrets/api-key"
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("s3cret", 0o600)
    assert "s3cret" not in result.out + result.err
    assert "fetch was restarted with it" in result.out
    assert running.control.supervisor.restarted == ["fetch"]
    assert stockade("secret", "rm", "api-key").code == 0
    assert not path.exists()


@pytest.mark.parametrize(
    ("name", "given", "says"), [("../x", "x", "cannot be a secret's name"), ("x", "", "No value was given")]
)
def test_what_cannot_be_a_secret_is_refused(stockade: Any, home: Path, name: str, given: str, says: str) -> None:
    result = stockade("secret", "set", name, stdin=given)
    assert (result.code, says in result.err) == (1, True)


def test_connect_writes_the_clients_file_once_asked(stockade: Any, running: Running, home: Path) -> None:
    refused = stockade("connect", "cursor")
    assert refused.code == 1
    assert not (home / ".cursor/mcp.json").exists()
    result = stockade("connect", "cursor", "--yes")
    assert result.code == 0
    text = (home / ".cursor/mcp.json").read_text()
    assert "${env:STOCKADE_TOKEN_CURSOR}" in text
    assert "export STOCKADE_TOKEN_CURSOR=stockade_client_" in result.out
    assert running.control.config.clients["cursor"].servers == ("fetch",)


@pytest.mark.parametrize("command", [["run", "time"], ["connect", "cursor"], ["disconnect", "cursor"]])
def test_where_nobody_can_answer_only_options_that_exist_are_named(
    stockade: Any, running: Running, home: Path, command: list[str]
) -> None:
    if command[0] == "disconnect":
        stockade("connect", "cursor", "--yes")
    refused = stockade(*command)
    assert refused.code == 1
    (line,) = [line for line in refused.err.splitlines() if "There is no terminal to answer on" in line]
    told = stockade(command[0], "--help").out
    assert [option for option in re.findall(r"--[a-z-]+", line) if option not in told] == []


def test_connect_inline_writes_the_token_itself(stockade: Any, running: Running, home: Path) -> None:
    assert stockade("connect", "cursor", "--inline", "--yes").code == 0
    assert "Bearer stockade_client_" in (home / ".cursor/mcp.json").read_text()


def test_connect_and_disconnect_without_a_gateway(stockade: Any, work: Path, home: Path) -> None:
    (work / "stockade.yaml").write_text(CONFIG)
    (home / ".codex").mkdir()
    (home / ".codex/config.toml").write_text('# mine\nmodel = "x"\n')
    assert stockade("connect", "--yes").code == 0
    assert "bearer_token_env_var" in (home / ".codex/config.toml").read_text()
    assert "codex" in load_config(work / "stockade.yaml").clients
    assert stockade("disconnect", "codex", "--yes").code == 0
    assert "stockade" not in (home / ".codex/config.toml").read_text()
    assert "# mine" in (home / ".codex/config.toml").read_text()
    assert "codex" not in load_config(work / "stockade.yaml").clients


def test_connect_print_changes_nothing(stockade: Any, work: Path, home: Path) -> None:
    (work / "stockade.yaml").write_text(CONFIG)
    result = stockade("connect", "zed", "vscode", "--print")
    assert result.code == 0
    assert '"context_servers"' in result.out
    assert '"servers"' in result.out
    assert list(home.iterdir()) == []
    assert (work / "stockade.yaml").read_text() == CONFIG


def test_connect_writes_a_repositorys_own_file(stockade: Any, running: Running, work: Path) -> None:
    assert stockade("connect", "claude-code", "--repo", ".", "--yes").code == 0
    assert "mcpServers" in (work / ".mcp.json").read_text()
    assert stockade("connect", "lm-studio", "--repo", ".", "--yes").code == 1


def test_connect_names_the_clients_it_knows(stockade: Any, running: Running) -> None:
    assert "claude-code" in stockade("connect", "nope").err
    assert len(stockade("connect", "--list").out.splitlines()) > 25


def test_the_admin_token_is_shown_once_and_renewed(stockade: Any, running: Running) -> None:
    assert "There is no admin token yet" in stockade("admin", "token").out
    made = stockade("admin", "token", "--new")
    assert "stockade_admin_" in made.out
    assert "stockade_admin_" not in stockade("admin", "token").out


def test_the_version_is_an_option_too(stockade: Any) -> None:
    assert stockade("--version").out == stockade("version").out
    assert stockade("--version").code == 0


def test_version(stockade: Any) -> None:
    assert stockade("version").out.startswith("stockade ")
    assert "python" in json.loads(stockade("version", "--json").out)

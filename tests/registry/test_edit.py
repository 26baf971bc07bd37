"""Edits of the file: little is changed, comments stay, and nothing is half done."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.edit import (
    Change,
    ConcurrentChange,
    EditError,
    add_client,
    add_server,
    allow_host,
    apply,
    edit_config,
    remove_client,
    remove_server,
    replace_server,
    rewritten,
    set_disabled,
    set_network,
)
from registry.file.document import parse
from registry.file.json_edit import rewrite
from registry.file.splice import block_value
from registry.load import load_config
from registry.model.errors import ConfigError

FILE = """\
# my servers
version: 1
mcpServers:   # all of them
  fetch:
    command:   uvx      # odd spacing
    args: [mcp-server-fetch]
    network:
      allowed_hosts:
        - a.example    # first
        - b.example    # second

      # about ports
      allowed_ports: [443]

  # the other one
  time: {command: uvx, args: [mcp-server-time]}
  bare:
    command: npx
    args:
    - -y
    - foo
# the end
"""
HASH = "a" * 64

CHANGES: dict[str, tuple[Change, str]] = {
    "a host at the end of a list": (allow_host("fetch", "c.example", 443), "+        - c.example"),
    "a host on another port": (allow_host("fetch", "c.example", 8443), "+        - c.example:8443"),
    "an address on another port": (allow_host("fetch", "2001:db8::1", 8443), "+        - '[2001:db8::1]:8443'"),
    "a host in brackets": (
        allow_host("time", "c.example"),
        "-  time: {command: uvx, args: [mcp-server-time]}\n"
        "+  time: {command: uvx, args: [mcp-server-time], network: {allowed_hosts: [c.example]}}",
    ),
    "a host where there was no network": (
        allow_host("bare", "c.example"),
        "+    network:\n+      allowed_hosts: [c.example]",
    ),
    "the host itself": (
        allow_host("bare", "host.docker.internal", 80),
        "+    network:\n+      allowed_hosts: [host.docker.internal:80]",
    ),
    "a whole network": (
        set_network("fetch", {"isolated": True}),
        "-      allowed_hosts:\n-        - a.example    # first\n-        - b.example    # second\n-\n"
        "-      # about ports\n-      allowed_ports: [443]\n+      isolated: true",
    ),
    "a server more": (
        add_server("new", {"command": "uvx", "args": ["mcp-x"], "env": {"A": "${secret:a}"}}),
        "+  new:\n+    command: uvx\n+    args: [mcp-x]\n+    env:\n+      A: ${secret:a}",
    ),
    "a server less": (remove_server("time"), "-  time: {command: uvx, args: [mcp-server-time]}"),
    "a block less": (remove_server("bare"), "-  bare:\n-    command: npx\n-    args:\n-    - -y\n-    - foo"),
    "a client": (
        add_client("cursor", HASH, {"servers": ["fetch"]}),
        f"+clients:\n+  cursor:\n+    token_sha256: {HASH}\n+    servers: [fetch]",
    ),
    "switched off": (
        set_disabled("time", True),
        "-  time: {command: uvx, args: [mcp-server-time]}\n"
        "+  time: {command: uvx, args: [mcp-server-time], disabled: true}",
    ),
    "another command": (
        replace_server("bare", {"command": "uvx", "args": ["-q", "foo"]}),
        "-    command: npx\n+    command: uvx\n     args:\n-    - -y",
    ),
}


def changed_lines(diff: str) -> str:
    return "\n".join(line for line in diff.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "stockade.yaml"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize(("change", "diff"), list(CHANGES.values())[:-1], ids=list(CHANGES)[:-1])
def test_only_what_changes_is_touched(path: Path, change: Change, diff: str) -> None:
    edit = edit_config(path, change)
    assert changed_lines(edit.diff) == diff
    assert path.read_text() == FILE
    apply(edit)
    assert path.read_text() == edit.after
    assert load_config(path).servers == edit.config.servers


def test_an_entry_is_replaced_as_a_whole(path: Path) -> None:
    edit = edit_config(path, CHANGES["another command"][0])
    assert edit.config.servers["bare"].args == ("-q", "foo")
    assert "# the end" in edit.after


def test_a_change_that_is_none_leaves_the_file_alone(path: Path) -> None:
    edit = edit_config(path, allow_host("fetch", "a.example", 443))
    assert (edit.changed, edit.diff) == (False, "")


def test_the_first_server_makes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "stockade.yaml"
    edit = edit_config(path, add_server("fetch", {"command": "uvx", "args": ["mcp-server-fetch"]}))
    assert edit.after == "version: 1\nmcpServers:\n  fetch:\n    command: uvx\n    args: [mcp-server-fetch]\n"
    apply(edit)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_server_that_goes_leaves_the_clients_lists(path: Path) -> None:
    path.write_text(FILE + f"clients:\n  c: {{token_sha256: {HASH}, servers: [fetch, time]}}\n")
    assert edit_config(path, remove_server("time")).config.clients["c"].servers == ("fetch",)


def test_a_new_token_keeps_what_the_client_may_see(path: Path) -> None:
    path.write_text(FILE + f"clients:\n  c: {{token_sha256: {HASH}, servers: [fetch]}}  # mine\n")
    edit = edit_config(path, add_client("c", "b" * 64))
    assert (edit.config.clients["c"].token_sha256, edit.config.clients["c"].servers) == ("b" * 64, ("fetch",))
    assert "# mine" in edit.after
    assert edit_config(path, remove_client("c")).config.clients == {}


REFUSED: dict[str, tuple[Change, str]] = {
    "no such server": (allow_host("fetsch", "a.example"), "there is no server 'fetsch'. Did you mean 'fetch'?"),
    "a name that is taken": (add_server("time", {"image": "x"}), "there is already a server 'time'"),
    "no such client": (remove_client("c"), "there is no client 'c'"),
    "a bad host": (allow_host("fetch", "not a host"), "has a space in it"),
    "a bad entry": (add_server("x", {"comand": "uvx"}), "unknown key 'comand'. Did you mean 'command'?"),
    "a bad name": (add_server("X__Y", {"image": "x"}), "cannot be a name"),
    "a bad block": (set_network("fetch", {"allowed_ports": [70000]}), "70000 is not a port"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_a_change_that_would_break_the_file_is_refused_before_it_is_written(
    path: Path, change: Change, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        edit_config(path, change)
    assert message in str(caught.value)
    assert path.read_text() == FILE


def test_a_file_that_changed_meanwhile_is_not_overwritten(path: Path) -> None:
    edit = edit_config(path, allow_host("fetch", "c.example"))
    path.write_text(FILE + "# someone else\n")
    with pytest.raises(ConcurrentChange, match="was changed meanwhile"):
        apply(edit)
    assert path.read_text() == FILE + "# someone else\n"
    assert [item.name for item in path.parent.iterdir()] == ["stockade.yaml"]


def test_a_link_to_the_file_stays_a_link_and_the_mode_stays(path: Path, tmp_path: Path) -> None:
    path.chmod(0o640)
    link = tmp_path / "sub" / "link.yaml"
    link.parent.mkdir()
    link.symlink_to(path)
    apply(edit_config(link, allow_host("fetch", "c.example")))
    assert link.is_symlink()
    assert "c.example" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_folder_that_cannot_be_written_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit = edit_config(path, allow_host("fetch", "c.example"))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("registry.edit.os.fsync", full)
    with pytest.raises(EditError, match="cannot be written: No space left on device"):
        apply(edit)
    assert path.read_text() == FILE
    assert [item.name for item in path.parent.iterdir()] == ["stockade.yaml"]


def test_new_warnings_come_with_the_edit(path: Path) -> None:
    edit = edit_config(path, set_network("time", {"isolated": False}))
    assert [warning.key_path for warning in edit.warnings] == ["mcpServers.time.network.isolated"]


def test_a_file_with_windows_line_ends_is_edited_or_refused_but_never_broken(path: Path) -> None:
    path.write_bytes(FILE.replace("\n", "\r\n").encode())
    apply(edit_config(path, allow_host("time", "c.example")))
    assert load_config(path).servers["time"].network.block == {"allowed_hosts": ["c.example"]}


def test_what_an_alias_shares_is_not_changed_for_all(path: Path) -> None:
    path.write_text(
        "version: 1\nmcpServers:\n  a:\n    image: x\n    network: &n\n      allowed_hosts: [a.example]\n"
        "  b: {image: x, network: *n}\n"
    )
    try:
        edit = edit_config(path, allow_host("a", "b.example"))
    except EditError as error:
        assert "cannot be edited safely" in str(error)  # noqa: PT017
    else:
        assert edit.config.servers["b"].network.block == {"allowed_hosts": ["a.example"]}


JSON_FILE = """\
{
  // mine
  "mcpServers": {
    "My Server": {"command": "uvx", "args": ["x"]}, // one
    "bar": {
      "command": "npx",
      "args": ["-y", "b"] // note
    },
  }
}
"""


def test_a_clients_json_is_edited_by_the_name_it_is_served_as(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    path.write_text(JSON_FILE)
    edit = edit_config(path, allow_host("my-server", "c.example"))
    assert changed_lines(edit.diff).splitlines()[1] == (
        '+    "My Server": {"command": "uvx", "args": ["x"], "network": {"allowed_hosts": ["c.example"]}}, // one'
    )
    second = edit_config(path, allow_host("bar", "c.example"))
    assert second.config.servers["bar"].network.block == {"allowed_hosts": ["c.example"]}
    assert "// mine" in second.after
    assert '"args": ["-y", "b"], // note' in second.after
    assert "My Server" not in edit_config(path, remove_server("my-server")).after
    with pytest.raises(EditError, match="an AI client's own file"):
        edit_config(path, add_client("c", HASH))


def test_a_clients_json_with_sections_of_ours_takes_clients_and_loses_them(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    servers = {"My Server": {"command": "uvx", "args": ["x"]}, "b": {"command": "uvx", "args": ["y"]}}
    path.write_text(json.dumps({"gateway": {"listen": "127.0.0.1:8520"}, "mcpServers": servers}, indent=2))
    apply(edit_config(path, add_client("c", HASH, {"servers": ["my-server", "b"]})))
    edit = edit_config(path, remove_server("my-server"))
    assert list(edit.config.servers) == ["b"]
    assert edit.config.clients["c"].servers == ("b",)


KEYS = st.sampled_from(["a", "b", "c", "key", "x y"])
LEAVES = (
    st.none() | st.booleans() | st.integers(0, 99) | st.sampled_from(["x", "a: b", "# no", "", "yes", "${secret:a}"])
)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=10
)


def test_an_object_whose_every_key_is_replaced_keeps_its_line_ends() -> None:
    assert rewrite('{\r\n  "a": null\r\n}', {"b": None}) == '{\r\n  "b": null\r\n}'


@given(
    st.dictionaries(KEYS, TREES, max_size=4),
    st.dictionaries(KEYS, TREES, max_size=4),
    st.sampled_from([None, 2, "\t"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_json_is_rewritten_in_place_to_mean_exactly_the_new_value(
    old: dict[str, Any], new: dict[str, Any], indent: int | str | None, newline: str
) -> None:
    text = json.dumps(old, indent=indent).replace("\n", newline)
    changed = rewrite(text, copy.deepcopy(new))
    assert json.loads(changed) == new
    if "\n" in text:
        assert changed.count("\n") == changed.count(newline)


@given(st.dictionaries(KEYS, TREES, min_size=1, max_size=4), st.dictionaries(KEYS, TREES, max_size=4))
def test_yaml_is_rewritten_to_mean_exactly_the_new_value_or_refused(old: dict[str, Any], new: dict[str, Any]) -> None:
    document = parse(block_value(old), "a.yaml")
    assert document.value == old
    assert parse(rewritten(document, copy.deepcopy(new)), "a.yaml").value == new


@pytest.mark.parametrize(
    ("network", "port", "entry"),
    [
        ("{}", None, "api.example.com"),
        ("{}", 80, "api.example.com:80"),
        ("{allowed_hosts: [a.example], allowed_ports: [443]}", 443, "api.example.com"),
        ("{allowed_hosts: [a.example], allowed_ports: [80, 443]}", 443, "api.example.com:443"),
        ("{allowed_hosts: [a.example], allowed_ports: ['8000-8010']}", 8000, "api.example.com:8000"),
    ],
)
def test_a_port_that_is_named_is_all_that_is_opened(
    tmp_path: Path, network: str, port: int | None, entry: str
) -> None:
    file = tmp_path / "stockade.yaml"
    file.write_text(f"version: 1\nmcpServers:\n  a:\n    image: x\n    network: {network}\n")
    config = edit_config(file, allow_host("a", "api.example.com", port)).config
    assert config.servers["a"].network.block["allowed_hosts"][-1] == entry

"""What Tab completes, asked as bash asks: by running the installed command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.cli import names
from registry.catalog import servers
from tests.gateway.control.fakes import Running, egress_event

PROGRAM = Path(sys.executable).with_name("stockade")
FILE = """\
# mcpServers: {not: this}
gateway: {listen: 127.0.0.1:8420}
mcpServers:
    # a remark
    fetch:
      command: uvx
      args: [mcp-server-fetch]
      env: {TOKEN: "${secret:github_token}"}

    "file-system":
      command: npx
clients:
  cursor: {servers: [fetch]}
  codex:
    servers: [fetch]
"""

Complete = Callable[[str], list[str]]


@pytest.fixture
def complete(work: Path) -> Complete:
    """Tab at the end of a line: what is suggested. What is printed besides, or any other end than 0, is an error."""

    def ask(line: str) -> list[str]:
        words = line.split(" ")
        asked = {"_STOCKADE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
        found = subprocess.run(
            [PROGRAM], env={**os.environ, **asked}, capture_output=True, text=True, timeout=60, check=False
        )
        assert (found.returncode, found.stderr) == (0, "")
        return found.stdout.split()

    return ask


@pytest.mark.parametrize(
    ("line", "suggested"),
    [
        ("stockade logs ", ["fetch", "file-system"]),
        ("stockade restart fi", ["file-system"]),
        ("stockade -f other.yaml rm ", ["elsewhere"]),
        ("stockade egress tail --server fe", ["fetch"]),
        ("stockade egress tail --decision d", ["deny"]),
        ("stockade egress top --by ", ["host", "server", "rule", "reason", "tool"]),
        ("stockade client rm ", ["cursor", "codex"]),
        ("stockade secret set ", ["github_token"]),
        ("stockade run file", ["filesystem"]),
        ("stockade connect cursor code", ["codex"]),
        ("stockade disconnect cur", ["cursor"]),
        ("stockade --version lo", ["logs"]),
        ("stockade egress allow fetch ", []),
    ],
)
def test_names_are_completed(complete: Complete, work: Path, line: str, suggested: list[str]) -> None:
    (work / "stockade.yaml").write_text(FILE)
    (work / "other.yaml").write_text("mcpServers: {elsewhere: {command: uvx}}\n")
    assert complete(line) == suggested


@pytest.mark.parametrize("content", [None, "", "mcpServers: {", "mcpServers: [1\n", "{", "\x00\xff", "clients: 3\n"])
@pytest.mark.parametrize("line", ["stockade logs ", "stockade egress allow fetch ", "stockade client rm "])
def test_a_missing_or_broken_file_suggests_nothing(
    complete: Complete, work: Path, content: str | None, line: str
) -> None:
    if content is not None:
        (work / "stockade.yaml").write_bytes(content.encode("latin-1"))
    assert complete(line) == []


def test_hosts_that_were_blocked_are_completed_from_the_running_gateway(complete: Complete, running: Running) -> None:
    running.publish(egress_event(time=time.time(), host="evil.example"))
    running.publish(egress_event(time=time.time(), seq=2, connection=2, host="db.example", port=5432))
    running.publish(egress_event(time=time.time(), seq=3, connection=3, host="theirs.example", backend="open"))
    running.publish(egress_event(time=time.time(), seq=4, connection=4, host="api.github.com"))  # allowed by now
    assert sorted(complete("stockade egress allow fetch ")) == ["db.example:5432", "evil.example"]
    assert complete("stockade egress explain fetch e") == ["evil.example"]


def test_the_catalogs_names_are_its_files(work: Path) -> None:
    assert names.catalog(None, "") == sorted(servers())  # type: ignore[arg-type]  # it needs no context


@pytest.mark.parametrize("shell", ["complete_bash", "complete_zsh", "complete_fish"])
def test_no_name_can_run_anything_in_the_shell(work: Path, shell: str) -> None:
    """Names come from servers, hosts and files of others; shells evaluate a part of what is suggested."""
    names = ["x\\$(id)", "a;{id,-u};#", "`id`", "$(id)", "a b", "a'b", "&id", "|id", ">x", "!id", "~x", "-x", "ok"]
    text = json.dumps({"mcpServers": {name: {"command": "uvx"} for name in names}})
    (work / "stockade.yaml").write_text(text)
    line = "stockade logs "
    asked = {"_STOCKADE_COMPLETE": shell, "COMP_WORDS": line, "COMP_CWORD": "2", "_TYPER_COMPLETE_ARGS": line}
    asked |= {"_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    found = subprocess.run(
        [PROGRAM], env={**os.environ, **asked}, capture_output=True, text=True, timeout=60, check=True
    )
    assert "ok" in found.stdout
    assert not set(found.stdout) & set("$;{}`&|><!~#")


def test_keys_are_found_in_each_form_of_a_file() -> None:
    assert names.keys_below('{"mcpServers": {"a": {"command": "x"}, "b": {}}}', "mcpServers") == ["a", "b"]
    assert names.keys_below('"mcpServers":\n  a: {}\n  b:\n    c: 1\n', "mcpServers") == ["a", "b"]
    assert names.keys_below("mcpServers: {a: {}, b: {}}\n", "mcpServers") == ["a", "b"]
    assert names.keys_below("mcpServers:\n- a: 1\nclients:\n  c: 1\n", "mcpServers") == []


COMPLETES = {"_STOCKADE_COMPLETE": "complete_bash", "COMP_WORDS": "stockade logs f", "COMP_CWORD": "2"}


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [([], COMPLETES), (["version"], {}), (["--project", "none", "egress", "tail", "-n", "3"], {})],
)
def test_neither_a_completion_nor_a_small_command_loads_what_is_heavy(
    work: Path, arguments: list[str], asked: dict[str, str]
) -> None:
    (work / "stockade.yaml").write_text(FILE)
    found = subprocess.run(
        [sys.executable, "-X", "importtime", PROGRAM, *arguments],
        env={**os.environ, **asked}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    loaded = {line.rpartition("|")[2].strip() for line in found.stderr.splitlines()}
    assert "gateway.cli.main" in loaded
    assert loaded.isdisjoint(
        {"pydantic", "ruamel.yaml", "aiohttp", "asyncio", "rich", "registry.load", "gateway.app"}
    )


def test_it_can_be_installed() -> None:
    shown = subprocess.run([PROGRAM, "--help"], capture_output=True, text=True, timeout=60, check=True).stdout
    assert "--install-completion" in shown
    assert "--show-completion" in shown

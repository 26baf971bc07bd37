"""Packages of PyPI and npm, by each tool that runs them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.registry.forms.entries import package, project, refused

PYTHON: dict[str, tuple[list[str], str, str, dict[str, Any]]] = {
    "a global option": (["uv", "--quiet", "tool", "run", "x"], "x", "x", {}),
    "where Python is from": (["uvx", "--python-preference", "only-managed", "x"], "x", "x", {}),
    "many": (
        "uvx --no-progress --native-tls --cache-dir /c --index-strategy unsafe-best-match --prerelease=allow x a".split(),
        "x",
        "x",
        {"args": ("a",)},
    ),
    "with": (
        ["uvx", "--with", "a,b[x,y]>=1,<2 , c", "-w", "d", "x"],
        "x",
        "x",
        {"extra_requirements": ("a", "b[x,y]>=1,<2", "c", "d")},
    ),
    "git beside it": (
        ["uvx", "--with", "git+https://git.example/o/r", "x"],
        "x",
        "x",
        {"system_packages": ("git",)},
    ),
    "uv's own Python": (["uvx", "--python", "cpython@3.12", "x"], "x", "x", {"runtime_version": "3.12"}),
    "a Python by its path": (["uvx", "-p", "/usr/bin/python3.13", "x"], "x", "x", {"runtime_version": "3.13"}),
    "pipx --spec": (
        ["pipx", "run", "--spec", "p[e]==1.2", "--python", "3.12", "prog", "a"],
        "p[e]==1.2",
        "prog",
        {"version": "1.2", "runtime_version": "3.12", "args": ("a",)},
    ),
    "pipx quiet": (["pipx", "--quiet", "run", "--no-cache", "x"], "x", "x", {}),
    "pipx from git": (
        ["pipx", "run", "--spec", "git+https://git.example/o/r", "x"],
        "git+https://git.example/o/r",
        "x",
        {"system_packages": ("git",)},
    ),
    "uv run of a package": (
        ["uv", "run", "--with", "mcp-clickhouse", "--python", "3.10", "mcp-clickhouse"],
        "mcp-clickhouse",
        "mcp-clickhouse",
        {"runtime_version": "3.10"},
    ),
    "uv run of one of several": (
        ["uv", "run", "--with", "other", "--with", "mcp_foo[all]>=1", "mcp-foo", "a"],
        "mcp_foo[all]>=1",
        "mcp-foo",
        {"extra_requirements": ("other",), "args": ("a",)},
    ),
    "uv run of another command": (["uv", "run", "--with", "p", "cmd"], "p", "cmd", {}),
}


@pytest.mark.parametrize(("words", "requirement", "executable", "more"), PYTHON.values(), ids=PYTHON)
def test_a_package_of_pypi(words: list[str], requirement: str, executable: str, more: dict[str, Any]) -> None:
    source = package(
        words, **({"python": "3.13"} if more.get("runtime_version") == "3.13" and "3.12" in words else {})
    )
    assert (source.kind, source.requirement, source.executable) == ("uvx", requirement, executable)
    assert {key: getattr(source, key) for key in more} == more


NODE: dict[str, tuple[list[str], str, str, tuple[str, ...]]] = {
    "scoped with a version": (["npx", "-y", "@a/b@^1.2", "x"], "@a/b@^1.2", "", ("x",)),
    "the program's own -c": (["npx", "-y", "b", "-c", "x"], "b", "", ("-c", "x")),
    "prefix": (["npx", "--prefix", "/x", "b"], "b", "", ()),
    "Node's options": (["npx", "--node-options", "--no-warnings", "b"], "b", "", ()),
    "GitHub": (["npx", "-y", "github:o/r", "x"], "github:o/r", "", ("x",)),
    "GitHub in short": (["npx", "o/r#v1"], "o/r#v1", "", ()),
    "git": (["npx", "git+https://git.example/o/r.git#v1"], "git+https://git.example/o/r.git#v1", "", ()),
    "a program of GitHub": (["npx", "-p", "github:o/r", "cmd"], "github:o/r", "cmd", ()),
    "bunx --bun": (["bunx", "--bun", "b@1", "--x"], "b@1", "", ("--x",)),
    "bunx -p": (["bunx", "-p", "@a/b", "cmd"], "@a/b", "cmd", ()),
    "bun x": (["bun", "x", "-y", "b", "x"], "b", "", ("x",)),
    "pnpm dlx": (["pnpm", "--silent", "dlx", "b@2", "x"], "b@2", "", ("x",)),
    "pnpm --package": (["pnpm", "--package=@a/b", "dlx", "cmd", "x"], "@a/b", "cmd", ("x",)),
    "pnpm dlx --package": (["pnpm", "dlx", "--package", "@a/b", "cmd"], "@a/b", "cmd", ()),
    "pnpx": (["pnpx", "b"], "b", "", ()),
    "yarn dlx": (["yarn", "dlx", "-q", "b", "x"], "b", "", ("x",)),
    "yarn dlx -p": (["yarn", "dlx", "-p", "@a/b", "cmd"], "@a/b", "cmd", ()),
    "deno": (["deno", "run", "-A", "npm:@a/b@1.2", "x"], "@a/b@1.2", "", ("x",)),
    "deno with a program": (["deno", "run", "--allow-net=x", "npm:b@1/cmd", "x"], "b@1", "cmd", ("x",)),
}


@pytest.mark.parametrize(("words", "requirement", "executable", "args"), NODE.values(), ids=NODE)
def test_a_package_of_npm(words: list[str], requirement: str, executable: str, args: tuple[str, ...]) -> None:
    source = package(words)
    assert (source.kind, source.requirement, source.executable) == ("npx", requirement, executable)
    assert source.args == args
    assert ("git" in source.system_packages) == ("/" in requirement and not requirement.startswith("@"))


LOCAL: dict[str, tuple[list[str], dict[str, Any]]] = {
    "uvx --from": (["uvx", "--from", "/p", "x", "a"], {"how": "command", "name": "x", "args": ("a",)}),
    "uvx --from with more": (["uvx", "--with", "q", "--from", "/p/", "x"], {"requirements": ("q",)}),
    "uvx of a file": (
        ["uvx", "fastmcp", "run", "/p/server.py:app"],
        {"how": "command", "name": "fastmcp", "args": ("run", "/p/server.py:app"), "standalone": True},
    ),
    "pipx of a file": (
        ["pipx", "run", "--python", "3.12", "/p/s.py", "a"],
        {"how": "file", "name": "/p/s.py", "standalone": True, "runtime_version": "3.12", "args": ("a",)},
    ),
    "npx tsx": (
        ["npx", "-y", "tsx@4", "/p/i.ts", "a"],
        {"how": "command", "name": "tsx", "requirements": ("tsx@4",), "args": ("/p/i.ts", "a")},
    ),
    "npx ts-node": (["npx", "ts-node", "/p/i.ts"], {"requirements": ("ts-node", "typescript")}),
    "npx -p": (["npx", "-p", "tsx", "-p", "zod", "tsx", "/p/i.ts"], {"requirements": ("tsx", "zod")}),
    "npx with a prefix": (["npx", "--prefix", "/p", "tsx", "src/i.ts"], {"name": "tsx", "args": ("src/i.ts",)}),
    "bunx tsx": (["bunx", "tsx", "/p/i.ts"], {"language": "node", "name": "tsx"}),
}


@pytest.mark.parametrize(("words", "more"), LOCAL.values(), ids=LOCAL)
def test_a_runner_of_packages_may_run_what_is_on_this_machine(words: list[str], more: dict[str, Any]) -> None:
    source = project(words)
    assert source.folder == "/p"
    assert {key: getattr(source, key) for key in more} == more


REFUSED = {
    "uv tool run": (["uv", "tool", "run", "--index", "x", "p"], "args[2]: uv tool run --index is refused"),
    "pipx": (["pipx", "run", "--zzz", "p"], "args[1]: Stockade does not know pipx run's option --zzz"),
    "pipx --pip-args": (["pipx", "run", "--pip-args", "x", "p"], "pipx run --pip-args is refused"),
    "pipx of a URL": (["pipx", "run", "git+https://x.example/a"], "Write --spec URL COMMAND"),
    "pipx install": (["pipx", "install", "x"], "args[0]: Stockade reads `pipx run …`, not `pipx install`"),
    "bunx": (["bunx", "--zzz", "p"], "args[0]: Stockade does not know bunx's option --zzz"),
    "pnpm dlx": (["pnpm", "dlx", "-c", "p"], "args[1]: pnpm dlx -c is refused: a shell command is not a package"),
    "yarn dlx": (["yarn", "dlx", "--zzz", "p"], "Stockade does not know yarn dlx's option --zzz"),
    "npm exec": (["npm", "exec", "--registry", "x", "p"], "args[1]: npm exec --registry is refused"),
    "uv": (["uv", "--zzz", "run", "x"], "args[0]: Stockade does not know uv's option --zzz"),
    "uv pip": (["uv", "pip", "install", "x"], "args[0]: Stockade reads `uv run …` and `uv tool run …`, not `uv pip`"),
    "uv alone": (["uv"], "not `uv`"),
    "a folder beside it": (["uvx", "--with", "./x", "p"], "args[0]: --with ./x is a folder or file of this machine"),
    "a folder relative to nothing": (["uvx", "--from", ".", "p"], "args[0]: . is relative to nothing. Add cwd: FOLDER"),
    "a wheel": (["uvx", "--from", "/x/p.whl", "p"], "'/x/p.whl' is not a package of PyPI"),
    "certificates": (["uvx", "--allow-insecure-host", "x", "p"], "certificates are checked"),
    "a file for npx": (["npx", "/x/i.js"], "A program of this machine is run by its file: command: node, args: [FILE]"),
    "a reference": (["npx", "github:o/${env:R}"], "${env:R} is not filled in here: it decides what is installed"),
    "a runner without a folder": (["npx", "tsx", "src/i.ts"], "args[1]: src/i.ts is relative to nothing"),
    "no package": (["bunx"], "bunx does not say which package to run"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "message"), REFUSED.values(), ids=REFUSED)
def test_an_error_names_the_tool_that_was_written_and_its_place(words: list[str], message: str) -> None:
    assert message in refused(words)

"""Which lines of a server's end tell why, and which missing program they name: on outputs as real servers print them."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from gateway.runtime.sandbox.last_words import KEPT_LINES, last_words, missing_program, telling

GIT = """\
Traceback (most recent call last):
  File "/opt/stockade/tools/mcp-server-git/lib/python3.11/site-packages/git/__init__.py", line 296, in <module>
    refresh()
  File "/opt/stockade/tools/mcp-server-git/lib/python3.11/site-packages/git/cmd.py", line 977, in refresh
    raise ImportError(err)
ImportError: Bad git executable.
The git executable must be specified in one of the following ways:
    - be included in your $PATH
    - be set via $GIT_PYTHON_GIT_EXECUTABLE
    - explicitly set via git.refresh(<full-path-to-git-executable>)

All git commands will error until this is rectified.

This initial message can be silenced or aggravated in the future by setting the
$GIT_PYTHON_REFRESH environment variable. Use one of the following values:
    - quiet|q|silence|s|silent|none|n|0: for no message or exception
    - warn|w|warning|log|l|1: for a warning message (logging level CRITICAL, displayed by default)
    - error|e|exception|raise|r|2: for a raised exception

Example:
    export GIT_PYTHON_REFRESH=quiet


The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/opt/stockade/bin/mcp-server-git", line 4, in <module>
    from mcp_server_git import main
  File "/opt/stockade/tools/mcp-server-git/lib/python3.11/site-packages/git/__init__.py", line 298, in <module>
    raise ImportError("Failed to initialize: {0}".format(_exc)) from _exc
ImportError: Failed to initialize: Bad git executable.
The git executable must be specified in one of the following ways:
    - be included in your $PATH
    - be set via $GIT_PYTHON_GIT_EXECUTABLE

Example:
    export GIT_PYTHON_REFRESH=quiet
"""
SLACK = """\
node:child_process:957
    throw err;
    ^

Error: Command failed: /opt/stockade/lib/node_modules/slack-mcp-server-linux-amd64/bin/slack-mcp-server --transport stdio
    at checkExecSyncError (node:child_process:916:11)
    at Object.execFileSync (node:child_process:954:15)
    at Module._compile (node:internal/modules/cjs/loader:1761:14) {
  status: 1,
  signal: null,
  output: [ null, null, null ],
  pid: 21,
  stdout: null,
  stderr: null
}

Node.js v24.19.0
"""
REMOTE = """\
[33] Using automatically selected callback port: 3334
[33] Connecting to remote server: https://remote.mcp.example/mcp
[33] Connection error: TypeError: fetch failed
TypeError: fetch failed
    at node:internal/deps/undici/undici:14976:13
    at process.processTicksAndRejections (node:internal/process/task_queues:105:5) {
  [cause]: RequestAbortedError [AbortError]: Proxy response (403) !== 200 when HTTP Tunneling
      at RequestContext (node:internal/deps/undici/undici:9000:12) {
    code: 'UND_ERR_ABORTED'
  }
}
"""
POSTGRES = """\
node:events:487
      throw er; // Unhandled 'error' event
      ^

Error: connect ECONNREFUSED 127.0.0.1:5432
    at TCPConnectWrap.afterConnect [as oncomplete] (node:net:1637:16)
Emitted 'error' event on Client instance at:
    at Connection.connectingErrorHandler (/opt/stockade/lib/node_modules/pg/lib/client.js:123:10) {
  errno: -111,
  code: 'ECONNREFUSED',
  syscall: 'connect',
  address: '127.0.0.1',
  port: 5432
}

Node.js v24.19.0
"""
SPAWN = """\
node:events:487
      throw er; // Unhandled 'error' event
      ^

Error: spawn rg ENOENT
    at ChildProcess._handle.onexit (node:internal/child_process:285:19)
Emitted 'error' event on ChildProcess instance at:
    at ChildProcess._handle.onexit (node:internal/child_process:291:12) {
  errno: -2,
  code: 'ENOENT',
  syscall: 'spawn rg',
  path: 'rg',
  spawnargs: [ '--version' ]
}

Node.js v24.19.0
"""
MODULE = """\
node:internal/modules/cjs/loader:1386
  throw err;
  ^

Error: Cannot find module 'zod'
Require stack:
- /opt/stockade/lib/node_modules/some-server/dist/index.js
    at Function._resolveFilename (node:internal/modules/cjs/loader:1383:15)
    at node:internal/main/run_main_module:33:47 {
  code: 'MODULE_NOT_FOUND',
  requireStack: [ '/opt/stockade/lib/node_modules/some-server/dist/index.js' ]
}

Node.js v24.19.0
"""
SETTINGS = """\
Traceback (most recent call last):
  File "/opt/stockade/bin/some-mcp", line 10, in <module>
    sys.exit(main())
  File "/opt/stockade/tools/some-mcp/lib/python3.11/site-packages/some_mcp/config.py", line 12, in load
    return Settings()
pydantic_core._pydantic_core.ValidationError: 1 validation error for Settings
api_key
  Field required [type=missing, input_value={}, input_type=dict]
    For further information visit https://errors.pydantic.dev/2.11/v/missing
"""
GROUPED = """\
  + Exception Group Traceback (most recent call last):
  |   File "/opt/stockade/bin/mcp-server-sqlite", line 10, in <module>
  |     sys.exit(main())
  | BaseExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)
  +-+---------------- 1 ----------------
    | Traceback (most recent call last):
    |   File "/opt/stockade/tools/mcp-server-sqlite/server.py", line 211, in main
    |     @server.list_resources()
    |      ^^^^^^^^^^^^^^^^^^^^^
    | AttributeError: 'Server' object has no attribute 'list_resources'
    +------------------------------------
"""
PLAIN = """\
Traceback (most recent call last):
  File "/opt/stockade/bin/mcp-server-sqlite", line 10, in <module>
    sys.exit(main())
AttributeError: 'Server' object has no attribute 'list_resources'
"""
GO = """\
{"level":"info","msg":"Starting server"}
panic: runtime error: invalid memory address or nil pointer dereference
[signal SIGSEGV: segmentation violation code=0x1 addr=0x0 pc=0x48f2a1]

goroutine 1 [running]:
main.main()
	/src/main.go:12 +0x1d
exit status 2
"""
RUST = """\
thread 'main' panicked at src/main.rs:14:37:
called `Result::unwrap()` on an `Err` value: NotPresent
note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace
"""
USAGE = """\
usage: mcp-server-git [-h] [--repository REPOSITORY]
mcp-server-git: error: unrecognized arguments: --repo
"""
FATAL = """\
2026/11/30 10:00:00 INFO starting
2026/11/30 10:00:01 FATAL authentication failed: invalid_auth
2026/11/30 10:00:01 INFO bye
"""
WANTS = """\
Secure MCP Filesystem Server
Please provide a GITHUB_TOKEN. It is required.
Bye.
"""
COLOURED = "\x1b[31mError: API key is required\x1b[0m\n    at main (file:///x.js:1:1)\n\nNode.js v24.19.0\n"

TOLD = [
    pytest.param(
        GIT, ["ImportError: Failed to initialize: Bad git executable."], id="Python, a cause and a long help"
    ),
    pytest.param(
        SLACK, ["Error: Command failed: /opt/stockade/lib/node_modules/slack-mcp-server-linux-amd64"], id="Node"
    ),
    pytest.param(
        REMOTE,
        [
            "TypeError: fetch failed",
            "caused by RequestAbortedError [AbortError]: Proxy response (403) !== 200 when HTTP Tunneling",
        ],
        id="Node with a cause",
    ),
    pytest.param(POSTGRES, ["Error: connect ECONNREFUSED 127.0.0.1:5432"], id="Node, an event"),
    pytest.param(SPAWN, ["Error: spawn rg ENOENT"], id="Node, a program"),
    pytest.param(MODULE, ["Error: Cannot find module 'zod'"], id="Node, a module"),
    pytest.param(
        SETTINGS,
        [
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for Settings",
            "api_key",
            "Field required [type=missing",
        ],
        id="Python, the reason below the error",
    ),
    pytest.param(
        GROUPED, ["AttributeError: 'Server' object has no attribute 'list_resources'"], id="Python, a group"
    ),
    pytest.param(PLAIN, ["AttributeError: 'Server' object has no attribute 'list_resources'"], id="Python"),
    pytest.param(GO, ["panic: runtime error: invalid memory address or nil pointer dereference"], id="Go"),
    pytest.param(RUST, ["thread 'main' panicked at src/main.rs:14:37:"], id="Rust"),
    pytest.param(USAGE, ["mcp-server-git: error: unrecognized arguments: --repo"], id="argparse"),
    pytest.param(FATAL, ["2026/11/30 10:00:01 FATAL authentication failed: invalid_auth"], id="a log with levels"),
    pytest.param(WANTS, ["Please provide a GITHUB_TOKEN. It is required."], id="a sentence"),
    pytest.param(COLOURED, ["Error: API key is required"], id="colours"),
    pytest.param("one\ntwo\nthree\nfour\n", ["two", "three", "four"], id="nothing that tells"),
    pytest.param("}\n}\n", ["}", "}"], id="nothing but noise"),
    pytest.param("", [], id="nothing"),
]


@pytest.mark.parametrize(("printed", "told"), TOLD)
def test_the_lines_that_say_why_are_shown(printed: str, told: list[str]) -> None:
    found = telling(printed.splitlines())
    assert len(found) == len(told), found
    for line, beginning in zip(found, told, strict=True):
        assert line.startswith(beginning)


MISSING = [
    (GIT, "git"),
    (SPAWN, "rg"),
    ("Error: spawnSync kubectl ENOENT", "kubectl"),
    ("Error: spawn /usr/bin/ffmpeg ENOENT", "ffmpeg"),
    ("FileNotFoundError: [Errno 2] No such file or directory: 'git'", "git"),
    ("FileNotFoundError: [Errno 2] No such file or directory: '/usr/bin/pandoc'", "pandoc"),
    ("  in _execute_child\nFileNotFoundError: [Errno 2] No such file or directory: 'odd-tool'", "odd-tool"),
    ("/bin/sh: 1: git: not found", "git"),
    ("sh: line 1: kubectl: command not found", "kubectl"),
    ("bash: terraform: command not found", "terraform"),
    ("zsh: command not found: jq", "jq"),
    ("/usr/bin/env: \u2018node\u2019: No such file or directory", "node"),
    ("env: 'python': No such file or directory", "python"),
    ('exec: "docker-compose": executable file not found in $PATH', "docker-compose"),
    ("Error: not found: git", "git"),
    ("pytesseract.TesseractNotFoundError: tesseract is not installed or it's not in your PATH.", "tesseract"),
    ("RuntimeWarning: Couldn't find ffmpeg or avconv - defaulting to ffmpeg, but may not work", "ffmpeg"),
    ("Unable to get page count. Is poppler installed and in PATH?", "poppler"),
    (
        "Chromium distribution 'chrome' is not found at /opt/google/chrome/chrome\nRun \"npx playwright install\"",
        "chromium",
    ),
    ("Could not find Google Chrome executable for channel 'stable' at:", "chromium"),
    ("Error: Could not find Chrome (ver. 131.0.6778.204).", "chromium"),
    ("browserType.launch: Executable doesn't exist at /ms-playwright/chromium-1148/chrome-linux/chrome", "chromium"),
]
NOT_MISSING = [
    "FileNotFoundError: [Errno 2] No such file or directory: 'config.json'",
    "FileNotFoundError: [Errno 2] No such file or directory: '/data/git'",
    "Error: ENOENT: no such file or directory, open '/srv/x'",
    "Error: getaddrinfo ENOTFOUND api.example",
    "404 Not Found",
    "Tool git_status: not found",
    "HTTPError: page not found: example",
    "Error: repository not found: owner/name",
    "could not find a version that satisfies the requirement",
    "2026-11-30 user node was not found in the database",
]


@pytest.mark.parametrize(("printed", "program"), MISSING)
def test_a_missing_program_is_recognized(printed: str, program: str) -> None:
    assert missing_program(printed.splitlines()) == program


@pytest.mark.parametrize("printed", NOT_MISSING)
def test_what_is_missing_but_no_program_is_not_taken_for_one(printed: str) -> None:
    assert missing_program(printed.splitlines()) == ""


@pytest.mark.parametrize(
    ("printed", "more", "advice"),
    [
        (GIT, {}, "git is not in its image: add `packages: [git]`."),
        ("spawn kubectl ENOENT", {"packages": ["git"]}, "add `packages: [git, kubernetes-client]`."),
        ("spawn odd ENOENT", {}, "odd is not in its image: add the Debian package that has it under `packages`"),
        ("spawn git ENOENT", {"builds": False}, "git is not in its image: take an image that has it."),
        ("Could not find Chrome", {}, "add `packages: [chromium]`"),
        ("Could not find Chrome", {"packages": ["chromium"]}, "is in its image, /usr/bin/chromium"),
    ],
)
def test_the_advice_names_the_line_to_write(printed: str, more: dict[str, object], advice: str) -> None:
    assert advice in last_words(printed.splitlines(), **more)  # type: ignore[arg-type]


def test_an_end_without_a_missing_program_gets_no_advice() -> None:
    assert (
        last_words(PLAIN.splitlines())
        == "It printed: AttributeError: 'Server' object has no attribute 'list_resources'"
    )
    assert last_words([]) == ""


@pytest.mark.parametrize(
    ("program", "told", "missing"),
    [
        ("import subprocess; subprocess.run(['kubectl'])", "FileNotFoundError: ", "kubectl"),
        ("import asyncio; asyncio.run(asyncio.create_subprocess_exec('git'))", "FileNotFoundError: ", "git"),
        ("import shutil; raise SystemExit('fatal: no key')", "fatal: no key", ""),
        ("import nosuchmodule", "ModuleNotFoundError: No module named 'nosuchmodule'", ""),
        ("import os; os.system('odd-tool')", "sh: ", "odd-tool"),
    ],
)
def test_what_python_really_prints(program: str, told: str, missing: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={"PATH": "/nosuch"}, check=False
    )
    lines = ended.stderr.splitlines()
    assert telling(lines)[0].startswith(told)
    assert missing_program(lines) == missing


@pytest.mark.parametrize(
    "line", ["x" * 500, "error " * 80, "a.b" * 160, "spawn " + "a-" * 240, "| " * 250, "': " * 160]
)
def test_long_odd_lines_take_no_time(line: str) -> None:
    began = time.process_time()
    last_words([line] * KEPT_LINES)
    assert time.process_time() - began < 1

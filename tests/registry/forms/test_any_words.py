"""Whatever stands in an entry: an answer or an error in words, and no argument of the program is lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from registry.model.errors import ConfigError
from registry.model.forms.wrappers import PEELS
from registry.model.server import Server
from registry.model.sources import RemoteSource
from registry.model.spec import FORMS, plan_source, program_args

TOOLS = sorted({*FORMS, *PEELS, "python", "python3.12", "py", "/x/.venv/bin/python", "/x/.venv/bin/thing", "/x/s.py"})
WORDS = [
    "run", "tool", "exec", "dlx", "x", "task", "-c", "/c", "-e", "--", "-", "-m", "-p", "--with", "--from", "--directory",
    "--prefix", "-C", "--cwd", "--env-file", "--python", "-lc", "-S", "A=1", "b", "@a/b@1", "/x/s.py", "s.ts", "npm:b",
    "jsr:a", "", " ", "cd /x && npx b", "$A", "${env:A}", "${secret:b}", "'", "\\", "C:\\x", "~", "git+https://x.example/y",
    "\0",
]  # fmt: skip
word = st.sampled_from([*TOOLS, *WORDS]) | st.text(max_size=8)


@given(st.sampled_from(TOOLS) | st.text(min_size=1, max_size=12), st.lists(word, max_size=8), st.booleans())
def test_any_words_are_a_source_or_an_error(command: str, args: list[str], folder: bool) -> None:
    server = Server.model_validate({"command": command, "args": args, **({"cwd": "/c"} if folder else {})})
    try:
        source = plan_source(server)
    except ConfigError:
        return
    assert not isinstance(source, RemoteSource)
    assert len(program_args(server)) == len(source.args)


START = st.sampled_from([
    ["npx", "-y", "b"], ["uvx", "b"], ["uv", "run", "/x/s.py"], ["uv", "run", "--directory", "/d", "thing"],
    ["python", "/x/s.py"], ["python", "-m", "srv"], ["node", "/x/i.js"], ["npx", "tsx", "/x/i.ts"], ["docker", "run", "i"],
    ["bun", "/x/i.ts"], ["deno", "run", "-A", "/x/i.ts"], ["deno", "run", "npm:b"], ["cmd", "/c", "npx", "b"],
    ["env", "A=1", "npx", "b"], ["npm", "run", "start", "--"], ["pnpm", "start"], ["yarn", "run", "start"],
    ["bun", "run", "start"], ["poetry", "run", "thing"], ["pipx", "run", "b"], ["/x/.venv/bin/thing"], ["bunx", "b"],
])  # fmt: skip


@given(START, st.lists(st.sampled_from(["a", "-y", "--with", "-c", "-p", "--x=1", "run", "/x", "é", ""]), max_size=5))
def test_the_last_words_of_an_entry_are_the_program_s(start: list[str], args: list[str]) -> None:
    in_folder = {"cwd": "/c"} if start[0] not in ("npx", "uvx", "docker", "cmd", "env", "pipx", "bunx") else {}
    in_folder = {} if "npm:b" in start else in_folder
    server = Server.model_validate({"command": start[0], "args": [*start[1:], *args], **in_folder})
    source = plan_source(server)
    assert not isinstance(source, RemoteSource)
    assert list(source.args[len(source.args) - len(args) :]) == args
    expected = [("args", len(server.args) - len(args) + index) for index in range(len(args))]
    assert [where for where, _ in program_args(server)][len(source.args) - len(args) :] == expected

"""Programs of this machine, by each tool that runs them."""

from __future__ import annotations

from typing import Any

import pytest

from registry.model.server import Server
from registry.model.sources import HOME
from registry.model.spec import plan_source
from tests.registry.forms.entries import project, refused

IN_C = {"cwd": "/c"}
Table = dict[str, tuple[list[str], dict[str, Any], dict[str, Any]]]


def file(folder: str, name: str, **more: Any) -> dict[str, Any]:
    return {"folder": folder, "how": "file", "name": name, **more}


def command(folder: str, name: str, **more: Any) -> dict[str, Any]:
    return {"folder": folder, "how": "command", "name": name, **more}


def module(folder: str, name: str, **more: Any) -> dict[str, Any]:
    return {"folder": folder, "how": "module", "name": name, **more}


def script(folder: str, name: str, **more: Any) -> dict[str, Any]:
    return {"folder": folder, "how": "script", "name": name, **more}


PYTHON: Table = {
    "uv run --directory": ("uv run --directory /d server.py --a".split(), {}, file("/d", "server.py", args=("--a",))),
    "uv --directory": ("uv --directory /d run server.py".split(), {}, file("/d", "server.py")),
    "uv -q --directory=": ("uv -q --directory=/d/ run s.py".split(), {}, file("/d", "s.py")),
    "uv --directory from cwd": ("uv --directory d run s.py".split(), IN_C, file("/c/d", "s.py")),
    "uv run in cwd": ("uv run server.py".split(), IN_C, file("/c", "server.py")),
    "uv run of a whole path": ("uv run /x/s.py a".split(), {}, file("/x", "/x/s.py", args=("a",))),
    "uv run of a whole path in cwd": ("uv run /x/s.py".split(), IN_C, file("/c", "/x/s.py")),
    "uv run out of its folder": ("uv run ../x/s.py".split(), IN_C, file("/c", "/x/s.py")),
    "uv run below its folder": ("uv run ./src/../s.py".split(), IN_C, file("/c", "s.py")),
    "uv run --project": ("uv run --project /d s.py".split(), {}, file("/d", "s.py")),
    "uv run --project in cwd": ("uv run --project d s.py".split(), IN_C, file("/c/d", "/c/s.py")),
    "uv run PROG": ("uv --directory /d run mcp-thing --x".split(), {}, command("/d", "mcp-thing", args=("--x",))),
    "uv run --": ("uv run --directory /d -- mcp-thing -- x".split(), {}, command("/d", "mcp-thing", args=("--", "x"))),
    "uv run -m": ("uv run -m pkg.server x".split(), IN_C, module("/c", "pkg.server", args=("x",))),
    "uv run python FILE": ("uv run python -u s.py x".split(), IN_C, file("/c", "s.py", runtime_args=("-u",), args=("x",))),
    "uv run python -m": ("uv run --directory /d python3 -m srv".split(), {}, module("/d", "srv")),
    "uv run --with": (
        "uv run --with a,b --with c s.py".split(),
        IN_C,
        file("/c", "s.py", requirements=("a", "b", "c")),
    ),
    "uv run's wishes": (
        "uv run --extra cli --all-groups --no-dev --group=x --frozen --no-sync --package p s.py".split(),
        IN_C,
        file("/c", "s.py", options="--extra cli --all-groups --no-dev --group x --package p".split()),
    ),
    "uv run --python": ("uv run --python 3.12 s.py".split(), IN_C, file("/c", "s.py", runtime_version="3.12")),
    "uv run --python PATH": (
        "uv run --python .venv/bin/python s.py".split(),
        IN_C,
        file("/c", "s.py", interpreter="/c/.venv/bin/python", runtime_version=""),
    ),
    "uv run --script": ("uv run --script tool x".split(), IN_C, file("/c", "tool", standalone=True, args=("x",))),
    "uv run -s": ("uv run -s /x/tool".split(), {}, file("/x", "/x/tool", standalone=True)),
    "uv run --no-project": ("uv run --no-project /x/s.py".split(), {}, file("/x", "/x/s.py", standalone=True)),
    "mcp run": (
        "uv run --with mcp mcp run /abs/server.py".split(),
        {},
        command("/abs", "mcp", args=("run", "/abs/server.py"), requirements=("mcp",)),
    ),
    "fastmcp run": (
        "uv run --with fastmcp fastmcp run /abs/server.py:app -t stdio".split(),
        {},
        command("/abs", "fastmcp", args=("run", "/abs/server.py:app", "-t", "stdio")),
    ),
    "mcp install's own": (
        "uv run --with mcp[cli] --with-editable /p mcp run /p/src/server.py".split(),
        {},
        command("/p", "mcp", requirements=("mcp[cli]",)),
    ),
    "fastmcp in a folder": (
        "uv run --directory /d fastmcp run s.py".split(),
        {},
        command("/d", "fastmcp", args=("run", "s.py")),
    ),
    "--with in a project": ("uv run --with x x".split(), IN_C, command("/c", "x", requirements=("x",))),
    "python": ("python server.py a".split(), IN_C, file("/c", "server.py", args=("a",))),
    "python3.12": ("python3.12 /x/s.py".split(), {}, file("/x", "/x/s.py", runtime_version="3.12")),
    "python3": ("/usr/bin/python3 /x/s.py".split(), {}, file("/x", "/x/s.py", runtime_version="", interpreter="")),
    "python's options": (
        "python -uB -X dev -Wignore -W error s.py -u".split(),
        IN_C,
        file("/c", "s.py", runtime_args=("-uB", "-X", "dev", "-Wignore", "-W", "error"), args=("-u",)),
    ),
    "python -m": ("python -u -m srv.main a".split(), IN_C, module("/c", "srv.main", runtime_args=("-u",), args=("a",))),
    "python -mMODULE": ("python -msrv a".split(), IN_C, module("/c", "srv", args=("a",))),
    "py": ("py -3.12 s.py".split(), IN_C, file("/c", "s.py", runtime_version="3.12")),
    "py -3": ("py -3 -m srv".split(), IN_C, module("/c", "srv", runtime_version="")),
    "python's version in the entry": (
        "python3.12 s.py".split(),
        {**IN_C, "python": "3.13"},
        file("/c", "s.py", runtime_version="3.13"),
    ),
    "an environment": (
        "/x/.venv/bin/python s/a.py".split(),
        IN_C,
        file("/c", "s/a.py", interpreter="/x/.venv/bin/python"),
    ),
    "an environment's module": (
        "/x/.venv/bin/python3.12 -m srv".split(),
        {},
        module("/x", "srv", interpreter="/x/.venv/bin/python3.12", runtime_version="3.12"),
    ),
    "a relative environment": (
        "venv/bin/python s.py".split(),
        IN_C,
        file("/c", "s.py", interpreter="/c/venv/bin/python"),
    ),
    "an environment among others": (
        "/h/.virtualenvs/foo/bin/python -m srv".split(),
        {},
        module("/h/.virtualenvs/foo", "srv", interpreter="/h/.virtualenvs/foo/bin/python"),
    ),
    "a program of an environment": (
        "/x/.venv/bin/mcp-thing --a".split(),
        {},
        command("/x", "mcp-thing", interpreter="/x/.venv/bin/python", args=("--a",)),
    ),
    "a program of pipx": (
        "/h/.local/pipx/venvs/foo/bin/foo".split(),
        {},
        command("/h/.local/pipx/venvs/foo", "foo"),
    ),
    "fastmcp of an environment": (
        "/x/.venv/bin/fastmcp run /p/s.py".split(),
        {},
        command("/p", "fastmcp", interpreter="/x/.venv/bin/python"),
    ),
    "a file by itself": ("/x/s.py a".split(), {}, file("/x", "/x/s.py", args=("a",))),
    "poetry": ("poetry run python s.py".split(), IN_C, file("/c", "s.py")),
    "poetry -C": ("poetry -C /d run thing a".split(), {}, command("/d", "thing", args=("a",))),
    "poetry run --directory": ("poetry run --directory=/d python -m srv".split(), {}, module("/d", "srv")),
    "pdm": ("pdm run -p /d s.py".split(), {}, file("/d", "s.py")),
    "pdm -p": ("pdm -p /d run thing".split(), {}, command("/d", "thing")),
    "hatch": ("hatch -e dev run thing".split(), IN_C, command("/c", "thing")),
    "hatch's environment": ("hatch run dev:python s.py".split(), IN_C, file("/c", "s.py")),
}  # fmt: skip
NODE: Table = {
    "node": ("node /x/build/index.js a".split(), {}, file("/x/build", "/x/build/index.js", args=("a",))),
    "node in cwd": ("node build/index.js".split(), IN_C, file("/c", "build/index.js")),
    "node's options": (
        "node --enable-source-maps --import tsx -r x --env-file=.env src/i.ts --port 1".split(),
        IN_C,
        file("/c", "src/i.ts", runtime_args="--enable-source-maps --import tsx -r x --env-file=.env".split(),
             args=("--port", "1")),
    ),
    "node by its path": ("/home/u/.nvm/versions/node/v22.1.0/bin/node /x/i.js".split(), {}, file("/x", "/x/i.js")),
    "node --": ("node -- /x/i.js".split(), {}, file("/x", "/x/i.js")),
    "node's version": ("node i.js".split(), {**IN_C, "node": "22"}, file("/c", "i.js", runtime_version="22")),
    "a file by itself": ("/x/i.mjs a".split(), {}, file("/x", "/x/i.mjs", args=("a",))),
    "tsx": ("tsx /x/i.ts a".split(), {}, command("/x", "tsx", args=("/x/i.ts", "a"), requirements=("tsx",))),
    "tsx watch": ("tsx watch src/i.ts".split(), IN_C, command("/c", "tsx", args=("watch", "src/i.ts"))),
    "ts-node": ("ts-node src/i.ts".split(), IN_C, command("/c", "ts-node", requirements=("ts-node", "typescript"))),
    "npm run": ("npm --prefix /d run start -- --a b".split(), {}, script("/d", "start", args=("--a", "b"))),
    "npm run --prefix": ("npm run --silent --prefix /d start".split(), {}, script("/d", "start")),
    "npm's options at the end": ("npm run start --prefix /d x -- --y".split(), {}, script("/d", "start", args=("x", "--y"))),
    "npm -C": ("npm -C d run start".split(), IN_C, script("/c/d", "start")),
    "npm start": ("npm start".split(), IN_C, script("/c", "start")),
    "npm run-script": ("npm run-script mcp".split(), IN_C, script("/c", "mcp")),
    "Node's options by npm": (
        "npm run start --node-options=--no-warnings".split(),
        IN_C,
        script("/c", "start", env={"NODE_OPTIONS": "--no-warnings"}),
    ),
    "pnpm run": ("pnpm --dir /d run start --a".split(), {}, script("/d", "start", args=("--a",))),
    "pnpm start": ("pnpm -C /d start -- --a".split(), {}, script("/d", "start", args=("--a",))),
    "pnpm's script": ("pnpm --silent dev".split(), IN_C, script("/c", "dev")),
    "pnpm exec": ("pnpm -C /d exec tsx i.ts".split(), {}, command("/d", "tsx", args=("i.ts",), requirements=())),
    "pnpm tsx": ("pnpm tsx i.ts".split(), IN_C, command("/c", "tsx", args=("i.ts",))),
    "pnpm exec node": ("pnpm exec node i.js".split(), IN_C, file("/c", "i.js")),
    "yarn": ("yarn --cwd /d start x".split(), {}, script("/d", "start", args=("x",))),
    "yarn run": ("yarn --cwd=/d --silent run start".split(), {}, script("/d", "start")),
    "yarn node": ("yarn --cwd /d node i.js".split(), {}, file("/d", "i.js")),
    "yarn exec": ("yarn exec thing x".split(), IN_C, command("/c", "thing", args=("x",))),
    "npm exec of a runner": ("npm exec --prefix /d tsx -- src/i.ts".split(), {}, command("/d", "tsx", args=("src/i.ts",))),
    "npm --prefix exec": ("npm --prefix /d exec -- tsx src/i.ts".split(), {}, command("/d", "tsx", args=("src/i.ts",))),
    "a program of node_modules": ("/x/node_modules/.bin/srv a".split(), {}, command("/x", "srv", args=("a",))),
    "a relative one": ("node_modules/.bin/srv".split(), IN_C, command("/c", "srv")),
}  # fmt: skip
OTHER: Table = {
    "bun": ("bun /x/i.ts a".split(), {}, file("/x", "/x/i.ts", args=("a",))),
    "bun run": ("bun run src/i.ts".split(), IN_C, file("/c", "src/i.ts")),
    "bun run ./": ("bun run ./server".split(), IN_C, file("/c", "server")),
    "bun's options": ("bun --smol --bun run -r ./x i.ts --y".split(), IN_C,
                      file("/c", "i.ts", runtime_args=("--smol", "-r", "./x"), args=("--y",))),
    "bun's script": ("bun run dev a".split(), IN_C, script("/c", "dev", args=("a",))),
    "bun's script in short": ("bun start".split(), IN_C, script("/c", "start")),
    "bun --cwd": ("bun --cwd /d run s".split(), {}, script("/d", "s")),
    "bun run --cwd=": ("bun run --cwd=/d s".split(), {}, script("/d", "s")),
    "deno run": (
        "deno run --allow-net --allow-read=/x -c deno.json /x/m.ts a".split(),
        {},
        file("/x", "/x/m.ts", runtime_args="--allow-net --allow-read=/x -c deno.json".split(), args=("a",)),
    ),
    "deno in short": ("deno m.ts".split(), IN_C, file("/c", "m.ts")),
    "deno task": ("deno task --cwd /d t a".split(), {}, script("/d", "t", args=("a",))),
    "deno task in cwd": ("deno task t".split(), IN_C, script("/c", "t")),
    "jsr": ("deno run -A jsr:@a/b@1 x".split(), {}, file(HOME, "jsr:@a/b@1", standalone=True, args=("x",))),
    "an address": ("deno run https://x.example/m.ts".split(), {}, file(HOME, "https://x.example/m.ts", standalone=True)),
}  # fmt: skip


def check(words: list[str], entry: dict[str, Any], wanted: dict[str, Any], language: str) -> None:
    source = project(words, **entry)
    wanted = {key: tuple(value) if isinstance(value, list) else value for key, value in wanted.items()}
    assert {key: getattr(source, key) for key in wanted} == wanted
    assert source.language == language
    assert source.args == wanted.get("args", source.args if wanted["how"] == "command" else ())


@pytest.mark.parametrize(("words", "entry", "wanted"), PYTHON.values(), ids=PYTHON)
def test_a_program_in_python(words: list[str], entry: dict[str, Any], wanted: dict[str, Any]) -> None:
    check(words, entry, wanted, "python")


@pytest.mark.parametrize(("words", "entry", "wanted"), NODE.values(), ids=NODE)
def test_a_program_in_node(words: list[str], entry: dict[str, Any], wanted: dict[str, Any]) -> None:
    check(words, entry, wanted, "node")


@pytest.mark.parametrize(("words", "entry", "wanted"), OTHER.values(), ids=OTHER)
def test_a_program_in_bun_or_deno(words: list[str], entry: dict[str, Any], wanted: dict[str, Any]) -> None:
    check(words, entry, wanted, words[0])


def test_the_entry_s_own_keys_count_as_for_packages(tmp_path: Any) -> None:
    entry = {
        "command": "python", "args": ["s.py", "${env:A}"], "cwd": "src", "source": "copy", "packages": ["git"], "user": 1000,
        "env": {"A": "1"}, "mounts": [f"{tmp_path}:/data:ro"], "storage": "/kept",
    }  # fmt: skip
    source = plan_source(Server.model_validate(entry, context={"base": tmp_path}))
    assert source == project(["python", "s.py", "1"], cwd=str(tmp_path / "src"), source="copy", packages=["git"],
                             user="1000", env={"A": "1"}, mounts=[f"{tmp_path}:/data:ro"], storage="/kept")  # fmt: skip
    assert getattr(source, "copied", None) is True
    assert not project(["python", "s.py"], cwd="/c").copied


def test_paths_of_this_machine_may_have_references_and_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("WORK", "/w")
    assert project(["uv", "--directory", "~/p", "run", "s.py"]).folder == "/home/me/p"
    assert project(["python", "${env:WORK}/s.py"]).name == "/w/s.py"
    assert project(["uv", "run", "--directory", "${env:P}", "s.py"], env={"P": "/own"}).folder == "/own"
    assert project(["${env:WORK}/.venv/bin/thing"]).interpreter == "/w/.venv/bin/python"


RELATIVE = (
    "is relative to nothing. Add cwd: FOLDER, the folder that it starts in ('.' is this file's own), or write the"
)
NO_FOLDER = "is looked for in a project, and no folder is given. Add cwd: FOLDER"
REFUSED = {
    "python": ("python server.py", f"args[0]: server.py {RELATIVE} whole path."),
    "node": ("node build/index.js", f"args[0]: build/index.js {RELATIVE}"),
    "uv run": ("uv run --with mcp mcp run server.py", f"args[5]: server.py {RELATIVE}"),
    "uv --directory": ("uv --directory src run server.py", f"args[0]: src {RELATIVE}"),
    "tsx": ("tsx src/i.ts", f"args[0]: src/i.ts {RELATIVE}"),
    "an environment": (".venv/bin/python -m x", f"command: .venv/bin/python {RELATIVE}"),
    "bun": ("bun run i.ts", f"args[1]: i.ts {RELATIVE}"),
    "deno": ("deno run -A m.ts", f"args[2]: m.ts {RELATIVE}"),
    "a module": (
        "python -m my_server.main",
        f"args[1]: the module my_server.main {NO_FOLDER}, the project's ('.' is this file's folder); if it is a package of "
        "PyPI, write command: uvx, args: [my-server].",
    ),
    "a command": ("uv run thing", f"args[1]: thing {NO_FOLDER}"),
    "a script": ("npm run start", f"args[1]: the script start {NO_FOLDER}"),
    "npm start": ("npm start", f"args[0]: the script start {NO_FOLDER}"),
    "a script of bun": ("bun run dev", f"args[1]: the script dev {NO_FOLDER}"),
    "a task": ("deno task t", f"args[1]: the task t {NO_FOLDER}"),
    "a command of pnpm": ("pnpm exec thing", f"args[1]: thing {NO_FOLDER}"),
    "python -c": ("python -c print()", "args[0]: python -c runs no file, and only a file's folder is shown to the server"),
    "python -": ("python -", "python does not say what to run. Add the file, or -m and the module"),
    "python alone": ("python", "python does not say what to run"),
    "python -m alone": ("python -m", "-m does not say which module to run"),
    "python's option": ("python --zzz s.py", "args[0]: Stockade does not know Python's option --zzz"),
    "node -e": ("node -e x", "args[0]: node -e runs no file"),
    "node alone": ("node --inspect", "node does not say which file to run"),
    "uv run -": ("uv run -", "args[1]: uv run - is no file of this machine. Keep the file in a folder, and name it"),
    "uv run of an address": ("uv run https://x.example/s.py", "args[1]: uv run https://x.example/s.py is no file of this"),
    "uv run alone": ("uv run --quiet", "uv run does not say what to run"),
    "uv run's option": ("uv run --zzz s.py", "args[1]: Stockade does not know uv run's option --zzz"),
    "uv run --env-file": ("uv run --env-file .env s.py", "args[1]: uv run --env-file is refused"),
    "a second folder": ("uv run --directory /a --with-editable /b mcp run s.py", "a second folder beside the project's"),
    "poetry install": ("poetry install", "args[0]: Stockade reads `poetry run …`, not `poetry install`"),
    "poetry's option": ("poetry --zzz run x", "args[0]: Stockade does not know poetry's option --zzz"),
    "npm install": ("npm install", "args[0]: Stockade reads `npm run NAME`, not `npm install`"),
    "npm's option": ("npm run start --port 1", "args[2]: Stockade does not know npm's option --port"),
    "a workspace": ("npm run -w a start", "args[1]: npm -w is refused: a part of a workspace is named by its folder"),
    "a filter": ("pnpm --filter a start", "args[0]: pnpm --filter is refused: a part of a workspace is named by its folder"),
    "yarn add": ("yarn add x", "not `yarn add`"),
    "bun install": ("bun install", "args[0]: Stockade reads `bun run …`, not `bun install`"),
    "bun -e": ("bun -e x", "bun -e is refused"),
    "deno fmt": ("deno fmt", "Stockade reads `deno run …` and `deno task …`, not `deno fmt`"),
    "tsx without a file": ("tsx --version", "command: tsx does not say which file to run"),
    "a path of Windows": (
        r"python C:\Users\me\server.py",
        r"args[0]: C:\Users\me\server.py is a path of Windows, and servers run on this machine. Write the path that it has "
        "where Stockade runs; in WSL that is /mnt/c/Users/me/server.py.",
    ),
    "an environment of Windows": (r"C:\p\.venv\Scripts\python.exe -m x", r"command: C:\p\.venv\Scripts\python.exe is"),
    "a folder of Windows": (r"uv --directory C:\p run s.py", r"args[0]: C:\p is a path of Windows"),
    "a file of Windows for bun": ("bun run D:/x/i.ts", "in WSL that is /mnt/d/x/i.ts"),
    "a variable that is not set": ("python ${env:STOCKADE_NO}/s.py", "the environment variable STOCKADE_NO is not set"),
    "a secret in a path": ("python ${secret:x}/s.py", "args[0]: the secret 'x' has no place in a path"),
    "a reference in a script's name": ("npm run ${env:X}", "args[1]: ${env:X} is not filled in here: it decides what"),
    "a reference in the program": ("${env:X} a", "command: ${env:X} is not filled in here: it names the program"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_found_is_told_with_its_place_and_the_next_step(words: str, message: str) -> None:
    assert message in refused(words.split(" "))


UNKNOWN = {
    "a path": ("/usr/local/bin/foo --x", "'foo' is a program of this machine, and the server runs in a container that does"),
    "its next step": ("/usr/local/bin/foo", "If it has a container image, write image: ghcr.io/OWNER/NAME:TAG"),
    "a name": ("foo", "If it is a package, write command: uvx (PyPI) or command: npx (npm) with its name in args"),
    "java": ("java -jar x.jar", "Build an image with the jar (FROM eclipse-temurin:21-jre), and write image: with its name"),
    "go": ("go run .", "FROM golang"),
    "sudo": ("sudo npx b", "Remove it: a server needs no rights of this machine in its container"),
    "a manager of secrets": ("op run -- npx b", "write what it fills in as ${secret:NAME} under env"),
    "fastmcp": ("fastmcp run /x/s.py", "Write command: uv, args: [run, --with, NAME, NAME, run, FILE]"),
    "conda": ("conda run -n x python s.py", "Write the Python of its environment by its path"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "message"), UNKNOWN.values(), ids=UNKNOWN)
def test_a_program_without_a_meaning_in_a_container_is_refused(words: str, message: str) -> None:
    assert message in refused(words.split(" "))

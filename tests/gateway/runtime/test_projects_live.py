"""Programs of this machine on the real engine: built of what they declare, listed and called, edited and started again."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from gateway.runtime.containers import planner
from gateway.runtime.containers.backend_instance import BackendInstance
from gateway.runtime.docker.engine import DockerEngine
from gateway.runtime.images.build_settings import gather
from gateway.runtime.images.images import Images
from gateway.runtime.images.projects.builds import Projects
from gateway.runtime.images.projects.finder import find_project
from gateway.runtime.sandbox.errors import BuildError, StillBuilding
from registry.model.server import Server
from registry.model.sources import LocalSource, ProjectSource, RemoteSource
from registry.model.spec import plan_source
from tests.gateway.runtime.real import Yard, yard

pytestmark = pytest.mark.docker

PLACE = Path("/var/tmp")
"""Not below /tmp, which is a server's own memory in its container."""
PYTHON_SERVER = """\
import importlib.metadata, os
from mcp.server.mcpserver import MCPServer
server = MCPServer("weather")

@server.tool()
def forecast(city: str) -> str:
    return f"ANSWER in {city}"

@server.tool()
def look(path: str) -> str:
    try:
        open(path, "a").close()
        return "written"
    except OSError as error:
        return error.strerror

@server.tool()
def listed(path: str) -> str:
    return str(os.listdir(path))

@server.tool()
def where() -> str:
    return os.getcwd()

def main():
    server.run()

if __name__ == "__main__":
    main()
"""
NODE_SERVER = """\
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StdioServerTransport } from "@modelcontextprotocol/sdk/server/stdio.js";
import { z } from "zod";
const server = new McpServer({ name: "weather", version: "1.0.0" });
server.tool("forecast", { city: z.string() }, async ({ city }) => ({
  content: [{ type: "text", text: `ANSWER in ${city}` }],
}));
await server.connect(new StdioServerTransport());
"""


class Bench:
    """A yard whose servers are projects, and what was said of its builds."""

    def __init__(self, found: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
        self.yard = found
        self.sources: dict[str, ProjectSource] = {}
        self.said: list[str] = []
        monkeypatch.setattr(planner, "plan_source", self.plan)

    def plan(self, server: Server) -> LocalSource:
        found = self.sources.get(server.args[0]) or plan_source(server)
        assert not isinstance(found, RemoteSource)
        return found

    def up(self, **servers: ProjectSource | dict[str, Any]) -> None:
        """Starts servers; each has the name of its argument, and is a source or an entry of a file."""
        self.sources = {name: found for name, found in servers.items() if isinstance(found, ProjectSource)}
        stand_in = {name: {"command": "uvx", "args": [name]} for name in self.sources}
        entries = {name: found if isinstance(found, dict) else stand_in[name] for name, found in servers.items()}
        more = {"start": "lazy", "sessions": "shared"}
        self.yard.up({name: {**more, **entry} for name, entry in entries.items()})
        self.yard.sandbox.images.say = self.said.append

    def call(self, backend: str, tool: str, **arguments: Any) -> str:
        """One call in a conversation of its own; the text of its result."""
        return self.yard.portal.call(self.conversation, backend, tool, arguments)

    async def conversation(self, backend: str, tool: str, arguments: dict[str, Any]) -> str:
        supervisor = self.yard.supervisor
        pair = None
        while pair is None:
            try:
                pair = await supervisor.instance(backend)
            except StillBuilding:
                await supervisor.built(backend)
        assert isinstance(pair, BackendInstance)
        reader, writer = await pair.attach()
        begin = {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        }
        requests: list[tuple[str, dict[str, Any]]] = [
            ("initialize", begin),
            ("notifications/initialized", {}),
            ("tools/list", {}),
            ("tools/call", {"name": tool, "arguments": arguments}),
        ]
        found: dict[str, Any] = {}
        for number, (method, params) in enumerate(requests):
            message = {"jsonrpc": "2.0", "method": method, "params": params}
            is_request = not method.startswith("notifications/")
            writer.write(json.dumps({**message, "id": number} if is_request else message).encode() + b"\n")
            async with asyncio.timeout(60):
                while is_request and "result" not in found.get(method, {}):
                    line = await reader.readline()
                    assert line, [entry.text for entry in supervisor.ring(backend).tail(20)]
                    found[method] = json.loads(line)  # nothing but messages may be on standard output
        assert tool in [one["name"] for one in found["tools/list"]["result"]["tools"]]
        return str(found["tools/call"]["result"]["content"][0]["text"])

    def restart(self, backend: str) -> None:
        self.said.clear()
        self.yard.portal.call(self.yard.supervisor.restart, backend)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with yard() as found:
        yield Bench(found, monkeypatch)


@pytest.fixture
def place() -> Iterator[Path]:
    found = Path(tempfile.mkdtemp(prefix="stockade-projects-", dir=PLACE))
    found.chmod(0o755)
    yield found
    shutil.rmtree(found)


def write(folder: Path, files: dict[str, str]) -> Path:
    """Files of a project, by their path."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def run(folder: Path, *command: str) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def python_project(folder: Path, answer: str = "rain", more: str = "", needs: str = '"mcp>=2"') -> Path:
    pyproject = f"""\
[project]
name = "weather"
version = "0.3.0"
requires-python = ">=3.10"
dependencies = [{needs}]
{more}"""
    write(folder, {"pyproject.toml": pyproject, "server.py": PYTHON_SERVER.replace("ANSWER", answer)})
    run(folder, "uv", "lock", "--quiet")
    return folder


def test_a_python_project_with_a_lock_runs_and_an_edit_needs_no_build(bench: Bench, place: Path) -> None:
    folder = python_project(place / "p")
    write(folder, {".venv/pyvenv.cfg": "home = /x", ".venv/mine": "", ".env": "TOKEN=1"})
    folder.chmod(0o777)
    (folder / "server.py").chmod(0o666)
    bench.up(weather={"command": "uv", "args": ["--directory", str(folder), "run", "server.py"]})
    assert bench.call("weather", "forecast", city="Bern") == "rain in Bern"
    (status,) = bench.yard.supervisor.status()
    assert (status.source, status.image, status.version) == ("project", f"{folder} (server.py)", "0.3.0")
    assert bench.call("weather", "where") == str(folder)
    for path in ("server.py", "new"):
        assert bench.call("weather", "look", path=f"{folder}/{path}") == "Read-only file system"
    assert bench.call("weather", "listed", path=f"{folder}/.venv") == "[]", "what is installed here is hidden"

    write(folder, {"server.py": PYTHON_SERVER.replace("ANSWER", "sun")})
    bench.restart("weather")
    assert bench.call("weather", "forecast", city="Bern") == "sun in Bern"
    assert bench.said == [], "new code builds nothing"

    shutil.rmtree(folder / ".venv")  # uv would ask it for its Python
    python_project(folder, "sun", needs='"mcp>=2", "iniconfig"')
    bench.restart("weather")
    assert bench.call("weather", "forecast", city="Bern") == "sun in Bern"
    assert len(bench.said) == 1, "a changed lock is built"
    assert "stockade-project" in bench.said[0]


PEP_723 = """\
# /// script
# requires-python = ">=3.10"
# dependencies = ["mcp>=2"]
# ///
"""
PACKAGE = """\
[project.scripts]
weather = "weather.server:main"
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[tool.hatch.build.targets.wheel]
packages = ["src/weather"]
"""


def test_python_in_its_other_forms(bench: Bench, place: Path) -> None:
    code = PYTHON_SERVER.replace("ANSWER", "rain")
    script = write(place / "script", {"server.py": PEP_723 + code})
    listed = write(place / "listed", {"requirements.txt": "-r more.txt\n", "more.txt": "mcp>=2\n", "server.py": code})
    package = python_project(place / "package", more=PACKAGE)
    write(package, {"src/weather/__init__.py": "", "src/weather/server.py": code, ".env": "TOKEN=1"})
    run(package, "uv", "lock", "--quiet")
    bare = write(place / "bare", {"server.py": code})
    bench.up(
        script={"command": "uv", "args": ["run", "--script", f"{script}/server.py"]},
        listed={"command": "python3", "args": ["-m", "server"], "cwd": str(listed)},
        package=ProjectSource(language="python", folder=str(package), how="command", name="weather"),
        tool={"command": "uv", "args": ["run", "--with", "mcp[cli]>=2", "mcp", "run", f"{bare}/server.py"]},
        copied=ProjectSource(language="python", folder=str(package), how="command", name="weather", copied=True),
    )
    for name in ("script", "listed", "package", "copied", "tool"):
        assert bench.call(name, "forecast", city="Bern") == "rain in Bern", name
    write(package, {"src/weather/server.py": PYTHON_SERVER.replace("ANSWER", "sun")})
    bench.restart("package")
    assert bench.call("package", "forecast", city="Bern") == "sun in Bern", "an edited package is what runs"
    assert bench.said == []
    bench.restart("copied")
    assert bench.call("copied", "forecast", city="Bern") == "sun in Bern", "a copied source is built again"
    assert len(bench.said) == 1


def node_project(folder: Path, answer: str = "rain", **more: Any) -> Path:
    manifest = {
        "name": "weather",
        "version": "1.2.0",
        "type": "module",
        "scripts": {"start": "node build/index.js", "build": "tsc", "prestart": "echo chatter", "prepare": "exit 1"},
        "dependencies": {"@modelcontextprotocol/sdk": "^1.20.0", "zod": "^3.25.0"},
        **more,
    }
    write(folder, {"package.json": json.dumps(manifest), "build/index.js": NODE_SERVER.replace("ANSWER", answer)})
    run(folder, "npm", "install", "--package-lock-only", "--ignore-scripts")
    return folder


def test_a_node_project_runs_by_its_file_its_script_and_tsx(bench: Bench, place: Path) -> None:
    folder = node_project(place / "n", devDependencies={"tsx": "^4"})
    write(folder, {"node_modules/zod/package.json": "{}", ".env": "TOKEN=1", ".gitignore": "build\n"})
    write(folder, {"src/index.ts": NODE_SERVER.replace("ANSWER", "typed rain")})
    bench.up(
        file={"command": "node", "args": [f"{folder}/build/index.js"], "watch": True},
        script={"command": "npm", "args": ["--prefix", str(folder), "run", "start"]},
        tsx={"command": "npx", "args": ["tsx", f"{folder}/src/index.ts"]},
        copied={"command": "npm", "args": ["--prefix", str(folder), "start"], "source": "copy"},
    )
    assert bench.call("file", "forecast", city="Bern") == "rain in Bern"
    assert bench.call("script", "forecast", city="Bern") == "rain in Bern"
    assert bench.call("tsx", "forecast", city="Bern") == "typed rain in Bern"
    assert bench.call("copied", "forecast", city="Bern") == "rain in Bern"

    write(folder, {"build/index.js": NODE_SERVER.replace("ANSWER", "sun")})
    bench.yard.until(
        lambda: bench.call("file", "forecast", city="Bern") == "sun in Bern"
    )  # no person has restarted it
    bench.restart("script")
    assert bench.call("script", "forecast", city="Bern") == "sun in Bern"
    assert bench.said == []


SPY = """
import json, os, pathlib
found = ["uid=" + str(os.getuid()), json.dumps(dict(os.environ))]
for top in ("/stockade-project", "/stockade-build", FOLDER, os.getcwd(), "/root", "/home", "/tmp", "/var/tmp"):
    for path, _, names in os.walk(top):
        for name in names:
            try:
                found.append(str(pathlib.Path(path, name)) + "=" + pathlib.Path(path, name).read_text(errors="replace"))
            except OSError:
                pass
pathlib.Path("/opt/stockade/spied").write_text("\\n".join(found))
"""
PLANTED = "hunter2-planted"


def planted(folder: Path) -> Path:
    """A project with secrets of its person lying in it."""
    names = (".env", ".env.local", ".git/config", "sub/.env", "key.pem", ".venv/pyvenv.cfg", "node_modules/x/y")
    write(folder, dict.fromkeys(names, PLANTED))
    return write(folder, {".npmrc": f"//r.example/:_authToken={PLANTED}\n"})


def hostile_python(folder: Path) -> ProjectSource:
    code = SPY.replace("FOLDER", repr(str(folder)))
    setup = f"import setuptools\nexec({code!r})\nsetuptools.setup(name='hostile', version='1', py_modules=[])\n"
    write(planted(folder), {"setup.py": setup, "server.py": ""})
    return ProjectSource(language="python", folder=str(folder), how="file", name="server.py")


def hostile_node(folder: Path) -> ProjectSource:
    manifest = {"name": "hostile", "version": "1.0.0", "scripts": {"postinstall": "python3 spy.py"}}
    package = {"package.json": json.dumps(manifest), "spy.py": SPY.replace("FOLDER", repr(str(folder)))}
    write(folder / "vendor/hostile", package)
    run(folder / "vendor/hostile", "npm", "pack", "--silent", "--pack-destination", str(folder / "vendor"))
    wants = {"dependencies": {"hostile": "file:vendor/hostile-1.0.0.tgz"}}
    write(planted(folder), {"package.json": json.dumps(wants), "index.js": ""})
    return ProjectSource(language="node", folder=str(folder), how="file", name="index.js")


@pytest.mark.anyio
@pytest.mark.parametrize("hostile", [hostile_python, hostile_node])
async def test_what_runs_while_a_project_is_installed_sees_no_secret_of_it(
    place: Path, hostile: Callable[[Path], ProjectSource]
) -> None:
    """The adversary writes a package that the project depends on, or the project's own build."""
    source = hostile(place / "p")
    engine = DockerEngine()
    image = await Projects(Images(engine, gather)).image(source, find_project(source))
    await engine.close()
    shown = ["docker", "run", "--rm", "--network", "none", "--entrypoint", "cat", image, "/opt/stockade/spied"]
    seen = subprocess.run(shown, check=True, capture_output=True, text=True).stdout  # noqa: ASYNC221
    assert seen.startswith("uid=655"), "it did look"
    assert "package.json=" in seen or "setup.py=" in seen
    assert PLANTED not in seen


LOCKS = {
    "pnpm": ("pnpm@10", ["pnpm", "install", "--lockfile-only", "--ignore-scripts"]),
    "yarn": ("yarn@1", ["yarn", "install", "--ignore-scripts", "--non-interactive"]),
    "modern yarn": ("@yarnpkg/cli-dist", ["yarn", "install", "--mode=update-lockfile"]),
    "bun": ("bun", ["bun", "install", "--lockfile-only"]),
}
"""The tool that writes a lock, and how."""


def printed(image: str, folder: Path) -> str:
    """What a project's program prints, in its image, with its folder mounted as a server's is."""
    mounted = ["-v", f"{folder}:{folder}:ro", "-w", str(folder)]
    shown = ["docker", "run", "--rm", "--network", "none", "--read-only", *mounted, image]
    return subprocess.run(shown, check=True, capture_output=True, text=True).stdout.strip()


async def image_of(source: ProjectSource) -> str:
    engine = DockerEngine()
    try:
        return await Projects(Images(engine, gather)).image(source, find_project(source))
    finally:
        await engine.close()


@pytest.mark.anyio
@pytest.mark.parametrize("tool", LOCKS)
async def test_the_lock_of_another_tool_of_node_is_followed(place: Path, tool: str) -> None:
    package, command = LOCKS[tool]
    program = 'import ms from "ms"; console.log(ms(1000))'
    manifest = {"name": "p", "type": "module", "dependencies": {"ms": "^2.1.0"}}
    folder = write(place / "p", {"package.json": json.dumps(manifest), "index.js": program, ".yarnrc.yml": ""})
    if "yarn" in tool:
        write(folder, {"yarn.lock": ""})
    await asyncio.to_thread(run, folder, "npm", "exec", "--yes", f"--package={package}", "--", *command)
    shutil.rmtree(folder / "node_modules", ignore_errors=True)
    language: Literal["node", "bun"] = "bun" if tool == "bun" else "node"
    source = ProjectSource(language=language, folder=str(folder), how="file", name="index.js")
    assert find_project(source).declares.value != "package.json"
    assert printed(await image_of(source), folder) == "1s"


@pytest.mark.anyio
async def test_a_member_of_a_uv_workspace_runs_with_its_siblings(place: Path) -> None:
    lib = '[project]\nname = "lib"\nversion = "1"\nrequires-python = ">=3.10"\n'
    lib += '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
    srv = '[project]\nname = "srv"\nversion = "1"\nrequires-python = ">=3.10"\ndependencies = ["lib"]\n'
    srv += "[tool.uv.sources]\nlib = { workspace = true }\n"
    folder = write(
        place / "w",
        {
            "pyproject.toml": '[tool.uv.workspace]\nmembers = ["packages/*"]\n',
            "packages/lib/pyproject.toml": lib,
            "packages/lib/src/lib/__init__.py": "ANSWER = 1\n",
            "packages/srv/pyproject.toml": srv,
            "packages/srv/server.py": "import lib; print(lib.ANSWER)\n",
        },
    )
    run(folder, "uv", "lock", "--quiet")
    source = ProjectSource(language="python", folder=str(folder / "packages/srv"), how="file", name="server.py")
    image = await image_of(source)
    assert printed(image, folder) == "1"
    write(folder, {"packages/lib/src/lib/__init__.py": "ANSWER = 2\n"})
    assert await image_of(source) == image
    assert printed(image, folder) == "2"


@pytest.mark.anyio
@pytest.mark.parametrize("digest", ["b6a85871a79d2e3b22d2d1b94ac2824226a63c6b741c88f7ae975f18b6778374", "00" * 32])
async def test_the_versions_and_hashes_of_poetrys_lock_hold(place: Path, digest: str) -> None:
    lock = f'[[package]]\nname = "iniconfig"\nversion = "2.0.0"\nfiles = [{{file = "x", hash = "sha256:{digest}"}}]\n'
    pyproject = (
        '[tool.poetry]\npackage-mode = false\n[tool.poetry.dependencies]\npython = ">=3.10"\niniconfig = "*"\n'
    )
    program = "import importlib.metadata; print(importlib.metadata.version('iniconfig'))\n"
    folder = write(place / "p", {"pyproject.toml": pyproject, "poetry.lock": lock, "server.py": program})
    source = ProjectSource(language="python", folder=str(folder), how="file", name="server.py")
    if digest.startswith("00"):
        with pytest.raises(BuildError, match="Hash mismatch"):
            await image_of(source)
    else:
        assert printed(await image_of(source), folder) == "2.0.0"

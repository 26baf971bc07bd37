"""A package whose own code attacks while it is installed: the host, the engine, its credentials, and other builds."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import http.server
import io
import ipaddress
import json
import tarfile
import textwrap
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest

from gateway.runtime.docker.engine import DockerEngine
from gateway.runtime.images.build_settings import INSIDE, BuildSettings, gather
from gateway.runtime.images.images import Images
from gateway.runtime.images.package_builds import PackageBuild
from gateway.runtime.images.recipes import STAGE_LABEL, Step, package_image
from gateway.runtime.sandbox.errors import BuildError
from registry.model.server import Server
from registry.model.sources import PackageSource
from registry.model.spec import plan_source

pytestmark = [pytest.mark.docker, pytest.mark.anyio]

BACKEND = '''\
"""A build backend of the package's own: what `build_wheel` does is done while it is installed."""
import base64, hashlib, io, json, os, socket, subprocess, sys, time, zipfile

def attack():
ATTACK

def get_requires_for_build_wheel(config_settings=None):
    return []

def build_wheel(directory, config_settings=None, metadata_directory=None):
    found = attack()
    name = "NAME-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, name), "w") as wheel:
        files = {"NAME.py": "def main():\\n    print(open('/opt/stockade/found.json').read())\\n"}
        meta = "NAME-1.0.dist-info/"
        files[meta + "METADATA"] = "Metadata-Version: 2.1\\nName: NAME\\nVersion: 1.0\\n"
        files[meta + "WHEEL"] = "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        files[meta + "entry_points.txt"] = "[console_scripts]\\nNAME = NAME:main\\n"
        files[meta + "RECORD"] = "".join(f"{path},,\\n" for path in (*files, meta + "RECORD"))
        for path, text in files.items():
            wheel.writestr(path, text)
    with open("/opt/stockade/found.json", "w") as file:
        json.dump(found, file)
    return name
'''
LOOK = """\
def read(path):
    try:
        return open(path).read()
    except OSError:
        return ""

def may(family, kind):
    try:
        socket.socket(family, kind).close()
        return True
    except OSError:
        return False

sockets = {"vsock": may(40, 1), "packet": may(17, 3), "raw": may(2, 3), "tcp": may(2, 1)}
seen = "".join(read("/stockade-build/" + name) for name in os.listdir("/stockade-build")) + read("/proc/self/environ")
with open("/opt/stockade/suid", "w") as file:
    file.write("#!/bin/sh\\n")
os.chmod("/opt/stockade/suid", 0o6755)
status = dict(line.split(":", 1) for line in read("/proc/self/status").splitlines() if ":" in line)
return {"uid": os.getuid(), "capabilities": status["CapEff"].strip(), "bounding": status["CapBnd"].strip(),
        "new privileges": status["NoNewPrivs"].strip(), "seccomp": status["Seccomp"].strip(), "sockets": sockets,
        "seen": seen, "memory": read("/sys/fs/cgroup/memory/memory.limit_in_bytes") or read("/sys/fs/cgroup/memory.max")}
"""
FORK = """\
children = []
try:
    while len(children) < 100000:
        if (child := os.fork()) == 0:
            time.sleep(600)
        children.append(child)
except OSError as error:
    for child in children:
        os.kill(child, 9)
        os.waitpid(child, 0)
    return {"children": len(children), "error": error.errno}
"""
ALLOCATE = """\
kept = []
while True:
    kept.append(bytearray(64 << 20))
    kept[-1][::4096] = b"x" * len(kept[-1][::4096])
"""
PRINT = """\
for _ in range(3000):
    os.write(2, b"y" * 10000)
sys.exit("it is the package that failed")
"""
SLEEP = "time.sleep(3600)"
SECRET = "hunter2-of-an-index"


def sdist(name: str, attack: str) -> bytes:
    """A source distribution with a build backend of its own."""
    project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    project += f'[project]\nname = "{name}"\nversion = "1.0"\n'
    files = {
        "pyproject.toml": project,
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        "backend.py": BACKEND.replace("ATTACK", textwrap.indent(attack, "    ")).replace("NAME", name),
    }
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for path, text in files.items():
            entry = tarfile.TarInfo(f"{name}-1.0/{path}")
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    return archive.getvalue()


class Index(http.server.SimpleHTTPRequestHandler):
    """A package index that wants a password below /private/."""

    def do_GET(self) -> None:
        wanted = "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()
        if self.path.startswith("/private/") and self.headers.get("Authorization") != wanted:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        super().do_GET()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an index with one package for each attack, as containers reach it."""
    root = tmp_path_factory.mktemp("index")
    for access in ("public", "private"):
        for name, attack in ATTACKS.items():
            folder = root / access / "simple" / name
            folder.mkdir(parents=True)
            (folder / f"{name}-1.0.tar.gz").write_bytes(sdist(name, attack))
            (folder / "index.html").write_text(f'<a href="{name}-1.0.tar.gz">{name}-1.0.tar.gz</a>')
    server = http.server.ThreadingHTTPServer((bridge_address(), 0), functools.partial(Index, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"{bridge_address()}:{server.server_port}"
    server.shutdown()
    server.server_close()


ATTACKS = {"looks": LOOK, "forks": FORK, "allocates": ALLOCATE, "prints": PRINT, "sleeps": SLEEP, "dozes": SLEEP}


@functools.cache
def bridge_address() -> str:
    """This machine's address on the engine's bridge."""

    client = docker.from_env()
    try:
        pool = client.networks.get("bridge").attrs["IPAM"]["Config"][0]
        return str(pool.get("Gateway") or ipaddress.ip_network(pool["Subnet"])[1])
    finally:
        client.close()


@pytest.fixture
async def engine() -> AsyncIterator[DockerEngine]:
    found = DockerEngine()
    before = await stages(found)
    yield found
    assert await stages(found) <= before, "no container and no image of a build is left"
    await found.close()


async def stages(engine: DockerEngine) -> set[str]:
    filters = {"label": STAGE_LABEL}
    images = await engine.call("look", lambda api: api.images(filters=filters, all=True))
    containers = await engine.call("look", lambda api: api.containers(filters=filters, all=True))
    return {item["Id"] for item in [*images, *containers]}


def package(name: str) -> PackageSource:
    found = plan_source(Server.model_validate({"command": "uvx", "args": [name]}))
    assert isinstance(found, PackageSource)
    return found


def settings_for(url: str, tmp_path: Path) -> BuildSettings:
    """The host's settings with this index in place of PyPI. `tmp_path` has no settings of its own."""
    host = url.partition("@")[2] or url.partition("//")[2]
    variables = {"UV_DEFAULT_INDEX": url, "UV_INSECURE_HOST": host.partition("/")[0].partition(":")[0]}
    return gather(variables, tmp_path, tmp_path)


class Builds:
    """Images whose bases come from the host's own index, and packages from the attacker's."""

    def __init__(self, engine: DockerEngine, settings: BuildSettings, timeout_s: float = 120) -> None:
        self.engine, self.theirs = engine, settings
        self.images = Images(engine, gather, timeout_s=lambda: timeout_s)

    async def package(self, name: str) -> str:
        """Installs a package anew."""
        self.images.settings = gather
        await self.images.prepared(package(name))
        self.images.settings = lambda: self.theirs
        return await self.images.package(package(name))


async def run(engine: DockerEngine, image: str, *command: str) -> str:
    """What a command prints in a container of that image."""

    def work(api: Any) -> str:
        host = api.create_host_config(network_mode="none")
        made = api.create_container(image, list(command[1:]), entrypoint=[command[0]], user="0", host_config=host)
        try:
            api.start(made)
            api.wait(made)
            return str(api.logs(made).decode())
        finally:
            api.remove_container(made, force=True)

    return await engine.call("run", work)


@contextlib.asynccontextmanager
async def built(engine: DockerEngine, settings: BuildSettings, name: str) -> AsyncIterator[str]:
    reference = await Builds(engine, settings).package(name)
    try:
        yield reference
    finally:
        await engine.remove_image(reference)


async def test_a_packages_code_has_no_rights_while_it_is_installed(
    engine: DockerEngine, index: str, tmp_path: Path
) -> None:
    """Red team M14: root, the default capabilities, AF_VSOCK and raw sockets; a setuid file stayed in the image."""
    async with built(engine, settings_for(f"http://{index}/public/simple", tmp_path), "looks") as image:
        found = json.loads(await run(engine, image, "cat", "/opt/stockade/found.json"))
        marked = await run(engine, image, "find", "/opt/stockade", "-perm", "/6000")
    assert found["uid"] >= 65520
    assert (int(found["capabilities"], 16), int(found["bounding"], 16)) == (0, 0)
    assert (found["new privileges"], found["seccomp"]) == ("1", "2")
    assert found["sockets"] == {"vsock": False, "packet": False, "raw": False, "tcp": True}
    assert int(found["memory"]) == 2 << 30
    assert marked == ""


async def test_what_has_no_wheel_is_not_built_where_the_indexs_password_is(
    engine: DockerEngine, index: str, tmp_path: Path
) -> None:
    settings = settings_for(f"http://me:{SECRET}@{index}/private/simple", tmp_path)
    with pytest.raises(BuildError, match="its own code would run to build it") as caught:
        await Builds(engine, settings).package("looks")
    assert SECRET not in str(caught.value)
    assert "STOCKADE_BUILD_CREDENTIALS=visible" in str(caught.value)


async def test_nothing_of_the_credentials_is_left_for_the_step_in_which_code_runs(
    engine: DockerEngine, index: str, tmp_path: Path
) -> None:
    """Neither files nor variables nor what the engine keeps of the first container."""
    settings = settings_for(f"http://me:{SECRET}@{index}/private/simple", tmp_path)
    settings = replace(
        settings, complete=replace(settings.for_download, proxies={"HTTPS_PROXY": f"http://{SECRET}@x"})
    )
    runtime, builder = await Images(engine, gather).prepared(package("looks"))
    wanted = package_image(package("steps"), runtime, builder)
    steps = (
        Step(script=f"grep -c {SECRET} {INSIDE}/env > /opt/stockade/first", credentials=True),
        Step(
            script=f". {INSIDE}/env; (env; cat /proc/*/environ {INSIDE}/*; "
            f"find / -xdev -type f -newer /stockade-install/pick.py -exec cat {{}} +) 2>/dev/null > /tmp/all || true\n"
            f"grep -c {SECRET} /tmp/all > /opt/stockade/second || true\n"
            "grep -c UV_DEFAULT_INDEX /tmp/all > /opt/stockade/index",
            credentials=False,
        ),
    )
    build = PackageBuild(
        engine=engine, wanted=wanted, builder=builder, steps=steps, settings=settings, timeout_s=60
    )  # fmt: skip
    await build.run()
    try:
        said = await run(engine, wanted.reference, "sh", "-c", "cd /opt/stockade; cat first second index")
        history = await engine.call("look", lambda api: api.history(wanted.reference))
    finally:
        await engine.remove_image(wanted.reference)
    first, second, where = said.split()
    assert int(first) > 0
    assert int(second) == 0
    assert int(where) > 0
    assert SECRET not in json.dumps(history)


async def test_a_build_that_forks_is_bounded(engine: DockerEngine, index: str, tmp_path: Path) -> None:
    async with built(engine, settings_for(f"http://{index}/public/simple", tmp_path), "forks") as image:
        found = json.loads(await run(engine, image, "cat", "/opt/stockade/found.json"))
    assert found["error"] == 11
    assert 50 < found["children"] < 520


FAILING = {
    "allocates": "more memory than a build gets",
    "prints": "it is the package that failed",
    "sleeps": r"ended after 20 s\. If it needs longer, set `build_timeout_s`",
}


@pytest.mark.parametrize(("name", "words"), FAILING.items(), ids=FAILING)
async def test_a_build_that_takes_too_much_is_ended_and_says_why(
    engine: DockerEngine, index: str, tmp_path: Path, name: str, words: str
) -> None:
    settings = settings_for(f"http://{index}/public/simple", tmp_path)
    with pytest.raises(BuildError, match=words) as caught:
        await Builds(engine, settings, 20 if name == "sleeps" else 120).package(name)
    assert len(str(caught.value)) < 10_000


async def test_builds_that_hang_hold_no_other_up(engine: DockerEngine, index: str, tmp_path: Path) -> None:
    """Two of them held every other build for an hour."""
    settings = settings_for(f"http://{index}/public/simple", tmp_path)
    builds = Builds(engine, settings, 60)
    async with asyncio.TaskGroup() as tasks:
        hanging = [tasks.create_task(one) for one in (fails(builds, "sleeps"), fails(builds, "dozes"))]
        reference = await builds.package("looks")
        assert not any(task.done() for task in hanging)
        for task in hanging:
            task.cancel()
    await engine.remove_image(reference)


async def fails(builds: Builds, name: str) -> None:
    with contextlib.suppress(BuildError):
        await builds.package(name)

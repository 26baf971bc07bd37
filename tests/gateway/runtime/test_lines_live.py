"""Packages that the default line does not suit, on the real engine: installed from an index of the test's own."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import html
import http.server
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.runtime.docker.engine import DockerEngine
from gateway.runtime.images.build_settings import BuildSettings, gather
from gateway.runtime.images.images import Images
from gateway.runtime.sandbox.errors import BuildError
from registry.model.sources import PackageSource
from tests.attack.test_build_container import bridge_address, run
from tests.gateway.runtime.test_images import source

pytestmark = [pytest.mark.docker, pytest.mark.anyio]

NATIVE = '''\
"""A build backend that compiles, as setuptools does for an extension module."""
import os, subprocess, sysconfig, zipfile

C = "#include <Python.h>\\nstatic struct PyModuleDef d = {PyModuleDef_HEAD_INIT, \\"NAME\\"};"
C += "PyMODINIT_FUNC PyInit_NAME(void) { return PyModule_Create(&d); }"

def build_wheel(directory, config_settings=None, metadata_directory=None):
    with open("/tmp/x.c", "w") as file:
        file.write(C)
    compiler = sysconfig.get_config_var("CC").split()[0]
    include = f"-I{sysconfig.get_path('include')}"
    subprocess.run([compiler, "-shared", "-fPIC", include, "/tmp/x.c", "-o", "/tmp/x.so"], check=True)
    name = "NAME-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, name), "w") as wheel:
        for path, text in FILES.items():
            wheel.writestr(path, text)
        wheel.write("/tmp/x.so", "NAME.so")
    return name
'''


def wheel_files(name: str, requires: str) -> dict[str, str]:
    meta = f"{name}-1.0.dist-info/"
    files = {
        f"{name}_main.py": f"def main():\n    import sys, {name}\n    print(sys.version)\n",
        f"{meta}METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Python: {requires}\n",
        f"{meta}WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{meta}entry_points.txt": f"[console_scripts]\n{name} = {name}_main:main\n",
    }
    return files | {f"{meta}RECORD": "".join(f"{path},,\n" for path in (*files, f"{meta}RECORD"))}


def wheel(name: str, requires: str) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for path, text in {f"{name}.py": "", **wheel_files(name, requires)}.items():
            archive.writestr(path, text)
    return made.getvalue()


def tarball(files: Mapping[str, str], top: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for path, text in files.items():
            entry = tarfile.TarInfo(f"{top}/{path}")
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    return made.getvalue()


def native(name: str) -> bytes:
    project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    backend = f"FILES = {wheel_files(name, '>=3.8')!r}\n" + NATIVE.replace("NAME", name)
    files = {
        "pyproject.toml": f'{project}[project]\nname = "{name}"\nversion = "1.0"\n[project.scripts]\n'
        f'{name} = "{name}_main:main"\n',
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        "backend.py": backend,
    }
    return tarball(files, f"{name}-1.0")


def add_python(root: Path, name: str, file: str, content: bytes, requires: str) -> None:
    folder = root / "simple" / name
    folder.mkdir(parents=True)
    (folder / file).write_bytes(content)
    (folder / "index.html").write_text(f'<a href="{file}" data-requires-python="{html.escape(requires)}">{file}</a>')


def add_node(root: Path, address: str, name: str, manifest: Mapping[str, Any], files: Mapping[str, str]) -> None:
    whole = {"name": name, "version": "1.0.0", "bin": "main.js", **manifest}
    main = "#!/usr/bin/env node\nconsole.log(process.version);\n"
    content = tarball({"package.json": json.dumps(whole), "main.js": main, **files}, "package")
    (root / f"{name}.tgz").write_bytes(content)
    digest = "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()
    whole["dist"] = {"tarball": f"{address}/{name}.tgz", "integrity": digest}
    document = {"name": name, "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": whole}}
    (root / name).write_text(json.dumps(document))


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        return


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an index of PyPI's kind below /simple and of npm's below /, as containers reach it."""
    root = tmp_path_factory.mktemp("index")
    handler = functools.partial(Handler, directory=str(root))
    server = http.server.ThreadingHTTPServer((bridge_address(), 0), handler)
    address = f"http://{bridge_address()}:{server.server_port}"
    for name, requires in (("newer", ">=3.12"), ("future", ">=3.16"), ("plain", ">=3.8")):
        add_python(root, name, f"{name}-1.0-py3-none-any.whl", wheel(name, requires), requires)
    add_python(root, "native", "native-1.0.tar.gz", native("native"), ">=3.8")
    add_node(root, address, "wants-22", {"engines": {"node": "22.x"}}, {})
    add_node(root, address, "wants-99", {"engines": {"node": ">=99"}}, {})
    gyp = {"targets": [{"target_name": "it", "sources": ["it.cc"]}]}
    code = "#include <node_api.h>\nNAPI_MODULE_INIT() { return exports; }\n"
    add_node(root, address, "compiled", {"gypfile": True, "scripts": {"install": "node-gyp rebuild"}}, {
        "binding.gyp": json.dumps(gyp), "it.cc": code, "main.js": "require('./build/Release/it.node')\nconsole.log('ok')\n"
    })  # fmt: skip
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield address
    server.shutdown()
    server.server_close()


@pytest.fixture
async def engine() -> AsyncIterator[DockerEngine]:
    found = DockerEngine()
    yield found
    await found.close()


class Builds:
    """Images whose bases come from the host's own index, and packages from the test's."""

    def __init__(self, engine: DockerEngine, index: str, tmp_path: Path) -> None:
        self.engine, self.made, self.said = engine, list[str](), list[str]()
        host = index.removeprefix("http://").partition(":")[0]
        variables = {
            "UV_DEFAULT_INDEX": f"{index}/simple", "UV_INSECURE_HOST": host, "npm_config_registry": f"{index}/",
            "NO_PROXY": host,
        }  # fmt: skip
        self.settings: BuildSettings = gather(variables, tmp_path, tmp_path)

    async def package(self, wanted: PackageSource) -> str:
        """Installs a package anew, after everything was made that it may be installed in."""
        prepares = Images(self.engine, gather)
        await prepares.prepared(wanted)
        if wanted.kind == "npx":
            await prepares.node_base("22")
        reference = await Images(self.engine, lambda: self.settings, self.said.append).package(wanted)
        self.made.append(reference)
        return reference


@pytest.fixture
async def builds(engine: DockerEngine, index: str, tmp_path: Path) -> AsyncIterator[Builds]:
    found = Builds(engine, index, tmp_path)
    yield found
    for reference in found.made:
        with contextlib.suppress(Exception):
            await engine.remove_image(reference)


async def test_a_named_line_of_python_is_what_it_runs_on(engine: DockerEngine) -> None:
    reference = await Images(engine, gather).package(source("-p", "3.13", "mcp-server-time"))
    said = await run(engine, reference, "/opt/stockade/tools/mcp-server-time/bin/python", "--version")
    assert said.startswith("Python 3.13.")


async def test_a_package_that_needs_a_newer_python_gets_it_and_the_next_start_builds_nothing(builds: Builds) -> None:
    wanted = source("newer")
    reference = await builds.package(wanted)
    said = await run(builds.engine, reference, "/opt/stockade/entry")
    assert said.startswith(("3.12.", "3.13."))
    builds.said.clear()
    assert await builds.package(wanted) == reference
    assert builds.said == []


async def test_a_package_that_suits_the_default_stays_on_it(builds: Builds) -> None:
    await builds.package(source("plain"))
    assert len(builds.said) == 1


async def test_where_no_line_suits_it_is_said_what_it_needs_and_what_there_is(builds: Builds) -> None:
    with pytest.raises(BuildError) as failed:
        await builds.package(source("future"))
    assert "It needs Python 3.16 or newer, which no base image has. There is Python 3.1" in str(failed.value)
    assert "`image:`" in str(failed.value)


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("3.11", "Python 3.11 was asked for, and it installs on 3."),
        ("3.13.77", "Python 3.13.77 was asked for, and the base image of that line has 3.13."),
        ("3.9", "No base image has Python 3.9. There is Python 3.1"),
    ],
)
async def test_a_named_version_is_kept_and_said_where_it_cannot_be(builds: Builds, named: str, words: str) -> None:
    with pytest.raises(BuildError) as failed:
        await builds.package(source("-p", named, "newer"))
    assert words in str(failed.value)


async def test_a_package_that_is_built_from_source_gets_a_compiler_that_its_image_has_not(builds: Builds) -> None:
    reference = await builds.package(source("native"))
    assert "3." in await run(builds.engine, reference, "/opt/stockade/entry")
    assert "none" in await run(builds.engine, reference, "sh", "-c", "command -v cc gcc make || echo none")
    builds.said.clear()
    await builds.package(source("native"))
    assert builds.said == []


async def test_a_named_line_of_node_is_what_it_runs_on(builds: Builds) -> None:
    reference = await builds.package(source("wants-99", command="npx", node="22"))
    assert (await run(builds.engine, reference, "/opt/stockade/entry")).startswith("v22.")


async def test_the_node_that_a_package_asks_for_is_taken_where_there_is_one(builds: Builds) -> None:
    reference = await builds.package(source("wants-22", command="npx"))
    assert (await run(builds.engine, reference, "/opt/stockade/entry")).startswith("v22.")
    builds.said.clear()
    assert await builds.package(source("wants-22", command="npx")) == reference
    assert builds.said == []
    other = await builds.package(source("wants-99", command="npx"))
    assert (await run(builds.engine, other, "/opt/stockade/entry")).startswith("v"), "npm would only warn"


async def test_a_native_part_of_an_npm_package_is_built_with_the_headers_that_are_there(builds: Builds) -> None:
    reference = await builds.package(source("compiled", command="npx"))
    assert "ok" in await run(builds.engine, reference, "node", "/opt/stockade/lib/node_modules/compiled/main.js")

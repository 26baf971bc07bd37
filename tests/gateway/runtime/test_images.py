"""Images on the real engine: built once, without the host's settings in them; failures that explain."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.runtime.docker.engine import DockerEngine
from gateway.runtime.images.build_settings import INSIDE, BuildSettings, gather
from gateway.runtime.images.images import Images, egress_source
from gateway.runtime.images.recipes import STAGE_LABEL, VERSION_LABEL
from gateway.runtime.sandbox.errors import BuildError
from registry.model.server import Server
from registry.model.sources import PackageSource
from registry.model.spec import plan_source
from tests.gateway.runtime.fakes import FakeEngine

SECRET = "hunter2-in-a-build"


def source(*args: str, command: str = "uvx", **more: Any) -> PackageSource:
    found = plan_source(Server.model_validate({"command": command, "args": list(args), **more}))
    assert isinstance(found, PackageSource)
    return found


def with_secret() -> BuildSettings:
    """The host's settings, and a credential."""
    settings = gather()
    env = settings.files["env"] + f"export UV_INDEX_COMPANY_PASSWORD={SECRET}\n".encode()
    return replace(
        settings, complete=replace(settings, files={**settings.files, "env": env}), wanted_by=frozenset({"uvx"})
    )


@pytest.fixture
async def engine() -> AsyncIterator[DockerEngine]:
    found = DockerEngine()
    yield found
    await found.close()


@pytest.mark.docker
@pytest.mark.anyio
async def test_a_second_start_builds_nothing(engine: DockerEngine) -> None:
    said: list[str] = []
    wanted = [source("mcp-server-time"), source("@modelcontextprotocol/server-everything", command="npx")]
    first = Images(engine, gather)
    made = [await first.egress(), *[await first.package(package) for package in wanted]]
    second = Images(engine, gather, said.append)
    assert [await second.egress(), *[await second.package(package) for package in wanted]] == made
    assert said == []


@pytest.mark.docker
@pytest.mark.anyio
async def test_no_credential_and_no_setting_of_the_host_is_left(engine: DockerEngine) -> None:
    images, before = Images(engine, with_secret), await stages(engine)
    reference = await images.package(source("mcp-server-time", "--probe-of-secrets", packages=["netbase"]))
    history = await engine.call("look", lambda api: api.history(reference))
    inspected = await engine.call("look", lambda api: api.inspect_image(reference))
    everything = json.dumps([history, inspected])
    assert SECRET not in everything
    assert "SSL_CERT_FILE" not in everything
    assert await stages(engine) <= before, "the build stage, which had them, is gone"
    found = await engine.call("run", lambda api: run(api, reference, f"ls {INSIDE}; env; command -v mcp-server-time"))
    assert "No such file" in found
    assert SECRET not in found
    assert "/opt/stockade/bin/mcp-server-time" in found
    await engine.remove_image(reference)


@pytest.mark.docker
@pytest.mark.anyio
async def test_servers_with_the_same_debian_packages_share_one_layer(engine: DockerEngine) -> None:
    images = Images(engine, gather)
    one = await images.package(source("mcp-server-time", "--layers", packages=["netbase", "libfakeroot"]))
    other = await images.package(source("mcp-server-fetch", "--layers", packages=["libfakeroot", "netbase"]))
    base, _ = await images.python_base()
    try:
        below, first, second = [await layers(engine, image) for image in (base, one, other)]
        assert first[: len(below) + 1] == second[: len(below) + 1], "the base and the Debian packages"
        assert first[: len(below)] == below
        assert first != second
    finally:
        for reference in (one, other):
            await engine.remove_image(reference)


@pytest.mark.docker
@pytest.mark.anyio
@pytest.mark.parametrize(
    ("package", "script"),
    [
        pytest.param(
            source("mcp-server-time"),
            "/opt/stockade/tools/*/bin/python -c 'import importlib.metadata as m; print(m.version(\"mcp-server-time\"))'",
            id="PyPI",
        ),
        pytest.param(
            source("@modelcontextprotocol/server-everything", command="npx"),
            'node -p \'require("/opt/stockade/lib/node_modules/@modelcontextprotocol/server-everything/package.json")'
            ".version'",
            id="npm",
        ),
    ],
)
async def test_an_image_says_which_version_is_installed_in_it(
    engine: DockerEngine, package: PackageSource, script: str
) -> None:
    image = await Images(engine, gather).package(package)
    info = await engine.image(image)
    assert info is not None
    said = await engine.call("run", lambda api: run(api, image, script))
    assert info.labels[VERSION_LABEL] == said.strip()
    assert said[:1].isdigit()


async def layers(engine: DockerEngine, image: str) -> list[str]:
    """The digests of an image's layers, the lowest first."""
    found = await engine.call("look", lambda api: api.inspect_image(image))
    digests: list[str] = found["RootFS"]["Layers"]
    return digests


async def stages(engine: DockerEngine) -> set[str]:
    """Images of build stages on the engine (another build on this machine may have some, too)."""
    found = await engine.call("look", lambda api: api.images(filters={"label": STAGE_LABEL}, all=True))
    return {image["Id"] for image in found}


def run(api: Any, image: str, script: str) -> str:
    """Runs a shell script in a container and returns what it printed."""
    made = api.create_container(image, ["-c", script], entrypoint=["sh"])
    try:
        api.start(made)
        api.wait(made)
        return str(api.logs(made).decode())
    finally:
        api.remove_container(made, force=True)


@pytest.mark.docker
@pytest.mark.anyio
@pytest.mark.parametrize(
    ("package", "words"),
    [
        pytest.param(source("stockade-no-such-package-1f3a"), "was not found on PyPI", id="PyPI"),
        pytest.param(source("mcp-server-time==1999.1.1"), "There is no such version", id="version"),
        pytest.param(source("--from", "mcp-server-time", "nope"), "has no program nope", id="program"),
        pytest.param(source("@modelcontextprotocol/no-such-1f3a", command="npx"), "was not found on npm", id="npm"),
    ],
)
async def test_a_build_that_fails_explains_and_leaves_no_image(
    engine: DockerEngine, package: PackageSource, words: str
) -> None:
    before = await stages(engine)
    with pytest.raises(BuildError, match=words):
        await Images(engine, gather).package(package)
    assert await stages(engine) <= before


@pytest.mark.anyio
async def test_where_a_registry_answers_bases_are_pulled_and_get_our_name() -> None:
    engine = FakeEngine()
    said: list[str] = []
    await Images(engine, BuildSettings, said.append).package(source("x", command="npx"))
    assert engine.log == ["pull node:22-slim", "build stockade-package-x"] or "pull node:22-slim" in engine.log
    assert not any("debootstrap" in line for line in said)


@pytest.mark.anyio
async def test_one_image_is_built_once_however_many_ask() -> None:
    import asyncio

    engine = FakeEngine()
    images = Images(engine, BuildSettings)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(5):
            tasks.create_task(images.package(source("mcp-server-time")))
    assert engine.log.count("build stockade-package-mcp-server-time") == 1


@pytest.mark.anyio
async def test_two_gateways_that_start_together_build_one_layer_of_debian_packages(tmp_path: Path) -> None:
    import asyncio

    engine = FakeEngine()
    async with asyncio.TaskGroup() as tasks:
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            images = Images(engine, BuildSettings, folder=tmp_path / name)
            tasks.create_task(images.package(source("mcp-server-time", packages=["chromium"])))
    assert engine.log.count("build stockade-runtime") == 1


def test_the_egress_image_has_the_egress_and_of_observability_three_modules() -> None:
    paths = set(egress_source())
    assert {"egress/__main__.py", "egress/door/door.py"} <= paths
    assert {p for p in paths if p.startswith("observability/")} == {
        "observability/__init__.py",
        "observability/event_json.py",
        "observability/events.py",
        "observability/semconv.py",
    }
    assert all(path.endswith(".py") for path in paths)


@pytest.mark.parametrize("program", ["egress.__main__", "egress.serve", "egress.door.door", "egress.door.connector"])
def test_what_the_egress_image_holds_is_all_its_programs_import(program: str, tmp_path: Path) -> None:
    for path, text in egress_source().items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(text)
    ours = ("egress", "observability", "gateway", "registry")
    code = (
        f"import importlib, sys; sys.path.insert(0, {str(tmp_path)!r}); importlib.import_module({program!r}); "
        f"print(*{{m.__file__ for n, m in sys.modules.items() if n.split('.')[0] in {ours!r}}})"
    )
    said = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False
    )
    assert said.returncode == 0, said.stderr
    assert {Path(name).relative_to(tmp_path).parts[0] for name in said.stdout.split()} <= {"egress", "observability"}

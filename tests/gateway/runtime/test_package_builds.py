"""How a package is installed: in which containers, with what of the host in them, and what is left."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from gateway.runtime.engine.base import BuildContext, ContainerInfo
from gateway.runtime.images.build_settings import INSIDE, BuildSettings, gather
from gateway.runtime.images.images import CREDENTIALS, Images
from gateway.runtime.images.package_builds import BUILDERS
from gateway.runtime.images.recipes import VERSION_FILE
from gateway.runtime.sandbox.errors import BuildError
from registry.model.server import Server
from registry.model.sources import PackageSource
from registry.model.spec import plan_source
from tests.gateway.runtime.fakes import FakeEngine

pytestmark = pytest.mark.anyio
SECRET = "hunter2"


@dataclass
class Watching(FakeEngine):
    """Looks at what a container is given at the moment when it starts."""

    given: list[str] = field(default_factory=list)
    contexts: list[BuildContext] = field(default_factory=list)

    async def start(self, container: str) -> None:
        plan = self.containers[container].plan
        (mount,) = plan.mounts
        assert (mount.target, mount.read_only) == (INSIDE, True)
        files = "".join(path.read_text() for path in sorted(Path(mount.source).iterdir()))  # noqa: ASYNC240
        self.given.append(files + json.dumps([plan.env, plan.command]))
        await super().start(container)

    async def build(self, context: BuildContext, reference: str, on_line: Callable[[str], None]) -> None:
        if "package" in reference:
            self.contexts.append(context)
        await super().build(context, reference, on_line)


def source(command: str = "uvx") -> PackageSource:
    found = plan_source(Server.model_validate({"command": command, "args": ["x"]}))
    assert isinstance(found, PackageSource)
    return found


def settings(tmp_path: Path, **environ: str) -> BuildSettings:
    return gather(environ, tmp_path, tmp_path)


def with_password(tmp_path: Path) -> BuildSettings:
    return settings(
        tmp_path, UV_DEFAULT_INDEX=f"https://me:{SECRET}@x.example", HTTPS_PROXY=f"http://{SECRET}@p.example"
    )


async def test_a_package_is_installed_with_no_rights_and_within_bounds(tmp_path: Path) -> None:
    """Red team M14: as root, with the default capabilities and no limit at all."""
    engine = FakeEngine()
    await Images(engine, lambda: settings(tmp_path), timeout_s=lambda: 77).package(source())
    (plan,) = engine.installs
    assert int(plan.user.partition(":")[0]) in BUILDERS
    assert plan.capabilities == ()
    assert plan.seccomp
    assert (plan.memory_bytes, plan.cpus, plan.pids, plan.nofile) == (2 << 30, 1.0, 512, 4096)
    assert plan.command is not None
    assert plan.command[:4] == ("timeout", "-s", "KILL", "77"), "it ends even if the gateway is gone"
    assert not engine.running()


@pytest.mark.parametrize("command", ["uvx", "npx"])
async def test_a_password_is_given_to_the_first_step_only(tmp_path: Path, command: str) -> None:
    engine = Watching()
    await Images(engine, lambda: with_password(tmp_path)).package(source(command))
    first, second = engine.given
    assert first.count(SECRET) == 1, "the index; the proxy's own password is for the egress alone"
    assert SECRET not in second
    assert "https://x.example" in second
    (context,) = engine.contexts
    assert (context.build_args, context.files) == ({}, {}), "what is built in the end has nothing of the host"
    assert engine.installs[0].user == engine.installs[1].user, "it changes files that the first has written"
    assert engine.installs[1].image == "sha256:committed-id0", "the second goes on with what the first downloaded"


async def test_a_user_may_let_packages_see_the_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CREDENTIALS, "visible")
    engine = Watching()
    await Images(engine, lambda: with_password(tmp_path)).package(source())
    (only,) = engine.given
    assert SECRET in only


async def test_a_step_that_fails_leaves_no_container_and_says_what_it_printed(tmp_path: Path) -> None:
    engine = FakeEngine(install_exits=1)
    with pytest.raises(BuildError, match="The image for package x could not be built"):
        await Images(engine, lambda: settings(tmp_path)).package(source())
    assert engine.containers == {}


@pytest.mark.parametrize(
    ("written", "labels"),
    [
        pytest.param(b"2026.1.14+x\n", {"stockade.version": "2026.1.14+x"}, id="a version"),
        pytest.param(b"1\nRUN id", {}, id="more lines"),
        pytest.param(b"1 USER=root", {}, id="more words"),
        pytest.param(b"$(id)", {}, id="a command"),
        pytest.param(b"9" * 100, {}, id="too long"),
        pytest.param(b"", {}, id="nothing"),
        pytest.param(None, {}, id="no file"),
    ],
)
async def test_the_installed_version_is_a_label_of_the_image(
    tmp_path: Path, written: bytes | None, labels: dict[str, str]
) -> None:
    """A package's own code can write that file, so only what is a version gets into the build."""
    engine = FakeEngine()
    if written is not None:
        engine.inside[VERSION_FILE] = archive_of("version", written)
    image = await Images(engine, lambda: settings(tmp_path)).package(source())
    assert dict(engine.images[image].labels) == labels


def archive_of(name: str, content: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return made.getvalue()


class Endless(FakeEngine):
    """Installations never end."""

    async def start(self, container: str) -> None:
        self.containers[container].running = True


class Greedy(FakeEngine):
    """Installations take all of their memory."""

    async def inspect(self, container: str) -> ContainerInfo | None:
        found = await super().inspect(container)
        return found and replace(found, out_of_memory=True)


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        pytest.param(Endless(), r"It was ended after 0\.01 s.*build_timeout_s", id="time"),
        pytest.param(Greedy(install_exits=137), r"more memory than a build gets \(2048 MiB\)", id="memory"),
    ],
)
async def test_a_limit_that_ends_an_installation_is_named(tmp_path: Path, engine: FakeEngine, words: str) -> None:
    with pytest.raises(BuildError, match=words):
        await Images(engine, lambda: settings(tmp_path), timeout_s=lambda: 0.01).package(source())
    assert engine.containers == {}


async def test_what_is_given_is_gone_afterwards(tmp_path: Path) -> None:
    engine = Watching()
    folder = tmp_path / "run"
    folder.mkdir()
    await Images(engine, lambda: with_password(tmp_path), folder=folder).package(source())
    assert all(Path(plan.mounts[0].source).is_relative_to(folder) for plan in engine.installs)
    assert list(folder.iterdir()) == []

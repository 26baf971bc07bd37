"""Bases by line: what is pulled, what is made, and what is said where there is none."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from gateway.runtime.docker.engine import DockerEngine
from gateway.runtime.engine.base import ImageInfo
from gateway.runtime.images import bases, lines, recipes
from gateway.runtime.images.bases import Bases, NoSuchLine, debian_mirror, debootstrap_command, python_tag
from gateway.runtime.images.build_settings import BuildSettings, gather
from gateway.runtime.images.images import Images
from gateway.runtime.sandbox.errors import BuildError, EngineError
from tests.gateway.runtime.fakes import FakeEngine

pytestmark = pytest.mark.anyio


@dataclass
class Registry(FakeEngine):
    """An engine that reaches Docker's registry, whose images say what they have."""

    async def pull(self, reference: str, timeout_s: float) -> ImageInfo:
        info = await super().pull(reference, timeout_s)
        name, _, tag = reference.partition(":")
        self.images[reference] = replace(info, env=((f"{name.upper()}_VERSION", f"{tag.partition('-')[0]}.7"),))
        return self.images[reference]

    async def tag(self, image: str, reference: str) -> None:
        self.images[reference] = next(found for found in self.images.values() if found.id == image)


@dataclass
class Alone(FakeEngine):
    """An engine that reaches no registry."""

    async def pull(self, reference: str, timeout_s: float) -> ImageInfo:
        self.log.append(f"pull {reference}")
        raise EngineError("no such host")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The suites that debootstrap made."""
    suites: list[str] = []

    async def bootstrap(self: Bases, tag: str, upstream: str, suite: str) -> None:
        suites.append(suite)
        await self.engine.import_tree("", tag)

    monkeypatch.setattr(Bases, "bootstrap", bootstrap)
    return suites


def images(engine: FakeEngine) -> Images:
    return Images(engine, BuildSettings)


async def test_where_a_registry_answers_a_line_is_pulled_under_a_name_of_its_own() -> None:
    engine = Registry()
    name, identity = await images(engine).python_base("3.10")
    assert (name, identity) == (python_tag("3.10"), "sha256:python:3.10-slim")
    assert await images(engine).python_base("python3.10") == (name, identity)
    assert engine.log == ["pull python:3.12-slim", "pull python:3.10-slim"]


async def test_the_default_is_taken_wherever_it_suits() -> None:
    engine = Registry()
    found = images(engine)
    default = await found.python_base()
    assert default[0] == recipes.python_base_tag()
    for wanted in ("3.12", ">=3.10", "<3.13", "==3.12.*"):
        assert await found.python_base(wanted) == default
    node = await found.node_base()
    assert node[0] == recipes.node_pulled_tag()
    for wanted in ("22", ">=18", "^20 || ^22"):
        assert await found.node_base(wanted) == node
    assert engine.log == ["pull python:3.12-slim", "pull node:22-slim"]


async def test_where_no_registry_answers_a_line_is_made_of_the_suite_that_has_it(made: list[str]) -> None:
    engine = Alone()
    found = images(engine)
    assert await found.python_base(">=3.12") == (python_tag("3.13"), f"sha256:{python_tag('3.13')}")
    assert (await found.python_base("3.11"))[0] == recipes.python_base_tag()
    assert (await found.python_base("3.14"))[0] == python_tag("3.14")
    assert made == ["bookworm", "trixie", "forky"]
    assert engine.log == ["pull python:3.12-slim"], "a registry that did not answer is not asked for each line"


async def test_a_line_that_cannot_be_made_gives_way_to_another_that_suits(
    made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    makes = Bases.bootstrap

    async def bootstrap(self: Bases, tag: str, upstream: str, suite: str) -> None:
        if suite == "trixie":
            raise BuildError("the mirror has no trixie")
        await makes(self, tag, upstream, suite)

    monkeypatch.setattr(Bases, "bootstrap", bootstrap)
    assert (await images(Alone()).python_base(">=3.13"))[0] == python_tag("3.14")
    with pytest.raises(BuildError, match="the mirror has no trixie"):
        await images(Alone()).python_base("3.13")


@pytest.mark.parametrize("wanted", ["3.10", "3.12", ">=3.15", "pypy"])
async def test_a_line_that_cannot_be_had_is_told_with_those_that_can(made: list[str], wanted: str) -> None:
    with pytest.raises(
        NoSuchLine, match=r"No base image has Python \S+ There is Python 3\.11, 3\.13 and 3\.14: name"
    ):
        await images(Alone()).python_base(wanted)


async def test_a_line_of_node_is_a_wheel_where_no_registry_answers(made: list[str]) -> None:
    engine = Alone()
    found = images(engine)
    default, twenty = await found.node_base(), await found.node_base("20")
    assert (await found.node_base("24")) == default != twenty
    assert engine.log.count("build stockade-base-node") == 2
    with pytest.raises(NoSuchLine, match="There is Node 20, 22 and 24"):
        await found.node_base("18")


def test_the_default_bases_keep_the_tags_that_they_had() -> None:
    """An update that changes one builds every image of everybody anew."""
    assert recipes.python_base_tag() == "stockade-base-python:8920acc51cdb3447"
    assert recipes.node_base("b", "i").reference == "stockade-base-node:d67123dcd1885b7f"


def test_a_suite_that_debootstrap_does_not_know_is_made_like_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bases, "DEBOOTSTRAP_SCRIPT", tmp_path / "sid")
    (tmp_path / "trixie").touch()
    assert debootstrap_command("trixie", Path("/t"), "http://m/")[-1] == "http://m/"
    command = debootstrap_command("forky", Path("/t"), "http://m/")
    assert command[-1] == str(tmp_path / "sid")
    assert "--force-check-gpg" in command, "without it, a missing keyring is only warned of"


def test_without_debians_keys_nothing_of_debian_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bases.shutil, "which", lambda name: f"/usr/sbin/{name}")
    monkeypatch.setattr(bases, "KEYRING", tmp_path / "none.gpg")
    assert "apt-get install debian-archive-keyring" in bases.bootstrap_problem()


def test_the_hosts_own_mirror_is_used(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    assert debian_mirror(tmp_path) == "http://deb.debian.org/debian"
    (tmp_path / "sources.list.d" / "debian.sources").write_text(
        "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm\n"
    )
    assert debian_mirror(tmp_path) == "http://mirror.example/debian"


@pytest.mark.docker
@pytest.mark.parametrize(
    "line",
    [
        "3.13",
        pytest.param(
            "3.14",
            marks=pytest.mark.skipif(
                os.environ.get("STOCKADE_TEST_LINES") != "1", reason="STOCKADE_TEST_LINES is not 1 (a minute more)"
            ),
        ),
    ],
)
async def test_a_base_of_another_line_has_the_python_that_it_is_named_for(line: str) -> None:
    engine = DockerEngine()
    name, _ = await Images(engine, gather).python_base(line)
    said = await engine.call(
        "run", lambda api: run(api, name, 'python3 -c "import sys, venv, ssl; print(sys.version)"')
    )
    await engine.close()
    assert lines.line_of(said, 2) == line


def run(api: object, image: str, script: str) -> str:
    from tests.gateway.runtime.test_images import run as run_in

    return run_in(api, image, script)


async def test_what_is_made_is_told_with_the_default_first_and_nothing_is_made_for_it(made: list[str]) -> None:
    engine = Alone()
    assert await Bases(engine).made() == ((), ())
    found = images(engine)
    await found.python_base("3.13")
    assert await Bases(engine).made() == (("3.11", "3.13"), ())
    await found.node_base()
    await found.node_base("20")
    log = list(engine.log)
    assert await Bases(engine).made() == (("3.11", "3.13"), ("24", "20"))
    assert engine.log == log

"""What is tried again after an installation that failed, by its exit code and its file, and what is said in the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.runtime.images.bases import Bases, python_tag
from gateway.runtime.images.build_settings import BuildSettings
from gateway.runtime.images.images import MOST_ATTEMPTS, Attempt, Images
from gateway.runtime.images.lines import NODE_LINES, PYTHON_LINES
from gateway.runtime.images.needs import (
    COMPILER,
    NEEDED_FILE,
    NO_LINE,
    OTHER_LINE,
    OTHER_RELEASE,
    Compiler,
    Need,
    NoLine,
    OtherLine,
    OtherRelease,
    need_of,
)
from gateway.runtime.sandbox.errors import BuildError
from tests.gateway.runtime.test_bases import Alone
from tests.gateway.runtime.test_images import source
from tests.gateway.runtime.test_package_builds import archive_of


@dataclass
class Failing(Alone):
    """An engine on which installations end as it says, one after the other, and then well."""

    ends: list[tuple[int, str]] = field(default_factory=list)

    async def start(self, container: str) -> None:
        self.install_exits, written = self.ends.pop(0) if self.ends else (0, "")
        self.inside[NEEDED_FILE] = archive_of("needed", written.encode())
        await super().start(container)


@pytest.fixture(autouse=True)
def no_debootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    async def bootstrap(self: Bases, tag: str, upstream: str, suite: str) -> None:
        await self.engine.import_tree("", tag)

    monkeypatch.setattr(Bases, "bootstrap", bootstrap)


def images(engine: Failing, said: list[str] | None = None) -> Images:
    return Images(engine, BuildSettings, (said if said is not None else []).append)


@pytest.mark.parametrize(
    ("code", "written", "need"),
    [
        (OTHER_LINE, " 3.13 3.14\n", OtherLine(("3.13", "3.14"))),
        (OTHER_LINE, "22 22", OtherLine(("22",))),
        (OTHER_LINE, "3.13; rm -rf / 9.9", None),
        (OTHER_LINE, "", None),
        (NO_LINE, "3.15", NoLine("3.15")),
        (NO_LINE, "of course", None),
        (OTHER_RELEASE, "3.13.5", OtherRelease("3.13.5")),
        (COMPILER, "", Compiler()),
        (1, "3.13", None),
        (137, "", None),
    ],
)
def test_an_exit_code_and_a_file_say_what_is_needed(code: int, written: str, need: Need | None) -> None:
    assert need_of(code, written) == need


@given(st.integers(0, 255), st.text(max_size=40))
def test_whatever_a_package_writes_is_a_choice_among_the_lines_that_there_are(code: int, written: str) -> None:
    need = need_of(code, written)
    if isinstance(need, OtherLine):
        assert set(need.lines) <= {*PYTHON_LINES, *NODE_LINES}


@pytest.mark.anyio
async def test_a_package_that_needs_another_line_is_built_there_and_found_by_its_first_name() -> None:
    engine, said = Failing(ends=[(OTHER_LINE, "3.13 3.14 3.12")]), list[str]()
    reference = await images(engine, said).package(source("x"))
    assert engine.images[reference].id.startswith("sha256:stockade-package-x")
    assert python_tag("3.13") in engine.images
    assert [line.partition("(")[2] for line in said if "package-x" in line] == ["package x)", "package x on 3.13)"]
    again = list[str]()
    assert await images(engine, again).package(source("x")) == reference
    assert again == []


@pytest.mark.anyio
async def test_of_the_lines_that_suit_the_first_is_taken_that_can_be_had() -> None:
    engine, said = Failing(ends=[(OTHER_LINE, "3.12 3.14")]), list[str]()
    await images(engine, said).package(source("x"))
    assert "package x on 3.14)" in said[-1]


@pytest.mark.anyio
async def test_a_package_that_calls_a_compiler_is_installed_again_where_there_is_one() -> None:
    engine, said = Failing(ends=[(COMPILER, ""), (OTHER_LINE, "3.13")]), list[str]()
    await images(engine, said).package(source("x"))
    assert [line.partition("(")[2] for line in said if "package-x" in line] == [
        "package x)",
        "package x with a compiler)",
        "package x on 3.13 with a compiler)",
    ]


@pytest.mark.anyio
async def test_it_is_never_tried_twice_in_the_same_way() -> None:
    """A package can write that file itself."""
    engine = Failing(ends=[(OTHER_LINE, "3.11 3.13 3.14")] * 9)
    with pytest.raises(BuildError, match=r"It installs on Python 3.11, 3.13 or 3.14. There is Python 3.11, 3.13"):
        await images(engine).package(source("x"))
    assert len(engine.installs) == 3
    engine = Failing(ends=[(COMPILER, "")] * 9)
    with pytest.raises(BuildError, match="calls a compiler that is not there"):
        await images(engine).package(source("x"))
    assert len(engine.installs) == 2


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("args", "end", "words"),
    [
        (
            ["x"],
            (NO_LINE, "3.15"),
            "It needs Python 3.15 or newer, which no base image has. There is Python 3.11, 3.13",
        ),
        (
            ["x"],
            (OTHER_LINE, "3.12"),
            "It installs on Python 3.12. There is Python 3.11, 3.13 and 3.14. Name an older",
        ),
        (
            ["-p", "3.11", "x"],
            (OTHER_LINE, "3.14 3.13"),
            "Python 3.11 was asked for, and it installs on 3.13 or 3.14.",
        ),
        (["-p", "3.13.9", "x"], (OTHER_RELEASE, "3.13.5"), 'that line has 3.13.5. Ask for the line ("3.13")'),
    ],
)
async def test_what_cannot_be_had_is_said_with_what_there_is(
    args: Sequence[str], end: tuple[int, str], words: str
) -> None:
    engine = Failing(ends=[end])
    with pytest.raises(BuildError) as failed:
        await images(engine).package(source(*args))
    assert words in str(failed.value)
    assert len(engine.installs) == 1


@pytest.mark.anyio
async def test_a_package_of_npm_that_no_node_suits_runs_on_the_default_as_npm_would_run_it() -> None:
    engine, said = Failing(ends=[(OTHER_LINE, "22"), (OTHER_LINE, "24")]), list[str]()
    await images(engine, said).package(source("x", command="npx"))
    builds = [line.partition("(")[2] for line in said if "package-x" in line]
    assert builds == ["package x)", "package x on 22)", "package x)"]


@pytest.mark.anyio
async def test_a_package_of_npm_that_always_asks_for_another_node_is_not_built_for_ever() -> None:
    """Its install script can write that file itself."""
    engine = Failing(ends=[(OTHER_LINE, "22")] * 30)
    with pytest.raises(BuildError, match="It installs on Node 22"):
        await images(engine).package(source("x", command="npx"))
    assert len(engine.installs) <= 4


@pytest.mark.anyio
async def test_the_ways_to_install_a_package_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def again(self: Images, source: object, last: Attempt, *more: object) -> Attempt:
        return last

    monkeypatch.setattr(Images, "next_attempt", again)
    engine = Failing(ends=[(OTHER_LINE, "22")] * 30)
    with pytest.raises(BuildError, match="could not be built"):
        await images(engine).package(source("x", command="npx"))
    assert len(engine.installs) == MOST_ATTEMPTS

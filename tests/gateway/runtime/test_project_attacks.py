"""What a project that somebody else wrote cannot make the gateway do: write, read or search outside of its folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.runtime.images.package_builds import lay_out_project
from gateway.runtime.images.projects import disk, files
from gateway.runtime.images.projects.builds import declared_tree
from gateway.runtime.images.projects.files import Reading, source_tree, walk
from gateway.runtime.images.projects.finder import find_project
from gateway.runtime.images.projects.layout import Declares, ProjectError, Tree
from gateway.runtime.sandbox.errors import BuildError
from tests.gateway.runtime.test_projects import node, package_json, place, python, write

__all__ = ["place"]


# -- writing


@pytest.mark.parametrize(
    "name", ["/{out}/file", "../out/file", "a/../../out/file", "./../out/file", "a//b", "", ".."]
)
def test_no_name_of_a_file_leads_out_of_the_folder_of_the_build(place: Path, name: str) -> None:
    (place / "out").mkdir()
    tree = Tree(path="/srv/p", files={name.replace("/{out}", str(place / "out")): b"x"})
    with pytest.raises(BuildError, match="is not a plain path below its folder"):
        lay_out_project(place / "laid", tree)
    assert not os.listdir(place / "out")


def test_what_is_laid_out_overwrites_nothing_and_follows_no_link(place: Path) -> None:
    with pytest.raises(BuildError, match="cannot be laid out for the installation"):
        lay_out_project(place / "laid", Tree(path="/srv/p", files={"a": b"x", "a/b": b"y"}))
    laid = lay_out_project(
        place / "other", Tree(path="/srv/p", files={"a/b": b"y", "c": b"z"}, programs=frozenset("c"))
    )
    assert laid
    assert (laid / "a/b").read_bytes() == b"y"
    assert ((laid / "c").stat().st_mode & 0o777, (laid / "a/b").stat().st_mode & 0o777) == (0o755, 0o644)


def test_requirements_name_no_file_elsewhere(place: Path) -> None:
    keys = place / "keys"
    folder = write(place / "p", {"server.py": "", "requirements.txt": f"-r {keys}\n", f"./{keys}": "ssh-ed25519 x"})
    with pytest.raises(ProjectError, match=r"requirements.txt names .*keys, which is not in "):
        find_project(python(folder))


@pytest.mark.parametrize("name", ["requirements/base.txt", "../p/requirements/base.txt", "{p}/requirements/base.txt"])
def test_every_name_of_a_requirements_file_is_relative(place: Path, name: str) -> None:
    folder = place / "p"
    write(folder, {"server.py": "", "requirements.txt": f"-r {name.format(p=folder)}\n"})
    write(folder, {"requirements/base.txt": "-c ../limits.txt\n", "limits.txt": "mcp<9\n"})
    declared = find_project(python(folder)).declared
    assert sorted(declared) == ["limits.txt", "requirements.txt", "requirements/base.txt"]
    assert lay_out_project(place / "laid", declared_tree(find_project(python(folder))))


@pytest.mark.parametrize("name", ["/proc/self/cwd/l.tgz", "../l.tgz"])
def test_a_packed_package_elsewhere_is_refused(place: Path, name: str) -> None:
    manifest = package_json(dependencies={"x": f"file:{name}"})
    folder = write(place / "p", {"index.js": "", "package.json": manifest, "proc/self/cwd/l.tgz": "x"})
    with pytest.raises(ProjectError, match=r"package.json takes x from file:.*l.tgz, which is not in "):
        find_project(node(folder, "index.js"))
    (folder / "package.json").write_text(json.dumps({"dependencies": {"x": f"file:{folder}/proc/self/cwd/l.tgz"}}))
    assert "proc/self/cwd/l.tgz" in find_project(node(folder, "index.js")).declared


# -- reading


@pytest.mark.parametrize(
    "name",
    ["setup.cfg", "uv.lock", "requirements.txt", "pyproject.toml", "uv.toml", ".python-version", "server.py.lock"],
)
def test_a_link_to_a_file_of_the_host_is_not_read_for_python(place: Path, name: str) -> None:
    script = "# /// script\n# dependencies = []\n# ///\n" if name == "server.py.lock" else ""
    folder = write(place / "p", {"server.py": script, "setup.py": "", ".gitignore": name})
    write(place, {"secret": ""})
    (folder / name).symlink_to("../secret")
    with pytest.raises(ProjectError, match=rf"{name} is a link that leads out of .*/p, to .*/secret"):
        find_project(python(folder))


@pytest.mark.parametrize(
    "name",
    ["bun.lockb", "yarn.lock", "package.json", ".pnpmfile.cjs", "pnpm-workspace.yaml", ".npmrc", "l.tgz", ".nvmrc"],
)
def test_a_link_to_a_file_of_the_host_is_not_read_for_node(place: Path, name: str) -> None:
    folder = write(place / "p", {"index.js": "", "package.json": package_json(dependencies={"x": "file:l.tgz"})})
    write(place, {"secret": "{}"})
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("../secret")
    with pytest.raises(ProjectError, match=rf"{name} is a link that leads out of .*/p, to .*/secret"):
        find_project(node(folder, "index.js"))


def test_a_folder_that_is_a_link_out_of_the_project_is_no_member(place: Path) -> None:
    write(place, {"secret/package.json": package_json(name="secret"), "secret/README.md": "s"})
    folder = write(place / "p", {"index.js": "", "package.json": package_json(workspaces=["*"])})
    (folder / "x").symlink_to("../secret")
    assert list(find_project(node(folder, "index.js")).declared) == ["package.json"]
    (folder / "package.json").write_text(package_json(dependencies={"y": "file:x"}))
    with pytest.raises(ProjectError, match=r"x/package.json is a link that leads out of"):
        find_project(node(folder, "index.js"))


def test_a_licence_elsewhere_is_left_out_and_a_link_in_the_project_is_followed(place: Path) -> None:
    folder = write(place / "p", {"server.py": "", "setup.py": "", "docs/about.md": "about", "LICENSE.txt": ""})
    write(place, {"LICENSE": "secret"})
    (folder / "LICENSE").symlink_to("../LICENSE")
    (folder / "README.md").symlink_to("docs/about.md")
    assert find_project(python(folder)).declared == {"setup.py": b"", "README.md": b"about"}


def test_a_link_that_comes_while_a_project_is_read_is_not_followed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(place / "p", {"server.py": "", "a/b.txt": "mine"})
    write(place, {"secret/b.txt": "secret"})
    layout = find_project(python(folder))

    def swapped(reading: Reading, path: str) -> Iterator[str]:
        found = list(walk(reading, path))
        if path:
            yield from found
            return
        (folder / "a").rename(folder / "old")
        (folder / "a").symlink_to("../secret")
        yield from found

    monkeypatch.setattr(files, "walk", swapped)
    with pytest.raises(ProjectError, match=r"a/b.txt is a link that leads out of .*/p, to .*/secret/b.txt"):
        source_tree(layout)


@pytest.mark.parametrize("name", ["a\0b.tgz", "\ud800.tgz", "b" * 300 + ".tgz", "index.js/x.tgz", "loop.tgz"])
def test_a_name_that_no_file_can_have_is_none_or_said(place: Path, name: str) -> None:
    folder = write(place / "p", {"index.js": "", "package.json": package_json(dependencies={"x": f"file:{name}"})})
    (folder / "loop.tgz").symlink_to("loop.tgz")
    try:
        assert list(find_project(node(folder, "index.js")).declared) == ["package.json"]
    except ProjectError as error:
        assert "cannot be read" in str(error), error  # noqa: PT017 - either is well


# -- searching


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that are looked into."""
    found: list[str] = []
    scandir = os.scandir

    def noted(path: str) -> object:
        found.append(os.path.realpath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", noted)
    return found


@pytest.mark.parametrize(
    "pattern", ["../../../**/zz", "../**", "/../**", "a/../../**", "**", "up/**", "*/**", "up/*/**"]
)
@pytest.mark.parametrize("language", ["node", "python"])
def test_no_pattern_of_a_workspace_looks_outside_of_it(
    place: Path, looked_at: list[str], pattern: str, language: str
) -> None:
    folder = write(place / "p", {"index.js": "", "server.py": "", "inner/x": "", "patches/x.patch": ""})
    write(place, {"other/zz/package.json": package_json(), "other/zz/x.patch": ""})
    (folder / "up").symlink_to("..")
    (folder / "patches/up").symlink_to("../..")
    if language == "node":
        write(folder, {"package.json": package_json(workspaces=[pattern])})
        assert sorted(find_project(node(folder, "index.js")).declared) == ["package.json", "patches/x.patch"]
    else:
        members = f"members = [{json.dumps(pattern)}]\nexclude = [{json.dumps(pattern)}]\n"
        write(folder, {"pyproject.toml": f'[project]\nname = "p"\n[tool.uv.workspace]\n{members}'})
        find_project(python(folder))
    assert [path for path in looked_at if not f"{path}/".startswith(f"{folder}/")] == []


def test_a_search_ends(place: Path, monkeypatch: pytest.MonkeyPatch, looked_at: list[str]) -> None:
    monkeypatch.setattr(disk.Looks.__init__, "__defaults__", (100,))
    for number in range(300):
        write(place, {f"p/a{number % 7}/b{number}/c/package.json": package_json(name=f"n{number}")})
    patterns = ["**/a*/**/b*/**/**/*", "**/" * 300 + "*", "*/*/*", *(f"a{number}" for number in range(1000))]
    folder = write(place / "p", {"index.js": "", "package.json": package_json(workspaces=patterns)})
    assert len(find_project(node(folder, "index.js")).links) <= 100
    assert len(looked_at) <= 200


def test_what_the_patterns_of_a_workspace_name(place: Path) -> None:
    for path in ("a/x", "a/.y", "a/z/deep", "b", "c/node_modules/m", "a/empty"):
        write(place, {f"{path}/{'none' if 'empty' in path else 'package.json'}": package_json(name=path)})
    (place / "d").symlink_to("a/z")

    def found(*patterns: str) -> list[str]:
        return [os.path.relpath(path, place) for path in disk.found_by(str(place), patterns)]

    assert found("a/*") == ["a/empty", "a/x", "a/z"]
    assert found("./a/x/", "/b", "none", "") == ["a/x", "b"]
    assert sorted(found("a/**")) == ["a", "a/empty", "a/x", "a/z", "a/z/deep"]
    assert set(found("**/deep", "d/*")) == {"a/z/deep", "d/deep"}
    assert found("[bd]") == ["b", "d"]
    assert "c/node_modules" not in found("**")
    assert found("a/../b") == ["b"]


# -- what cannot be read


@pytest.mark.parametrize("line", ["!", "a\\", "/", "!!", "["])
@pytest.mark.parametrize("name", [".gitignore", ".dockerignore"])
def test_a_pattern_that_is_none_names_nothing_as_for_git(place: Path, name: str, line: str) -> None:
    folder = write(place / "p", {"server.py": "", "a.log": "", name: f"{line}\n*.log\n"})
    layout = find_project(python(folder))
    assert set(source_tree(layout).files) == {"server.py", name}
    assert files.folder_state(layout)


DEEP = "[" * 20_000


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"pyproject.toml": f"x = {DEEP}"}, id="manifest"),
        pytest.param({"pyproject.toml": f"x = {'9' * 5000}"}, id="number"),
        pytest.param({"pyproject.toml": "[project]", "uv.lock": f"x = {DEEP}"}, id="uv.lock"),
        pytest.param({"pyproject.toml": "[project]", "poetry.lock": f"x = {DEEP}"}, id="poetry.lock"),
        pytest.param({"package.json": f'{{"x": {DEEP}'}, id="package.json"),
    ],
)
def test_what_is_nested_too_deeply_is_said(place: Path, files: dict[str, str]) -> None:
    folder = write(place / "p", {"server.py": "", "index.js": "", **files})
    source = node(folder, "index.js") if "package.json" in files else python(folder)
    with pytest.raises(ProjectError, match=r"(nested too deeply|is not valid TOML).*(Correct|Run|Write)"):
        find_project(source)


def test_a_script_that_is_nested_too_deeply_declares_nothing(place: Path) -> None:
    folder = write(place / "p", {"server.py": f"# /// script\n# x = {DEEP}\n# ///\n"})
    assert find_project(python(folder)).declares is Declares.NOTHING


def test_folders_that_lie_too_deep_are_said(place: Path) -> None:
    path = "/".join("d" * 90)
    folder = write(place / "p", {"server.py": "", f"{path}/a.txt": "a", "e.txt": "e", "b/c.txt": "c"})
    tree = source_tree(find_project(python(folder)))
    assert list(tree.files) == ["b/c.txt", f"{path}/a.txt", "e.txt", "server.py"]
    assert lay_out_project(place / "laid", tree)
    at = os.open(folder, os.O_RDONLY)
    for _ in range(500):
        os.mkdir("f", dir_fd=at)
        inner = os.open("f", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)
    layout = find_project(python(folder))
    with pytest.raises(ProjectError, match=r"more than 100 deep in .*p. List them in .*.stockadeignore"):
        source_tree(layout)
    deep = Tree(path="/srv/p", files={"/".join("d" * 1500): b""})
    with pytest.raises(BuildError, match="is not a plain path"):
        lay_out_project(place / "other", deep)


# -- what is not to be copied


def test_nothing_overrides_what_a_stockadeignore_hides(place: Path) -> None:
    folder = write(
        place / "a/p", {"package.json": package_json(), "src/server.js": "", "src/secrets/x": "", "b/y": ""}
    )
    write(folder, {".stockadeignore": "secrets/\n", ".gitignore": "src/\n!secrets/\n!src/secrets/\n", "z/q/w": ""})
    write(
        place,
        {".stockadeignore": "# mine\n\n/a/p/b\n*/p/z/**/w\n", "a/p/src/d.db": "", "a/.stockadeignore": "*.db\n"},
    )
    layout = find_project(node(folder, "src/server.js"))
    assert set(source_tree(layout).files) == {"package.json", "src/server.js", ".stockadeignore", ".gitignore"}
    seen = files.folder_state(layout)
    write(folder, {"src/secrets/x": "longer", "b/y": "longer"})
    assert files.folder_state(layout) == seen


def test_a_program_that_is_hidden_is_said(place: Path) -> None:
    folder = write(place / "p", {"src/server.py": ""})
    write(place, {".stockadeignore": "src/\n"})
    layout = find_project(python(folder, "src/server.py"))
    with pytest.raises(
        ProjectError, match=r"/.stockadeignore hides .*/p/src/server.py, which the server runs. Take it"
    ):
        source_tree(layout)


@pytest.mark.parametrize("above", [False, True])
def test_a_line_of_a_stockadeignore_that_hides_nothing_is_said(place: Path, above: bool) -> None:
    folder = write(place / "p", {"server.py": ""})
    write(place if above else folder, {".stockadeignore": "a\n!\n"})
    layout = find_project(python(folder))
    with pytest.raises(ProjectError, match=r"\.stockadeignore, line 2: '!' hides nothing. Write a pattern"):
        source_tree(layout)


@pytest.mark.parametrize(
    "name",
    [
        ".yarnrc.yml",
        "bunfig.toml",
        ".git-credentials",
        "id_ecdsa",
        "id_ecdsa_sk.pub",
        "a/cert.p12",
        "a/cert.pfx",
        ".ssh/config",
        "a/.aws/credentials",
        "a/credentials.json",
        ".docker/config.json",
        ".pgpass",
    ],
)
def test_credentials_of_a_project_are_not_copied(place: Path, name: str) -> None:
    folder = write(place / "p", {"server.py": "", name: "secret"})
    assert set(source_tree(find_project(python(folder))).files) == {"server.py"}


@pytest.mark.parametrize("link", ["LICENSE", "bun.lockb", "package.json", "l.tgz", "r.txt"])
@pytest.mark.parametrize("secret", [".env", "a/credentials.json", ".git/config"])
def test_a_link_carries_no_credentials_of_the_project_itself(place: Path, link: str, secret: str) -> None:
    folder = write(place / "p", {"index.js": "", "server.py": "", secret: "{}", "requirements.txt": "-r r.txt\n"})
    write(folder, {"package.json": package_json(dependencies={"x": "file:l.tgz"}), "r.txt": ""})
    (folder / link).unlink(missing_ok=True)
    (folder / link).symlink_to(secret)
    source = python(folder) if link in ("LICENSE", "r.txt") else node(folder, "index.js")
    with pytest.raises(
        ProjectError, match=rf"p/{link} is named .*leads to .*p/{secret}, which is never in an image. Take"
    ):
        find_project(source)

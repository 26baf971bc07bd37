"""What is found of a project on the disk, in odd trees too, and what an image of it is made of. No engine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.runtime.containers.planner import looked_at
from gateway.runtime.images.build_settings import INSIDE, gather
from gateway.runtime.images.download_only import ALONE, PREPARE
from gateway.runtime.images.images import Images
from gateway.runtime.images.needs import COMPILER
from gateway.runtime.images.package_builds import PROJECT as PROJECT_INSIDE
from gateway.runtime.images.projects.builds import Projects
from gateway.runtime.images.projects.downloads import download_tree
from gateway.runtime.images.projects.files import folder_state, source_tree
from gateway.runtime.images.projects.finder import find_project
from gateway.runtime.images.projects.layout import Declares, Layout, ProjectError, Tree
from gateway.runtime.images.projects.pins import constraints, wanted
from gateway.runtime.images.projects.recipe import project_image, project_steps
from gateway.runtime.plan.project_mounts import hidden_folders, with_folders
from gateway.runtime.sandbox.errors import BuildError, PlanError
from gateway.runtime.supervise.source_watch import SourceWatch
from registry.model.mounts import make_mount
from registry.model.server import Server
from registry.model.sources import HOME, ProjectSource
from tests.gateway.runtime.fakes import FakeEngine

PROJECT = '[project]\nname = "weather"\nversion = "1.0"\nrequires-python = ">=3.10"\ndependencies = ["mcp"]\n'
BUILT = '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
LOCK = 'version = 1\n[[package]]\nname = "weather"\nsource = { virtual = "." }\n'


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder that no other project is above."""
    (tmp_path / ".git").mkdir()
    return tmp_path


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def python(folder: Path, name: str = "server.py", **more: Any) -> ProjectSource:
    return ProjectSource(**{"language": "python", "folder": str(folder), "how": "file", "name": name, **more})


def node(folder: Path, name: str = "build/index.js", **more: Any) -> ProjectSource:
    return ProjectSource(**{"language": "node", "folder": str(folder), "how": "file", "name": name, **more})


def package_json(**more: Any) -> str:
    return json.dumps({"name": "weather", "version": "1.0.0", **more})


# -- where a project begins, and what it declares


@pytest.mark.parametrize(
    ("files", "declares", "installed"),
    [
        pytest.param({}, Declares.NOTHING, False, id="nothing"),
        pytest.param({"pyproject.toml": PROJECT, "uv.lock": LOCK}, Declares.UV_LOCK, False, id="uv.lock"),
        pytest.param({"pyproject.toml": PROJECT + BUILT, "uv.lock": LOCK}, Declares.UV_LOCK, True, id="a package"),
        pytest.param(
            {"pyproject.toml": PROJECT + BUILT + "[tool.uv]\npackage = false\n", "uv.lock": LOCK},
            Declares.UV_LOCK,
            False,
            id="no package, said",
        ),
        pytest.param({"pyproject.toml": PROJECT}, Declares.PYPROJECT, False, id="no lock"),
        pytest.param({"pyproject.toml": PROJECT, "poetry.lock": ""}, Declares.POETRY_LOCK, False, id="poetry"),
        pytest.param({"pyproject.toml": PROJECT, "pdm.lock": ""}, Declares.PDM_LOCK, False, id="pdm"),
        pytest.param({"requirements.txt": "mcp\n"}, Declares.REQUIREMENTS, False, id="requirements"),
        pytest.param({"requirements.txt": "mcp\n-e .\n"}, Declares.REQUIREMENTS, True, id="its own folder"),
        pytest.param({"requirements.txt": "./vendor/x\n"}, Declares.REQUIREMENTS, True, id="a folder in it"),
        pytest.param({"requirements.txt": "mcp  # see ./x\n"}, Declares.REQUIREMENTS, False, id="a remark"),
        pytest.param(
            {"requirements.txt": "mcp\n", "pyproject.toml": "[tool.ruff]\nline-length = 100\n"},
            Declares.REQUIREMENTS,
            False,
            id="a pyproject.toml of other tools",
        ),
        pytest.param({"setup.py": "setup()"}, Declares.SETUP, True, id="setup.py"),
        pytest.param(
            {"uv.lock": LOCK, "poetry.lock": "", "pyproject.toml": PROJECT}, Declares.UV_LOCK, False, id="two"
        ),
    ],
)
def test_what_a_python_project_declares(
    place: Path, files: dict[str, str], declares: Declares, installed: bool
) -> None:
    folder = write(place / "p", {"server.py": "", **files})
    found = find_project(python(folder))
    assert (found.declares, found.wants_source, found.root) == (declares, installed, str(folder))
    assert found.start == ("/opt/stockade/venv/bin/python", f"{folder}/server.py")
    assert "server.py" not in found.declared, "an edit of the source builds nothing"


def test_the_nearest_folder_with_a_manifest_is_the_project(place: Path) -> None:
    write(place, {"pyproject.toml": PROJECT, "a/pyproject.toml": PROJECT, "a/src/b/server.py": ""})
    assert find_project(python(place / "a/src/b")).root == str(place / "a")


def test_of_a_workspace_the_whole_is_the_project(place: Path) -> None:
    write(place, {"pyproject.toml": '[tool.uv.workspace]\nmembers = ["packages/*"]\nexclude = ["packages/old"]\n'})
    write(place, {"uv.lock": LOCK, "packages/srv/pyproject.toml": PROJECT, "packages/srv/server.py": ""})
    write(place, {"packages/old/pyproject.toml": PROJECT, "packages/old/server.py": ""})
    found = find_project(python(place / "packages/srv"))
    assert (found.root, found.member, found.started) == (str(place), "weather", ("packages/srv/server.py",))
    assert "packages/srv/pyproject.toml" in found.declared
    assert find_project(python(place / "packages/old")).root == str(place / "packages/old")


def test_nothing_above_a_repository_is_looked_at(place: Path) -> None:
    write(place, {"pyproject.toml": PROJECT, "inner/.git": "gitdir: x", "inner/server.py": ""})
    assert find_project(python(place / "inner")).declares is Declares.NOTHING


def test_a_home_is_no_project_even_with_a_manifest(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = write(place / "me", {"package.json": package_json(), "x/index.js": ""})
    monkeypatch.setenv("HOME", str(home))
    assert find_project(node(home / "x", "index.js")).root == str(home / "x")


def test_a_file_that_declares_what_it_needs_is_a_project_of_its_own(place: Path) -> None:
    block = '# /// script\n# requires-python = ">=3.12"\n# dependencies = ["mcp"]\n# ///\n'
    write(place, {"pyproject.toml": PROJECT, "server.py": f"#!/usr/bin/env python\n{block}print(1)\n"})
    found = find_project(python(place, standalone=True))
    assert (found.declares, found.runtime) == (Declares.SCRIPT, ">=3.12")
    assert found.declared == {"server.py": block.encode()}, "an edit of its code builds nothing"


def test_a_virtual_environment_counts_where_nothing_is_declared(place: Path) -> None:
    site = "v/lib/python3.12/site-packages"
    write(place, {"v/pyvenv.cfg": "home = /x\nversion = 3.12.4\n", f"{site}/mcp-1.2.3.dist-info/METADATA": ""})
    write(place, {f"{site}/pip-24.0.dist-info/METADATA": "", f"{site}/odd;rm-1.dist-info/METADATA": ""})
    git = {"url": "https://x.example/r", "vcs_info": {"vcs": "git", "commit_id": "abc"}}
    write(place, {f"{site}/own-1.dist-info/direct_url.json": json.dumps(git), "p/server.py": ""})
    found = find_project(python(place / "p", interpreter=str(place / "v/bin/python")))
    assert found.declares is Declares.INSTALLED
    assert found.requirements == ("mcp==1.2.3", "own @ git+https://x.example/r@abc")
    assert found.runtime == "3.12"

    elsewhere = {"url": "file:///srv/lib", "dir_info": {"editable": True}}
    write(place, {f"{site}/own-1.dist-info/direct_url.json": json.dumps(elsewhere)})
    with pytest.raises(ProjectError, match=r"own is installed from /srv/lib.*requirements.txt"):
        find_project(python(place / "p", interpreter=str(place / "v/bin/python")))


@pytest.mark.parametrize(
    ("lock", "declares"),
    [
        ("package-lock.json", Declares.NPM_LOCK),
        ("npm-shrinkwrap.json", Declares.NPM_LOCK),
        ("pnpm-lock.yaml", Declares.PNPM_LOCK),
        ("yarn.lock", Declares.YARN_LOCK),
        ("bun.lock", Declares.BUN_LOCK),
        ("other", Declares.PACKAGE_JSON),
    ],
)
def test_which_lock_a_node_project_has(place: Path, lock: str, declares: Declares) -> None:
    write(place, {"package.json": package_json(engines={"node": ">=20"}), lock: "x", "build/index.js": ""})
    found = find_project(node(place))
    assert (found.declares, found.runtime, found.version) == (declares, ">=20", "1.0.0")
    assert found.start == ("node", f"{place}/build/index.js")


def test_a_projects_own_scripts_do_not_run_before_its_source_is_there(place: Path) -> None:
    write(place, {"package.json": package_json(scripts={"prepare": "tsc", "start": "node a.js"}), "a.js": ""})
    found = find_project(node(place, "start", how="script"))
    assert b"tsc" not in found.declared["package.json"]
    assert found.start == ("sh", "-c", 'node a.js "$@"', "start")
    assert found.started == ("a.js",)
    assert found.variables["npm_package_name"] == "weather"


def test_of_npms_settings_no_credential_gets_into_an_image(place: Path) -> None:
    npmrc = "//r.example/:_authToken=hunter2\nregistry=https://me:hunter2@r.example/\nlegacy-peer-deps=true\n"
    write(place, {"package.json": package_json(), ".npmrc": npmrc, "build/index.js": ""})
    given = find_project(node(place)).declared[".npmrc"].decode()
    assert "hunter2" not in given
    assert given.splitlines() == ["registry=https://r.example/", "legacy-peer-deps=true"]


def test_parts_of_a_node_workspace_lead_to_their_source(place: Path) -> None:
    write(place, {"package.json": package_json(workspaces=["packages/*"]), "package-lock.json": "{}"})
    write(place, {"packages/lib/package.json": '{"name": "@me/lib"}', "packages/srv/package.json": '{"name": "srv"}'})
    write(place, {"packages/srv/index.js": "", "packages/srv/node_modules/x": "", "node_modules/y": ""})
    found = find_project(node(place / "packages/srv", "index.js"))
    assert found.root == str(place)
    assert found.links == {"@me/lib": "packages/lib", "srv": "packages/srv"}
    assert set(found.hidden) == {f"{place}/node_modules", f"{place}/packages/srv/node_modules"}


# -- what cannot run, with the next step


def test_what_is_missing_is_told_with_the_next_step(place: Path) -> None:
    write(place, {"package.json": package_json(scripts={"build": "tsc", "dev": "x"}), "pnpm-lock.yaml": ""})
    with pytest.raises(
        ProjectError, match=rf"{place}/build/index.js does not exist. Run `pnpm run build` in {place}"
    ):
        find_project(node(place))
    with pytest.raises(
        ProjectError, match=rf"{place}/build/index.js does not exist. Run `pnpm run build` in {place}"
    ):
        find_project(node(place / "build", f"{place}/build/index.js"))
    with pytest.raises(ProjectError, match=r"has no script 'start'; it has: build, dev\."):
        find_project(node(place, "start", how="script"))
    with pytest.raises(ProjectError, match="The folder /nowhere/x does not exist"):
        find_project(python(Path("/nowhere/x"), "x", how="module"))
    with pytest.raises(ProjectError, match=r"other.py does not exist. Correct the path"):
        find_project(python(place, "other.py"))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"pyproject.toml": "[project\n"}, r"pyproject.toml is not valid TOML.*line 1"),
        ({"requirements.txt": "-r ../../secret.txt\n"}, r"names \.\./\.\./secret.txt, which is not in"),
        ({"requirements.txt": "-r gone.txt\n"}, "names gone.txt"),
        (
            {"pyproject.toml": PROJECT, "uv.lock": '[[package]]\nname = "lib"\nsource = { editable = "../lib" }\n'},
            r"takes lib from \.\./lib, a folder outside",
        ),
        ({"pyproject.toml": '[tool.poetry.dependencies]\npython = "^3.10"\nmcp = "*"\n'}, "Run `poetry lock`"),
    ],
)
def test_a_manifest_that_cannot_be_followed_is_told(place: Path, files: dict[str, str], words: str) -> None:
    with pytest.raises(ProjectError, match=words):
        find_project(python(write(place / "p", {"server.py": "", **files})))


def test_a_link_that_leads_out_of_the_project_is_refused(place: Path) -> None:
    write(place, {"secret/server.py": "", "p/pyproject.toml": PROJECT})
    (place / "p/server.py").symlink_to(place / "secret/server.py")
    with pytest.raises(ProjectError, match=r"is a link that leads out of .*Name .*/secret/server.py itself"):
        find_project(python(place / "p"))


def test_a_manifest_that_never_ends_does_not_stop_the_gateway(place: Path) -> None:
    write(place / "p", {"server.py": ""})
    os.mkfifo(place / "p/requirements.txt")
    os.mkfifo(place / "p/uv.lock")
    assert find_project(python(place / "p")).declares is Declares.NOTHING


def test_a_folder_that_only_its_owner_can_read_is_told(place: Path) -> None:
    folder = write(place / "p", {"server.py": ""})
    folder.chmod(0o700)
    with pytest.raises(ProjectError, match=r"chmod -R o\+rX .*source: copy"):
        looked_at(python(folder))
    assert looked_at(python(folder, copied=True))[0].root == str(folder)
    assert looked_at(python(folder, user="1000"))[0].root == str(folder)


# -- what a build sees


def test_a_build_sees_nothing_secret_and_nothing_installed(place: Path) -> None:
    files = {".env": "x", ".env.local": "x", ".git/config": "x", "node_modules/a/b": "x", "sub/node_modules/a": "x"}
    files |= {"venv/pyvenv.cfg": "x", "venv/lib/a": "x", "a/__pycache__/b.pyc": "x", "id_rsa": "x", "sub/.npmrc": "x"}
    files |= {
        ".stockadeignore": "private/\n",
        "private/x": "x",
        ".gitignore": "build/\nnotes.txt\n",
        "notes.txt": "x",
    }
    files |= {"package.json": package_json(), "build/index.js": "x", "build/more.js": "x", "src/a.ts": "x"}
    folder = write(place / "p", files)
    (folder / "config").symlink_to(".env")
    (folder / "alias.js").symlink_to("build/index.js")
    tree = source_tree(find_project(node(folder, copied=True)))
    wanted = {
        ".gitignore",
        ".stockadeignore",
        "alias.js",
        "build/index.js",
        "build/more.js",
        "package.json",
        "src/a.ts",
    }
    assert set(tree.files) == wanted, "what is run is there, although Git ignores it"


def test_a_link_out_of_a_copied_project_is_refused(place: Path) -> None:
    folder = write(place / "p", {"server.py": ""})
    (folder / "keys").symlink_to("/etc/shadow")
    with pytest.raises(ProjectError, match=r"p/keys is a link that leads out.*List it in .*\.stockadeignore"):
        source_tree(find_project(python(folder, copied=True)))


def test_too_much_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.runtime.images.projects.files.MOST_FILES", 3)
    folder = write(place / "p", {"server.py": "", **{f"data/{number}": "" for number in range(5)}})
    with pytest.raises(ProjectError, match="too much to copy into an image"):
        source_tree(find_project(python(folder, copied=True)))


# -- the image


def image_of(source: ProjectSource, found: Layout, tree: Tree | None = None) -> str:
    tree = tree or Tree(path=found.root, files=found.declared)
    return project_image(source, found, tree, "base", "builder").reference


def test_an_image_is_made_again_for_a_changed_lock_and_for_nothing_else(place: Path) -> None:
    folder = write(place / "p", {"pyproject.toml": PROJECT, "uv.lock": LOCK, "server.py": "1"})
    source = python(folder)
    first = image_of(source, find_project(source))
    write(folder, {"server.py": "2"})
    assert image_of(source, find_project(source)) == first
    write(folder, {"uv.lock": LOCK + "#"})
    assert image_of(source, find_project(source)) != first


def test_every_file_of_a_copied_project_is_in_its_tag(place: Path) -> None:
    folder = write(place / "p", {"server.py": "1", "a.txt": "1"})
    source = python(folder, copied=True)
    found = replace(find_project(source), root="/srv/p")  # below /tmp there is no place for it
    first = image_of(source, found, source_tree(find_project(source)))
    write(folder, {"a.txt": "2"})
    assert image_of(source, found, source_tree(find_project(source))) != first


def test_only_the_first_step_has_credentials_and_it_builds_nothing(place: Path) -> None:
    folder = write(place / "p", {"pyproject.toml": PROJECT + BUILT, "uv.lock": LOCK, "server.py": ""})
    first, second = project_steps(python(folder), find_project(python(folder)), credentials=True)
    assert (first.credentials, second.credentials) == (True, False)
    assert "--no-build" in first.script
    assert "--no-install-local" in first.script
    write(folder, {"package.json": package_json(), "package-lock.json": "{}", "build/index.js": ""})
    first, second = project_steps(node(folder), find_project(node(folder)), credentials=True)
    assert "npm ci --ignore-scripts" in first.script
    assert "npm rebuild" in second.script


@pytest.mark.parametrize(
    ("requirements", "seen"),
    [
        ("x==1\n-e .\n", "x==1\n"),
        ("-\\\ne .\n--editable=.\n-e.\ny[a] >= 2 ; os_name > '3'\n", "y[a] >= 2 ; os_name > '3'\n"),
        ("./libs/foo\nfile:libs\n/srv/x\nfoo -e .\nz @ file:///x\n", ""),
        ("-r more.txt\n-r pyproject.toml\n-r https://x.example/r.txt\n", "-r more.txt\n"),
        ("--index-url https://x.example/${UV_INDEX_A_PASSWORD}\n--extra-index-url https://y.example/\n", "--extra-index-url https://y.example/\n"),
    ],
)  # fmt: skip
def test_of_requirements_the_step_with_credentials_sees_no_folder(place: Path, requirements: str, seen: str) -> None:
    """uv builds what is editable even with --no-build: setup.py would run beside the tokens."""
    files = {
        "requirements.txt": "",
        "more.txt": "w\n-e .\n",
        "setup.py": "evil",
        "pyproject.toml": BUILT,
        "server.py": "",
    }
    folder = write(place / "p", files)
    found = find_project(python(folder))
    more = {"requirements.txt": requirements.encode(), "more.txt": b"w\n-e .\n"}
    tree = download_tree(replace(found, declared={**found.declared, **more}, declares=Declares.REQUIREMENTS))
    assert tree.files["requirements.txt"].decode() == seen
    assert tree.files["more.txt"] == b"w\n"
    assert "setup.py" not in tree.files


@pytest.mark.parametrize("name", ["version", "dependencies", "optional-dependencies", "requires-python"])
def test_what_only_a_backend_could_tell_is_refused_where_there_are_credentials(place: Path, name: str) -> None:
    lines = PROJECT.replace('version = "1.0"\n', "").replace("[project]", f'[project]\ndynamic = ["{name}"]')
    folder = write(place / "p", {"pyproject.toml": lines + BUILT, "server.py": ""})
    with pytest.raises(
        ProjectError, match=f"its {name} is dynamic.*Run `uv lock` in {folder}, or set STOCKADE_BUILD_"
    ):
        project_steps(python(folder), find_project(python(folder)), credentials=True)
    project_steps(python(folder), find_project(python(folder)), credentials=False)
    write(folder, {"uv.lock": LOCK})
    project_steps(python(folder), find_project(python(folder)), credentials=True)


def test_a_folder_that_uv_would_build_is_refused_where_there_are_credentials(place: Path) -> None:
    sources = '[tool.uv.sources]\ny = [{ path = "./y", editable = true }]\n'
    folder = write(place / "p", {"pyproject.toml": PROJECT + sources, "y/setup.py": "", "server.py": ""})
    with pytest.raises(ProjectError, match=r"it takes a package from \./y"):
        project_steps(python(folder), find_project(python(folder)), credentials=True)


@pytest.mark.parametrize(
    "files",
    [
        {"requirements.txt": "x"},
        {"pyproject.toml": PROJECT, "uv.lock": LOCK},
        {"pyproject.toml": PROJECT},
        {"server.py": "# /// script\n# dependencies = ['x']\n# ///\n"},
    ],
    ids=["requirements", "uv.lock", "pyproject", "script"],
)
def test_no_python_starts_after_the_first_package_is_there(place: Path, files: dict[str, str]) -> None:
    """uv asks the environment's Python what it is, and that runs the `.pth` files of packages."""
    source = python(write(place / "p", {"server.py": "", **files}), requirements=("extra",))
    first, second = project_steps(source, find_project(source), credentials=True)
    assert len([line for line in first.script.splitlines() if " pip install " in line or " sync " in line]) == 1
    assert "extra" in first.script + second.script
    assert all("--no-build" in line for line in first.script.splitlines() if " export " in line and "/uv " in line)


def test_no_hook_of_a_project_is_where_credentials_are(place: Path) -> None:
    files = {"package.json": package_json(), "pnpm-lock.yaml": "lockfileVersion: '9.0'\n", ".pnpmfile.cjs": "evil"}
    source = node(write(place / "p", {**files, "build/index.js": ""}))
    found = find_project(source)
    first, second = project_steps(source, found, credentials=True)
    assert "--ignore-pnpmfile" in first.script
    assert ".pnpmfile.cjs" not in first.script + second.script
    assert ".pnpmfile.cjs" not in download_tree(found).files
    (only,) = project_steps(source, found, credentials=False)
    assert "./.pnpmfile.cjs" in only.script
    assert "--ignore-pnpmfile" not in only.script


@pytest.mark.parametrize(
    "lock",
    [
        {"yarn.lock": "# yarn lockfile v1\n"},
        {"yarn.lock": "__metadata:\n"},
        {"package-lock.json": "{}"},
        {"pnpm-lock.yaml": ""},
        {},
    ],
)
def test_no_program_is_started_where_credentials_are(place: Path, lock: dict[str, str]) -> None:
    """Yarn and npm 10 run `prepare` of a repository in spite of --ignore-scripts."""
    source = node(
        write(place / "p", {"package.json": package_json(), "build/index.js": "", **lock}), requirements=("x",)
    )
    first, second = project_steps(source, find_project(source), credentials=True)
    commands = [line for line in first.script.splitlines() if re.search(r"(?:npm|pnpm|yarn) (?:install|ci)\b", line)]
    assert len(commands) == 2
    assert all(re.search(rf"{ALONE} (?:npm|pnpm|yarn) (?:install|ci)\b", line) for line in commands)
    assert first.script.index(PREPARE) < first.script.index(ALONE)
    assert ALONE not in second.script


def test_bun_itself_comes_by_a_script_of_its_package(place: Path) -> None:
    files = {"package.json": package_json(), "bun.lock": "{}", "build/index.js": ""}
    source = node(write(place / "p", files))
    first, _ = project_steps(source, find_project(source), credentials=True)
    (line,) = [line for line in first.script.splitlines() if "bun install" in line]
    assert line.startswith("npm_config_ignore_scripts=false npm exec")
    assert "bun install --frozen-lockfile --ignore-scripts" in line


@pytest.mark.anyio
async def test_the_source_is_not_where_credentials_are(place: Path) -> None:
    folder = write(place / "p", {"requirements.txt": "x\n-e .\n", "setup.py": "evil", "server.py": ""})
    write(place, {".npmrc": "", ".config/uv/uv.toml": 'index-url = "https://u:p@x.example/simple"\n'})
    engine = Seeing()
    await Projects(Images(engine, lambda: gather({}, place, place))).image(
        python(folder), find_project(python(folder))
    )
    first, second = engine.seen
    assert (set(first), set(second)) == ({"requirements.txt"}, {"requirements.txt", "setup.py", "server.py"})


class Seeing(FakeEngine):
    """An engine that notes which files of a project each installation sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[str]] = []

    async def create(self, plan: Any) -> str:
        found = [Path(mount.source) for mount in plan.mounts if mount.target == PROJECT_INSIDE]
        self.seen += [sorted(path.name for path in at.rglob("*") if path.is_file()) for at in found]
        return await super().create(plan)


def test_a_node_project_below_tmp_is_told_where_to_move(place: Path) -> None:
    folder = write(place / "p", {"package.json": package_json(), "build/index.js": ""})
    assert str(folder).startswith("/tmp/")
    with pytest.raises(ProjectError, match=r"server's own memory.*Move the project"):
        image_of(node(folder), find_project(node(folder)))


AWKWARD = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=12)


@settings(max_examples=200, deadline=None)
@given(name=AWKWARD, version=st.text(max_size=12), script=st.text(max_size=30))
def test_no_name_of_a_folder_adds_a_line_to_the_dockerfile(name: str, version: str, script: str) -> None:
    found = Layout(
        root=f"/srv/{name}",
        language="node",
        declares=Declares.PACKAGE_JSON,
        start=("sh", "-c", script, "start"),
        version=version,
    )
    source = ProjectSource(language="node", folder=found.root, how="script", name="start")
    made = project_image(source, found, Tree(path=found.root, files={}), "base", "builder")
    lines = made.dockerfile.splitlines()
    assert [line.split(" ")[0] for line in lines][:6] == ["FROM", "COPY", "RUN", "ENV", "USER", "ENTRYPOINT"]
    assert [line.split(" ")[0] for line in lines[6:]] in ([], ["LABEL"])


# -- the mounts


def test_the_folder_is_mounted_read_only_at_its_own_path(place: Path) -> None:
    folder = write(place / "p", {"server.py": "", ".venv/pyvenv.cfg": "", "node_modules/x": ""})
    found = find_project(python(folder))
    (mount,) = with_folders(python(folder), found).mounts
    assert (mount.source, mount.target, mount.read_only) == (str(folder), str(folder), True)
    assert set(hidden_folders(python(folder), found)) == {f"{folder}/.venv", f"{folder}/node_modules"}
    assert with_folders(python(folder, copied=True), found).mounts == ()


def test_a_program_with_no_folder_of_this_machine_is_shown_none() -> None:
    source = python(Path(HOME), "mcp", how="command", standalone=True, requirements=("mcp[cli]",))
    found = find_project(source)
    assert (found.start, found.requirements) == (("/opt/stockade/venv/bin/mcp",), ("mcp[cli]",))
    assert with_folders(source, found).mounts == ()


def test_a_mount_of_the_entry_wins(place: Path) -> None:
    folder = write(place / "p", {"server.py": "", ".venv/pyvenv.cfg": ""})
    own = make_mount(str(place), str(place), False, base=place)
    source = python(folder, mounts=(own,))
    found = find_project(source)
    assert with_folders(source, found).mounts == (own,)
    assert hidden_folders(source, found) == ()


def test_a_file_that_lies_elsewhere_is_mounted_too(place: Path) -> None:
    write(place, {"p/pyproject.toml": PROJECT, "q/server.py": ""})
    source = python(place / "p", str(place / "q/server.py"))
    found = find_project(source)
    assert found.declares is Declares.PYPROJECT
    assert [mount.source for mount in with_folders(source, found).mounts] == [str(place / "p"), str(place / "q")]


@pytest.mark.parametrize("folder", ["/", "/etc", "/proc", "/var/lib", "/usr", "/home", "/run", "/tmp"])
@pytest.mark.parametrize("copied", [False, True])
def test_a_folder_that_no_server_may_see_is_refused(folder: str, copied: bool) -> None:
    source = ProjectSource(language="python", folder=folder, how="module", name="x", copied=copied)
    found = Layout(root=folder, language="python", declares=Declares.NOTHING, start=("x",))
    with pytest.raises(PlanError, match="Put the program into a folder of its own"):
        with_folders(source, found)


def test_a_whole_home_is_refused(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    monkeypatch.setenv("HOME", str(place))
    write(place, {"server.py": ""})
    with pytest.raises(PlanError, match="Put the program into a folder of its own"):
        looked_at(python(place))


# -- the locks of Poetry and PDM


def test_the_pins_of_a_lock_have_their_hashes_and_markers() -> None:
    digest = "sha256:" + "ab" * 32
    lock = f"""
[[package]]
name = "mcp"
version = "1.2.3"
markers = "python_version >= '3.10'"
files = [{{file = "a", hash = "{digest}"}}, {{file = "b", hash = "md5:x --index-url http://evil"}}]
[[package]]
name = "two"
version = "1"
[[package]]
name = "two"
version = "2"
[[package]]
name = "bad\\nname"
version = "1"
[[package]]
name = "lib"
version = "1"
source = {{type = "directory", url = "../lib"}}
[[package]]
name = "odd"
version = "1"
markers = "x\\n--index-url http://evil"
"""
    lines = constraints(lock.encode(), "poetry.lock").decode().splitlines()
    assert lines == [f"mcp==1.2.3 ; python_version >= '3.10' --hash={digest}", "odd==1"]


@pytest.mark.parametrize(
    "url", ["https://x.example/r\\n-e .", "git@x.example:r", "file:///r", "https://${UV_INDEX_A_PASSWORD}/"]
)
def test_a_repository_of_a_lock_adds_no_line(url: str) -> None:
    source = f'source = {{ type = "git", url = "{url}", resolved_reference = "abc" }}'
    with pytest.raises(ProjectError, match="no URL of a repository"):
        constraints(f'[[package]]\nname = "x"\nversion = "1"\n{source}\n'.encode(), "poetry.lock")


def test_what_poetrys_own_table_asks_for() -> None:
    table = {"python": "^3.10", "mcp": {"version": "^1", "extras": ["cli"]}, "idna": "*", "no": {"optional": True}}
    assert wanted({"tool": {"poetry": {"dependencies": table}}}, None) == ("mcp[cli]", "idna")
    assert wanted({}, ["mcp>=1"]) == ("mcp>=1",)


# -- builds


@pytest.mark.anyio
async def test_a_build_that_failed_is_made_again_for_a_changed_lock_and_when_asked_for(place: Path) -> None:
    folder = write(place / "p", {"pyproject.toml": PROJECT, "uv.lock": LOCK, "server.py": ""})
    source, engine = python(folder), FakeEngine(install_exits=1)
    projects = Projects(Images(engine, lambda: gather({}, place, place)))

    async def builds() -> int:
        with pytest.raises(BuildError, match=f"The image for project {folder} could not be built"):
            await projects.image(source, find_project(source))
        return len(engine.installs)

    assert await builds() == 1
    assert await builds() == 1, "no call waits for it again"
    projects.try_again(source)
    assert await builds() == 2
    write(folder, {"uv.lock": LOCK + "#"})
    assert await builds() == 3
    engine.install_exits = 0
    projects.try_again(source)
    made = await projects.image(source, find_project(source))
    assert await projects.image(source, find_project(source)) == made
    assert len(engine.installs) == 4, "what is there is not built again"


@pytest.mark.anyio
async def test_where_a_compiler_is_called_it_is_installed_with_one(place: Path) -> None:
    folder = write(place / "p", {"requirements.txt": "x\n", "server.py": ""})
    engine = FakeEngine(install_exits=COMPILER)
    with pytest.raises(BuildError, match="could not be built"):
        await Projects(Images(engine, lambda: gather({}, place, place))).image(
            python(folder), find_project(python(folder))
        )
    first, second = engine.installs
    assert first.image != second.image


@pytest.mark.anyio
async def test_a_build_has_the_projects_files_read_only_and_a_copy_in_memory(place: Path) -> None:
    folder = write(place / "p", {"requirements.txt": "x\n", "server.py": ""})
    engine = FakeEngine()
    await Projects(Images(engine, lambda: gather({}, place, place))).image(
        python(folder), find_project(python(folder))
    )
    (plan,) = engine.installs
    assert [(mount.target, mount.read_only) for mount in plan.mounts] == [(INSIDE, True), (PROJECT_INSIDE, True)]
    assert str(folder) not in [mount.source for mount in plan.mounts], "what is mounted is a copy"
    assert [path for path, _ in plan.tmpfs] == [str(folder)]
    assert (plan.capabilities, plan.read_only) == ((), False)


@pytest.mark.parametrize(
    ("manifest", "edited", "anew"),
    [
        pytest.param("./libs/foo", "libs/foo/src/foo.py", True, id="a copy"),
        pytest.param("file:./libs/foo", "libs/foo/src/foo.py", True, id="a copy, by URL"),
        pytest.param("./libs/foo", "libs/foo/node_modules/x.js", False, id="what is not installed"),
        pytest.param("./libs/foo", "libs/bar/src/bar.py", False, id="another"),
        pytest.param("-e ./libs/foo", "libs/foo/src/foo.py", False, id="editable"),
        pytest.param("-e ./libs/foo", "libs/foo/pyproject.toml", True, id="the manifest of an editable one"),
        pytest.param("./libs/foo.whl", "libs/foo.whl", True, id="a packed one"),
        pytest.param("-r more/r.txt", "more/foo/foo.py", True, id="from the file that names it"),
        pytest.param("-e .", "server.py", False, id="the project itself"),
        pytest.param('{ path = "libs/foo" }', "libs/foo/src/foo.py", True, id="uv: a copy"),
        pytest.param('[{ path = "libs/foo", marker = "x" }]', "libs/foo/src/foo.py", True, id="uv: one of several"),
        pytest.param('{ path = "libs/foo", editable = true }', "libs/foo/src/foo.py", False, id="uv: editable"),
        pytest.param('{ path = "libs/foo", editable = true }', "libs/foo/setup.py", True, id="uv: its manifest"),
        pytest.param('{ path = "../other" }', "../other/foo.py", False, id="uv: elsewhere"),
        pytest.param("{ path = 3 }", "libs/foo/src/foo.py", False, id="uv: no path"),
    ],
)
def test_an_edit_of_a_package_that_is_installed_as_a_copy_makes_another_image(
    place: Path, manifest: str, edited: str, anew: bool
) -> None:
    files = {"server.py": "", "libs/foo/pyproject.toml": PROJECT, "libs/foo.whl": "", "more/r.txt": "./foo\n"}
    if manifest.startswith(("{", "[")):
        files["pyproject.toml"] = f"{PROJECT}[tool.uv.sources]\nfoo = {manifest}\n"
    else:
        files["requirements.txt"] = f"mcp\n{manifest}\n"
    folder = write(place / "p", files)
    seen = []
    for text in ("1", "1", "name = 2"):
        write(folder, {edited: text})
        seen.append(image_of(python(folder), find_project(python(folder))))
    assert seen[0] == seen[1], "the same files, the same image"
    assert (seen[1] != seen[2]) is anew


# -- watching


def test_what_is_seen_of_a_folder_changes_with_its_source_and_nothing_else(place: Path) -> None:
    folder = write(place / "p", {"server.py": "1", ".gitignore": "*.log\n"})
    first = folder_state(find_project(python(folder)))
    write(folder, {"server.log": "x", "__pycache__/a.pyc": "x", ".venv/pyvenv.cfg": "x"})
    assert folder_state(find_project(python(folder))) == first
    write(folder, {"server.py": "22"})
    assert folder_state(find_project(python(folder))) != first


@pytest.mark.anyio
async def test_a_changed_source_restarts_its_server_once_it_has_settled() -> None:
    entry = {"command": "python", "args": ["server.py"], "cwd": "/srv/p"}
    servers = {name: Server.model_validate({**entry, "watch": name == "mine"}) for name in ("mine", "other")}
    seen, restarted = {"now": "a"}, []

    async def restart(name: str) -> None:
        restarted.append((name, seen["now"]))

    watch = SourceWatch(lambda: servers, lambda server: seen["now"], restart)
    for now in ("a", "a", "b", "c", "c", "c", "", "", "c", "d", "d"):
        seen["now"] = now
        await watch.look_once()
    assert restarted == [("mine", "c"), ("mine", "d")], (
        "not for b, which was not whole yet, nor for a folder that is gone"
    )


@pytest.mark.parametrize("lock", ["# yarn lockfile v1\n", "__metadata:\n  version: 8\n"])
def test_yarn_takes_packages_from_the_registry_that_npm_is_set_to(place: Path, lock: str) -> None:
    """A build reaches no other; and what Yarn 1 has in its lock names its own."""
    write(place / "p", {"package.json": package_json(), "yarn.lock": lock, "build/index.js": ""})
    (step,) = project_steps(node(place / "p"), find_project(node(place / "p")), credentials=False)
    assert "$(npm config get registry" in step.script


# -- whatever lies there

VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["../x", "**", "file:../y", "\0"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "version", "packages", "start", "node", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = ["name", "version", "workspaces", "scripts", "engines", "dependencies", "optionalDependencies"]
TOML = st.lists(
    st.sampled_from(
        [
            *("[project]", "[tool.uv]", "[tool.uv.workspace]", "[[package]]", "[build-system]"),
            *("[tool.poetry.dependencies]", 'members = ["**", "../*", 1]', "members = 3", "dependencies = [1]"),
            *('name = "x"', "name = 1", "source = 3", 'source = { editable = "../x" }', "package = 3"),
            *('requires-python = ">=3"', "requires-python = 1"),
        ]
    ),
    max_size=6,
).map("\n".join)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    manifest=st.dictionaries(st.sampled_from(KEYS), VALUE, max_size=5),
    pyproject=TOML | st.text(max_size=30),
    lock=TOML | st.text(max_size=30),
    requirements=st.text(max_size=30) | st.sampled_from(["-r \0", "-r ../x", "-e ..", "-c requirements.txt"]),
    names=st.sets(
        st.sampled_from(["uv.lock", "poetry.lock", "pdm.lock", "package.json", "pyproject.toml", "requirements.txt"])
    ),
)
def test_whatever_a_manifest_says_it_is_read_or_told(
    place: Path, manifest: dict[str, Any], pyproject: str, lock: str, requirements: str, names: set[str]
) -> None:
    folder = place / "p"
    shutil.rmtree(folder, ignore_errors=True)
    content = {"package.json": json.dumps(manifest), "pyproject.toml": pyproject, "requirements.txt": requirements}
    chosen = {name: content.get(name, lock).encode("utf-8", "replace").decode() for name in names}
    write(folder, {"server.py": "", "index.js": "", **chosen})
    for source in (python(folder), node(folder, "index.js"), node(folder, "start", how="script")):
        with contextlib.suppress(ProjectError):
            found = find_project(replace(source, copied=True))
            assert set(source_tree(found).files) >= set(found.declared)
            project_steps(source, found, credentials=True)

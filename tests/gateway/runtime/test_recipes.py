"""Dockerfiles and tags: content decides the tag, and the host's settings never reach a final image."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from gateway.runtime.images.build_settings import BuildSettings
from gateway.runtime.images.download_only import ALONE, PREPARE
from gateway.runtime.images.recipes import (
    INSIDE,
    INSTALLED,
    PICK_NODE,
    STAGE_LABEL,
    Recipe,
    builder_image,
    compiler_image,
    egress,
    egress_packages,
    install_steps,
    node_base,
    package_image,
    runtime_image,
    uv_tools,
)
from registry.model.server import Server
from registry.model.sources import PackageSource
from registry.model.spec import plan_source


def source(**entry: object) -> PackageSource:
    found = plan_source(Server.model_validate(entry))
    assert isinstance(found, PackageSource)
    return found


TIME = source(command="uvx", args=["mcp-server-time"])
EVERYTHING = source(command="npx", args=["-y", "@modelcontextprotocol/server-everything@2026.8.31"])
SECRET = BuildSettings(
    files={"env": b"export UV_DEFAULT_INDEX=https://user:hunter2@pypi.example/"}, proxies={"HTTP_PROXY": "p"}
)


def image(package: PackageSource, base_id: str = "sha256:1") -> Recipe:
    runtime = runtime_image(package, "base:1", base_id)
    name, identity = (runtime.reference, "sha256:r") if runtime else ("base:1", base_id)
    return package_image(package, name, builder_image(package.kind, name, identity, "tools:1").reference)


def script(package: PackageSource, *, credentials: bool = False) -> list[str]:
    return [step.script for step in install_steps(package, credentials=credentials)]


def test_the_same_content_has_the_same_tag_and_any_change_another() -> None:
    assert image(TIME).reference == image(TIME).reference
    assert image(TIME).reference != image(TIME, "sha256:2").reference
    other = source(command="uvx", args=["mcp-server-time==2026.1.1"])
    assert image(TIME).reference != image(other).reference
    assert image(TIME).reference != image(source(command="uvx", args=["mcp-server-time"], packages=["git"])).reference


def test_settings_of_the_host_do_not_change_the_tag() -> None:
    wanted = uv_tools("b", "i")
    assert "hunter2" not in wanted.dockerfile
    assert wanted.context(SECRET, "s").dockerfile.count("hunter2") == 0


def test_a_packages_image_copies_what_was_installed_and_runs_none_of_it() -> None:
    for package in (TIME, EVERYTHING):
        steps = image(package).dockerfile.splitlines()
        assert f"COPY --from={INSTALLED} /opt/stockade /opt/stockade" in steps
        (run,) = [line for line in steps if line.startswith("RUN")]
        assert run == "RUN find /opt/stockade -xdev -type f -perm /6000 -exec chmod ug-s {} +"


def test_with_credentials_a_package_is_downloaded_first_and_its_code_runs_in_another_step() -> None:
    fetch, build = install_steps(TIME, credentials=True)
    assert (fetch.credentials, build.credentials) == (True, False)
    assert "uv tool install" in fetch.script
    assert "--no-build" in fetch.script
    assert "UV_COMPILE_BYTECODE" not in fetch.script, "the package's own Python would run, and its .pth files with it"
    assert "uv" not in build.script.replace("uvx", "")
    fetch, build = install_steps(EVERYTHING, credentials=True)
    assert f"{PREPARE}{ALONE} npm install" in fetch.script, "it starts no other program"
    assert ALONE not in build.script
    assert "--ignore-scripts" in fetch.script
    assert "npm rebuild" in build.script
    (only,) = install_steps(EVERYTHING, credentials=False)
    assert not only.credentials
    assert "--ignore-scripts" not in only.script


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param(node_base("b", "i"), id="node base"),
        pytest.param(uv_tools("b", "i"), id="uv"),
        pytest.param(egress_packages("b", "i"), id="egress packages"),
    ],
)
def test_only_the_build_stage_has_the_hosts_settings(wanted: Recipe) -> None:
    context = wanted.context(SECRET, "mark")
    stages = context.dockerfile.split("FROM ")
    final = stages[-1]
    building = next(stage for stage in stages if "AS build" in stage)
    assert f"COPY settings {INSIDE}" in building
    assert f"LABEL {STAGE_LABEL}=mark" in building
    assert INSIDE not in final
    assert STAGE_LABEL not in final
    assert context.files["settings/env"].endswith(b"export PIP_ONLY_BINARY=:all:\n"), "no code of a package runs"
    assert context.build_args == {"HTTP_PROXY": "p"}


def test_python_packages_are_installed_outside_root_with_the_image_s_python() -> None:
    (text,) = script(TIME)
    assert "UV_TOOL_DIR=/opt/stockade/tools" in text
    assert "uv tool install" in text
    assert "pick.py mcp-server-time mcp-server-time\n" in text


def test_npm_packages_go_into_a_prefix_and_their_program_is_picked() -> None:
    (text,) = script(EVERYTHING)
    assert "npm install --global --prefix /opt/stockade" in text
    assert "@modelcontextprotocol/server-everything@2026.8.31" in text


def test_a_requirement_cannot_break_out_of_the_script() -> None:
    evil = PackageSource(kind="uvx", package="x", version="", executable="x", requirement="x'; rm -rf / #")
    for credentials in (True, False):
        assert "'x'\"'\"'; rm -rf / #'" in script(evil, credentials=credentials)[0]


def test_debian_packages_are_in_the_final_image_too() -> None:
    package = source(command="uvx", args=["mcp-server-git"], packages=["git"])
    runtime = runtime_image(package, "base:1", "sha256:1")
    assert runtime is not None
    assert "apt-get install" in runtime.dockerfile
    assert image(package).dockerfile.startswith(f"FROM {runtime.reference}\n")
    assert runtime_image(TIME, "base:1", "sha256:1") is None


def test_the_egress_image_changes_with_its_source_and_its_packages_do_not() -> None:
    one, two = (egress("p", "i", {"egress/door/door.py": text}) for text in (b"1", b"2"))
    assert one.reference != two.reference
    assert egress_packages("b", "i").reference == egress_packages("b", "i").reference


def test_every_image_runs_as_nobody_by_default() -> None:
    for wanted in (image(TIME), image(EVERYTHING), egress("p", "i", {})):
        assert "USER 65532:65532" in wanted.dockerfile.split("FROM ")[-1]


def test_what_a_package_is_built_with_is_not_in_its_image() -> None:
    builder = builder_image("uvx", compiler_image("base:1", "sha256:1").reference, "sha256:c", "tools:1")
    assert "build-essential" in compiler_image("base:1", "sha256:1").dockerfile
    made = package_image(TIME, "base:1", builder.reference)
    assert made.dockerfile.startswith("FROM base:1\n")
    assert "stockade-compiler" not in made.dockerfile
    assert made.reference != image(TIME).reference


@pytest.mark.parametrize("kind", ["uvx", "npx"])
def test_a_call_of_a_compiler_that_is_not_there_is_noted_and_fails(kind: str) -> None:
    builder = builder_image(kind, "base:1", "sha256:1", "tools:1")
    assert {"why.sh", "absent.sh", "pick.py", "pick.js"} == set(builder.files)
    assert "@" not in builder.files["why.sh"].decode().replace('"$@"', ""), "all places are filled in"
    assert "exit 127" in builder.files["absent.sh"].decode()
    text = script(source(command=kind, args=["x"]))[0]
    assert 'PATH="$PATH:/stockade-install/absent"' in text, "behind what is there"


def test_a_named_release_is_compared_with_the_one_that_is_there() -> None:
    assert "= 3.12.4 ]" in script(source(command="uvx", args=["-p", "3.12.4", "x"]))[0]
    assert "= 22.1.0 ]" in script(source(command="npx", args=["x"], node="22.1.0"))[0]
    assert "exit 94" not in script(source(command="uvx", args=["-p", "3.12", "x"]))[0]


NODE = shutil.which("node") or ""
PICKED = {
    "a name": (["@a/b"], {"@a/b": {"b": "cli.js"}, "c": {"c": "cli.js"}}, "b"),
    "a program of it": (["@a/b", "other"], {"@a/b": {"b": "cli.js", "other": "o.js"}}, "other"),
    "a repository": (["github:o/r"], {"@a/real": {"real": "cli.js"}}, "real"),
    "a repository with one text as its program": (["git+https://x.example/o/r"], {"real": "cli.js"}, "real"),
    "a program of a repository": (["o/r#v1", "two"], {"one": {"one": "x.js"}, "two": {"two": "x.js"}}, "two"),
}


@pytest.mark.skipif(not NODE, reason="needs Node on this machine")
@pytest.mark.parametrize(("asked", "installed", "picked"), PICKED.values(), ids=PICKED)
def test_the_program_that_npx_would_run_is_picked(
    asked: list[str], installed: dict[str, object], picked: str, tmp_path: Path
) -> None:
    for name, programs in installed.items():
        folder = tmp_path / "lib/node_modules" / name
        folder.mkdir(parents=True)
        (folder / "package.json").write_text(json.dumps({"name": name, "version": "1.2.3", "bin": programs}))
    (tmp_path / "lib/node_modules/.package-lock.json").touch()
    script = tmp_path / "pick.js"
    script.write_bytes(PICK_NODE.replace(b"/opt/stockade", str(tmp_path).encode()))
    wanted = asked if len(asked) > 1 else [*asked, ""]
    subprocess.run([NODE, str(script), *wanted], check=True, timeout=60)
    assert (tmp_path / "entry").readlink() == tmp_path / "bin" / picked
    assert (tmp_path / "version").read_text() == "1.2.3"

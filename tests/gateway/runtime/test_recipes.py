"""Dockerfiles and tags: content decides the tag, and the host's settings never reach a final image."""

from __future__ import annotations

import pytest

from gateway.runtime.build_settings import BuildSettings
from gateway.runtime.recipes import (
    INSIDE,
    STAGE_LABEL,
    Recipe,
    egress,
    egress_packages,
    node_base,
    package_image,
    uv_tools,
)
from registry.config import Server
from registry.spec import PackageSource, plan_source


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
    return package_image(package, "base:1", base_id, "tools:1")


def test_the_same_content_has_the_same_tag_and_any_change_another() -> None:
    assert image(TIME).reference == image(TIME).reference
    assert image(TIME).reference != image(TIME, "sha256:2").reference
    other = source(command="uvx", args=["mcp-server-time==2026.1.1"])
    assert image(TIME).reference != image(other).reference
    assert image(TIME).reference != image(source(command="uvx", args=["mcp-server-time"], packages=["git"])).reference


def test_settings_of_the_host_do_not_change_the_tag() -> None:
    wanted = image(TIME)
    assert "hunter2" not in wanted.dockerfile
    assert wanted.context(SECRET, "s").dockerfile.count("hunter2") == 0


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param(image(TIME), id="uvx"),
        pytest.param(image(EVERYTHING), id="npx"),
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
    assert "settings/env" in context.files
    assert context.build_args == {"HTTP_PROXY": "p"}


def test_python_packages_are_installed_outside_root_with_the_image_s_python() -> None:
    script = image(TIME).files["install.sh"].decode()
    assert "UV_TOOL_DIR=/opt/stockade/tools" in script
    assert "uv tool install" in script
    assert script.rstrip().endswith("pick.py mcp-server-time mcp-server-time")


def test_npm_packages_go_into_a_prefix_and_their_program_is_picked() -> None:
    script = image(EVERYTHING).files["install.sh"].decode()
    assert "npm install --global --prefix /opt/stockade" in script
    assert "@modelcontextprotocol/server-everything@2026.8.31" in script


def test_a_requirement_cannot_break_out_of_the_script() -> None:
    evil = PackageSource(kind="uvx", package="x", version="", executable="x", requirement="x'; rm -rf / #")
    assert "'x'\"'\"'; rm -rf / #'" in image(evil).files["install.sh"].decode()


def test_debian_packages_are_in_the_final_image_too() -> None:
    dockerfile = image(source(command="uvx", args=["mcp-server-git"], packages=["git"])).dockerfile
    runtime, build, final = dockerfile.split("FROM ")[1:]
    assert "apt-get install" in runtime
    assert runtime.startswith("base:1 AS runtime")
    assert build.startswith("runtime AS build")
    assert final.startswith("runtime\n")


def test_the_egress_image_changes_with_its_source_and_its_packages_do_not() -> None:
    one, two = (egress("p", "i", {"egress/door.py": text}) for text in (b"1", b"2"))
    assert one.reference != two.reference
    assert egress_packages("b", "i").reference == egress_packages("b", "i").reference


def test_every_image_runs_as_nobody_by_default() -> None:
    for wanted in (image(TIME), image(EVERYTHING), egress("p", "i", {})):
        assert "USER 65532:65532" in wanted.dockerfile.split("FROM ")[-1]

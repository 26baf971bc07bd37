"""Files with secrets (`secret_files`): where they may be, and that nothing of them is in what an engine is asked for."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from gateway.runtime.containers.secret_files import SCRIPT, FilledFiles, order_of, placing_plan
from gateway.runtime.docker.arguments import container_info, create_arguments
from gateway.runtime.engine.base import ContainerPlan
from gateway.runtime.plan.plans import Names
from gateway.runtime.plan.secret_files import MOST_BYTES, memory_of, revision_of
from gateway.runtime.sandbox.errors import PlanError
from registry.load import load_text
from registry.model.errors import ConfigError
from registry.secrets import SecretStore
from registry.secrets.vault import Vault
from tests.gateway.runtime import test_supervisor
from tests.gateway.runtime.test_supervisor import Stage, config

pytestmark = pytest.mark.anyio
VALUE = "correct-horse-battery-staple"
ENTRY = {
    "command": "uvx",
    "args": ["mcp-server-time"],
    "secret_files": {"/run/secrets/token": "${secret:k}", "/var/keys/app/id.json": '{"key": "${secret:k}"}'},
}


def problems(files: Mapping[str, str], **more: Any) -> str:
    entry = {"image": "x", "secret_files": dict(files), **more}
    try:
        load_text(json.dumps({"version": 1, "mcpServers": {"a": entry}}), Path("stockade.json"))
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "path",
    [
        "token",
        "/token",
        "/run/token",
        "/run/secrets/../x",
        "/run/secrets/",
        "/run//secrets/x",
        "/a b/c/d",
        "/a/b/c\n",
    ],
)
def test_a_path_that_cannot_be_one_is_refused_with_its_key(path: str) -> None:
    said = problems({path: "x"})
    assert "mcpServers.a.secret_files." in said
    assert "cannot be the path of a secret's file. Write a whole path with two folders or more" in said


@pytest.mark.parametrize("path", ["/etc/ssl/key", "/usr/lib/x", "/proc/1/x", "/run/stockade/x", "/dev/shm/x"])
def test_a_folder_of_the_system_is_not_hidden(path: str) -> None:
    assert "cannot be a folder of secrets" in problems({path: "x"})


def test_a_folder_in_a_mount_or_the_home_itself_is_refused(tmp_path: Path) -> None:
    mounts = [f"{tmp_path}:/data:ro"]
    assert "lies in the mount /data" in problems({"/data/keys/x": "x"}, mounts=mounts)
    assert problems({"/database/keys/x": "x"}, mounts=mounts) == ""
    assert "would hide what else is in /home/stockade" in problems({"/home/stockade/x": "x"})
    assert problems({"/home/stockade/.config/x": "x"}) == ""


def of_program(folder: Path, path: str, **more: Any) -> str:
    entry = {"command": "node", "args": ["build/i.js"], "cwd": str(folder), "secret_files": {path: "x"}, **more}
    try:
        load_text(json.dumps({"version": 1, "mcpServers": {"a": entry}}), Path("stockade.json"))
    except ConfigError as error:
        return str(error)
    return ""


def test_a_folder_in_what_a_program_is_shown_is_refused(tmp_path: Path) -> None:
    (project := tmp_path / "p" / "srv").mkdir(parents=True)
    (other := tmp_path / "q").mkdir()
    (other / "i.js").write_text("")
    assert f"lies in {project}, a folder that the program is shown" in of_program(project, f"{project}/keys/x")
    assert f"lies in {other}," in of_program(project, f"{other}/keys/x", args=[f"{other}/i.js"])
    assert of_program(project, f"{other}/keys/x") == ""
    assert of_program(project, "/run/secrets/x") == ""
    assert of_program(project, f"{project}/keys/x", source="copy") == "", "it is in no folder of this machine then"


def test_a_folder_in_a_project_above_the_program_is_refused(tmp_path: Path) -> None:
    (program := tmp_path / "p" / "srv").mkdir(parents=True)
    path = f"{tmp_path}/p/keys/x"
    assert of_program(program, path) == ""
    (tmp_path / "p" / "package.json").write_text("{}")
    assert f"lies in {tmp_path}/p, a folder that the program is shown" in of_program(program, path)
    assert "lies in" in of_program(program, path, command="python", args=["server.py"])
    alone = {"command": "uv", "args": ["run", "--no-project", "server.py"]}
    assert of_program(program, path, **alone) == "", "no project is looked for"
    (program / ".git").mkdir()
    assert of_program(program, path) == "", "nothing above a repository is looked at"


def test_a_broken_reference_and_a_remote_server_are_told() -> None:
    assert "secret_files./run/secrets/x: ${vault:x} is not a reference" in problems({"/run/secrets/x": "${vault:x}"})
    entry = {"url": "https://x.example/mcp", "secret_files": {"/run/secrets/x": "x"}}
    with pytest.raises(ConfigError, match="secret_files: has no meaning for a server that runs elsewhere"):
        load_text(json.dumps({"version": 1, "mcpServers": {"a": entry}}), Path("stockade.json"))


def test_a_missing_secret_of_a_file_is_told_with_its_line(tmp_path: Path) -> None:
    text = 'version: 1\nmcpServers:\n  a:\n    image: x\n    secret_files:\n      /run/secrets/t: "${secret:gone}"\n'
    known = SecretStore(env={}, folder=tmp_path, keyring=None, vault=Vault(path=tmp_path / "x.enc"), filled=())
    (problem,) = known.missing(load_text(text, Path("stockade.yaml")))
    assert str(problem).startswith("stockade.yaml:6:23: mcpServers.a.secret_files./run/secrets/t: the secret 'gone'")


def test_the_plan_has_the_folders_and_changes_with_the_contents_and_holds_none_of_them() -> None:
    files = {"/run/secrets/a": VALUE, "/run/secrets/b": "2", "/keys/x/c": "3"}
    mounts = memory_of(files, "70000:70001")
    assert [(mount.target, mount.memory, mount.owner) for mount in mounts] == [
        ("/keys/x", True, "70000:70001"),
        ("/run/secrets", True, "70000:70001"),
    ]
    assert revision_of("", files) != revision_of("", {**files, "/keys/x/c": "4"}) != revision_of("ca", files)
    assert revision_of("ca", {}) == "ca"
    assert VALUE not in str(mounts) + revision_of("", files)


def test_files_without_an_owner_or_too_large_are_refused() -> None:
    with pytest.raises(PlanError, match="Write a `user` for it"):
        memory_of({"/run/secrets/a": "1"}, "")
    with pytest.raises(PlanError, match="are the most"):
        memory_of({"/run/secrets/a": "x" * (MOST_BYTES + 1)}, "1:1")


def test_the_engine_is_asked_for_a_small_tmpfs_and_says_what_it_is_called() -> None:
    (mount,) = memory_of({"/run/secrets/a": VALUE}, "1:1")
    plan = placing_plan(Names(project="p"), "a", "image", ["v1"])
    assert create_arguments(plan)["HostConfig"]["Mounts"] == [
        {
            "Type": "volume",
            "Source": "v1",
            "Target": "/files/0",
            "ReadOnly": False,
        }
    ]
    (asked,) = create_arguments(ContainerPlan(name="a", image="i", mounts=(mount,)))["HostConfig"]["Mounts"]
    assert "Source" not in asked
    assert asked["VolumeOptions"]["DriverConfig"]["Options"]["type"] == "tmpfs"
    assert {"nosuid", "nodev", "noexec", "size=1m"} <= set(
        asked["VolumeOptions"]["DriverConfig"]["Options"]["o"].split(",")
    )
    found = {"Id": "1", "Name": "/a", "Image": "i", "State": {"Running": False, "ExitCode": 0}, "Config": {}}
    mounts = [{"Type": "bind", "Destination": "/d"}, {"Type": "volume", "Name": "v1", "Destination": "/run/secrets"}]
    assert container_info({**found, "Mounts": mounts}).volumes == (("/run/secrets", "v1"),)


def test_the_script_writes_each_file_for_its_owner_alone(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "token").write_text("an older one")
    files = {"/run/secrets/token": f"{VALUE}\n\udcff", "/run/secrets/b": "2"}
    order = order_of(files, ["/run/secrets"], f"{os.getuid()}:{os.getgid()}")
    assert VALUE.encode() not in order
    script = SCRIPT.replace("/files/", f"{tmp_path}/")
    done = subprocess.run([sys.executable, "-c", script], input=order, capture_output=True, check=True)
    assert done.stdout == b"ready\n"
    assert (tmp_path / "0" / "token").read_bytes() == VALUE.encode() + b"\n\xff"
    assert {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "0").iterdir()} == {
        "token": 0o400,
        "b": 0o400,
    }


async def test_contents_are_known_for_one_start_at_a_time() -> None:
    numbers = iter("1234")
    files = FilledFiles(lambda: {"/a": next(numbers)})
    assert await files.look() == {"/a": "1"}
    assert await files.take() == {"/a": "1"}
    assert await files.take() == {"/a": "2"}
    await files.look()
    files.forget()
    assert await files.take() == {"/a": "4"}
    assert "4" not in repr(files)


# -- on an engine in memory


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    known = SecretStore(env={"STOCKADE_SECRET_K": VALUE}, folder=tmp_path / "none", keyring=None)
    monkeypatch.setattr(test_supervisor, "NoSecrets", lambda: known)
    monkeypatch.setattr("gateway.runtime.containers.policies.interface_addresses", list)
    monkeypatch.setattr("gateway.runtime.sandbox.backoff.FIRST_S", 0.001)
    return Stage(tmp_path)


async def test_the_files_are_written_before_the_server_starts_and_each_time_it_does(stage: Stage) -> None:
    plans = stage.noted_plans()
    stage.engine.answers["stockade-p-b-clock-files"] = b"ready\n"
    async with stage.running(config({"clock": ENTRY})) as supervisor:
        await supervisor.instance("clock")
        order = [line for line in stage.engine.log if "clock" in line and "door" not in line]
        assert order[order.index("create stockade-p-b-clock") :] == [
            "create stockade-p-b-clock",
            "attach stockade-p-b-clock",
            "create stockade-p-b-clock-files",
            "attach stockade-p-b-clock-files",
            "start stockade-p-b-clock-files",
            "start stockade-p-b-clock",
            "remove stockade-p-b-clock-files",
        ]
        (given,) = stage.engine.given["stockade-p-b-clock-files"]
        contents = {name: base64.b64decode(text).decode() for _, name, text in json.loads(given)["files"]}
        assert contents == {"token": VALUE, "id.json": f'{{"key": "{VALUE}"}}'}
        uid, _, gid = plans["stockade-p-b-clock"].user.partition(":")
        assert (json.loads(given)["uid"], json.loads(given)["gid"]) == (int(uid), int(gid))
        stage.engine.die("stockade-p-b-clock")
        await stage.until(lambda: len(stage.engine.given["stockade-p-b-clock-files"]) == 2)
        await supervisor.instance("clock")
        said = [*map(str, stage.events), *map(str, supervisor.status()), *stage.engine.log]
    assert VALUE not in "".join(said)
    assert VALUE not in json.dumps([asdict(plan) for plan in plans.values()], default=str)
    assert VALUE not in "".join(path.read_text() for path in stage.directory.persistent.rglob("*.json"))


async def test_a_server_whose_files_cannot_be_written_is_not_started(stage: Stage) -> None:
    stage.engine.answers["stockade-p-b-clock-files"] = b"Traceback\n"
    async with stage.running(config({"clock": ENTRY})) as supervisor:
        await stage.until(lambda: "could not be written" in supervisor.status()[0].detail)
        assert "start stockade-p-b-clock" not in stage.engine.log
        assert VALUE not in supervisor.status()[0].detail


async def test_a_server_without_files_gets_no_container_for_them(stage: Stage) -> None:
    async with stage.running(config({"clock": {**ENTRY, "secret_files": {}}})) as supervisor:
        await supervisor.instance("clock")
        assert "create stockade-p-b-clock-files" not in stage.engine.log

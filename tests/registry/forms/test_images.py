"""`docker run` and its like: files of variables, ports and networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.runtime.inventory.users import chosen_users
from registry.load import load_text
from registry.model.sources import ImageSource
from registry.model.spec import plan_source
from tests.registry.forms.entries import entry, refused


def image(words: list[str], **more: Any) -> ImageSource:
    source = plan_source(entry(words, **more))
    assert isinstance(source, ImageSource)
    return source


@pytest.mark.parametrize("engine", ["docker", "podman", "nerdctl", "/usr/bin/podman"])
def test_every_engine_s_run_is_read(engine: str) -> None:
    assert image([engine, "run", "-i", "x", "a"]) == image(["docker", "container", "run", "x", "a"])


@pytest.fixture
def variables(tmp_path: Path) -> Path:
    file = tmp_path / "server.env"
    file.write_text('# comment\n\nA=1\n  B=x=y "z" # no comment\nC=\nHOST_ONE\nD=${secret:x}\nE=entry\n')
    return file


def test_a_file_of_variables_is_read_as_docker_does(variables: Path) -> None:
    env = image(["docker", "run", "-e", "A=2", "--env-file", str(variables), "x"], env={"E": "own"}).env
    assert env == {
        "A": "2", "B": 'x=y "z" # no comment', "C": "", "HOST_ONE": "${env:HOST_ONE}", "D": "$${secret:x}", "E": "own",
    }  # fmt: skip


def test_a_file_of_variables_may_be_named_by_the_home_folder(
    variables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(variables.parent))
    assert image(["docker", "run", "--env-file=~/server.env", "x"]).env["A"] == "1"
    assert image(["docker", "run", "--env-file=${env:HOME}/server.env", "x"]).env["A"] == "1"


BAD_FILES = {
    "no name": (b"A=1\n =2\n", "args[1]: FILE, line 2: does not begin with an environment variable's name"),
    "a space before =": (b"A =1\n", "line 1: does not begin with an environment variable's name. Write NAME=VALUE"),
    "not text": (b"A=\xff\n", "args[1]: FILE is not text in UTF-8"),
    "NUL": (b"A=1\0\n", "line 1: holds NUL"),
    "too long": (b"A=" + b"x" * 2**20, "FILE is longer than a megabyte"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_what_is_wrong_in_a_file_of_variables_is_told_with_its_line(
    content: bytes, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "x.env"
    file.write_bytes(content)
    assert message.replace("FILE", str(file)) in refused(["docker", "run", "--env-file", str(file), "x"])


def test_what_is_no_file_of_variables_is_told_without_its_content(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("-----BEGIN PRIVATE KEY-----\nMIIEvq")
    said = refused(["docker", "run", "--env-file", str(key), "x"])
    assert "line 1" in said
    assert "BEGIN" not in said
    assert "~nobody-here/x is relative to nothing" in refused(["docker", "run", "--env-file", "~nobody-here/x", "x"])
    assert "/dev/null is not a file of variables" in refused(["docker", "run", "--env-file", "/dev/null", "x"])
    assert "/nope cannot be read: No such file or directory" in refused(["docker", "run", "--env-file", "/nope", "x"])
    assert "x.env is relative to nothing" in refused(["docker", "run", "--env-file", "x.env", "x"])


PORTS = ["127.0.0.1:9000:8000", "8000:8000", "8000", "8000:8000/tcp", "[::1]:8000:8000", "0:8000"]


@pytest.mark.parametrize("port", PORTS)
def test_a_port_that_the_entry_names_need_not_be_published(port: str) -> None:
    assert image(["docker", "run", "-p", port, "x"], type="http", port=8000).image == "x"
    assert "no port is published" in refused(["docker", "run", "-p", port, "x"], type="http", port=8001)
    assert "no port is published" in refused(["docker", "run", "--publish", port, "x"])


NETWORKS = {
    "host": 'Remove --network; for a service of this machine write network: {allowed_hosts: ["host.docker.internal:PORT"]}',
    "bridge": "Remove --network, and name what it may reach: network: {allowed_hosts: [HOST]}",
    "shop_default": 'Remove --network, and write network: {join: [shop_default], allowed_hosts: ["CONTAINER:PORT"]}',
    "container:x": "Remove --network, and name what it may reach",
}


@pytest.mark.parametrize(("network", "message"), NETWORKS.items(), ids=NETWORKS)
def test_a_network_is_told_with_the_line_that_replaces_it(network: str, message: str) -> None:
    assert message in refused(["docker", "run", "--network", network, "x"])


def test_a_network_that_the_entry_joins_is_no_matter() -> None:
    joined = {"join": ["shop_default"]}
    assert image(["docker", "run", "--net=shop_default", "x"], network=joined).image == "x"
    assert "refused" in refused(["docker", "run", "--net=other", "x"], network=joined)


def test_an_error_names_the_engine_that_was_written() -> None:
    assert "args[1]: podman run --privileged is refused" in refused(["podman", "run", "--privileged", "x"])
    assert "Stockade does not know nerdctl run's option --zzz" in refused(["nerdctl", "run", "--zzz", "x"])
    assert "podman run is not told which image" in refused(["podman", "run", "-i"])
    assert "Stockade reads `podman run …`, not `podman exec`" in refused(["podman", "exec", "x"])


def test_a_file_of_variables_that_is_gone_costs_its_own_server_alone(tmp_path: Path) -> None:
    variables = tmp_path / "server.env"
    variables.write_text("A=1\n")
    entries = {
        "gone": {"command": "docker", "args": ["run", "--env-file", str(variables), "x"], "user": "1234"},
        "other": {"image": "x", "user": "4321:1"},
    }
    config = load_text(json.dumps({"version": 1, "mcpServers": entries}), tmp_path / "stockade.json")
    variables.unlink()
    assert chosen_users(config) == {1234, 4321}

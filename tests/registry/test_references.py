"""A reference is filled in wherever it may stand, or refused with its place; it never reaches a server as it is written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.runtime.containers.planner import Planner
from registry.load import load_text
from registry.model.errors import ConfigError
from registry.model.server import Server
from registry.model.sources import ImageSource, PackageSource, RemoteSource
from registry.model.spec import plan_source
from registry.secrets import SecretStore

ENVIRONMENT = {"STOCKADE_SECRET_K": "s3cret", "KK": "outer", "HOME_DIR": "/h", "AUTH_HEADER": "outer"}


def planner() -> Any:
    secrets = SecretStore(env=ENVIRONMENT, folder=Path("/nonexistent"), keyring=None)
    return Planner(None, None, None, secrets, Path("/nonexistent"))  # type: ignore[arg-type]


def started(entry: dict[str, Any], *, foreign: bool = True) -> tuple[tuple[str, ...], dict[str, str]]:
    """The arguments and variables that the server of a client's file is started with."""
    text = json.dumps({"mcpServers": {"a": entry}} if foreign else {"version": 1, "mcpServers": {"a": entry}})
    config = load_text(text, "/work-folder/.vscode/mcp.json")
    assert list(config.servers) == ["a"], [str(warning) for warning in config.warnings]
    source = plan_source(config.servers["a"])
    assert isinstance(source, PackageSource | ImageSource)
    filled, env = planner().filled(source)
    return filled.args, dict(env)


DOCKER = ["run", "-i", "--rm"]
HEADER = {"AUTH_HEADER": "Bearer x"}
ARGUMENTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "an input after the image": (
        {"command": "docker", "args": [*DOCKER, "img", "--api-key=${input:k}"]},
        ("--api-key=s3cret",),
    ),
    "the entry's own variable": (
        {"command": "npx", "args": ["b", "--header", "Authorization:${AUTH_HEADER}"], "env": HEADER},
        ("--header", "Authorization:Bearer x"),
    ),
    "a secret by way of the entry's own variable": (
        {"command": "uvx", "args": ["x", "${T}"], "env": {"T": "Bearer ${input:k}"}},
        ("Bearer s3cret",),
    ),
    "the environment": ({"command": "npx", "args": ["b", "--dir", "${HOME_DIR}/x"]}, ("--dir", "/h/x")),
    "a default": ({"command": "npx", "args": ["b", "${NOT_SET:-d}"]}, ("d",)),
    "opencode's notation": ({"command": ["npx", "b", "{env:KK}"]}, ("outer",)),
    "a whole word": ({"command": "uvx", "args": ["x", "$KK"]}, ("outer",)),
    "what only the program knows": ({"command": "uvx", "args": ["x", "${a.b}"]}, ("${a.b}",)),
    "a variable of docker": (
        {"command": "docker", "args": [*DOCKER, "-e", "AUTH_HEADER=mine", "img", "${AUTH_HEADER}"]},
        ("mine",),
    ),
}


@pytest.mark.parametrize(("entry", "args"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments_are_filled_in_when_the_server_starts(entry: dict[str, Any], args: tuple[str, ...]) -> None:
    assert started(entry)[0] == args


def test_the_same_holds_for_stockades_own_file_and_an_images_entrypoint() -> None:
    entry = {
        "image": "img",
        "entrypoint": ["/run", "--key=${secret:k}"],
        "args": ["${env:KK}", "${env:T}"],
        "env": {"T": "t"},
    }
    assert started(entry, foreign=False)[0] == ("outer", "t")
    source = plan_source(Server.model_validate(entry))
    assert planner().filled(source)[0].entrypoint == ("/run", "--key=s3cret")


def test_a_variable_of_docker_takes_the_entrys_own_value_before_the_gateways() -> None:
    args = [*DOCKER, "-e", "TOKEN=${AUTH_HEADER}", "-e", "OTHER=${KK}", "img"]
    _, env = started({"command": "docker", "args": args, "env": HEADER})
    assert env == {"TOKEN": "Bearer x", "OTHER": "outer", **HEADER}


def test_every_missing_value_is_named_before_anything_is_built_and_none_is_shown() -> None:
    server = {"image": "i", "args": ["${secret:k}", "${secret:gone}"], "env": {"A": "${env:NOWHERE}"}}
    with pytest.raises(ConfigError) as caught:
        planner().filled(plan_source(Server.model_validate(server)))
    said = str(caught.value)
    assert "args[1]: the secret 'gone' is not set" in said
    assert "NOWHERE is not set" in said
    assert "s3cret" not in said


def test_another_value_of_a_secret_in_an_argument_is_another_container() -> None:
    server = Server.model_validate({"image": "i", "args": ["${secret:k}"]})
    first = planner().key(server, None)
    other = Planner(None, None, None, SecretStore(env={"STOCKADE_SECRET_K": "new"}, keyring=None), Path("/x"))  # type: ignore[arg-type]
    assert other.key(server, None) != first


def test_a_folder_to_mount_is_filled_in_when_the_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_FOLDER", str(tmp_path))
    for args in (["-v", "${MY_FOLDER}:/workspace:ro"], ["--mount", "type=bind,src=${MY_FOLDER},dst=/workspace"]):
        source = plan_source(load({"command": "docker", "args": [*DOCKER, *args, "img"]}))
        assert isinstance(source, ImageSource)
        assert [(mount.source, mount.target) for mount in source.mounts] == [(str(tmp_path), "/workspace")]
    own = {"image": "i", "mounts": ["${env:D}/a:/a:ro"], "env": {"D": "/d"}}
    assert Server.model_validate(own).mounts[0].source == "/d/a"


def load(entry: dict[str, Any]) -> Server:
    config = load_text(json.dumps({"mcpServers": {"a": entry}}), "mcp.json")
    assert list(config.servers) == ["a"], [str(warning) for warning in config.warnings]
    return config.servers["a"]


def test_a_url_is_filled_in_when_the_server_starts() -> None:
    for written, kept in (
        ("${MCP_URL}", "${env:MCP_URL}"),
        ("https://a.example/mcp?key=${input:k}", "…?key=${secret:k}"),
    ):
        source = plan_source(load({"url": written}))
        assert isinstance(source, RemoteSource)
        assert source.url == kept.replace("…", "https://a.example/mcp")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "the image": (
        {"command": "docker", "args": [*DOCKER, "img:${TAG}"]},
        r"args\[3\]: .*not filled in here: it names the image",
    ),
    "an option of docker": (
        {"command": "docker", "args": [*DOCKER, "-w", "${DIR}", "img"]},
        r"args\[3\]: .*\$\{env:DIR\} is not filled in here",
    ),
    "the package": ({"command": "npx", "args": ["-y", "${PKG}"]}, r"args\[1\]: .*it decides what is installed"),
    "an option of uvx": (
        {"command": "uvx", "args": ["--python", "${V}", "x"]},
        r"args\[1\]: .*it decides what is installed",
    ),
    "a mount without its variable": (
        {"command": "docker", "args": [*DOCKER, "-v", "${NOT_SET_ANYWHERE}:/w", "img"]},
        r"args\[3\]: .*variable NOT_SET_ANYWHERE is not set",
    ),
    "a secret in a mount": (
        {"command": "docker", "args": [*DOCKER, "-v", "${input:k}:/w", "img"]},
        "the secret 'k' has no place in a mount",
    ),
    "a shell's variable in a mount": (
        {"command": "docker", "args": [*DOCKER, "-v", "$HOME/x:/w", "img"]},
        r"\$HOME is not filled in. Write \$\{env:HOME\}",
    ),
}


@pytest.mark.parametrize(("entry", "said"), REFUSED.values(), ids=REFUSED)
def test_where_nothing_is_filled_in_a_reference_is_refused_with_its_place(entry: dict[str, Any], said: str) -> None:
    config = load_text(json.dumps({"mcpServers": {"a": entry}}), "mcp.json")
    assert list(config.servers) == []
    (warning,) = [str(warning) for warning in config.warnings if "left out" in warning.message]
    assert warning.startswith("mcp.json:1:")
    assert re.search(said, warning), warning


@pytest.mark.parametrize(
    "entry", [{"image": "a:${env:TAG}"}, {"image": "a", "mounts": ["${HOME}/x:/x"]}, {"url": "ftp://${env:A}"}]
)
def test_stockades_own_file_is_refused_the_same_way(entry: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"stockade\.json:1:\d+: mcpServers\.a\.(image|mounts|url)"):
        load_text(json.dumps({"version": 1, "mcpServers": {"a": entry}}), "stockade.json")


def test_validate_asks_for_what_is_missing_and_not_for_what_the_entry_has() -> None:
    text = json.dumps(
        {"mcpServers": {"a": {"command": "npx", "args": ["b", "${OWN}", "${NOT_HERE}"], "env": {"OWN": "x"}}}}
    )
    missing = SecretStore(env={}, folder=Path("/nonexistent"), keyring=None).missing(load_text(text, "mcp.json"))
    assert [problem.key_path for problem in missing] == ["mcpServers.a.args[2]"]

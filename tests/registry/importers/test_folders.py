"""The folders and files of this machine that clients' entries name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from registry.importers.clients import read
from registry.load import load_config

NO_EFFECT = "'cwd' has no effect: the server starts in its container's own folder"


def client_file(folder: Path, entry: dict[str, Any], name: str = ".mcp.json") -> Path:
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"mcpServers": {"a": entry}}))
    return file


@pytest.mark.parametrize("key", ["cwd", "workingDirectory"])
def test_a_program_of_this_machine_starts_in_the_client_s_folder(tmp_path: Path, key: str) -> None:
    (tmp_path / "src").mkdir()
    entry = {"command": "python", "args": ["server.py"], key: "src"}
    adopted = load_config(client_file(tmp_path, entry))
    assert adopted.servers["a"].cwd == str(tmp_path / "src")
    imported = read(client_file(tmp_path, entry))
    assert imported.servers["a"]["cwd"] == str(tmp_path / "src")
    assert not [note for note in imported.notes if "no effect" in note.message]


def test_the_folder_of_an_editor_s_file_is_the_workspace(tmp_path: Path) -> None:
    entry = {"command": "${workspaceFolder}/.venv/bin/python", "args": ["s.py"], "cwd": "${workspaceFolder}"}
    server = load_config(client_file(tmp_path, entry, ".vscode/mcp.json")).servers["a"]
    assert (server.command, server.cwd) == (f"{tmp_path}/.venv/bin/python", str(tmp_path))


def test_a_variable_in_a_client_s_folder_is_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORK", str(tmp_path))
    entry = {"command": "python", "args": ["s.py"], "cwd": "${WORK}/."}
    assert load_config(client_file(tmp_path, entry)).servers["a"].cwd == str(tmp_path)


@pytest.mark.parametrize(
    "entry",
    [
        {"command": "npx", "args": ["b"]},
        {"command": "docker", "args": ["run", "x"]},
        {"command": "cmd", "args": ["/c", "uvx b"]},
        {"url": "https://a.example/mcp"},
    ],
)
def test_where_a_folder_has_no_effect_a_note_tells_it(tmp_path: Path, entry: dict[str, Any]) -> None:
    file = client_file(tmp_path, {**entry, "cwd": "/x"})
    config = load_config(file)
    assert config.servers["a"].cwd == ""
    assert [warning.message for warning in config.warnings if "effect" in warning.message] == [NO_EFFECT]
    imported = read(file)
    assert "cwd" not in imported.servers["a"]
    assert NO_EFFECT in [note.message for note in imported.notes]


def test_a_command_that_is_not_read_keeps_its_folder_and_its_error(tmp_path: Path) -> None:
    config = load_config(client_file(tmp_path, {"command": "foo", "cwd": "/x"}))
    (warning,) = config.warnings
    assert warning.message.startswith("this server is left out: 'foo' is a program of this machine")


def test_what_an_imported_server_would_see_of_this_machine_is_told(tmp_path: Path) -> None:
    variables = tmp_path / "x.env"
    variables.write_text("TOKEN\nA=1\n")
    entry = {"command": "docker", "args": ["run", "--env-file", str(variables), "x"]}
    said = [note.message for note in read(client_file(tmp_path, entry)).notes]
    assert f"the variables in {variables} will be given to the server" in said
    assert "the environment variable TOKEN of the gateway will be given to the server" in said
    said = [note.message for note in read(client_file(tmp_path, {"command": "node", "args": ["/x/i.js"]})).notes]
    assert said == [f"the folder /x, {SHOWN}{ABOVE}"]


SHOWN = "with all that is in it, will be shown to the server"
ABOVE = (
    "; where a manifest (package.json, pyproject.toml, requirements.txt, …) lies in a folder above it, that whole folder "
    "may be too"
)


@pytest.mark.parametrize(
    ("entry", "folders"),
    [
        pytest.param(
            {"command": "uv", "args": "run --no-project --with evil --directory /u/Documents -m evil".split()},
            [f"/u/Documents, {SHOWN}"],
            id="no project",
        ),
        pytest.param(
            {"command": "uv", "args": ["run", "--script", "/u/x/tool.py"]}, [f"/u/x, {SHOWN}"], id="a script"
        ),
        pytest.param(
            {"command": "python", "args": ["/u/Documents/x"], "cwd": "/u/evil"},
            [f"/u/evil, {SHOWN}{ABOVE}", f"/u/Documents, {SHOWN}{ABOVE}"],
            id="a file that lies elsewhere",
        ),
        pytest.param(
            {"command": "node", "args": ["../b/i.js"], "cwd": "/u/a"},
            [f"/u/a, {SHOWN}{ABOVE}", f"/u/b, {SHOWN}{ABOVE}"],
            id="a relative one",
        ),
        pytest.param(
            {"command": "python", "args": ["src/x.py"], "cwd": "/u/a"}, [f"/u/a, {SHOWN}{ABOVE}"], id="below"
        ),
        pytest.param({"command": "python", "args": ["/u/x.py"], "cwd": "/u/a"}, [f"/u, {SHOWN}{ABOVE}"], id="above"),
        pytest.param({"command": "uvx", "args": ["weather"]}, [], id="a package"),
        pytest.param({"command": "uvx", "args": ["--with", "x", "weather"]}, [], id="a package and one more"),
    ],
)
def test_every_folder_that_an_imported_server_would_be_shown_is_told(
    tmp_path: Path, entry: dict[str, Any], folders: list[str]
) -> None:
    said = [note.message for note in read(client_file(tmp_path, entry)).notes]
    assert [text for text in said if "shown to the server" in text] == [f"the folder {folder}" for folder in folders]


def test_what_an_imported_image_would_have_mounted_is_told(tmp_path: Path) -> None:
    args = [
        "run",
        "-v",
        "/u/secret:/x",
        "--mount",
        "type=bind,source=/u/b,target=/b,readonly",
        "-v",
        "cache:/c",
        "img",
    ]
    said = [note.message for note in read(client_file(tmp_path, {"command": "docker", "args": args})).notes]
    assert "/u/secret will be shown to the server, which may change it" in said
    assert "/u/b will be shown to the server" in said
    assert not any(text.startswith("cache ") for text in said)

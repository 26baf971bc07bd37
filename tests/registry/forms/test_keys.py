"""Keys that do not apply to what an entry runs are errors, never ignored."""

from __future__ import annotations

from typing import Any

import pytest

from registry.load import load_text
from tests.registry.forms.entries import package, project, refused

MISPLACED: dict[str, tuple[str, dict[str, Any], str]] = {
    "cwd of uvx": ("uvx x", {"cwd": "/c"}, "cwd: is for a program of this machine, and this is a package of PyPI. Remove"),
    "cwd of npx": ("npx x", {"cwd": "/c"}, "cwd: is for a program of this machine, and this is a package of npm"),
    "cwd of docker": ("docker run x", {"cwd": "/c"}, "cwd: is for a program of this machine, and this is an image"),
    "what to do": ("npx x", {"cwd": "/c"}, "is shown to it by mounts: [FOLDER:FOLDER:ro]"),
    "source of uvx": ("uvx x", {"source": "mount"}, "source: is for a program of this machine"),
    "source of docker": ("docker run x", {"source": "copy"}, "source: is for a program of this machine, and this is an"),
    "python of npx": ("npx x", {"python": "3.12"}, "python: is for a server in Python, and this is a package of npm. Remove "
                      "it, or write node: with the version"),
    "node of uvx": ("uvx x", {"node": "22"}, "node: is for a server in Node, and this is a package of PyPI"),
    "python of docker": ("docker run x", {"python": "3.12"}, "python: is for a server in Python, and this is an image"),
    "python of node": ("node /x/i.js", {"python": "3.12"}, "python: is for a server in Python, and this is a program in"),
    "node of python": ("python /x/i.py", {"node": "22"}, "node: is for a server in Node, and this is a program in"),
    "node of bun": ("bun /x/i.ts", {"node": "22"}, "node: is for a server in Node, and this is a program in Bun. Remove"),
    "packages of docker": ("docker run x", {"packages": ["git"]}, "packages: is for packages and programs of this machine"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "more", "message"), MISPLACED.values(), ids=MISPLACED)
def test_a_key_in_the_wrong_place_is_an_error(words: str, more: dict[str, Any], message: str) -> None:
    assert message in refused(words.split(), **more)


def test_every_key_in_the_wrong_place_is_told() -> None:
    said = refused(["uvx", "x"], cwd="/c", source="copy", node="22")
    assert [line.partition(":")[0] for line in said.splitlines()] == ["cwd", "source", "node"]


def test_versions_in_the_entry_win_over_the_command_s() -> None:
    assert package(["uvx", "-p", "3.12", "x"], python="3.13").runtime_version == "3.13"
    assert package(["npx", "x"], node="22").runtime_version == "22"
    assert project(["uv", "run", "-p", "3.12", "/x/s.py"], python="3.13").runtime_version == "3.13"


def test_an_error_has_the_line_of_its_key() -> None:
    text = "version: 1\nmcpServers:\n  a:\n    command: npx\n    args: [b]\n    cwd: .\n"
    with pytest.raises(
        ValueError, match=r"stockade\.yaml:6:10: mcpServers\.a\.cwd: is for a program of this machine"
    ):
        load_text(text, "stockade.yaml")


def test_a_folder_that_a_package_does_not_start_in_is_told() -> None:
    text = 'version: 1\nmcpServers:\n  a: {command: bash, args: [-c, "cd /x && npx -y b"]}\n'
    warnings = [str(warning) for warning in load_text(text, "stockade.yaml").warnings]
    assert any("args[1]: the server does not start in /x" in warning for warning in warnings)

"""Read-only mounts that a server cannot read are told before it fails with them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from registry.check.unreadable import may_read, warn_unreadable
from registry.load import load_text
from registry.model.server import Server

FETCH: dict[str, Any] = {"command": "uvx", "args": ["mcp-server-fetch"]}


@pytest.mark.parametrize(
    ("mode", "entry", "told"),
    [
        pytest.param(0o700, FETCH, True, id="a folder of its owner's alone"),
        pytest.param(0o750, FETCH, True, id="of a group that the server is not in"),
        pytest.param(0o744, FETCH, True, id="a folder that cannot be entered"),
        pytest.param(0o755, FETCH, False, id="of everybody"),
        pytest.param(0o700, {**FETCH, "user": "4711:4711"}, True, id="another user"),
        pytest.param(0o700, {"image": "x"}, False, id="an image, whose user is not known"),
        pytest.param(0o700, {"command": "docker", "args": ["run", "x"]}, False, id="docker"),
        pytest.param(0o700, {"command": "docker", "args": ["run", "-u", "4711", "x"]}, True, id="docker with a user"),
    ],
)
def test_a_folder_that_the_servers_user_cannot_read_is_told(
    tmp_path: Path, mode: int, entry: dict[str, Any], told: bool
) -> None:
    folder = tmp_path / "aws"
    folder.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(folder, 1234, 1234)
    folder.chmod(mode)
    found = list(warn_unreadable(Server.model_validate(entry), str(folder), ("mounts", 0)))
    assert bool(found) is told
    for finding in found:
        assert f"may not read {folder}" in finding.message
        assert f"chmod -R o+rX {folder}" in (finding.hint or "")


WRAPPED = {
    "pipx": {"command": "pipx", "args": ["run", "x"]},
    "yarn": {"command": "yarn", "args": ["dlx", "x"]},
    "bun": {"command": "bun", "args": ["x", "y"]},
    "pnpx": {"command": "pnpx", "args": ["x"]},
    "cmd": {"command": "cmd", "args": ["/c", "npx", "x"]},
    "a whole path": {"command": "/usr/local/bin/npx", "args": ["x"]},
    "one text": {"command": "uvx mcp-server-fetch"},
}


@pytest.mark.parametrize("entry", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize(("option", "told"), [("", "may not write in"), (":ro", "may not read")])
def test_every_spelling_of_a_package_is_warned_of_a_folder_that_it_may_not_use(
    tmp_path: Path, entry: dict[str, Any], option: str, told: str
) -> None:
    folder = tmp_path / "aws"
    folder.mkdir(mode=0o700)
    found = load_text(
        json.dumps({"mcpServers": {"a": {**entry, "mounts": [f"{folder}:/aws{option}"]}}}), "stockade.json"
    )
    assert any(told in str(warning) for warning in found.warnings)


def test_the_owner_reads_what_only_the_owner_may(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.touch(mode=0o600)
    found = secret.stat()
    assert may_read(found, found.st_uid, found.st_gid)
    assert not may_read(found, found.st_uid + 1, found.st_gid + 1)

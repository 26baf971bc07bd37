"""Read-only mounts that a server cannot read are told before it fails with them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from registry.check.unreadable import may_read, warn_unreadable
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


def test_the_owner_reads_what_only_the_owner_may(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.touch(mode=0o600)
    found = secret.stat()
    assert may_read(found, found.st_uid, found.st_gid)
    assert not may_read(found, found.st_uid + 1, found.st_gid + 1)

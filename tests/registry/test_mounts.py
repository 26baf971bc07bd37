"""What of the machine a server may see."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from registry.model.errors import Invalid
from registry.model.mounts import Mount, missing_source, parse_mount

READ = {
    "read only": ("/data:/d:ro", Mount(source="/data", target="/d", read_only=True)),
    "writable, as Docker has it": ("/data:/d", Mount(source="/data", target="/d")),
    "relative": ("./data:/d", Mount(source="/base/data", target="/d")),
    "up": ("../x:/d", Mount(source="/x", target="/d")),
    "a volume": ("cache:/d", Mount(source="cache", target="/d", volume=True)),
    "a mapping": (
        {"source": "/data", "target": "/d", "read_only": True},
        Mount(source="/data", target="/d", read_only=True),
    ),
    "a removable disk": ("/run/media/me/disk:/d", Mount(source="/run/media/me/disk", target="/d")),
}


@pytest.mark.parametrize(("text", "mount"), READ.values(), ids=READ)
def test_a_mount_is_read(text: Any, mount: Mount) -> None:
    assert parse_mount(text, Path("/base")) == mount


REFUSED = {
    "no target": ("/data", "is not a mount"),
    "relative target": ("/data:d", "is not a path in the container"),
    "root as target": ("/data:/x/..", "is not a path in the container"),
    "unknown option": ("/data:/d:rox", "unknown mount option 'rox'"),
    "not a volume": ("ä:/d", "neither a path nor a volume's name"),
    "unknown key": ({"source": "/a", "target": "/b", "ro": True}, "unknown key 'ro'"),
    "number": (5, "must be text or a mapping"),
    "the engine's socket": ("/var/run/docker.sock:/s", "container engine's socket"),
    "a folder with it": ("/run:/r", "is not mounted into a server"),
    "containerd's folder": ("/run/containerd:/r", "is not mounted into a server"),
    "by dots": ("/tmp/../run/user/1000:/r", "is not mounted into a server"),
    "twice a slash": ("//run:/r", "is not mounted into a server"),
    "the kernel": ("/proc/1/root:/r", "is not mounted into a server"),
    "everything": ("/:/r", "is not mounted into a server"),
    "the engine's disk": ("/var/lib/docker/volumes/x:/r", "is not mounted into a server"),
    "the state of Stockade": ("/opt/state/proj/control:/r", "is not mounted into a server"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_a_mount_that_is_wrong_or_a_way_out_is_refused(
    text: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOCKADE_STATE_DIR", "/opt/state")
    with pytest.raises(Invalid) as caught:
        parse_mount(text, Path("/base"))
    assert message in str(caught.value)


def test_a_link_to_a_way_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "innocent").symlink_to("/proc")
    with pytest.raises(Invalid, match="is not mounted into a server"):
        parse_mount(f"{tmp_path}/innocent:/x", tmp_path)


def test_any_socket_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        found = missing_source(Mount(source=str(tmp_path / "s"), target="/s"))
    assert found is not None
    assert "is a socket, a way around the wall" in str(found)


def test_the_home_of_a_user_who_is_not_there_is_a_path_like_any(tmp_path: Path) -> None:
    assert parse_mount("~nobody-here/x:/x", tmp_path).source == str(tmp_path / "~nobody-here/x")

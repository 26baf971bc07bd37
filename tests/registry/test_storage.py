"""`storage:` of a server: what is kept, what is refused, and where that is said."""

from __future__ import annotations

import pytest

from registry.load import load_text
from registry.model.errors import ConfigError
from registry.model.sources import ImageSource, PackageSource
from registry.model.spec import plan_source

ENTRIES = {
    "one path": ("{command: uvx, args: [x], storage: /data}", ["/data"]),
    "a list": ("{image: x, storage: [/data/, /var/lib/app/../db]}", ["/data", "/var/lib/db"]),
    "docker": ("{command: docker, args: [run, -v, 'n1:/m', x], storage: /data}", ["/data"]),
    "none": ("{image: x, storage: }", []),
}


@pytest.mark.parametrize(("entry", "paths"), ENTRIES.values(), ids=ENTRIES)
def test_storage_is_a_volume_of_the_server_alone(entry: str, paths: list[str]) -> None:
    source = plan_source(load_text(f"mcpServers: {{a: {entry}}}", "stockade.yaml").servers["a"])
    assert isinstance(source, PackageSource | ImageSource)
    assert [mount.target for mount in source.mounts if mount.storage and mount.volume] == paths
    assert not any(mount.read_only for mount in source.mounts)


REFUSED = {
    "not absolute": ("data", "is not a path in the container"),
    "the root": ("/", "is not a path in the container"),
    "the root, by dots": ("/x/..", "is not a path in the container"),
    "the kernel's": ("/proc/sys", "is in /proc, which belongs to the kernel"),
    "devices, by dots": ("/x/../dev", "is in /dev, which belongs to the kernel"),
    "two slashes": ("//sys", "is in /sys, which belongs to the kernel"),
    "ours": ("/run/stockade/doors", "is in /run/stockade, which belongs to Stockade"),
    "programs, two slashes": ("//usr", "is in /usr, where the image has its programs"),
    "a mount's target, two slashes": ("//srv/notes", "/srv/notes is mounted twice"),
    "programs": ("/usr/local/bin", "is in /usr, where the image has its programs"),
    "our programs": ("/opt/stockade", "is in /opt/stockade, where the image has its programs"),
    "a home": ("~/x", "nothing fills in `~` here"),
    "a mount": ("./data:/data", "is not a path to keep"),
    "a variable": ("/data/$NAME", "is not a path to keep"),
    "a mount's target": ("/srv/notes", "/srv/notes is mounted twice"),
    "a mount's target, spelled otherwise": ("/srv/./notes/", "/srv/notes is mounted twice"),
    "docker's": ("/m", "/m is mounted twice"),
}


@pytest.mark.parametrize(("path", "message"), REFUSED.values(), ids=REFUSED)
def test_a_path_that_cannot_be_kept_is_refused_with_its_line_and_key(path: str, message: str) -> None:
    text = (
        "version: 1\nmcpServers:\n  a:\n    command: docker\n    args: [run, -v, 'n1:/m', x]\n"
        f"    mounts: ['n2:/srv/notes']\n    storage:\n      - /good\n      - '{path}'\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_text(text, "stockade.yaml")
    (problem,) = caught.value.problems
    assert message in str(problem)
    assert (problem.line, problem.key_path) == (9, "mcpServers.a.storage[1]")
    assert problem.hint


def test_a_folder_cannot_be_mounted_over_the_kernels_either() -> None:
    with pytest.raises(ConfigError, match=r"mounts\[0\]: /proc/1 is in /proc"):
        load_text("mcpServers: {a: {image: x, mounts: ['n1:/proc/1']}}", "stockade.yaml")


def test_a_remote_server_keeps_nothing_here() -> None:
    with pytest.raises(ConfigError, match=r"storage: has no meaning for a server that runs elsewhere"):
        load_text("mcpServers: {a: {url: 'https://a.example/mcp', storage: /data}}", "stockade.yaml")


def test_a_clients_file_that_is_imported_grants_no_storage() -> None:
    from registry.importers.entry import convert

    assert "storage" not in convert({"command": "uvx", "args": ["x"], "storage": "/data"}, trusted=False).entry

"""A server that wants more of the machine than a folder to work on: system folders, sockets, other people's volumes."""

from __future__ import annotations

import itertools
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from gateway.runtime.plan.plans import Names, mounts_of
from registry.config import Config
from registry.load import load_text
from registry.model import mount_risks
from registry.model.errors import ConfigError, Invalid
from registry.model.mount_risks import SYSTEM, Risk, data_root
from registry.model.mounts import parse_mount, refuse_moved
from registry.model.sources import ImageSource
from registry.model.spec import plan
from tests.gateway.runtime.real import yard

NEVER = (
    "/", "/boot", "/boot/grub", "/dev", "/dev/shm", "/etc", "/home", "/proc/1", "/run/user/1000", "/sys/fs/cgroup",
    "/usr", "/var", "/var/lib", "/var/lib/docker/volumes", "/var/lib/kubelet/pods", "/var/run/x", "/var/lib/stockade/p",
    "~", "~/.docker/run", "~/.local/share/docker", "/run/docker.sock", "/private/var/run/x", "/anywhere/podman.sock",
)  # fmt: skip
"""Refused whatever is asked for."""
ASKED_FOR = (
    "/etc/profile.d", "/etc/cron.d", "/etc/systemd", "/etc/apt", "/usr/bin", "/usr/local/bin", "/bin",
    "/sbin", "/lib", "/lib/systemd/system", "/lib64", "/opt", "/opt/tool", "/tmp", "/var/tmp", "/var/log", "/var/log/x",
    "/var/lib/postgresql", "/var/spool/cron", "/var/cache/apt", "/var/backups", "/nix/store", "/snap/bin", "//etc//apt",
    "/srv/../etc/apt", "/private/etc/apt", "/Library/LaunchDaemons",
)  # fmt: skip
"""Refused unless `accept: [system-folder]` asks for it."""
EVERY_RISK = [str(risk) for risk in Risk]


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that is in no system folder."""
    monkeypatch.setenv("HOME", "/home/me")
    for name in (
        "STOCKADE_SECRETS_DIR",
        "STOCKADE_STATE_DIR",
        "XDG_CONFIG_HOME",
        "XDG_RUNTIME_DIR",
        "XDG_STATE_HOME",
    ):
        monkeypatch.delenv(name, raising=False)
    return Path("/home/me")


def load(folder: Path, entry: dict[str, Any]) -> Config:
    return load_text(json.dumps({"version": 1, "mcpServers": {"a": entry}}), folder / "stockade.json")


def refusal(folder: Path, entry: dict[str, Any]) -> str:
    """Everything that is wrong with the entry, but for a source that this machine does not have."""
    try:
        load(folder, entry)
    except ConfigError as error:
        return "\n".join(str(one) for one in error.problems if "does not exist" not in one.message)
    return ""


def written(source: str, *, read_only: bool, user: str, docker: bool) -> dict[str, Any]:
    """The mount in the file's own words, or in those of `docker run`."""
    text = f"{source}:/h{':ro' if read_only else ''}"
    if docker:
        return {"command": "docker", "args": ["run", "-i", "-u", user, "-v", text, "x"]}
    return {"image": "x", "user": user, "mounts": [text]}


MATRIX = list(itertools.product((*NEVER, *ASKED_FOR), (True, False), ("0", "1000"), (True, False)))


@pytest.mark.parametrize(("source", "read_only", "user", "docker"), MATRIX)
def test_a_system_folder_is_never_mounted_silently(
    home: Path, tmp_path: Path, source: str, read_only: bool, user: str, docker: bool
) -> None:
    """Red team M2: `docker run -u 0 -v /etc/profile.d:/h` was valid, and the host had a file of root's."""
    if docker and source.startswith("~"):
        source = source.replace("~", str(home))
    said = refusal(tmp_path, written(source, read_only=read_only, user=user, docker=docker))
    asked_for = "accept: [system-folder]" in said
    assert asked_for == (source in ASKED_FOR)
    assert asked_for or "is not mounted into a server" in said or "container engine's socket" in said


@pytest.mark.parametrize("source", NEVER)
def test_what_opens_the_wall_is_refused_even_if_it_is_asked_for(home: Path, tmp_path: Path, source: str) -> None:
    mount = {"source": source, "target": "/h", "read_only": True, "accept": EVERY_RISK}
    said = refusal(tmp_path, {"image": "x", "mounts": [mount]})
    assert "is not mounted into a server" in said or "container engine's socket" in said


@pytest.mark.parametrize("tree", SYSTEM)
@pytest.mark.parametrize("below", ["", "/x", "/x/y"])
def test_each_tree_of_the_system_is_refused_at_every_depth(home: Path, tree: str, below: str) -> None:
    with pytest.raises(Invalid, match=r"belongs to the system|is not mounted into a server"):
        parse_mount(f"{tree}{below}:/h:ro", home)


@pytest.mark.parametrize("source", [one for one in ASKED_FOR if not one.startswith("/private")])
def test_a_system_folder_that_is_asked_for_by_name_is_mounted(home: Path, tmp_path: Path, source: str) -> None:
    mount = {"source": source, "target": "/h", "read_only": True, "accept": ["system-folder"]}
    assert refusal(tmp_path, {"image": "x", "mounts": [mount]}) == ""


KEYS = (
    "~/.ssh", "~/.ssh/id_ed25519", "~/.gnupg", "~/.aws/credentials", "~/.kube", "~/.config/gcloud", "~/.netrc", "~/.npmrc",
    "~/.mozilla/firefox", "~/.config/google-chrome", "~/.local/share/keyrings", "~/.claude.json", "~/x/../.ssh",
)  # fmt: skip
"""Refused unless `accept: [secrets]` asks for them."""


@pytest.mark.parametrize("docker", [True, False])
@pytest.mark.parametrize("source", KEYS)
def test_keys_of_the_user_are_never_mounted_silently(home: Path, tmp_path: Path, source: str, docker: bool) -> None:
    said = refusal(tmp_path, written(source.replace("~", str(home)), read_only=True, user="1000", docker=docker))
    assert "holds keys or sessions of yours" in said
    assert "accept: [secrets]" in said
    mount = {"source": source, "target": "/h", "read_only": True}
    others = [risk for risk in EVERY_RISK if risk != "secrets"]
    assert "accept: [secrets]" in refusal(tmp_path, {"image": "x", "mounts": [{**mount, "accept": others}]})
    assert refusal(tmp_path, {"image": "x", "mounts": [{**mount, "accept": ["secrets"]}]}) == ""


@pytest.mark.parametrize("source", ["/etc/shadow", "/etc/ssh", "/etc/ssl/private"])
def test_keys_of_the_machine_need_both_words(home: Path, tmp_path: Path, source: str) -> None:
    mount = {"source": source, "target": "/h", "read_only": True}
    for one in ("secrets", "system-folder"):
        assert "accept" in refusal(tmp_path, {"image": "x", "mounts": [{**mount, "accept": [one]}]})
    both = {**mount, "accept": ["secrets", "system-folder"]}
    assert refusal(tmp_path, {"image": "x", "mounts": [both]}) == ""


def test_a_folder_with_keys_in_it_and_a_link_to_one_are_refused_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".config/gcloud").mkdir(parents=True)
    (tmp_path / "plain").mkdir()
    (tmp_path / "innocent").symlink_to(".config/gcloud")
    other = tmp_path.parent / f"{tmp_path.name}-link"
    other.symlink_to(tmp_path)
    for source in (tmp_path / ".config", tmp_path / "innocent", other / ".config/gcloud", other / ".config"):
        with pytest.raises(Invalid, match="holds keys or sessions"):
            parse_mount(f"{source}:/h:ro", tmp_path)
    assert parse_mount(f"{tmp_path / 'plain'}:/h:ro", tmp_path).source
    (tmp_path / ".config/gcloud").rmdir()
    assert parse_mount(f"{tmp_path / '.config'}:/h:ro", tmp_path).source


def test_root_needs_a_word_of_its_own_to_write_even_in_a_folder_of_yours(home: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    mount: dict[str, Any] = {"source": "./data", "target": "/d"}
    for user in ("0", "0:0", "00", "0:1000"):
        said = refusal(tmp_path, {"image": "x", "user": user, "mounts": [mount]})
        assert "runs as root and may write" in said
        assert "accept: [root-writes]" in said
    assert refusal(tmp_path, {"image": "x", "user": "0", "mounts": [{**mount, "accept": ["root-writes"]}]}) == ""
    assert refusal(tmp_path, {"image": "x", "user": "0", "mounts": [{**mount, "read_only": True}]}) == ""
    assert refusal(tmp_path, {"image": "x", "user": "10", "mounts": [mount]}) == ""
    both = {"source": "/etc/profile.d", "target": "/d", "accept": ["system-folder"]}
    assert "root-writes" in refusal(tmp_path, {"image": "x", "user": "0", "mounts": [both]})


def test_a_socket_needs_its_name_and_the_engines_is_never_mounted(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "w"
    work.mkdir()
    mount: dict[str, Any] = {"source": str(work / "agent"), "target": "/s"}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(mount["source"])
        assert "accept: [socket]" in refusal(tmp_path, {"image": "x", "mounts": [mount]})
        assert refusal(tmp_path, {"image": "x", "mounts": [{**mount, "accept": ["socket"]}]}) == ""
        monkeypatch.setenv("DOCKER_HOST", f"unix://{work}/agent")
        for source in (work / "agent", work, tmp_path):
            said = refusal(
                tmp_path, {"image": "x", "mounts": [{**mount, "source": str(source), "accept": EVERY_RISK}]}
            )
            assert "container engine's socket" in said or f"{work}/agent is in it" in said


@pytest.mark.parametrize("source", ["/tmp/.X11-unix", "/tmp/.ICE-unix/1", "/tmp/ssh-XXabc", "/tmp/tmux-1000/default"])
def test_a_folder_where_programs_keep_sockets_needs_their_name(home: Path, source: str) -> None:
    with pytest.raises(Invalid, match="keep their sockets"):
        parse_mount({"source": source, "target": "/h", "accept": ["system-folder"]}, home)
    assert parse_mount({"source": source, "target": "/h", "accept": ["socket"]}, home).source == source


def test_a_folder_with_the_gateways_state_in_it_is_refused(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep" / "state").mkdir(parents=True)
    monkeypatch.setenv("STOCKADE_STATE_DIR", str(tmp_path / "deep" / "state"))
    for source in ("deep", "deep/state", "deep/state/project/control"):
        with pytest.raises(Invalid, match="is not mounted into a server"):
            parse_mount({"source": f"./{source}", "target": "/h", "accept": EVERY_RISK}, tmp_path)


def test_a_link_into_a_system_folder_is_judged_by_where_it_leads(home: Path, tmp_path: Path) -> None:
    (tmp_path / "innocent").symlink_to("/etc/apt")
    with pytest.raises(Invalid, match=r"/etc/apt is in /etc"):
        parse_mount("./innocent:/h:ro", tmp_path)


def test_a_link_that_is_put_in_place_later_is_judged_again(home: Path, tmp_path: Path) -> None:
    """The server itself makes the link, in a folder that it may write to."""
    (tmp_path / "inner").mkdir()
    mount = parse_mount("./inner:/h:ro", tmp_path)
    (tmp_path / "inner").rmdir()
    (tmp_path / "inner").symlink_to("/etc/ssh")
    with pytest.raises(Invalid, match="leads to /etc/ssh now"):
        refuse_moved(mount)


def test_another_projects_volume_is_not_had_by_its_name(home: Path, tmp_path: Path) -> None:
    names = Names(project="mine")

    def on_the_engine(mount: Any) -> str:
        source = plan(load(tmp_path, {"image": "x", "mounts": [mount]}).servers["a"])
        assert isinstance(source, ImageSource)
        return mounts_of(names, "a", source, None, "")[0].source

    assert on_the_engine("shop_dbdata:/d") == "stockade-mine-v-shop_dbdata"
    assert on_the_engine("stockade-theirs-v-notes:/d") == "stockade-mine-v-stockade-theirs-v-notes"
    asked = {"source": "shop_dbdata", "target": "/d", "accept": ["foreign-volume"]}
    assert on_the_engine(asked) == "shop_dbdata"


@pytest.mark.parametrize(
    ("text", "root"),
    [('{"data-root": "/mnt/engine"}', "/mnt/engine"), ("{}", ""), ("[]", ""), ("{", ""), ('{"data-root": 5}', "")],
)
def test_the_engines_folder_is_known_where_it_was_moved(
    home: Path, tmp_path: Path, text: str, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "daemon.json").write_text(text)
    assert data_root(tmp_path / "daemon.json") == root
    monkeypatch.setattr(mount_risks, "data_root", lambda: root)
    for source in ("/mnt/engine/volumes/x", "/mnt"):
        entry = {"source": source, "target": "/h", "accept": EVERY_RISK}
        if root:
            with pytest.raises(Invalid, match="is not mounted into a server"):
                parse_mount(entry, tmp_path)
        else:
            assert parse_mount(entry, tmp_path).source == source


@pytest.mark.parametrize("accept", [["root"], "socket", [5], [["socket"]], {"socket": True}])
def test_what_is_accepted_is_a_closed_list(home: Path, accept: Any) -> None:
    with pytest.raises(Invalid) as caught:
        parse_mount({"source": "/srv/x", "target": "/h", "accept": accept}, home)
    assert caught.value.findings[0].path[0] == "accept"


@pytest.mark.parametrize("source", ["/srv/data", "/mnt/disk", "/home/me/work", "/var/tmp/mine", "/tmp/mine", "/data"])
def test_a_folder_to_work_on_needs_no_word(home: Path, source: str) -> None:
    assert parse_mount(f"{source}:/h", home).source == source


def test_what_is_in_roots_home_is_roots_own_when_root_runs_the_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/root")
    assert parse_mount("/root/work:/h", tmp_path).source == "/root/work"
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(Invalid, match="belongs to the system"):
        parse_mount("/root/work:/h", tmp_path)


ATTACK = """
import os, ctypes
def tried(what):
    try:
        return what()
    except OSError as error:
        return type(error).__name__
seen = sorted(os.path.join(folder, name)[3:] for folder, _, names in os.walk("/w") for name in names)
libc = ctypes.CDLL(None, use_errno=True)
answer = {
    "seen": seen,
    "env": tried(lambda: open("/w/.env").read()),
    "deep": tried(lambda: open("/w/src/.env").read()),
    "keys": tried(lambda: os.listdir("/w/keys")),
    "own": tried(lambda: open("/w/.stockadeignore", "w").write("")),
    "remove": tried(lambda: os.unlink("/w/.env")),
    "replace": tried(lambda: os.rename("/w/fine", "/w/.stockadeignore")),
    "rename": tried(lambda: os.rename("/w/keys", "/w/other")),
    "link": tried(lambda: os.link("/w/.env", "/w/x") or open("/w/x").read()),
    "unmount": libc.umount2(b"/w/.env", 2),
    "root": tried(lambda: open("/proc/1/root/w/.env").read()),
    "moved": tried(lambda: os.rename("/w/src", "/w/moved") or open("/w/moved/.env").read()),
    "wrote": tried(lambda: open("/w/fine", "w").write("x")),
}
"""


@pytest.mark.docker
def test_what_a_folder_hides_cannot_be_had_by_a_server_that_may_write_there() -> None:
    with yard() as site:
        folder = site.directory / "work"
        for name in (".env", "src/.env", "src/app.py", "keys/a.pem"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("secret")
        (folder / ".stockadeignore").write_text("keys/\n.env\n")
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o777)
        site.up({"rogue": site.rogue(mounts=[f"{folder}:/w"])})
        found = site.ask(ATTACK)
        assert found.pop("seen") == [".env", ".stockadeignore", "src/.env", "src/app.py"]
        assert found["env"] == found["deep"] == found["root"] == found["moved"] == ""
        assert found["keys"] == []
        for attempt in ("remove", "rename", "link"):
            assert found[attempt] in ("OSError", "PermissionError", "FileExistsError"), (attempt, found)
        assert found["unmount"] == -1
        assert found["wrote"] == 1
        assert (folder / "moved/.env").read_text() == (folder / ".env").read_text() == "secret"
        assert (folder / ".stockadeignore").read_text() == "keys/\n.env\n"
        site.down()
        site.up({"rogue": site.rogue(mounts=[f"{folder}:/w"])})
        assert site.ask("answer = open('/w/moved/.env').read() + open('/w/.env').read()") == ""

"""Where a server can write: its home, its working directory; for images with a user of their own too."""

from __future__ import annotations

import io
import secrets
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.runtime.engine.base import BuildContext
from gateway.runtime.images import inside
from gateway.runtime.images.inside import Inside, account, content, holds_files, look_inside, relative_files, usable
from gateway.runtime.images.recipes import python_base_tag
from gateway.runtime.plan.homes import home_of, tmpfs_of, user_of, workdir_of
from gateway.runtime.sandbox.errors import EngineError
from registry.model.server import Server
from registry.model.sources import HOME, ImageSource, PackageSource
from registry.model.spec import plan_source
from tests.gateway.runtime.fakes import FakeEngine
from tests.gateway.runtime.real import ROGUE, Yard, yard
from tests.gateway.runtime.test_plans import INFO, TIME

PASSWD = (
    "root:x:0:0:root:/root:/bin/bash\napp:x:1234:1300::/home/app:/bin/sh\nnobody:x:65534:65534::/nonexistent:/x\n"
)


def source(**entry: Any) -> ImageSource | PackageSource:
    found = plan_source(Server.model_validate({"image": "x"} | entry if "command" not in entry else entry))
    assert isinstance(found, ImageSource | PackageSource)
    return found


def archive(*names: str, uid: int = 0, text: str = "", mode: int = 0o755) -> bytes:
    """A tar archive: names that end with `/` are folders."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in names:
            entry = tarfile.TarInfo(name.rstrip("/"))
            entry.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            entry.mode = mode
            entry.uid, entry.size = uid, 0 if name.endswith("/") else len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return out.getvalue()


@pytest.mark.parametrize(
    ("user", "uid", "home"),
    [
        ("app", 1234, "/home/app"),
        ("app:staff", 1234, "/home/app"),
        ("1234", 1234, "/home/app"),
        ("1000:1000", 1000, ""),
        ("nosuch", None, ""),
        ("nobody", 65534, "/nonexistent"),
    ],
)
def test_an_images_user_is_found_in_its_accounts(user: str, uid: int | None, home: str) -> None:
    assert account(PASSWD, user) == (uid, home)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/home/app/", "/home/app"),
        ("/", ""),
        ("", ""),
        ("/nonexistent", ""),
        ("/root", ""),
        ("relative", ""),
        ("/proc/self", ""),
        ("/a/../sys", ""),
    ],
)
def test_a_home_that_cannot_be_one_is_none(path: str, found: str) -> None:
    assert usable(path) == found


def test_default_files_of_an_account_are_no_content() -> None:
    assert not holds_files(archive("app/", "app/.bashrc", "app/.profile", "app/.cache/"))
    assert holds_files(archive("app/", "app/.local/", "app/.local/lib.py"))
    assert holds_files(archive("app/", *(f"app/{n}/" for n in range(9)), "app/x")[:-2000]), (
        "a cut archive is read too"
    )
    assert content(b"no archive") == ""


def test_what_a_link_of_an_image_leads_to_is_no_content() -> None:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as tar:
        link = tarfile.TarInfo("version")
        link.type, link.linkname = tarfile.SYMTYPE, "version"
        tar.addfile(link)
    assert content(held.getvalue()) == ""


@pytest.mark.parametrize(
    ("command", "paths"),
    [
        (("python", "server.py"), {"/python", "/server.py"}),
        (("node", "./dist/index.js"), {"/dist/index.js"}),
        (("sh", "-c", "exec python -m app.main"), {"/app/main.py"}),
        (("/usr/bin/server", "--run", "../x"), set()),
        (("tool", "run"), {"/tool"}),
    ],
)
def test_what_a_command_may_mean_by_a_relative_name(command: tuple[str, ...], paths: set[str]) -> None:
    found = set(relative_files(command))
    assert paths <= found
    assert "/run" not in found
    assert not any(".." in path for path in found)


@pytest.mark.anyio
async def test_an_engine_that_refuses_to_be_looked_into_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine()

    async def refused(*args: object) -> bytes:
        raise EngineError("no")

    monkeypatch.setattr(engine, "archive", refused)
    assert await look_inside(engine, "x", replace(INFO, user="app"), ()) == Inside()
    assert engine.containers == {}, "nothing is left of it"


@pytest.mark.anyio
async def test_what_is_found_in_an_image() -> None:
    engine = FakeEngine()
    engine.inside = {
        "/etc/passwd": archive("passwd", text=PASSWD),
        "/home/app": archive("app/", "app/main.py", uid=1234),
        "/home/app/.config": archive(".config/", ".config/settings", uid=1234),
        "/work": archive("work/", uid=1234),
    }
    found = await look_inside(engine, "x", replace(INFO, user="app", working_dir="/work"), ("python", "main.py"))
    caches = tuple(f"/home/app/{name}" for name in inside.CACHES if name != ".config")
    assert found == Inside(uid=1234, home="/home/app", filled=True, caches=caches, empty_workdir=True)
    engine.inside["/main.py"] = archive("main.py")
    assert (await look_inside(engine, "x", INFO, ("python", "main.py"))).starts_in_root


APP = replace(INFO, user="app")
EMPTY = Inside(uid=1234, home="/home/app")
FILLED = replace(EMPTY, filled=True, caches=("/home/app/.cache",))


@pytest.mark.parametrize(
    ("entry", "info", "found", "home", "writable"),
    [
        pytest.param({}, APP, EMPTY, "/home/app", {"/home/app": 1234}, id="a named user's home"),
        pytest.param({}, APP, FILLED, "/home/app", {"/home/app/.cache": 1234}, id="a home with the program in it"),
        pytest.param({}, replace(INFO, user="1000:1000"), Inside(uid=1000), HOME, {HOME: 1000}, id="a number alone"),
        pytest.param({}, APP, Inside(), HOME, {HOME: None}, id="a user of whom nothing is known"),
        pytest.param({"user": "7:7"}, APP, EMPTY, HOME, {HOME: 7}, id="the entry's user"),
        pytest.param({}, INFO, Inside(uid=0), HOME, {HOME: 70001}, id="an image that runs as root"),
        pytest.param(TIME, INFO, Inside(), HOME, {HOME: 70001}, id="a package"),
    ],
)
def test_every_server_has_a_writable_home(
    entry: dict[str, Any], info: Any, found: Inside, home: str, writable: dict[str, int | None]
) -> None:
    entry_source = source(**entry)
    user = user_of(entry_source, info) or "70001:70000"
    assert home_of(entry_source, info, found) == home
    tmpfs = dict(tmpfs_of(entry_source, info, found, user, home))
    assert tmpfs.keys() == {"/tmp", *writable}
    for path, uid in writable.items():
        assert (f"mode=0700,uid={uid}," if uid is not None else "mode=1777") in tmpfs[path]


@pytest.mark.anyio
async def test_folders_that_only_root_can_enter_are_found_above_the_mounts() -> None:
    engine = FakeEngine()
    engine.inside = {path: archive(f"{path.rpartition('/')[2]}/", mode=mode) for path, mode in MODES.items()}
    found = await look_inside(engine, "x", INFO, (), ("/root/a/b", "/srv/x", "/home/me/in/deep", "/var"))
    assert found.closed == ("/root", "/home/me")


MODES = {"/root": 0o700, "/root/a": 0o700, "/srv": 0o755, "/home": 0o755, "/home/me": 0o750, "/home/me/in": 0o700}


@pytest.mark.parametrize(("user", "open"), [("70001:70000", True), ("0:0", False)])
def test_a_closed_folder_above_a_mount_is_a_way_through(user: str, open: bool) -> None:
    mounted = source(mounts=["kept:/root/projects"])
    tmpfs = dict(tmpfs_of(mounted, INFO, Inside(closed=("/root",)), user, HOME))
    assert ("uid=70001," in tmpfs.get("/root", "")) is open


def test_what_the_entry_mounts_at_the_home_stays() -> None:
    mounted = source(mounts=["kept:/home/app"])
    assert "/home/app" not in dict(tmpfs_of(mounted, APP, EMPTY, "app", "/home/app"))


@pytest.mark.parametrize(
    ("entry", "workdir", "found", "expected"),
    [
        pytest.param(TIME, "", Inside(), HOME, id="a package"),
        pytest.param({}, "", Inside(), HOME, id="an image without one"),
        pytest.param({}, "/", Inside(), HOME, id="an image that names the root"),
        pytest.param({}, "/app", Inside(), "", id="an image with one keeps it"),
        pytest.param({}, "", Inside(starts_in_root=True), "", id="a command with a file of the root"),
    ],
)
def test_where_a_server_starts(entry: dict[str, Any], workdir: str, found: Inside, expected: str) -> None:
    assert workdir_of(source(**entry), replace(INFO, working_dir=workdir), found, HOME) == expected


# -- real containers

BASE = f"FROM {python_base_tag()}\n"
USER = "RUN useradd -m -u 1234 app\n"
IMAGES = {
    "named": f"{BASE}{USER}USER app\n",
    "number": f"{BASE}USER 1000:1000\n",
    "filled": f"{BASE}{USER}COPY rogue.py /home/app/rogue.py\nWORKDIR /home/app\nUSER app\n",
    "workdir": f"{BASE}{USER}RUN mkdir /work && chown app /work\nWORKDIR /work\nUSER app\n",
    "root": BASE,
    "relative": f"{BASE}COPY rogue.py /rogue.py\n",
}
RELATIVE = ("filled", "relative")


@pytest.fixture(scope="module")
def site() -> Iterator[Yard]:
    """A server of each of these images; one with a folder mounted below /root."""
    folder = Path("/var/tmp") / f"stockade-test-{secrets.token_hex(4)}"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    (folder / "readme").write_text("hello")
    with yard() as found:
        tags = {name: f"stockade-test-home-{name}:latest" for name in IMAGES}
        for name, tag in tags.items():
            context = BuildContext(dockerfile=IMAGES[name], files={"rogue.py": ROGUE.encode()}, build_args={})
            found.portal.call(found.engine.build, context, tag, print)
        program = {name: ["rogue.py"] if name in RELATIVE else ["-c", ROGUE] for name in IMAGES}
        try:
            servers: dict[str, Any] = {
                name: {"image": tags[name], "entrypoint": ["python3", "-u"], "args": program[name]} for name in IMAGES
            }
            servers["root"]["mounts"] = [f"{folder}:/root/projects/one:ro"]
            found.up(servers)
            yield found
        finally:
            found.down()
            for tag in tags.values():
                found.portal.call(found.engine.remove_image, tag)
            shutil.rmtree(folder)


WRITE = """
import os, pathlib
home = pathlib.Path(os.environ["HOME"])
(home / ".cache/app").mkdir(parents=True)
(home / ".config/app").mkdir(parents=True)
answer = [str(home), os.getcwd(), os.path.expanduser("~")]
"""


@pytest.mark.docker
@pytest.mark.parametrize(
    ("image", "home", "folder"),
    [
        ("named", "/home/app", "/home/app"),
        ("number", HOME, HOME),
        ("filled", "/home/app", "/home/app"),
        ("workdir", "/home/app", "/work"),
        ("root", HOME, HOME),
        ("relative", HOME, "/"),
    ],
)
def test_a_real_server_writes_in_its_home(site: Yard, image: str, home: str, folder: str) -> None:
    assert site.ask(WRITE, image) == [home, folder, home]


@pytest.mark.docker
@pytest.mark.parametrize("image", ["named", "number", "workdir", "root"])
def test_a_real_server_writes_relative_files(site: Yard, image: str) -> None:
    assert site.ask("answer = open('notes.txt', 'w').write('hello')", image) == 5


@pytest.mark.docker
def test_a_folder_that_is_mounted_below_roots_home_can_be_read(site: Yard) -> None:
    assert site.ask("answer = open('/root/projects/one/readme').read()", "root") == "hello"

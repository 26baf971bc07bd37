"""What a server keeps (`storage`): volumes of its own, whoever it runs as, that outlive its containers."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.runtime.containers.volumes import SCRIPT
from gateway.runtime.engine.base import BuildContext
from gateway.runtime.images.inside import Inside
from gateway.runtime.images.recipes import python_base_tag
from gateway.runtime.plan.homes import tmpfs_of
from gateway.runtime.plan.plans import Names, owner_of
from registry.model.server import Server
from registry.model.sources import ImageSource
from registry.model.spec import plan_source
from tests.gateway.runtime.real import ROGUE, Yard, yard
from tests.gateway.runtime.test_plans import INFO

NAMES = Names(project="p")


def test_each_path_of_each_server_is_a_volume_of_its_own() -> None:
    paths = [
        "/data",
        "/a/b",
        "/a_b",
        "/a-b",
        "/a__b",
        "/ä",
        "/_",
        f"/{'x' * 300}",
        f"/{'x' * 301}",
        "/a/b_c",
        "/a_b/c",
    ]
    found = {NAMES.storage(backend, path) for backend in ("a", "a-b", "s") for path in paths}
    assert len(found) == 3 * len(paths)
    assert not [name for name in found if len(name) > 128 or not name.isascii()]
    assert Names(project="a").storage("s-b", "/data") != Names(project="a-s").storage("b", "/data")
    assert Names(project="a").storage("b-v-x", "/d") != Names(project="a-s-b").volume("x_d")
    assert NAMES.storage("notes", "/home/stockade/x.d") == "stockade_p_notes_home_stockade_x.d"


@pytest.mark.parametrize(
    ("user", "owner"),
    [("70000:70001", "70000:70001"), ("5", "5:5"), ("app", "1234:1234"), ("app:staff", "1234:1234")],
)
def test_whose_it_is(user: str, owner: str) -> None:
    assert owner_of(user, Inside(uid=1234)) == owner
    assert owner_of("app", Inside()) == ""


def test_a_home_that_is_kept_has_no_memory_in_it() -> None:
    source = plan_source(Server.model_validate({"image": "x", "storage": "/home/app"}))
    assert isinstance(source, ImageSource)
    inside = Inside(uid=5, home="/home/app", filled=True, caches=("/home/app/.cache",))
    info = INFO.__class__(**{**{name: getattr(INFO, name) for name in INFO.__dataclass_fields__}, "user": "app"})
    assert [path for path, _ in tmpfs_of(source, info, inside, "app", "/home/app")] == ["/tmp"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_storage_is_given_as_a_whole_and_shared_volumes_by_their_top_folder(tmp_path: Path) -> None:
    """The script, with paths of this test's instead of the container's."""
    for name in ("storage/0/deep/er", "storage/1", "volumes/2/deep", "volumes/3"):
        (tmp_path / name).mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.touch()
    for name in ("storage/0/deep/er/file", "volumes/2/deep/file"):
        (tmp_path / name).touch()
    (tmp_path / "storage/0/link").symlink_to(outside)
    (tmp_path / "storage/0/deep").chmod(0o700)
    os.chown(tmp_path / "storage/0/deep", 4000, 4000)
    os.chown(tmp_path / "storage/1", 5000, 5000)
    os.chown(tmp_path / "volumes/3", 4000, 4000)
    script = SCRIPT.replace('"/storage/"', repr(f"{tmp_path}/storage/"))
    assert script != SCRIPT
    paths = [str(tmp_path / name) for name in ("storage/0", "storage/1", "volumes/2", "volumes/3")]
    subprocess.run([sys.executable, "-c", script, "5000", "5001", *paths], check=True)

    def owner(name: str) -> tuple[int, int]:
        found = os.lstat(tmp_path / name)
        return found.st_uid, found.st_gid

    for name in ("storage/0", "storage/0/deep", "storage/0/deep/er", "storage/0/deep/er/file", "storage/0/link"):
        assert owner(name) == (5000, 5001), name
    assert owner("storage/1") == (5000, 5000), "it was its own already"
    assert owner("volumes/2") == (5000, 5001)
    assert owner("volumes/2/deep") == owner("volumes/2/deep/file") == (0, 0)
    assert owner("volumes/3") == (4000, 4000)
    assert owner("outside") == (0, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_cannot_be_given_keeps_nothing_else_from_it(tmp_path: Path) -> None:
    """Folders deeper than Python recurses, and one that root without rights cannot look into."""
    top = tmp_path / "storage/0"
    top.mkdir(parents=True)
    script = "import os\nfor _ in range(1500):\n os.mkdir('d')\n os.chdir('d')"
    subprocess.run([sys.executable, "-c", script], cwd=top, check=True)
    for name in ("shut", "zlast"):
        (top / name).mkdir()
        (top / name / "file").touch()
        os.chown(top / name, 4000, 4000)
    (top / "shut").chmod(0o600)
    script = SCRIPT.replace('"/storage/"', repr(f"{tmp_path}/storage/"))
    drop = ["setpriv", "--bounding-set=-all,+chown", "--inh-caps=-all", "--no-new-privs"]
    subprocess.run([*drop, sys.executable, "-c", script, "5000", "5001", str(top)], check=True)
    for path in (top, top / "d/d/d", top / "shut", top / "zlast", top / "zlast/file"):
        assert os.lstat(path).st_uid == 5000, path
    subprocess.run(["rm", "-rf", str(top)], check=True)


LINES = (
    f"FROM {python_base_tag()}",
    "USER root",
    "RUN mkdir -p /home/app /srv/filled/deep && echo old > /srv/filled/deep/file",
    "RUN echo app:x:1234:1234::/home/app:/bin/sh >> /etc/passwd",
    "RUN chown -R 1234:1234 /home/app /srv/filled && chmod 0700 /srv/filled/deep",
)
ENTRY: dict[str, Any] = {"entrypoint": ["python3", "-u"], "args": ["-c", ROGUE]}
KEEPS = {"storage": ["/data", "/srv/filled", "/home/stockade"]}


@pytest.fixture
def site() -> Iterator[tuple[Yard, str]]:
    """A project that is not up yet, and an image; that with `-app` at the end of its name has a user of its own."""
    with yard() as found:
        tag = f"stktest-storage-{secrets.token_hex(4)}"
        texts = {tag: "\n".join(LINES) + "\n", f"{tag}-app": f"FROM {tag}\nUSER app\n"}
        try:
            for name, text in texts.items():
                context = BuildContext(dockerfile=text, files={}, build_args={})
                found.portal.call(found.engine.build, context, name, print)
            yield found, tag
        finally:
            found.down()
            for name in volumes(found):
                found.portal.call(
                    found.engine.call, "remove", lambda api, name=name: api.remove_volume(name, force=True)
                )
            for name in reversed(texts):
                found.portal.call(found.engine.remove_image, name)


def volumes(site: Yard) -> list[str]:
    """The project's volumes, by their label."""
    label = {"label": f"stockade.project={site.project}"}
    found = site.portal.call(site.engine.call, "list", lambda api: api.volumes(filters=label))
    return sorted(volume["Name"] for volume in found["Volumes"] or [])


WRITE = """
import os
answer = []
for folder in ("/data", "/srv/filled", "/srv/filled/deep", os.environ["HOME"]):
    os.makedirs(folder + "/new", exist_ok=True)
    with open(folder + "/new/notes", "a") as file:
        file.write("x")
    answer.append(open(folder + "/new/notes").read())
answer.append(open("/srv/filled/deep/file").read())
"""


@pytest.mark.docker
def test_a_real_server_finds_what_it_kept_after_down_whoever_it_is_by_then(site: tuple[Yard, str]) -> None:
    yard, tag = site
    named = {**ENTRY, "image": f"{tag}-app", "storage": ["/data", "/srv/filled", "/home/app"]}
    servers = {
        "own": {**ENTRY, "image": tag, **KEEPS},
        "chosen": {**ENTRY, "image": tag, **KEEPS, "user": "4321:4322"},
        "named": named,
        "sessions": {**ENTRY, "image": tag, **KEEPS, "sessions": "per-client", "spares": 0},
    }
    yard.up(servers)
    for backend in ("own", "chosen", "named"):
        assert yard.ask(WRITE, backend) == ["x", "x", "x", "x", "old\n"], backend
    for session, answer in (("one", "x"), ("two", "xx"), ("one", "xxx")):
        assert yard.ask(WRITE, "sessions", session=session)[:4] == [answer] * 4
    yard.down()
    assert yard.containers() == []
    own = [f"stockade_{yard.project}_own_{path}" for path in ("data", "home_stockade", "srv_filled")]
    assert [name for name in volumes(yard) if "_own_" in name] == own
    servers["own"]["user"], servers["chosen"]["user"] = "7777", "4321:4322"
    yard.up(servers)
    for backend in ("own", "chosen", "named"):
        assert yard.ask(WRITE, backend) == ["xx", "xx", "xx", "xx", "old\n"], backend

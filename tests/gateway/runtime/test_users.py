"""Who runs as whom: one uid for each container, stable, nobody else's, and said where an image or the file decides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.runtime.inventory import users as users_module
from gateway.runtime.inventory.record import Owned, Record, Role
from gateway.runtime.inventory.users import (
    EGRESS,
    MAPPED,
    Users,
    candidates,
    door_holder,
    instance_holder,
    lent_ranges,
    running_users,
    uid_of,
)
from gateway.runtime.sandbox.errors import EngineError
from registry.model.mounts import Mount
from registry.model.server import OWN_USERS
from tests.gateway.runtime.fakes import FakeEngine

pytestmark = pytest.mark.anyio


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with no accounts in the range; a test adds some."""
    monkeypatch.setattr(users_module, "running_users", frozenset)
    monkeypatch.setattr(users_module, "lent_ranges", list)


def made(tmp_path: Path, engine: FakeEngine, project: str = "p", chosen: tuple[int, ...] = ()) -> Users:
    return Users(engine, Record.load(tmp_path / project / "state.json"), project, lambda: chosen)


async def test_every_holder_gets_a_uid_of_its_own_from_the_range(tmp_path: Path, engine: FakeEngine) -> None:
    users = made(tmp_path, engine)
    found = [await users.of(door_holder(f"b{number}")) for number in range(300)]
    assert len(set(found)) == 300, "collisions of the hash too"
    assert all(uid in OWN_USERS for uid in found)


async def test_a_uid_stays_over_restarts_and_without_the_record_too(tmp_path: Path, engine: FakeEngine) -> None:
    first = await made(tmp_path, engine).of("backend/notes")
    assert await made(tmp_path, engine).of("backend/notes") == first
    (tmp_path / "p" / "state.json").unlink()
    assert await made(tmp_path, engine).of("backend/notes") == first
    assert await made(tmp_path, engine, "other").of("backend/notes") != first


async def test_who_collides_keeps_what_it_got(tmp_path: Path, engine: FakeEngine) -> None:
    first, second, *_ = candidates("p", "backend/notes", OWN_USERS)
    engine.foreign_users = frozenset({first})
    assert await made(tmp_path, engine).of("backend/notes") == second
    engine.foreign_users = frozenset()
    assert await made(tmp_path, engine).of("backend/notes") == second, "its files are that user's"
    engine.foreign_users = frozenset({second})
    assert await made(tmp_path, engine).of("backend/notes") == first


async def test_what_another_project_keeps_files_under_is_not_given_while_it_is_down(
    tmp_path: Path, engine: FakeEngine
) -> None:
    first, second, *_ = candidates("p", "backend/notes", OWN_USERS)
    Record(path=tmp_path / "other" / "state.json").give("backend/theirs", first)
    users = Users(engine, Record.load(tmp_path / "mine" / "state.json"), "p", tuple)
    assert await users.of("backend/notes") == second


async def test_a_server_that_had_to_become_another_is_said(
    tmp_path: Path, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    users = made(tmp_path, engine)
    engine.foreign_users = frozenset({await users.of("backend/notes")})
    now = await users.of("backend/notes")
    assert caplog.messages == [
        f"backend/notes ran as user {min(engine.foreign_users)}, which is taken by now; it runs as {now}"
    ]


@pytest.mark.parametrize("whose", ["account", "group", "subuid", "file", "process"])
async def test_what_is_somebodys_is_never_given(
    tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    first, second, *_ = candidates("p", EGRESS, OWN_USERS)

    def known(uid: int) -> Any:
        if uid != first:
            raise KeyError(uid)

    if whose == "account":
        monkeypatch.setattr(users_module.pwd, "getpwuid", known)
    elif whose == "group":
        monkeypatch.setattr(users_module.grp, "getgrgid", known)
    elif whose == "subuid":
        monkeypatch.setattr(users_module, "lent_ranges", lambda: [range(first, first + 1)])
    elif whose == "process":
        monkeypatch.setattr(users_module, "running_users", lambda: frozenset({first}))
    users = made(tmp_path, engine, chosen=(first,) if whose == "file" else ())
    await users.use_engine(await engine.info())
    assert await users.of(EGRESS) == second


async def test_no_free_uid_is_a_sentence(tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users_module, "lent_ranges", lambda: [range(1 << 31)])
    with pytest.raises(EngineError, match=r"No user is free for egress.*65536 to 99999.*/etc/subuid"):
        await made(tmp_path, engine).of(EGRESS)


async def test_an_engine_that_maps_users_has_no_more_than_65536(tmp_path: Path, engine: FakeEngine) -> None:
    users = made(tmp_path, engine)
    before = await users.of(EGRESS)
    await users.use_engine(replace(await engine.info(), maps_users=True))
    assert before not in MAPPED
    assert await users.of(EGRESS) in MAPPED


async def test_a_record_that_cannot_be_written_gives_nothing(
    tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = made(tmp_path, engine)

    def full(self: Record) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Record, "write", full)
    with pytest.raises(EngineError, match="cannot be written"):
        await users.of(EGRESS)
    assert users.record.users == {}


async def test_sessions_leave_nothing_behind(tmp_path: Path, engine: FakeEngine) -> None:
    users = made(tmp_path, engine)
    for holder in ("backend/a", "session/a/1", "door/a/1", "session/a/2", "door/a/2", "door/gone"):
        await users.of(holder)
    users.release("a/1")
    users.record.owned["x"] = Owned(name="x", role=Role.BACKEND, mark="m", instance="a/2")
    users.purge()
    assert set(Record.load(tmp_path / "p" / "state.json").users) == {"backend/a", "session/a/2", "door/a/2"}


def test_sessions_are_users_of_their_own_unless_they_share_files() -> None:
    """Without that, no session could write what an earlier one wrote."""
    data = Mount(source="/srv/data", target="/data")
    assert instance_holder("a", [data]) == instance_holder("a", []) == "backend/a"
    assert instance_holder("a/one", []) == "session/a/one"
    assert instance_holder("a/one", [Mount(source="/x", target="/x", read_only=True)]) == "session/a/one"
    assert instance_holder("a/one", [data]) == "backend/a"


async def test_who_shares_a_uid_is_named_with_the_way_out(tmp_path: Path, engine: FakeEngine) -> None:
    users = made(tmp_path, engine)
    door = await users.of("door/calm")
    running = {"one": {1000}, "two": {1000}, "calm": {await users.of("backend/calm")}, "odd": {door}}
    found = users.sharing(running, frozenset())
    assert set(found) == {"one", "two", "odd"}
    assert "runs as user 1000, as two does" in found["one"][0]
    assert f"runs as user {door}, as door/calm does" in found["odd"][0]
    free = int(found["one"][0].rpartition('user: "')[2].partition(":")[0])
    assert free in OWN_USERS
    assert free not in users.record.users.values()
    assert set(users.sharing(running, {"one", "two"})) == {"odd"}, "of those the file's own warnings tell"


def test_lent_ranges_are_read_however_the_file_looks(tmp_path: Path) -> None:
    monkey = tmp_path / "subuid"
    monkey.write_bytes(b"me:100000:65536\n\xff\xfe\nroot:1:\n1000:70000:10\n#\n")
    assert lent_ranges((monkey, tmp_path / "absent")) == [range(100_000, 165_536), range(70_000, 70_010)]


def test_the_uids_of_what_runs_are_those_of_the_kernel(tmp_path: Path) -> None:
    for pid, text in (("1", "Name:\tx\nUid:\t7\t8\t8\t8\n"), ("2", "torn"), ("self", "Name:\nUid:\t9\n")):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "status").write_text(text)
    (tmp_path / "1" / "cgroup").write_text("0::/docker/abc\n")
    (tmp_path / "1" / "uid_map").write_text("         0          0 4294967295\n")
    assert running_users(tmp_path) == {7}
    assert uid_of(1, "abc", tmp_path) == 7
    (tmp_path / "1" / "uid_map").write_text("0 7 1\n1 100000 65536\n")
    assert uid_of(1, "abc", tmp_path) == 0, "root in there, however it is called out here"
    (tmp_path / "1" / "uid_map").write_text("0 8 1\n")
    assert uid_of(1, "abc", tmp_path) is None
    assert uid_of(1, "def", tmp_path) is None, "the number is another process's here"
    assert uid_of(3, "abc", tmp_path) is None

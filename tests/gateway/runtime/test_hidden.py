"""`.stockadeignore`: what it names cannot be seen in a mounted folder, and a mistake in it shows nothing in silence."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from gateway.runtime.containers import hidden
from gateway.runtime.containers.hidden import COVER, NOTHING, hiding
from gateway.runtime.engine.base import ContainerPlan, Mount
from gateway.runtime.sandbox.errors import PlanError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with things that no server should see."""
    made = tmp_path / "work"
    for path in (".env", "src/app.py", "src/.env", "keys/a.pem", "keys/deep/b.pem", "notes/ok.pem", "notes/x.pem"):
        (made / path).parent.mkdir(parents=True, exist_ok=True)
        (made / path).write_text(path)
    return made


def planned(folder: Path, *, read_only: bool = True, target: str = "/w") -> ContainerPlan:
    return hiding(
        ContainerPlan(name="x", image="x", mounts=(Mount(source=str(folder), target=target, read_only=read_only),))
    )


def covered(plan: ContainerPlan) -> tuple[set[str], set[str]]:
    """The folders and the files that are covered."""
    assert all(options == COVER for _, options in plan.tmpfs)
    return {path for path, _ in plan.tmpfs}, {mount.target for mount in plan.mounts if mount.source == NOTHING}


PATTERNS: dict[str, tuple[str, set[str], set[str]]] = {
    "a name, at every depth": (".env\n", set(), {"/w/.env", "/w/src/.env"}),
    "a folder, and nothing below it": ("keys/\n*.pem\n", {"/w/keys"}, {"/w/notes/ok.pem", "/w/notes/x.pem"}),
    "an exception": ("*.pem\n!ok.pem\n", set(), {"/w/keys/a.pem", "/w/keys/deep/b.pem", "/w/notes/x.pem"}),
    "from the top": ("/.env\n# a comment\n\n", set(), {"/w/.env"}),
    "two stars": ("keys/**/b.pem\n", set(), {"/w/keys/deep/b.pem"}),
    "all but one": ("/*\n!/src\n", {"/w/keys", "/w/notes"}, {"/w/.env", "/w/.stockadeignore"}),
    "nothing that is there": ("other\n", set(), set()),
}


@pytest.mark.parametrize(("text", "folders", "files"), PATTERNS.values(), ids=PATTERNS)
def test_what_the_patterns_name_is_covered(folder: Path, text: str, folders: set[str], files: set[str]) -> None:
    (folder / ".stockadeignore").write_text(text)
    assert covered(planned(folder)) == (folders, files)


def test_without_an_ignore_file_nothing_is_looked_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hidden, "entries_of", lambda path: pytest.fail(path))
    assert covered(planned(folder)) == (set(), set())


def test_an_ignore_file_above_the_mounted_folder_counts(folder: Path) -> None:
    (folder / ".stockadeignore").write_text("/src/.env\nb.pem\n")
    assert covered(planned(folder / "src", target="/s")) == (set(), {"/s/.env"})
    assert covered(planned(folder / "keys", target="/k")) == (set(), {"/k/deep/b.pem"})


def test_what_the_entry_mounts_itself_stays(folder: Path) -> None:
    (folder / ".stockadeignore").write_text("keys/\n.env\n")
    own = (Mount(source=str(folder), target="/w"), Mount(source="/srv/keys", target="/w/keys"))
    plan = hiding(ContainerPlan(name="x", image="x", mounts=own, tmpfs=(("/w/src/.env", "rw"),)))
    assert plan.mounts == (*own, Mount(source=NOTHING, target="/w/.env"))
    assert plan.tmpfs == (("/w/src/.env", "rw"),)


def test_a_server_that_may_write_cannot_change_what_is_hidden_from_it(folder: Path) -> None:
    (folder / ".stockadeignore").write_text(".env\n")
    own = Mount(source=NOTHING, target="/w/.stockadeignore", read_only=True)
    assert own in planned(folder, read_only=False).mounts
    assert own not in planned(folder).mounts


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("what", ["link", "link to nothing", "pipe", "folder", "socket"])
def test_what_a_server_puts_in_the_place_of_the_ignore_file_is_neither_followed_nor_waited_for(
    folder: Path, tmp_path: Path, what: str, read_only: bool
) -> None:
    """A link there, bound into the container by the engine, would show any file of this machine."""
    file = folder / ".stockadeignore"
    (tmp_path / "key").write_text("-----BEGIN KEY-----\n")
    match what:
        case "link":
            file.symlink_to(tmp_path / "key")
        case "link to nothing":
            file.symlink_to(tmp_path / "nowhere")
        case "pipe":
            os.mkfifo(file)
        case "folder":
            file.mkdir()
        case "socket":
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(str(file))
    with pytest.raises(PlanError, match=r"\.stockadeignore (is no file|cannot be read)"):
        planned(folder, read_only=read_only)


def test_no_mount_that_hides_has_a_source_of_the_folder(folder: Path) -> None:
    (folder / ".stockadeignore").write_text(".env\nkeys/\n*.pem\n")
    assert {mount.source for mount in planned(folder, read_only=False).mounts} == {str(folder), NOTHING}


def test_a_folder_that_is_mounted_by_a_link_hides_what_both_paths_say(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links/here").symlink_to(folder)
    (tmp_path / "links/.stockadeignore").write_text("/here/src/.env\n")
    (folder.parent / ".stockadeignore").write_text("/work/.env\n")
    assert covered(planned(tmp_path / "links/here")) == (set(), {"/w/.env", "/w/src/.env"})


def test_work_without_end_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".stockadeignore").write_text("".join(f"x{number}\n" for number in range(1000)))
    monkeypatch.setattr(hidden, "MOST_MATCHES", 5000)
    with pytest.raises(PlanError, match="write fewer patterns"):
        planned(folder)


def test_links_are_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/.env").touch()
    (folder / "link").symlink_to(tmp_path / "outside")
    (folder / "up").symlink_to("..")
    (folder / ".stockadeignore").write_text(".env\n/link\n")
    assert covered(planned(folder)) == (set(), {"/w/.env", "/w/src/.env"})


@pytest.mark.parametrize("line", ["!", "[", "/", "\\", "a\n["])
def test_a_line_that_hides_nothing_is_an_error_with_its_number(folder: Path, line: str) -> None:
    (folder / ".stockadeignore").write_text(f"{line}\n.env\n")
    with pytest.raises(PlanError, match=rf"\.stockadeignore, line {line.count(chr(10)) + 1}: .* hides nothing"):
        planned(folder)


def test_what_cannot_be_read_as_patterns_stops_the_start(folder: Path) -> None:
    file = folder / ".stockadeignore"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(PlanError, match="not UTF-8"):
        planned(folder)
    file.write_text("x" * 70_000)
    with pytest.raises(PlanError, match="larger than 64 KiB"):
        planned(folder)
    file.unlink()
    file.mkdir()
    with pytest.raises(PlanError, match="is no file"):
        planned(folder)


def test_too_much_is_refused_with_what_to_write_instead(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(300):
        (folder / f"keys/{number}.pem").touch()
    (folder / ".stockadeignore").write_text("*.pem\n")
    with pytest.raises(PlanError, match="Name whole folders"):
        planned(folder)
    monkeypatch.setattr(hidden, "MOST_ENTRIES", 100)
    with pytest.raises(PlanError, match="too many files"):
        planned(folder)


def test_a_folder_that_cannot_be_looked_into_stops_the_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".stockadeignore").write_text(".env\n")
    real = os.scandir

    def closed(path: str) -> object:
        if path.endswith("/keys"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(PlanError, match=r"keys cannot be looked into .* Permission denied"):
        planned(folder)

"""Bad luck: the disk is full, or has no room for one more file, or is mounted read-only."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from gateway.disk import in_words
from observability.losses import Losses
from observability.store import History
from tests.observability.samples import decided, numbered

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")

STOCKADE = [sys.executable, "-m", "gateway.cli.main"]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A short one: the path of a UNIX socket below it has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="stk") as directory:
        yield Path(directory)


@contextmanager
def disk(at: Path, options: str) -> Iterator[Path]:
    """A disk of its own, gone afterwards."""
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", at], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", at], check=True)


def leave(directory: Path, free: int) -> Path:
    """Fills the disk until so many bytes are free; the file that takes the room."""
    ballast = directory / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    os.truncate(ballast, max(0, ballast.stat().st_size - free))
    return ballast


def up(state: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Starts a gateway whose engine is away, so that nothing but the disk decides how far it gets."""
    config = state.parent / "stockade.yaml"
    config.write_text("gateway: {listen: '127.0.0.1:0', admin: '127.0.0.1:0'}\nmcpServers: {}\n")
    away = {"DOCKER_HOST": f"unix://{state.parent}/no-engine.sock", "STOCKADE_STATE_DIR": str(state)}
    environment = {**os.environ, **away, "PYTHONPATH": str(ROOT)}
    command = [*STOCKADE, "up", *options, str(config)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def assert_said(ended: subprocess.CompletedProcess[str], state: Path) -> None:
    """One sentence that names the file and the next step."""
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "Errno" not in ended.stderr
    assert re.search(rf"{state}/\S+ cannot be \w+: ", ended.stderr), ended.stderr


@pytest.mark.parametrize("options", [(), ("-d",)], ids=["foreground", "detached"])
def test_a_start_on_a_full_disk_names_the_file_and_what_to_do(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Red team m11: it was `[Errno 28] No space left on device`. Full at several points of the start."""
    with disk(tmp_path / "s", "size=4m") as state:
        for free in (0, 64 * 1024, 2 * 1024 * 1024):
            ballast = leave(state, free)
            ended = up(state, *options)
            if "There is no Docker engine" in ended.stderr:
                break  # there was room for all that a start writes before it asks the engine
            assert_said(ended, state)
            assert "full" in ended.stderr
            assert f"df -h {state}" in ended.stderr
            ballast.unlink()
        else:
            pytest.fail("no amount of room was enough")
        assert free > 0


def test_a_start_on_a_disk_without_inodes_says_so(tmp_path: Path) -> None:
    with disk(tmp_path / "s", "size=4m,nr_inodes=4") as state:
        for number in range(3):
            (state / str(number)).touch()
        ended = up(state)
        assert_said(ended, state)
        assert "no more files" in ended.stderr


def test_a_start_on_a_disk_that_is_mounted_read_only_says_so(tmp_path: Path) -> None:
    with disk(tmp_path / "s", "size=4m") as state:
        subprocess.run(["mount", "-o", "remount,ro", state], check=True)
        ended = up(state)
        assert_said(ended, state)
        assert "read-only" in ended.stderr


def test_what_a_full_disk_kept_out_of_the_history_is_said_and_the_rest_is_kept(tmp_path: Path) -> None:
    """Red team m11: 33 events were not kept, and only a metric knew."""
    with disk(tmp_path / "s", "size=4m") as state:
        losses = Losses()
        history = History(state / "history.db", losses=losses)
        history.record(numbered(decided(1))[0])
        assert history.flush()
        assert losses.lines() == []
        ballast = leave(state, 0)
        lost = numbered(*(decided(n, detail="x" * 1500) for n in range(2, 60)), first=2)
        for item in lost:
            history.record(item)
        assert history.flush()
        ballast.unlink()
        history.record(numbered(decided(100), first=100)[0])
        assert history.flush()
        (said,) = losses.lines()
        assert f"{history.dropped} events were lost" in said
        assert history.dropped > 0
        assert str(state / "history.db") in said
        assert {row.connection for row in history.egress()} >= {1, 100}
        history.close()


def test_an_error_that_is_not_the_disks_keeps_its_words(tmp_path: Path) -> None:
    missing = FileNotFoundError(errno.ENOENT, "No such file or directory", "/x")
    assert in_words(missing) == "/x: No such file or directory."
    assert in_words(OSError("the history cannot be written")) == "the history cannot be written"

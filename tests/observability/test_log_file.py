"""A gateway in the background cannot fill the disk by what it logs, and a crash is in the same file."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from observability.log_file import RotatingLog
from observability.logs import EXCEPTION_LIMIT, MESSAGE_LIMIT, JsonFormatter, TextFormatter

ROOT = Path(__file__).parents[2]


def record(message: str, **more: object) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": message, "levelno": logging.INFO, "levelname": "INFO", **more})


def sizes(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in directory.iterdir()}


def test_the_log_is_bounded_however_much_is_logged(tmp_path: Path) -> None:
    log = RotatingLog(tmp_path / "gateway.log", max_bytes=10_000, kept=2, captured=())
    for number in range(2_000):
        log.emit(record(f"line {number} {'x' * 100}"))
    log.close()

    assert sorted(sizes(tmp_path)) == ["gateway.log", "gateway.log.1", "gateway.log.2"]
    assert max(sizes(tmp_path).values()) < 10_200
    assert "line 1999 " in (tmp_path / "gateway.log").read_text()
    assert (tmp_path / "gateway.log").stat().st_mode & 0o777 == 0o600


def test_what_an_earlier_gateway_logged_is_kept_beside_it(tmp_path: Path) -> None:
    there = tmp_path / "project" / "gateway.log"
    there.parent.mkdir()
    there.write_text("the crash of yesterday\n")
    log = RotatingLog(tmp_path / "up.log", max_bytes=50, kept=4, captured=())
    log.emit(record("starting " + "x" * 60))
    log.emit(record("still starting"))
    log.move(there)
    log.emit(record("ready"))
    log.close()

    assert there.read_text() == "still starting\nready\n"
    assert there.with_name("gateway.log.1").read_text().startswith("starting")
    assert there.with_name("gateway.log.2").read_text() == "the crash of yesterday\n"
    assert list(tmp_path.glob("up.log*")) == []


_CRASH = """
import logging, sys
from pathlib import Path
from observability.log_file import RotatingLog
from observability.logs import configure

log = RotatingLog(Path(sys.argv[1]), max_bytes=300, kept=3)
configure(as_json=False, handler=log)
for number in range(20):
    logging.info("line %d %s", number, "x" * 60)
print("said on standard output", flush=True)
log.move(Path(sys.argv[2]))
raise RuntimeError("the end")
"""


def test_a_crash_and_what_is_printed_go_to_the_newest_file(tmp_path: Path) -> None:
    """Though the file was rotated, and moved, since the process opened it."""
    first, last = tmp_path / "up.log", tmp_path / "gateway.log"
    ended = subprocess.run(
        [sys.executable, "-c", _CRASH, first, last], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert (ended.stdout, ended.stderr) == ("", "")
    assert "said on standard output\n" in last.read_text()
    assert last.read_text().endswith("RuntimeError: the end\n")
    assert not first.exists()


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()], ids=["json", "text"])
def test_a_line_has_a_bound_whatever_is_logged(formatter: logging.Formatter) -> None:
    """Red team M4: the words of a server's error, 16 MB, were a line of the log at each try."""
    huge = "\x00" * 1_000_000
    try:
        raise ValueError(huge + "the last words")
    except ValueError:
        failed = record(huge, exc_info=sys.exc_info(), fields={"event": "x", "detail": huge})
    line = formatter.format(failed)

    assert len(line) < 6 * (2 * MESSAGE_LIMIT + EXCEPTION_LIMIT) + 1000
    assert "the last words" in line
    assert "[1000000 characters]" in line

"""The command as a process of its own: start-up, following, and starting and stopping a gateway."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from gateway.cli import detached
from gateway.cli.failure import Failure
from gateway.control.base import GatewayState, Readiness
from gateway.control.running import find_gateway, process_started
from tests.gateway.control.fakes import CONFIG, Running, egress_event, gateway_for_cli

STOCKADE = [sys.executable, "-m", "gateway.cli.main"]
HEEDING = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from gateway.cli.main import main
main()
"""
"""The command, also where the tests run in the background: a shell tells such processes to ignore Ctrl-C."""
ROOT = Path(__file__).parents[3]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def run(*args: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    command = [*STOCKADE, *args]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=timeout)


@contextmanager
def following(*args: str) -> Iterator[subprocess.Popen[str]]:
    """A command that goes on; stopped with Ctrl-C."""
    command = [sys.executable, "-c", HEEDING, *args]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def test_egress_tail_follows_until_interrupted(running: Running) -> None:
    running.publish(egress_event())
    with following("egress", "tail", "-f") as process:
        assert process.stdout is not None
        assert "evil.example:443" in process.stdout.readline()
        running.publish(egress_event(seq=2, connection=2, host="next\x1b[2J.example"))
        assert "next\\x1b[2J.example:443" in process.stdout.readline()
    assert process.returncode == 130


def test_logs_follow(running: Running) -> None:
    with following("logs", "-f", "fetch", "--tail", "1") as process:
        assert process.stdout is not None
        assert "line 4" in process.stdout.readline()


def test_a_reader_that_leaves_ends_the_command_quietly(running: Running) -> None:
    with following("egress", "tail", "-f", "--json") as process:
        assert process.stdout is not None
        process.stdout.close()
        for n in range(5):
            running.publish(egress_event(seq=n, connection=n))
        assert process.wait(60) == 1
        process.stdout = None


def test_the_gateway_that_vanishes_ends_a_follower_with_words(running: Running) -> None:
    with following("egress", "tail", "-f") as process:
        assert process.stdout is not None
        running.publish(egress_event())
        process.stdout.readline()
        assert running._loop is not None
        running._loop.call_soon_threadsafe(running.control.hub.close)
        assert process.wait(60) == 0


def test_heavy_modules_are_not_loaded_at_start() -> None:
    """Start-up time is what is not imported; measured in modules, since a shared machine's clock proves nothing."""
    code = "import sys, gateway.cli.main as m; m.build(); print(' '.join(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment()
    ).stdout.split()
    heavy = {
        "starlette",
        "uvicorn",
        "docker",
        "aiohttp",
        "httpx2",
        "mcp",
        "ruamel.yaml",
        "tomlkit",
        "sqlite3",
        "uvloop",
    }
    heavy |= {"registry.config", "gateway.app", "opentelemetry", "rich.table", "egress.policy.decide"}
    assert heavy & set(loaded) == set()


def test_a_configuration_error_ends_up_d_with_file_and_line(work: Path) -> None:
    (work / "stockade.yaml").write_text("version: 1\nmcpServers:\n  fetch:\n    comand: uvx\n")
    result = run("up", "-d")
    assert result.returncode == 1
    assert "stockade.yaml:4" in result.stderr
    assert "comand" in result.stderr
    assert "Traceback" not in result.stderr
    assert find_gateway(work / "stockade.yaml") is None


def test_up_with_no_file_says_where_it_looked(work: Path) -> None:
    result = run("up", "-d")
    assert result.returncode == 1
    assert "./stockade.yaml" in result.stderr


STAND_IN = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.gateway.control.fakes import FakeControl, Running
from gateway.control.running import process_started
import threading
control = FakeControl(Path({work!r}))
done = threading.Event()
control.on_shutdown = done.set
with Running(control, Path(os.environ["STOCKADE_STATE_DIR"]), os.getpid(), process_started(os.getpid())):
    print("up", flush=True)
    done.wait(60)
(Path(os.environ["STOCKADE_STATE_DIR"]) / "test" / "gateway.json").unlink()
"""


@contextmanager
def stand_in(work: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that answers like a gateway and stops when it is told to."""
    code = STAND_IN.format(root=str(ROOT), work=str(work))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment())
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_down_stops_the_process_and_waits_for_its_end(work: Path) -> None:
    with stand_in(work) as process:
        result = run("down")
        assert (result.returncode, result.stdout) == (0, "Stopped.\n")
        assert process.wait(60) == 0


def test_down_gives_up_on_a_process_that_does_not_stop_and_says_what_to_do(home: Path, work: Path) -> None:
    pid = os.getpid()
    with gateway_for_cli(Path(os.environ["STOCKADE_STATE_DIR"]), work, pid, process_started(pid) or ""):
        result = run("down", "--timeout", "0.1")
    assert result.returncode == 1
    assert f"kill -9 {pid}" in result.stderr


def test_up_d_twice_reads_the_file_again(work: Path) -> None:
    with stand_in(work):
        result = run("up", "-d")
    assert "http://127.0.0.1:8420/mcp" in result.stdout
    assert "read again" in result.stderr
    assert (result.returncode, "Error: open did not start" in result.stderr) == (1, True), "it failed"


def test_up_in_the_foreground_does_not_start_a_second_gateway(work: Path) -> None:
    with stand_in(work) as process:
        result = run("up")
        assert result.returncode == 1
        assert f"pid {process.pid}" in result.stderr


def test_the_first_word_of_a_child_that_dies_is_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    reading, writing = os.pipe()
    with log.open("w") as out:
        child = subprocess.Popen([sys.executable, "-c", "raise SystemExit('no engine here')"], stderr=out)
    os.close(writing)
    with pytest.raises(Failure, match="no engine here"):
        detached.first_word(reading, child, 20, log)
    os.close(reading)


def test_a_child_that_says_nothing_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with pytest.raises(Failure, match="not ready after 0"):
        detached.first_word(reading, child, 0.1, tmp_path / "log")
    child.kill()
    child.wait()
    os.close(reading)
    os.close(writing)


def test_a_start_that_waits_shows_each_step_once_and_not_the_end_of_a_start_that_failed(
    running: Running, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`up -d` printed "The gateway is stopping." before the error, where it looked while a failed start tidied up."""
    progress = detached.Progress(work / "stockade.yaml", None)
    for state, detail in (
        (GatewayState.STARTING, "It starts."),
        (GatewayState.PREPARING, "Building fetch."),
        (GatewayState.PREPARING, "Building fetch."),
        (GatewayState.STOPPING, "It stops."),
    ):
        running.control.ready = Readiness(state=state, detail=detail)
        progress()
    assert capsys.readouterr().err == "Building fetch.\n"


def test_a_configuration_file_is_shown_as_a_person_would_type_it(work: Path) -> None:
    from gateway.cli.locate import display

    (work / "stockade.yaml").write_text(CONFIG)
    assert display(work / "stockade.yaml") == "./stockade.yaml"
    assert display(Path("/elsewhere/x.yaml")) == "/elsewhere/x.yaml"


def test_a_secret_that_is_typed_is_not_echoed(home: Path) -> None:
    master, slave = pty.openpty()
    command = [*STOCKADE, "secret", "set", "api-key"]
    with subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=environment(), start_new_session=True
    ) as process:
        os.close(slave)
        shown = b""
        while b"not shown" not in shown:
            shown += os.read(master, 1000)
        while termios.tcgetattr(master)[3] & termios.ECHO:
            assert process.poll() is None
        os.write(master, b"s3cret\n")
        with suppress(OSError):  # EIO: the other end is closed
            while chunk := os.read(master, 1000):
                shown += chunk
    os.close(master)
    assert process.returncode == 0, shown
    assert b"Stored in" in shown
    assert b"s3cret" not in shown
    assert (home / ".config/stockade/secrets/api-key").read_text() == "s3cret"

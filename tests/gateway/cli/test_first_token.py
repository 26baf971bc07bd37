"""The first token of the admin page is shown to a person on a terminal, and never written to a pipe, a file or a journal."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

SHOW = "import sys; from pathlib import Path; from gateway.cli.options import first_token; first_token(Path(sys.argv[1]))"


def on_a_terminal(file: Path) -> str:
    """What `up` prints about the token where standard output is a terminal."""
    reading, terminal = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", SHOW, str(file)], stdout=terminal, env=environment()) as child:
        assert child.wait(60) == 0
    os.close(terminal)
    try:
        return os.read(reading, 4096).decode()
    except OSError:  # nothing was written to it
        return ""
    finally:
        os.close(reading)


def in_a_pipe(file: Path) -> str:
    """The same for a pipe, as a service manager has it; both streams."""
    done = subprocess.run(
        [sys.executable, "-c", SHOW, str(file)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True, env=environment(),
    )  # fmt: skip
    return done.stdout


def environment() -> dict[str, str]:
    return {**os.environ, "NO_COLOR": "1"}


def test_a_pipe_gets_no_token_and_the_command_that_makes_one(tmp_path: Path) -> None:
    file = tmp_path / "admin.json"
    printed = in_a_pipe(file)
    assert "stockade_admin_" not in printed
    assert "stockade admin token --new" in printed
    assert not file.exists(), "a token that no one has seen is of no use"


def test_a_person_on_a_terminal_sees_it_once(tmp_path: Path) -> None:
    file = tmp_path / "admin.json"
    printed = on_a_terminal(file)
    assert "stockade_admin_" in printed
    assert json.loads(file.read_text())["token_sha256"]
    assert in_a_pipe(file) == "", "there is one: nothing to say"

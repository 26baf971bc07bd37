"""`${command:PROGRAM ARGUMENTS}`: what a program of this machine prints, such as a password manager's.

It blocks: call it in a thread.

No shell takes part unless the reference names one. The program gets no input and none of Stockade's own variables. Its
output is the value and is said nowhere; of its errors the last line, cut, is in the message.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping
from typing import Final

from registry.secrets.errors import MAX_BYTES

TIMEOUT_S: Final = 10.0
LOOK_S: Final = 0.05
MOST_WORDS: Final = 200
"""Characters of the program's last line on standard error that a message has."""
OWN: Final = "STOCKADE_"


class CommandFailed(Exception):
    """Raised when the program gives no value; the text says why and holds no output of it."""


def run(line: str, env: Mapping[str, str], timeout_s: float = TIMEOUT_S) -> str:
    """What the program printed, without one line break at its end. Raises CommandFailed."""
    try:
        words = shlex.split(line)
        inherited = {key: text for key, text in env.items() if not key.startswith(OWN)}
        process = subprocess.Popen(  # noqa: S603  # the user's own command
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=inherited,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it is no command line"
        raise CommandFailed(f"could not be started: {why}") from None
    with process:
        try:
            output, errors = collect(process, time.monotonic() + timeout_s)
            code = process.wait(LOOK_S)
        except TimeoutError:
            raise CommandFailed(f"did not end within {timeout_s:g} seconds, so it was ended") from None
        except subprocess.TimeoutExpired:
            raise CommandFailed("closed its output and did not end, so it was ended") from None
        finally:
            end(process)
    value = output.decode("utf-8", "surrogateescape").removesuffix("\n").removesuffix("\r")
    if len(output) > MAX_BYTES:
        raise CommandFailed(f"printed more than {MAX_BYTES} bytes")
    if code != 0:
        raise CommandFailed(f"ended with code {code}{last_line(errors, value)}")
    if not value:
        raise CommandFailed(f"printed nothing{last_line(errors, value)}")
    return value


def collect(process: subprocess.Popen[bytes], deadline: float) -> tuple[bytes, bytes]:
    """Standard output (one byte more than allowed at most) and the end of standard error. Raises TimeoutError."""
    assert process.stdout is not None
    assert process.stderr is not None
    found = {process.stdout: b"", process.stderr: b""}
    with selectors.DefaultSelector() as selector:
        for stream in found:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            if time.monotonic() > deadline:
                raise TimeoutError
            ready = selector.select(LOOK_S)
            if not ready and process.poll() is not None:
                break  # what it started and left running may hold its output open
            for key, _ in ready:
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    selector.unregister(key.fileobj)
                elif key.fileobj is process.stdout:
                    found[process.stdout] += chunk
                    if len(found[process.stdout]) > MAX_BYTES:
                        return found[process.stdout], b""
                else:
                    found[process.stderr] = (found[process.stderr] + chunk)[-4096:]
        while process.poll() is None:
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(LOOK_S / 10)
    return found[process.stdout], found[process.stderr]


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends it with all that it started in its session."""
    if process.poll() is None:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def last_line(errors: bytes, value: str) -> str:
    """The program's last words, printable and cut; none that repeat its output."""
    lines = [line for line in errors.decode(errors="replace").splitlines() if line.strip()]
    if not lines or (value and any(part in lines[-1] for part in value.split())):
        return ""
    said = "".join(char if char.isprintable() else " " for char in lines[-1].strip())
    return f": {said[:MOST_WORDS]}"

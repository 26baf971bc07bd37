"""What the commands cost: CPU time of each, as a multiple of `python3 -c pass`, medians of several runs in turn.

`python bench/commands.py [--runs N] [--check] [COMMAND …]`. CPU time (user and system) is the child's own, read with
wait4(2), so other work on the machine changes it little; wall time is not looked at. Commands that need a gateway get one
in memory (the tests' own), with its control socket in a temporary folder. `--check` exits with 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

PROGRAM = str(Path(sys.executable).with_name("stockade"))
EMPTY = "python3 -c pass"
COMPLETION = "completion of a name"
BARS = {
    "--help": 4.0,
    "version": 4.0,
    COMPLETION: 8.0,
    "ps": 8.0,
    "egress tail": 8.0,
    "tools ls": 8.0,
    "client ls": 8.0,
    "validate": 8.0,
    "search": 8.0,
    "info fetch": 8.0,
}
"""Commands, and the most that each should cost, in multiples of an empty Python."""


def cpu_s(command: list[str], more: Mapping[str, str]) -> float:
    """CPU seconds of one run. Raises RuntimeError when the command fails."""
    child = subprocess.Popen(
        command, env={**os.environ, **more}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}")
    return used.ru_utime + used.ru_stime


def words_of(name: str) -> tuple[list[str], dict[str, str]]:
    """A command of the table, and the environment that it needs."""
    if name == EMPTY:
        return [sys.executable, "-c", "pass"], {}
    if name == COMPLETION:
        asked = {"COMP_WORDS": "stockade logs f", "COMP_CWORD": "2", "_STOCKADE_COMPLETE": "complete_bash"}
        return [PROGRAM], asked
    return [PROGRAM, *name.split()], {}


@contextlib.contextmanager
def gateway() -> Iterator[None]:
    """A gateway with two servers for the configuration file of a temporary working directory."""
    from gateway.control.running import process_started
    from tests.gateway.control.fakes import gateway_for_cli

    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="stockade-bench-") as name:
        home, state, work = (Path(name) / part for part in ("home", "s", "work"))
        for folder in (home, state, work):
            folder.mkdir()
        os.environ |= {"HOME": str(home), "STOCKADE_STATE_DIR": str(state)}
        os.chdir(work)
        try:
            with gateway_for_cli(state, work, os.getpid(), process_started(os.getpid()) or ""):
                yield
        finally:
            os.chdir(before)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("commands", nargs="*", metavar="COMMAND")
    arguments = parser.parse_args()
    names = [EMPTY, *(arguments.commands or BARS)]
    took: dict[str, list[float]] = {name: [] for name in names}
    with gateway():
        for number in range(arguments.runs + 1):
            for name in names:  # in turn, so that a busy moment hits all of them alike
                command, more = words_of(name)
                seconds = cpu_s(command, more)
                if number:  # the first run compiles what is not compiled yet
                    took[name].append(seconds)
    base = statistics.median(took[EMPTY])
    print(f"| command | CPU (ms) | times `{EMPTY}` | bar |\n| --- | --- | --- | --- |")
    missed = []
    for name in names:
        middle = statistics.median(took[name])
        bar = BARS.get(name)
        if bar is not None and middle / base > bar:
            missed.append(name)
        print(f"| {name} | {middle * 1000:.0f} | {middle / base:.1f} | {'' if bar is None else f'{bar:g}'} |")
    if missed:
        print(f"Above the bar: {', '.join(missed)}.")
    return 1 if missed and arguments.check else 0


if __name__ == "__main__":
    raise SystemExit(main())

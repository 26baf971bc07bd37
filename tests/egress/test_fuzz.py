"""Fuzzing in short: by coverage where atheris is installed, by hypothesis everywhere. By hand for longer: fuzz/run.py."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.egress.fuzz.targets import TARGETS, seeds

ROOT = Path(__file__).parents[2]
PEERS = int(os.environ.get("STOCKADE_FUZZ_PEERS", "3000"))
RUNS = int(os.environ.get("STOCKADE_FUZZ_RUNS", "100000"))
SEEDS = {name: seeds(name) for name in TARGETS}


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_of_a_target_are_taken_and_refused(name: str) -> None:
    """Or it would fuzz nothing."""
    taken = [TARGETS[name](seed) for seed in SEEDS[name]]
    assert any(taken)
    assert not TARGETS[name](b"\0\0")


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.data())
def test_a_damaged_seed_breaks_nothing(name: str, data: st.DataObject) -> None:
    damaged = bytearray(data.draw(st.sampled_from(SEEDS[name])))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged)))
        damaged[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    TARGETS[name](bytes(damaged))


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this machine")
@pytest.mark.parametrize("name", TARGETS)
def test_what_coverage_leads_to_breaks_nothing(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.egress.fuzz.run", name, f"-runs={RUNS}", "-seed=1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=250)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert f"Done {RUNS} runs" in done.stderr


@pytest.mark.netns
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace")
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_peers_that_end_at_any_moment_break_nothing(loop: str) -> None:
    """Thousands of clients and servers that say what they like and end when they like."""
    command = ["unshare", "--net", "--mount", sys.executable, "-m", "tests.egress.fuzz.peers", str(PEERS), "1"]
    environment = {**os.environ, "STOCKADE_LOOP": loop}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout.splitlines()[-1]) == []

"""What keeps tools from starting a program while they download with credentials."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from gateway.runtime.images.download_only import ALONE, FOLDER, PREPARE


def run(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    script = f"{PREPARE}{script}".replace(FOLDER, str(folder / "guard"))
    return subprocess.run(["sh", "-euc", script], capture_output=True, text=True, check=False)


def test_git_says_what_to_do(tmp_path: Path) -> None:
    ran = run(tmp_path, "git clone x")
    assert (ran.returncode, "STOCKADE_BUILD_CREDENTIALS=visible" in ran.stderr) == (1, True)


@pytest.mark.skipif(not shutil.which("node"), reason="needs node")
@pytest.mark.parametrize("name", ["spawn", "exec", "execFile", "fork", "spawnSync", "execSync", "execFileSync"])
def test_node_starts_no_program(tmp_path: Path, name: str) -> None:
    ran = run(tmp_path, f"{ALONE} node -e \"require('node:child_process').{name}('true')\"")
    assert (ran.returncode, "Git repository" in ran.stderr) == (1, True)
    assert run(tmp_path, f"{ALONE} node -e 1").returncode == 0

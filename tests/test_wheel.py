"""What an installation has: the four packages with every file they need at run time, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("egress", "gateway", "observability", "registry")
NEEDED = [
    "gateway/web/static/index.html",
    "gateway/web/static/vendor/htm-preact.js",
    "gateway/runtime/engine/data/seccomp-engine-default.json",
    "observability/dashboards/egress.json",
    "observability/prometheus/alerts.yml",
    "registry/data/fetch.yaml",
    "registry/schema/stockade.schema.json",
    "egress/door/door.py",  # copied into the egress image from the installation
    *(f"{package}/py.typed" for package in PACKAGES),
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel as a user gets it, made from this checkout."""
    uv = shutil.which("uv") or str(Path.home() / ".cache/stockade/uv/bin/uv")
    out = tmp_path_factory.mktemp("dist")
    built = subprocess.run(
        [uv, "build", "--quiet", "--wheel", "--out-dir", str(out), str(ROOT)], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    (path,) = out.glob("stockade-*.whl")
    return zipfile.ZipFile(path)


def metadata(wheel: zipfile.ZipFile, name: str) -> str:
    (path,) = [entry for entry in wheel.namelist() if entry.endswith(f".dist-info/{name}")]
    return wheel.read(path).decode()


def test_it_has_exactly_the_files_of_the_four_packages(wheel: zipfile.ZipFile) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PACKAGES],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    ours = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert ours == {name for name in listed if (ROOT / name).exists()}


@pytest.mark.parametrize("name", NEEDED)
def test_it_has_what_the_gateway_reads_at_run_time(wheel: zipfile.ZipFile, name: str) -> None:
    assert wheel.getinfo(name).file_size or name.endswith("py.typed")


def test_it_has_no_tests_examples_or_benchmarks(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_it_has_the_licence_the_command_and_the_readme(wheel: zipfile.ZipFile) -> None:
    assert "Apache License" in metadata(wheel, "licenses/LICENSE")
    assert "stockade = gateway.cli.main:main" in metadata(wheel, "entry_points.txt")
    about = HeaderParser().parsestr(metadata(wheel, "METADATA"))
    assert (about["Name"], about["License-Expression"]) == ("stockade", "Apache-2.0")
    assert about["Requires-Python"] == ">=3.11"
    assert about.get_payload().startswith("# Stockade")

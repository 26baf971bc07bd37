"""The tables of docs/servers.md are what the commands mean."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from registry.model.forms.keys import named
from registry.model.sources import ProjectSource, RemoteSource
from registry.model.spec import plan_source
from tests.registry.forms.entries import entry

TEXT = (Path(__file__).parents[3] / "docs" / "servers.md").read_text()
ROWS = re.findall(r"^\| `([^`]+)` \| (a[^|:,]+?)[ ]*(?:[:,] *([^|]*))?\|$", TEXT, re.MULTILINE)


def test_the_page_has_tables() -> None:
    assert len(ROWS) == len(re.findall(r"^\| `", TEXT, re.MULTILINE)) > 40


@pytest.mark.parametrize(("words", "kind", "more"), ROWS, ids=[row[0] for row in ROWS])
def test_a_command_of_the_page_runs_as_it_says(words: str, kind: str, more: str) -> None:
    folder = {"cwd": "/work/folder"} if "in `cwd`" in more else {}
    source = plan_source(entry(shlex.split(words), **folder))
    assert not isinstance(source, RemoteSource)
    assert named(source) == kind
    if folder:
        assert isinstance(source, ProjectSource)
        assert source.folder == "/work/folder"

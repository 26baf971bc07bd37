"""`docs/trials.md` names a test for each case, and the tests are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = [line for line in (ROOT / "docs" / "trials.md").read_text().splitlines() if re.match(r"\| [A-Z`]", line)]
NAMED = re.compile(r"(tests/[\w/]+\.py)?(?:::(\w+))?")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_the_case_is_held_by_a_test_that_is_there_or_is_said_to_be_open(row: str) -> None:
    _, *middle, named = (cell.strip() for cell in row.strip().strip("|").split(" | "))
    what = " | ".join(middle)
    if "`" not in named:
        assert what.startswith("Open: ")
        return
    path = ""
    tests = [NAMED.fullmatch(one) for one in re.findall(r"`([^`]+)`", named)]
    assert tests
    for found in tests:
        assert found is not None, named
        path = found[1] or path
        text = (ROOT / path).read_text()
        assert found[2] is None or re.search(rf"def {found[2]}\b", text), f"{path} has no {found[2]}"

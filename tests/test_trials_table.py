"""`docs/trials.md` names a test for each case, and the tests are there; `scripts/trials` reads the page and its outcomes."""

from __future__ import annotations

import re

import pytest

from tests.trials import PAGE, ROOT, Case, Outcomes, cases, main

CASES = list(cases(PAGE.read_text()))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.trial} {case.name}")
def test_the_case_is_held_by_a_test_that_is_there_or_is_said_to_be_open(case: Case) -> None:
    if not case.tests:
        assert case.right.startswith("Open: ")
    for test in case.tests:
        path, _, name = test.partition("::")
        assert not name or re.search(rf"def {name}\b", (ROOT / path).read_text()), f"{path} has no {name}"


def test_every_trial_is_on_the_page() -> None:
    assert {case.trial for case in CASES} == {"T", "S", "U"}


def test_a_case_passed_only_where_each_of_its_tests_ran_and_passed() -> None:
    outcomes = Outcomes()
    outcomes.of |= {
        "tests/a.py::one": ["passed", "passed"],
        "tests/a.py::two": ["failed"],
        "tests/b.py::X::six": ["skipped"],
    }
    assert outcomes.said(("tests/a.py::one",)) == "2 passed"
    assert outcomes.said(("tests/a.py",)) == "1 failed, 2 passed"
    assert outcomes.said(("tests/a.py::one", "tests/b.py")) == "1 skipped, 2 passed"
    assert outcomes.said(("tests/a.py::one", "tests/a.py::three")) == "not run"
    assert outcomes.said(("tests/a.py::on",)) == "not run"


def test_a_cell_that_names_no_test_is_an_error() -> None:
    assert next(cases("## A (T)\n| A1 | x | `tests/a.py::one`, `::two` |")).tests == (
        "tests/a.py::one",
        "tests/a.py::two",
    )
    with pytest.raises(ValueError, match="no test can be read"):
        list(cases("| A1 | x | `a test` |"))


def test_a_case_that_the_page_does_not_have_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["Z99"]) == 2
    assert "no case Z99; it has A1, " in capsys.readouterr().out

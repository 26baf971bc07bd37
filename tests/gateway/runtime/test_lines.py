"""Which line suits what is asked for: by tables, and by what packaging says of the same specifier."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from gateway.runtime.images.lines import (
    NODE_LINES,
    PYTHON_LINES,
    RELEASES,
    best_node,
    best_python,
    exact_release,
    suitable_node,
    suitable_python,
)


@pytest.mark.parametrize(
    ("wanted", "line"),
    [
        ("", "3.13"),
        ("3.12", "3.12"),
        ("3.12.4", "3.12"),
        ("3.12.77", "3.12"),
        ("python3.10", "3.10"),
        ("cpython@3.11", "3.11"),
        (">=3.10", "3.13"),
        (">=3.12,<3.13", "3.12"),
        ("==3.14.*", "3.14"),
        ("~=3.11.2", "3.11"),
        ("<=3.12", "3.11"),
        (">=3.14", "3.14"),
        (">= 3.13.2", "3.13"),
        (">=3.11, !=3.13.*, !=3.14.*", "3.12"),
        (">=3.10.0rc1", "3.13"),
        ("3.9", None),
        (">=3.15", None),
        ("pypy3.10", None),
        (">=3.12 or so", None),
    ],
)
def test_a_line_of_python_is_chosen_by_a_version_or_a_specifier(wanted: str, line: str | None) -> None:
    assert best_python(wanted) == line


@pytest.mark.parametrize(
    ("wanted", "line"),
    [
        ("", "24"),
        ("*", "24"),
        ("22", "22"),
        ("v20.3.1", "20"),
        ("20.99.99", "20"),
        (">=18", "24"),
        (">=18 <23", "22"),
        ("^20 || ^18", "20"),
        ("20 - 22", "22"),
        ("20.x", "20"),
        ("~22.3", "22"),
        ("<=20", "20"),
        (">22", "24"),
        ("<22.0.0-0", "20"),
        (">= 20.19.0 <21 || >= 22.12", "24"),
        ("16.x", None),
        (">=26", None),
        ("lts/*", None),
    ],
)
def test_a_line_of_node_is_chosen_by_a_version_or_a_range(wanted: str, line: str | None) -> None:
    assert best_node(wanted) == line


CLAUSES = st.builds(
    lambda operator, minor, rest: f"{operator}3.{minor}{rest}",
    st.sampled_from([">=", "<=", "<", ">", "~=", "==", "!="]),
    st.integers(min_value=8, max_value=16),
    st.sampled_from(["", ".0", ".4"]),
) | st.builds(lambda operator, minor: f"{operator}3.{minor}.*", st.sampled_from(["==", "!="]), st.integers(8, 16))


@given(st.lists(CLAUSES, max_size=3).map(", ".join))
def test_lines_suit_a_specifier_as_packaging_says_of_their_releases(specifier: str) -> None:
    wanted = SpecifierSet(specifier)
    expected = [line for line in PYTHON_LINES if any(Version(f"{line}.{release}") in wanted for release in RELEASES)]
    assert list(suitable_python(specifier)) == expected


@given(st.text(max_size=30))
def test_any_text_is_read_and_chooses_a_line_that_there_is_or_none(text: str) -> None:
    assert set(suitable_python(text)) <= set(PYTHON_LINES)
    assert set(suitable_node(text)) <= set(NODE_LINES)


@pytest.mark.parametrize(("wanted", "release"), [("3.12.4", "3.12.4"), ("3.12", ""), (">=3.12.4", ""), ("", "")])
def test_only_a_release_that_is_named_whole_is_exact(wanted: str, release: str) -> None:
    assert exact_release(wanted) == release

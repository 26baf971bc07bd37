"""What a mistyped name is taken to mean."""

from __future__ import annotations

import pytest

from egress.policy.nearest import nearest
from registry.importers.entry import convert
from registry.model.nearest import nearest_key


@pytest.mark.parametrize(
    ("given", "found"),
    [("gitub", "github"), ("github", "github"), ("zzz", None), ("", None)],
)
def test_the_nearest_name_is_found_or_none(given: str, found: str | None) -> None:
    assert nearest(given, ["fetch", "github"]) == found


@pytest.mark.parametrize(
    ("given", "found"),
    [("allowed-hosts", "allowed_hosts"), ("allowedHost", "allowed_hosts"), ("hosts", None), ("x", None)],
)
def test_a_key_is_near_in_any_spelling(given: str, found: str | None) -> None:
    assert nearest_key(given, ["allowed_hosts", "mode"]) == found


def test_a_key_is_taken_by_what_it_is_near_to_and_not_by_the_words_of_a_hint() -> None:
    """`Did you mean` in a key's own name decides nothing."""
    assert convert({"command": "x", "mout": 1}).entry == {"command": "x", "mout": 1}
    unread = convert({"command": "x", "Did you mean": 1})
    assert unread.entry == {"command": "x"}
    assert [note.path for note in unread.notes] == [("Did you mean",)]

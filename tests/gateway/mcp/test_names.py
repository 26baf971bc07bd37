"""Names on the aggregate endpoint."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from gateway.mcp.view.names import MAX_NAME, NameTable, exposed_name

words = st.text("abcdefgh_-", min_size=1, max_size=90)


def test_a_name_is_prefix_separator_name() -> None:
    assert exposed_name("fetch", "__", "get") == "fetch__get"
    assert exposed_name("", "__", "get") == "get"


long_words = st.integers(20, 300).flatmap(lambda length: st.text("abcdefgh_-", min_size=length, max_size=length))


@given(words | long_words, words | long_words)
@example("s" * 31, "t" * 128)
@example("s" * 30, "t" * 32)
@example("", "t" * 65)
def test_no_name_is_longer_than_64_characters(prefix: str, name: str) -> None:
    full = f"{prefix}__{name}" if prefix else name
    exposed = exposed_name(prefix, "__", name)
    assert len(exposed) == min(len(full), MAX_NAME)
    assert (exposed == full) is (len(full) <= MAX_NAME)


@given(st.lists(words, min_size=1, max_size=20, unique=True))
def test_every_exposed_name_leads_back_to_its_owner(names: list[str]) -> None:
    table = NameTable("__")
    table.add("one", "one", names)
    table.add("two", "two", names)
    for backend in ("one", "two"):
        for name in names:
            exposed = table.exposed(backend, name)
            assert exposed is not None
            assert table.owner(exposed) == (backend, name)


def test_two_long_names_with_the_same_beginning_stay_apart() -> None:
    table = NameTable("__")
    table.add("server", "server", ["x" * 80 + "1", "x" * 80 + "2"])
    assert table.exposed("server", "x" * 80 + "1") != table.exposed("server", "x" * 80 + "2")


def test_a_taken_name_is_prefixed_with_the_backends_own_and_reported() -> None:
    table = NameTable("__")
    table.add("one", "", ["search"])
    table.add("two", "", ["search", "other"])
    assert table.owner("search") == ("one", "search")
    assert table.owner("two__search") == ("two", "search")
    assert table.owner("other") == ("two", "other")
    assert table.conflicts == [("two", "search", "two__search")]


def test_an_unprefixed_name_counts_only_when_one_backend_has_it() -> None:
    table = NameTable("__")
    table.add("one", "one", ["shared", "mine"])
    table.add("two", "two", ["shared"])
    assert table.owner("mine") == ("one", "mine")
    assert table.owner("shared") is None
    assert table.owner("nobody") is None

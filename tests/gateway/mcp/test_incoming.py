"""What a backend sends is read strictly, and passes on as it came unless something in it must change."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mcp.wire import codec, incoming

LINE = b'{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"1.10 \\u00e9 \\u001b[0m"}],"n":1.10}}'


def test_what_is_sound_passes_as_it_came() -> None:
    message, text = incoming.read(LINE)
    assert text is LINE
    assert message["result"]["n"] == 1.1


@pytest.mark.parametrize("value", [b"NaN", b"Infinity", b"-Infinity", b"[" * 100_000])
def test_what_is_no_json_is_no_message(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        incoming.read(b'{"id":1,"result":{"x":%b}}' % value)


@pytest.mark.parametrize("text", [b"\xed\xa0\x80", b"\xff", b"caf\xe9", b"\xc3", b"\xf0\x9f\x98"])
def test_bytes_that_are_no_utf_8_are_replaced(text: bytes) -> None:
    message, passed = incoming.read(b'{"id":1,"result":{"x":"a%bz"}}' % text)
    assert message["result"]["x"] == f"a{text.decode('utf-8', 'replace')}z"
    assert json.loads(passed.decode()) == message


def test_what_is_nearly_json_tells_whose_answer_it_is() -> None:
    assert incoming.salvaged(b'{"id":7,"result":{"x":NaN}}') == {
        "id": 7,
        "result": {"x": pytest.approx(float("nan"), nan_ok=True)},
    }
    for text in (
        b'{"id":7,"method":"x","params":{"x":NaN}}',
        b"garbage",
        b'{"id":7',
        b"[NaN]",
        b'{"id":7,"result":NaN}',
    ):
        assert incoming.salvaged(text) is None


@given(
    st.lists(st.sampled_from([r"\ud83d", r"\ude00", r"\uD83D", r"\uDE00", "\\\\", r"\n", "a", "ud83d", r"\u00e9"]))
)
def test_no_half_of_a_pair_is_left_and_whole_ones_stay(pieces: list[str]) -> None:
    text = '{"x": "' + "".join(pieces) + '"}'
    message, passed = incoming.read(text.encode())
    expected = json.loads(text)["x"].encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert message["x"] == expected
    assert json.loads(passed)["x"] == expected


def test_half_a_pair_in_a_large_message_is_refused_not_searched_for() -> None:
    with pytest.raises(ValueError, match="half a surrogate pair"):
        incoming.read(b'{"x": "\\ud83d' + b"x" * 2_000_000 + b'"}')


@pytest.mark.parametrize(
    "name", ["stockade/egress", "\\u0073tockade/egress", "stockade\\/egress", "stockade\\u002Fegress"]
)
def test_our_own_words_are_dropped_however_they_are_spelled(name: str) -> None:
    meta = f'{{"{name}": 1, "kept": 2}}'
    for text in (
        f'{{"id":1,"result":{{"_meta":{meta},"content":[{{"_meta":{meta},"resource":{{"_meta":{meta}}}}}]}}}}',
        f'{{"method":"notifications/message","params":{{"_meta":{meta}}}}}',
        f'{{"id":1,"error":{{"code":1,"message":"m","data":{meta}}}}}',
    ):
        message, passed = incoming.read(text.encode())
        assert "stockade" not in json.dumps(message)
        assert "kept" in json.dumps(message)
        assert passed == b""


@pytest.mark.parametrize(
    "error", [{}, {"code": "x"}, {"code": True, "message": None}, {"message": [1]}, {"code": 1.5, "message": {}}]
)
def test_an_error_has_a_code_and_a_message(error: dict[str, Any]) -> None:
    message, _ = incoming.read(json.dumps({"id": 1, "error": error}).encode())
    assert type(message["error"]["code"]) is int
    assert isinstance(message["error"]["message"], str)


def test_a_number_that_no_float_holds_is_written_as_json_again() -> None:
    message, _ = incoming.read(b'{"x":[1e999,-1e999]}')
    assert codec.dumps(message) == b'{"x":[1e999,-1e999]}'
    with pytest.raises(ValueError, match="JSON"):
        codec.dumps({"x": float("nan")})

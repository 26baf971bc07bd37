"""JSON in and out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mcp.call.answer import event
from gateway.mcp.wire import codec


@pytest.mark.parametrize(
    "text",
    ["1.10", "1e400", "-0.0", "1E5", "0.1", "123456789012345678901234567890", "1.0", "-5", "2.50e-3"],
)
def test_numbers_keep_their_spelling(text: str) -> None:
    body = f'{{"a":{text},"b":[{text}]}}'.encode()
    assert codec.dumps(codec.parse(body)) == body


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":2}',
        b'{"a":{"b":1,"b":1}}',
        b'[{"x":1,"x":1}]',
        b"NaN",
        b"Infinity",
        b'{"a":-Infinity}',
        b"\xff",
        b'"\xed\xa0\x80"',
        b"",
        b"{",
        b"[" * 100_000,
        b"\xef\xbb\xbf{}",
        b"1" * 5000,
    ],
)
def test_what_two_readers_could_read_differently_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):
        codec.parse(body)


@pytest.mark.parametrize("text", ["\ud800", "\u2028", "\0" + "1.5", "é", "\n"])
def test_strings_survive(text: str) -> None:
    assert json.loads(codec.dumps({"a": text})) == {"a": text}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_what_is_written_reads_the_same(value: Any) -> None:
    assert json.loads(codec.dumps(codec.parse(json.dumps(value).encode()))) == value


@pytest.mark.parametrize(
    ("line", "result"),
    [
        (b'{"jsonrpc":"2.0","id":7,"result":{"a":1.10}}', b'{"a":1.10}'),
        (b'{"result":{"a":1},"jsonrpc":"2.0","id":7}', b'{"a":1}'),
        (b'{"jsonrpc": "2.0", "id": 7, "result": {}}', None),
        (b'{"jsonrpc":"2.0","id":8,"result":{}}', None),
        (b'{"jsonrpc":"2.0","id":7,"result":{\n}}', None),
        (b'{"jsonrpc":"2.0","id":7,"result":{"a":1}}\n', b'{"a":1}'),
        (b'{"jsonrpc":"2.0","id":7,"result":{"a":1}} \r', b'{"a":1}'),
        (b'{"result":{"a":1},"jsonrpc":"2.0","id":7}\r\n', b'{"a":1}'),
    ],
    ids=["python", "typescript", "spaces", "another id", "line break", "go", "carriage return", "typescript, CRLF"],
)
def test_a_results_bytes_are_cut_out_where_the_spelling_is_known(line: bytes, result: bytes | None) -> None:
    assert codec.result_text(line, 7) == result


@pytest.mark.parametrize(
    "line",
    [
        b'{"result":{"a":1},"id":99,"jsonrpc":"2.0","id":7}',
        b'{"result":{"a":{}} , "id":99,"jsonrpc":"2.0","id":7}',
        b'{"result":{"a":1},"\\u0069d":99,"jsonrpc":"2.0","id":7}',
        b'{"result":{"a":1},"i\\u0064":99,"jsonrpc":"2.0","id":7}',
        b'{"result":5,"id":99,"result":{"a":1},"jsonrpc":"2.0","id":7}',
        b'{"jsonrpc":"2.0","id":7,"result":{"a":1},"id":7}',
    ],
)
def test_a_response_never_carries_a_second_id_of_the_backends_choice(line: bytes) -> None:
    assert json.loads(line)["id"] == 7
    raw = codec.result_text(line, 7)
    body = raw if raw is not None else codec.dumps(json.loads(line)["result"])
    assert json.loads(codec.response(3, body))["id"] == 3


@pytest.mark.parametrize("number", [1, "one", -5, 'a"b'])
def test_a_response_carries_the_clients_id(number: Any) -> None:
    assert json.loads(codec.response(number, b"{}")) == {"jsonrpc": "2.0", "id": number, "result": {}}
    error = {"code": 1, "message": "x"}
    assert json.loads(codec.error_response(number, error)) == {"jsonrpc": "2.0", "id": number, "error": error}


ENDS = ["\u2028", "\u2029", "\x85"]


@pytest.mark.parametrize("end", ENDS)
def test_an_event_is_one_line_to_every_reader(end: str) -> None:
    text = f'{{"{end}":"a{end}{end}\u201c \xc5 b","n":1.10}}'
    said = event(text.encode()).decode()
    assert len(said.splitlines()) == 3
    data = said.splitlines()[1].removeprefix("data: ")
    assert json.loads(data) == json.loads(text)
    assert codec.one_line(data.encode()) == data.encode()


def test_text_without_such_characters_passes_as_it_is() -> None:
    text = '{"a":"\u201cquoted\u201d \xc5 \u2026"}'.encode()
    assert codec.one_line(text) == text

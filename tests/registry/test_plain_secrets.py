"""Secrets that stand in an entry are found by name, by place and by their look, and covered however they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from registry.edit import add_servers, apply, edit_config, remove_server
from registry.model.plain_secrets import covered, plain_secrets

FOUND: dict[str, tuple[dict[str, Any], str]] = {
    "a variable": ({"env": {"MY_API_KEY": "abcdef12"}}, "abcdef12"),
    "a header": ({"headers": {"Authorization": "Bearer abcdef12"}}, "abcdef12"),
    "a token by its look": ({"env": {"X": "use glpat-abcdefghijkl now"}}, "glpat-abcdefghijkl"),
    "an option": ({"args": ["--api-key=abcdef12"]}, "abcdef12"),
    "an option and its value": ({"args": ["--access_token", "abcdef12"]}, "abcdef12"),
    "docker's variable": ({"args": ["run", "-e", "DB_PASSWORD=abcdef12", "img"]}, "abcdef12"),
    "a header in an argument": ({"args": ["--header", "X-Api-Key: abcdef12"]}, "abcdef12"),
    "a URL's password": ({"args": ["mysql://u:pw1@h/db"]}, "pw1"),
    "a URL's key": ({"url": "https://a.example/?x=1&token=abcdef12#f"}, "abcdef12"),
    "a client's own words": ({"command": ["x", "--token", "abcdef12"], "environment": {}}, "abcdef12"),
}
NOT: dict[str, dict[str, Any]] = {
    "a reference": {"env": {"A_TOKEN": "${secret:a}"}, "args": ["--token", "${env:A}", "pg://u:${secret:p}@h"]},
    "a file": {"env": {"A_TOKEN": "/run/token"}, "args": ["--key", "./key.pem", "--token=~/token"]},
    "an option without a value": {"args": ["--token", "--verbose"]},
    "a limit": {"args": ["--max-tokens", "100000", "--token-limit=100000"], "env": {"TOKENS": "100000"}},
    "a short one": {"env": {"PASSWORD": "x"}},
    "another shape": {"env": ["TOKEN=abcdef12"], "args": "--token abcdef12", "headers": None, "url": 7},
}


@pytest.mark.parametrize(("entry", "value"), FOUND.values(), ids=FOUND)
def test_a_secret_is_found_once_and_covered(entry: dict[str, Any], value: str) -> None:
    assert [plain.value for plain in plain_secrets(entry)] == [value]
    assert value not in str(covered(entry))


@pytest.mark.parametrize("entry", NOT.values(), ids=NOT)
def test_what_is_no_secret_is_not_found(entry: dict[str, Any]) -> None:
    assert plain_secrets(entry) == []
    assert covered(entry) == entry


WRITTEN = {
    "spaces": "word " * 40 + "end",
    "letters of no ASCII": "ünïcödé-tökén-12345",
    "quotes": "with\"quote'and\\back",
    "lines": "-----BEGIN KEY-----\nabcdefabcdef\nghijklghijkl\n-----END KEY-----\n",
    "signs": "#hash: colon-value",
}


@pytest.mark.parametrize("file", ["s.yaml", "s.json"])
@pytest.mark.parametrize("value", WRITTEN.values(), ids=WRITTEN)
def test_no_diff_shows_one_however_it_is_written(tmp_path: Path, value: str, file: str) -> None:
    path = tmp_path / file
    if file.endswith("json"):
        path.write_text('{"version": 1, "mcpServers": {}}')
    edit = edit_config(path, add_servers({"a": {"image": "i", "env": {"MY_TOKEN": value}}}))
    apply(edit)
    shown = edit.diff + edit_config(path, remove_server("a")).diff
    assert "MY_TOKEN" in shown
    assert not [line for line in value.splitlines() if line[:20] in shown]


@pytest.mark.parametrize(
    "style", [">-\n        {0}\n        {1}", "|\n        {0}\n        {1}", '"{0}\n        {1}"']
)
def test_a_secret_over_several_lines_is_covered_too(tmp_path: Path, style: str) -> None:
    path = tmp_path / "s.yaml"
    written = style.format("firsthalf", "secondhalf")
    path.write_text(f"version: 1\nmcpServers:\n  a:\n    image: i\n    env:\n      MY_TOKEN: {written}\n")
    shown = edit_config(path, remove_server("a")).diff
    assert "MY_TOKEN" in shown
    assert "firsthalf" not in shown
    assert "secondhalf" not in shown

"""What a check of many rules costs."""

from __future__ import annotations

from pathlib import Path

import publicsuffixlist
import pytest

from egress.policy.suggest import public_suffixes
from registry.edit import allow_host, edit_config


def test_the_list_of_public_suffixes_is_read_once_whatever_the_number_of_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0
    real = publicsuffixlist.PublicSuffixList

    class Counted(real):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            nonlocal made
            made += 1
            super().__init__()

    monkeypatch.setattr(publicsuffixlist, "PublicSuffixList", Counted)
    public_suffixes.cache_clear()
    rules = "".join(f'        - ".x{index}.example.com"\n        - "*.github.io"\n' for index in range(25))
    path = tmp_path / "stockade.yaml"
    path.write_text(f"version: 1\nmcpServers:\n  a:\n    image: i\n    network:\n      allowed_hosts:\n{rules}")
    edit = edit_config(path, allow_host("a", "api.example.com"))
    assert "api.example.com" in edit.diff
    assert made == 1
    public_suffixes.cache_clear()

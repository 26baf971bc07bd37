"""The page explains every reason that the egress can give."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from observability.events import Reason

STATIC = Path(__file__).parents[3] / "gateway/web/static"


def explained() -> dict[str, str]:
    table = (STATIC / "reasons.js").read_text().split("export const REASONS = {")[1].split("\n};")[0]
    return dict(re.findall(r"^  (\w+): (reason\(.+\)),$", table, re.MULTILINE))


def test_the_page_knows_exactly_the_reasons_of_the_vocabulary() -> None:
    assert set(explained()) == {reason.value for reason in Reason}


@pytest.mark.parametrize("reason", Reason)
def test_each_reason_has_a_title_and_a_sentence(reason: Reason) -> None:
    title, sentence = re.findall(r"'((?:[^'\\]|\\.)*)'", explained()[reason])[:2]
    assert 0 < len(title) <= 32
    assert sentence.endswith(".")

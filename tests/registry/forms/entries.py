"""Entries made of words, for the tables of commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from registry.model.errors import ConfigError
from registry.model.server import Server
from registry.model.sources import PackageSource, ProjectSource
from registry.model.spec import plan_source


def entry(words: Sequence[str], **more: Any) -> Server:
    """An entry whose command is the first word."""
    return Server.model_validate({"command": words[0], "args": list(words[1:]), **more})


def package(words: Sequence[str], **more: Any) -> PackageSource:
    source = plan_source(entry(words, **more))
    assert isinstance(source, PackageSource)
    return source


def project(words: Sequence[str], **more: Any) -> ProjectSource:
    source = plan_source(entry(words, **more))
    assert isinstance(source, ProjectSource)
    return source


def refused(words: Sequence[str], **more: Any) -> str:
    """The error that an entry raises, as a person reads it."""
    with pytest.raises(ConfigError) as caught:
        plan_source(entry(words, **more))
    return str(caught.value)

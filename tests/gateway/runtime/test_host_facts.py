"""The upstream proxy: its password is a reference in the file, and escaped in the URL that is used."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from gateway.runtime.containers.host_facts import proxy_url
from registry.config import Config
from registry.secrets import SecretStore

STORE = SecretStore(env={"STOCKADE_SECRET_PW": "p@ss w:rd"}, folder=Path("/nowhere"), keyring=None)


@pytest.mark.parametrize(
    ("written", "filled"),
    [
        (None, None),
        ("http://proxy.example:3128", "http://proxy.example:3128"),
        ("http://me@proxy.example:3128", "http://me@proxy.example:3128"),
        ("http://me:${secret:pw}@proxy.example:3128", "http://me:p%40ss%20w%3Ard@proxy.example:3128"),
        ("http://${secret:pw}:${secret:pw}@proxy.example", "http://p%40ss%20w%3Ard:p%40ss%20w%3Ard@proxy.example"),
    ],
)
def test_secrets_of_the_upstream_proxy_are_filled_in_and_escaped(written: str | None, filled: str | None) -> None:
    Config.model_validate({"egress": {"upstream_proxy": written}})
    assert proxy_url(written, STORE.resolve) == filled


@pytest.mark.parametrize(
    "written", ["http://me:plain@proxy.example", "https://proxy.example", "proxy.example:3128", "http://a@b@c", ""]
)
def test_a_password_in_the_file_is_refused_and_not_shown(written: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Config.model_validate({"egress": {"upstream_proxy": written}})
    assert all("plain" not in error["msg"] for error in refused.value.errors())


def test_a_secret_that_is_not_set_is_named() -> None:
    with pytest.raises(ValueError, match="the secret 'none' is not set"):
        proxy_url("http://me:${secret:none}@proxy.example", STORE.resolve)

"""What a refused caller is told to do."""

from __future__ import annotations

import pytest

from egress.http.error_response import error_text
from observability.events import Reason


@pytest.mark.parametrize(
    ("host", "standalone", "advised"),
    [
        ("evil.example", False, True),
        ("8.8.8.8", False, True),
        ("127.0.0.1", False, False),
        ("::1", False, False),
        ("0.0.0.0", False, False),
        ("::ffff:127.0.0.1", False, False),
        ("127.0.0.1", True, True),
    ],
)
def test_nobody_is_told_to_allow_what_no_rule_opens(host: str, standalone: bool, advised: bool) -> None:
    said = error_text(
        Reason.IP_NOT_ALLOWED, backend="fetch", standalone=standalone, host=host, port=80, detail="no rule"
    )
    assert said.startswith(f"Stockade blocked {host}:80 (ip_not_allowed): no rule.")
    assert (" allow " in said) is advised
    assert "stockade" not in said, "what a program prints may reach a model, which may have a shell"

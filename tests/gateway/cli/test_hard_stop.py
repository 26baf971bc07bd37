"""What the file's check warns about as a metadata service, `egress allow` stops at: one list for both."""

from __future__ import annotations

import pytest

from egress.policy.addresses import METADATA_NAMES
from egress.policy.decide import parse_policy
from gateway.cli.allow import hard_stop
from registry.check.warnings import warn_rule

ADDRESSES = ["169.254.169.254", "fd00:ec2::254", "100.100.100.200"]
FORMS = ["{}", "{}.", ".{}", "*.{}"]
NAMES = [form.format(name) for name in sorted(METADATA_NAMES) for form in FORMS]


@pytest.mark.parametrize(
    "host",
    [
        *ADDRESSES,
        *(form.format(name) for name in sorted(METADATA_NAMES) for form in FORMS),
        "METADATA.google.internal",
    ],
)
def test_a_metadata_service_is_warned_about_and_stopped_at(host: str) -> None:
    (rule,) = parse_policy({"allowed_hosts": [host]}).rules
    said = [finding.message for finding in warn_rule(rule, ("network", "allowed_hosts", 0))]
    assert any("clouds hand out the machine's credentials" in text for text in said)
    assert "clouds hand out the machine's credentials" in hard_stop(host)


@pytest.mark.parametrize("host", ["metadata.example", "api.github.com", "10.0.0.1"])
def test_an_ordinary_host_is_not(host: str) -> None:
    assert hard_stop(host) == ""

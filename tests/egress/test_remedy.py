"""The advice for a refusal: the same everywhere, a line for people, a request to ask for models."""

from __future__ import annotations

import pytest

from egress.policy.remedy import Kind, Remedy, remedy
from observability.events import Reason, Via


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("host", ["evil.example", "2001:db8::1", ""])
def test_a_model_is_told_to_ask_and_never_given_a_command(kind: Kind, host: str) -> None:
    found = Remedy(kind=kind, host=host, port=8443, port_named=False)
    said = found.for_model("fetch")
    assert said.startswith("If the task needs it, ask the user ")
    assert "(server fetch)" in said
    assert "stockade" not in said
    assert "--" not in said
    assert found.for_people("fetch")


@pytest.mark.parametrize(
    ("reason", "host", "port", "more", "advice"),
    [
        (Reason.HOST_NOT_ALLOWED, "a.example", 443, {"port_named": True}, "stockade egress allow fetch a.example"),
        (Reason.HOST_NOT_ALLOWED, "a.example", 81, {}, "stockade egress allow fetch a.example:81"),
        (Reason.PORT_NOT_ALLOWED, "a.example", 81, {"port_named": True}, "stockade egress allow fetch a.example:81"),
        (Reason.IP_NOT_ALLOWED, "2001:db8::1", 81, {}, "stockade egress allow fetch '[2001:db8::1]:81'"),
        (
            Reason.HOST_NOT_ALLOWED,
            "host.docker.internal",
            443,
            {"port_named": True},
            "stockade egress allow fetch host.docker.internal:443",
        ),
        (Reason.DIRECT_ATTEMPT, "a.example", 53, {"via": [Via.DNS], "allowed": True}, "direct: allow"),
        (
            Reason.DIRECT_ATTEMPT,
            "::1",
            81,
            {},
            "allowed_hosts: [{host: host.docker.internal, port: 81, protocol: tcp}]",
        ),
        (Reason.NOT_TLS, "2001:db8::1", 81, {}, 'allowed_hosts: [{host: "2001:db8::1", port: 81, protocol: tcp}]'),
    ],
)
def test_a_person_is_told_the_line_that_lifts_it(
    reason: Reason, host: str, port: int, more: dict[str, object], advice: str
) -> None:
    found = remedy(reason, host, port, **more)  # type: ignore[arg-type]
    assert found is not None
    assert found.for_people("fetch") == advice


@pytest.mark.parametrize("reason", [Reason.HOST_NOT_ALLOWED, Reason.NOT_TLS, Reason.DIRECT_ATTEMPT])
@pytest.mark.parametrize("host", ["a b", "$(reboot)", "a;b", "-x", "a\n", "\\032", "x" * 300, "`id`"])
def test_what_is_no_host_gets_no_advice(reason: Reason, host: str) -> None:
    """A server chooses the text; people paste advice, and models read it."""
    assert remedy(reason, host, 443) is None


@pytest.mark.parametrize(
    "reason",
    [Reason.ADDRESS_METADATA, Reason.ADDRESS_SELF, Reason.SNI_MISMATCH, Reason.BAD_REQUEST, Reason.LIMIT_RATE],
)
def test_nobody_is_told_to_open_what_should_stay_closed(reason: Reason) -> None:
    assert remedy(reason, "a.example", 443) is None

"""One connection that a backend wants, as its events describe it."""

from __future__ import annotations

import time
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quoted

from egress.journal.record import MAX_DETAIL, MAX_HOST, Recorder
from observability.events import Decision, Phase, Reason, Via

KEPT = 512
"""Descriptions cached; each is made of bounded parts."""


PROGRESS_S = 15.0
NOTHING = (0, 0)

PHASES = {str(phase): f',"phase":"{phase}"' for phase in Phase}
DECISIONS = {str(decision): f',"decision":"{decision}"' for decision in Decision}


class Attempt:
    """One attempt of a backend to reach something, from its first byte to its end."""

    __slots__ = (
        "address",
        "backend",
        "carried",
        "client_address",
        "connect_s",
        "connection",
        "count",
        "decision",
        "description",
        "destination",
        "detail",
        "dns_s",
        "door",
        "host",
        "method",
        "mode",
        "next_report_at",
        "port",
        "reason",
        "recorder",
        "reported",
        "route_key",
        "rule",
        "rule_port",
        "started",
        "via",
    )

    def __init__(
        self,
        recorder: Recorder,
        *,
        backend: str,
        door: str,
        via: Via,
        mode: str,
        method: str = "",
        host: str = "",
        port: int = 0,
        client_address: str = "",
        destination: str = "",
        count: int = 1,
    ) -> None:
        self.recorder = recorder
        self.connection = recorder.number_connection()
        self.backend = backend
        self.door = door
        self.via = via
        self.mode = mode
        self.method = method
        self.host = host
        self.port = port
        self.client_address = client_address
        self.destination = destination
        self.count = count
        self.address = ""
        self.rule = ""
        self.rule_port: int | None = None
        self.reason: Reason | None = None
        self.decision = Decision.DENY
        self.detail = ""
        self.dns_s: float | None = None
        self.connect_s: float | None = None
        self.carried = False
        """`decided` was written with allow or report, so `closed` must follow."""
        self.route_key: tuple[str, str, int | None] | None = None
        self.description = ""
        self.started = time.monotonic()
        self.reported = NOTHING
        """Bytes sent and received, as the latest progress event reported them."""
        self.next_report_at = self.started + PROGRESS_S

    def allow(self, would_deny: Reason | None = None) -> None:
        """It is carried; `would_deny` is the reason for which `enforce` would have denied it. Only the first call counts."""
        if self.carried:
            return
        self.carried = True
        self.decision = Decision.ALLOW if would_deny is None else Decision.REPORT
        self.reason = would_deny
        self._write(Phase.DECIDED, log=True)

    def deny(self, reason: Reason, detail: str = "") -> None:
        """It is refused; a connection that was carried before is closed with that reason."""
        if self.carried:
            self.close(reason, detail=detail)
            return
        self.decision = Decision.DENY
        self.reason = reason
        self.detail = detail
        self._write(Phase.DECIDED, log=True, duration_s=time.monotonic() - self.started)

    def fail(self, reason: Reason, detail: str = "", *, would_deny: Reason | None = None) -> None:
        """The policy allows it, the outside does not: two events at once."""
        self.allow(would_deny)
        self.close(reason, detail=detail)

    def close(self, reason: Reason | None = None, sent: int = 0, received: int = 0, detail: str = "") -> None:
        """It is over. Nothing is written for what was never carried, or a second time."""
        if not self.carried:
            return
        self.carried = False
        self.reason = reason
        self.detail = detail
        cut_or_failed = reason is not None  # a normal end is not logged
        duration_s = time.monotonic() - self.started
        self._write(Phase.CLOSED, log=cut_or_failed, duration_s=duration_s, sent=sent, received=received)

    def progress(self, now: float, sent: int, received: int) -> None:
        """Called by the sweep: report new bytes of an open connection, at most every `PROGRESS_S`. `now`: monotonic."""
        if not self.carried or now < self.next_report_at:
            return
        self.next_report_at = now + PROGRESS_S
        if (sent, received) == self.reported:
            return
        self._write(
            Phase.PROGRESS, log=False, duration_s=time.monotonic() - self.started, sent=sent, received=received
        )
        self.reported = sent, received

    def count_only(self, reason: Reason, detail: str = "", decision: Decision = Decision.DENY) -> None:
        """Report `count` attempts together; most were refused without a look at each."""
        self.decision = decision
        self.reason = reason
        self.detail = detail
        self._write(Phase.COUNTED, log=True)

    def _write(
        self, phase: Phase, *, log: bool, duration_s: float | None = None, sent: int = 0, received: int = 0
    ) -> None:
        recorder = self.recorder
        line = (
            f'{{"kind":"egress","seq":{recorder.seq + 1},"epoch":"{recorder.epoch}","time":{recorder.clock():.6f},'
            f'"connection":{self.connection}{PHASES[phase]}{DECISIONS[self.decision]}{self._described()}'
        )
        if sent or received:
            line += f',"bytes_sent":{sent},"bytes_received":{received}'
        if duration_s is not None:
            line += f',"duration_s":{duration_s:.6f}'
        if self.connect_s is not None:
            line += f',"connect_s":{self.connect_s:.6f}'
        if self.reason or self.detail or self.reported is not NOTHING or self.dns_s is not None or self.count != 1:
            line += self._optional_members()
        recorder.write(line + "}", log=log, backend=self.backend)

    def _optional_members(self) -> str:
        """Members that most events do not have."""
        text = f',"count":{self.count}' if self.count != 1 else ""
        if self.reported != NOTHING:
            text += f',"told_sent":{self.reported[0]},"told_received":{self.reported[1]}'
        if self.reason is not None:
            text += f',"reason":"{self.reason}"'
        if self.detail:
            text += f',"detail":{quoted(self.detail[:MAX_DETAIL])}'
        if self.dns_s is not None:
            text += f',"dns_s":{self.dns_s:.6f}'
        return text

    def _described(self) -> str:
        """`described`, cached while the address and the rule stay the same."""
        route_key = (self.address, self.rule, self.rule_port)
        if route_key != self.route_key:
            self.route_key = route_key
            self.description = described(
                self.backend,
                self.door,
                self.via,
                self.method[:32],
                self.host[:MAX_HOST],
                self.port,
                self.client_address,
                self.destination,
                *route_key,
                self.mode,
            )
        return self.description


@lru_cache(KEPT)
def described(
    backend: str,
    door: str,
    via: Via,
    method: str,
    host: str,
    port: int,
    client_address: str,
    destination: str,
    address: str,
    rule: str,
    rule_port: int | None,
    mode: str,
) -> str:
    """The part of an event that many connections share, as JSON members; fields at their default are left out."""
    members: list[tuple[str, str | int | None]] = [
        ("backend", backend),
        ("door", door),
        ("via", "" if via is Via.PROXY else via),
        ("method", method),
        ("host", host),
        ("port", port),
        ("client_address", client_address),
        ("destination", destination),
        ("address", address),
        ("rule", rule),
        ("rule_port", rule_port),
        ("mode", "" if mode == "enforce" else mode),
    ]
    return "".join(
        f',"{name}":{quoted(value) if isinstance(value, str) else value}' for name, value in members if value
    )

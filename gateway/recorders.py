"""What keeps events: the hub that numbers them, and everything that it hands them to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from egress.policy.decide import Policy, parse_policy
from observability.event_log import EventLog
from observability.hub import Hub
from observability.instruments import Instruments
from observability.losses import Losses
from observability.store import History
from observability.telemetry import resource_attributes, setup
from registry.config import Config
from registry.model.settings import HistorySettings

HISTORY_FILE: Final = "history.db"


class Recorders:
    """The hub with history, metrics, losses and telemetry attached."""

    def __init__(self, directory: Path, version: str, settings: HistorySettings) -> None:
        """`directory` holds the history's database."""
        self.losses = Losses()
        self.instruments = Instruments(resource=resource_attributes(version))
        self.history = History(
            directory / HISTORY_FILE,
            max_rows=settings.max_rows,
            max_days=settings.max_days,
            on_drop=lambda count: self.instruments.events_dropped("history", count),
            losses=self.losses,
        )
        self.log = EventLog(on_drop=lambda count: self.instruments.events_dropped("log", count))
        self.hub = Hub(
            kept=self.history.newest(),
            on_drop=lambda count: self.instruments.events_dropped("hub", count),
        )
        self.telemetry = setup(version=version, instruments=self.instruments)
        sinks = (self.instruments.on_sequenced, self.losses.on_sequenced, self.history.record, self.log.record)
        for sink in (*sinks, *self.telemetry.sinks):
            self.hub.attach(sink)

    def name_labels(self, config: Config) -> None:
        """Declares which backends, clients, rules and ports may be label values of the metrics."""
        policies = {name: parse_policy(server.network.block) for name, server in config.servers.items()}
        self.instruments.known(
            backends=tuple(config.servers),
            clients=tuple(config.clients),
            rules={name: [rule.text for rule in policy.rules] for name, policy in policies.items()},
            ports={name: named_ports(policy) for name, policy in policies.items()},
        )

    def close(self) -> None:
        """Writes out what is pending. Blocks."""
        self.telemetry.shutdown()
        self.history.close()
        self.log.close()


def named_ports(policy: Policy) -> Sequence[int]:
    """The single ports that a policy names; ranges are left out (they would be too many labels)."""
    ranges = [*policy.ports, *(one for rule in policy.rules for one in rule.ports)]
    return sorted({one.first for one in ranges if one.first == one.last} or {80, 443})

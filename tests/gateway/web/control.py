"""A gateway in memory for the page: the real hub, history, configuration file and editor; no engine, no egress."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from observability.events import BackendEvent, BackendState, Decision, EgressEvent, NoticeEvent, Phase, Reason
from tests.gateway.control.fakes import FakeControl
from tests.gateway.web import scene


@dataclass(slots=True)
class Supervisor:
    """Backends that do nothing but be there."""

    found: dict[str, scene.Status] = field(default_factory=dict)
    lines: dict[str, list[scene.Line]] = field(default_factory=dict)
    printed: asyncio.Condition = field(default_factory=asyncio.Condition)
    restarted: list[str] = field(default_factory=list)

    def status(self) -> Sequence[scene.Status]:
        return list(self.found.values())

    async def restart(self, backend: str) -> None:
        self.restarted.append(backend)
        old = self.found[backend]
        self.found[backend] = replace(old, restarts=old.restarts + 1, since=time.time())

    async def logs(self, backend: str, *, tail: int = 200, follow: bool = False) -> AsyncIterator[scene.Line]:
        lines = self.lines.setdefault(backend, [])
        at = max(0, len(lines) - tail)
        while True:
            for line in lines[at:]:
                yield line
            at = len(lines)
            if not follow:
                return
            async with self.printed:
                while len(lines) <= at:
                    await self.printed.wait()

    async def prints(self, backend: str, text: str, stream: str = "stderr") -> None:
        """The backend writes a line."""
        async with self.printed:
            self.lines.setdefault(backend, []).append(scene.Line(time=time.time(), text=text, stream=stream))
            self.printed.notify_all()


class PageControl(FakeControl):
    """The gateway of the page's tests: its backends are those of the file, and run at once."""

    supervisor: Supervisor

    def __init__(self, folder: Path, text: str) -> None:
        super().__init__(folder, text, project="platform", warnings=(), supervisor=Supervisor(), started=time.time())
        self.endpoint.definitions.clear()
        self.story = scene.Story(time.time(), seq=5000, connection=5000)
        self._adopt()

    def _adopt(self) -> None:
        kept = self.supervisor.found
        self.supervisor.found = {
            name: replace(kept.get(name) or scene.status(name, since=time.time()), isolated=server.network.isolated)
            for name, server in self.config.servers.items()
        }

    async def reload(self) -> None:
        before = set(self.config.servers)
        await super().reload()
        self._adopt()
        for name in set(self.config.servers) - before:
            self.hub.publish(BackendEvent(time=time.time(), backend=name, state=BackendState.RUNNING))
        self.hub.publish(NoticeEvent(time=time.time(), source="config", code="config_reloaded"))

    # what a test makes happen

    def cut_streams(self) -> None:
        """Every event stream ends, as when the network drops."""
        for subscription in list(self.hub._subscriptions):
            self.hub.unsubscribe(subscription)

    def tell(self, *events: Any) -> None:
        """These things happen, and are in the history at once."""
        for event in events:
            self.hub.publish(event)
        self.history.flush()

    def tries(self, backend: str, host: str, port: int = 443, **more: Any) -> EgressEvent:
        """A backend tries a host; the file's exact host names decide, as far as a test needs it."""
        self.story.now = time.time()
        block: Mapping[str, Any] = self.config.servers[backend].network.block
        names = [rule if isinstance(rule, str) else rule["host"] for rule in block.get("allowed_hosts", [])]
        rule = next((name for name in names if name in (host, f"{host}:{port}")), "")
        if rule:
            made = self.story.connect(0, backend, host, port, rule=rule, sent=120, got=4800, **more)
        else:
            reason = Reason.HOST_NOT_ALLOWED if names else Reason.EMPTY_POLICY
            made = self.story.connect(0, backend, host, port, more.pop("reason", reason), **more)
        self.tell(*made)
        return made[0]


def denied(control: PageControl) -> list[EgressEvent]:
    """The denials in the hub, oldest first."""
    found = [item.event for item in control.hub.recent(5000)]
    return [
        e for e in found if isinstance(e, EgressEvent) and e.decision is Decision.DENY and e.phase is Phase.DECIDED
    ]

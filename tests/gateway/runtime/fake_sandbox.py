"""A sandbox without containers, as an orchestrator's might be: an instance that ended is never started again."""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gateway.runtime.sandbox.base import ExitInfo, ManagedInstance
from gateway.runtime.sandbox.errors import EngineError
from gateway.runtime.sandbox.log_ring import LogRing
from registry.config import Config
from registry.model.server import Server


class FakeInstance:
    """Runs until `crash`."""

    def __init__(self, id: str, log: list[str]) -> None:
        self.id = id
        self.backend = id.partition("/")[0]
        self.transport: Literal["stdio", "http"] = "stdio"
        self.port: int | None = None
        self.path = ""
        self.log = log
        self.started_at = 0.0
        self.uid: int | None = None
        self.version = ""
        self.user_is_configured = False
        self.containers: Sequence[str] = ()
        self.can_restart = False
        self.is_running = False
        self.over = asyncio.Event()

    @property
    def is_over(self) -> bool:
        return self.over.is_set()

    def crash(self) -> None:
        self.is_running = False
        self.over.set()

    async def start(self) -> None:
        assert not self.over.is_set(), "it cannot be restarted"
        self.log.append(f"start {self.id}")
        self.started_at, self.is_running = time.monotonic(), True

    async def why_late(self) -> str:
        return ""

    async def wait_end(self) -> str:
        await self.over.wait()
        return f"{self.id} ended."

    async def end(self, grace_s: float) -> None:
        self.crash()

    async def stop(self, grace_s: float) -> None:
        self.log.append(f"stop {self.id}")

    async def release(self) -> None:
        self.log.append(f"release {self.id}")

    def take_stray(self, text: str) -> None:
        raise NotImplementedError

    async def attach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        raise NotImplementedError

    async def connect(self) -> socket.socket:
        raise NotImplementedError

    async def wait_exit(self) -> ExitInfo:
        return ExitInfo(code=1, detail=await self.wait_end())


@dataclass
class FakeSandbox:
    """Implements `Sandbox`. `log` is every call that changes something, in order."""

    log: list[str] = field(default_factory=list)
    refusal: str = ""
    sees_direct: bool = True
    left: list[str] = field(default_factory=list)
    """Instances that an earlier gateway left running."""
    egress_fails: str = ""
    """Why the egress cannot be brought up."""
    source: str = ""
    """What can be seen of every server's source."""
    made: list[FakeInstance] = field(default_factory=list)
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    @property
    def egress_environment(self) -> Mapping[str, object]:
        return {}

    @property
    def is_empty(self) -> bool:
        return not self.made

    def use(self, config: Config) -> None:
        self.config = config

    async def open(self, tasks: asyncio.TaskGroup) -> None:
        self.log.append("open")
        if self.egress_fails:
            raise EngineError(self.egress_fails)

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def update_egress(self) -> None:
        self.log.append("update egress")

    def key(self, server: Server) -> str:
        return repr(server.env)

    async def prepare(self, instance: str, server: Server, ring: LogRing) -> FakeInstance:
        self.log.append(f"prepare {instance}")
        self.made.append(FakeInstance(instance, self.log))
        return self.made[-1]

    def source_state(self, server: Server) -> str:
        return self.source

    def try_again(self, server: Server) -> None:
        self.log.append("try again")

    async def adopt(self, wanted: Mapping[str, Server], ring: Callable[[str], LogRing]) -> Sequence[ManagedInstance]:
        self.log.append(f"adopt {' '.join(self.left)}".strip())
        found = [FakeInstance(one, self.log) for one in self.left if one in wanted]
        for one in found:
            one.is_running = True
        self.made += found
        return found

    def shared_users(self, instances: Iterable[ManagedInstance]) -> Mapping[str, Sequence[str]]:
        return {}

    async def close(self, *, remove: bool) -> None:
        self.log.append(f"close {'and remove' if remove else 'and leave'}")

    async def clear(self) -> None:
        self.log.append("clear")

    async def disconnect(self) -> None:
        return

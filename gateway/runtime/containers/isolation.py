"""Whether isolation holds on this engine: the probe run when it has to be, and its verdict remembered for this boot."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from gateway.runtime.containers.policies import Policies
from gateway.runtime.containers.probe import PROBE_BACKEND, Attempt, Probe, listening, verdict
from gateway.runtime.engine.base import EngineInfo
from gateway.runtime.inventory.context import RuntimeContext


class Isolation:
    """The test of one project's isolation."""

    def __init__(self, context: RuntimeContext, policies: Policies, push: Callable[[], Awaitable[None]]) -> None:
        """`push` makes the egress hold the policies."""
        self.context = context
        self.policies = policies
        self.push = push
        self.last: tuple[Attempt, Attempt] | None = None
        """The last probe that ran: the positive control, and the attempt behind a door."""

    async def test(self, info: EngineInfo, *, force: bool = False) -> str:
        """Why isolated backends must not be started; empty when isolation holds. A pass counts for this boot."""
        image, path = self.context.doors_image(), self.context.run_directory.probe_file
        key = cache_key(info, image)
        if not force and passed_before(path, key):
            return ""
        control, behind_door = await self.attempts(Probe(self.context, image))
        self.last = (control, behind_door)
        problem = verdict(control, behind_door)
        if not problem:
            note_passed(path, key)
        return problem

    async def attempts(self, probe: Probe) -> tuple[Attempt, Attempt]:
        """The positive control, and the attempt behind a door, whose policy allows nothing."""
        self.policies.extra[PROBE_BACKEND] = {}
        await self.push()
        async with listening() as listeners:
            behind_door = await probe.behind_door(listeners)
        async with listening() as listeners:
            control = await probe.on_network(listeners)
        del self.policies.extra[PROBE_BACKEND]
        await self.push()
        return control, behind_door


def cache_key(info: EngineInfo, image: str) -> str:
    """What a verdict depends on: engine, kernel, image, and this boot of the machine."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    parts: Iterable[str] = (info.id, info.version, info.kernel, image, boot)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def passed_before(path: Path, key: str) -> bool:
    """Whether a probe with this key passed."""
    try:
        return bool(json.loads(path.read_text())["passed"] == key)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def note_passed(path: Path, key: str) -> None:
    """Remembers a probe that passed; where that cannot be, the next start tries again."""
    with contextlib.suppress(OSError):
        path.write_text(json.dumps({"passed": key}))

"""Keeps one instance of a backend running: start, watch, restart after growing pauses, give up, stop.

STOPPED -> BUILDING -> STARTING -> RUNNING -> (crash) -> BACKOFF -> STARTING ...
                                                     \\-> FAILED (too often, or it can never work)
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from gateway.runtime.sandbox.backoff import COOL_S, Backoff
from gateway.runtime.sandbox.base import ManagedInstance
from gateway.runtime.sandbox.errors import BackendUnavailable, BuildError, EngineError, PlanError, StillBuilding
from observability.events import BackendState
from registry.model.errors import sentence as as_sentence

logger = logging.getLogger(__name__)

Prepare = Callable[[str], Awaitable[ManagedInstance]]
"""From an instance's id to an instance with its image at hand, not started."""
YOUNG_S: Final = 5.0
"""An incarnation that has lasted for less may end as the one before."""
BUILD_PATIENCE_S: Final = 20.0
"""The longest that a caller waits for an image: many clients give up after 30 or 60 s, and a first build takes minutes."""
BUILT_ONCE: Final = "It is not built again by itself: `stockade restart {}` tries once more."
NO_RETRY: Final = (BuildError, PlanError, ValueError)
RETRY: Final = (EngineError, BackendUnavailable, OSError)


def building_sentence(since: float) -> str:
    """What a caller is told that does not wait for the end of a build; `since` is Unix time."""
    clock = time.strftime("%H:%M:%S", time.gmtime(since))
    return (
        f"its image is still being built, since {clock} UTC ({time.time() - since:.0f} s ago). That happens once and can "
        "take minutes; the first call after it finds the server. Try again in a minute."
    )


class InstanceKeeper:
    """Keeps one instance. `run` is its task; `stop` ends it."""

    def __init__(
        self,
        backend: str,
        id: str,
        prepare: Prepare,
        on_state: Callable[[InstanceKeeper], None],
        *,
        start_timeout_s: float,
        adopted: ManagedInstance | None = None,
        once: bool = False,
        explain: Callable[[Exception], Exception] = lambda error: error,
    ) -> None:
        """`explain` puts the place in the file to what ended a start."""
        self.backend = backend
        self.explain = explain
        self.id = id
        self.prepare = prepare
        self.on_state = on_state
        self.start_timeout_s = start_timeout_s
        self.instance: ManagedInstance | None = adopted
        self.once = once
        """The instance belongs to one session: when it ends, it is not restarted."""
        self.state = BackendState.STOPPED
        self.detail = ""
        self.since = time.time()
        self.restarts = 0
        self.backoff = Backoff()
        self.changed = asyncio.Condition()
        self.wake = asyncio.Event()
        """Set to end a pause at once."""
        self.version = adopted.version if adopted else ""
        """Of the package that it was last made from, as installed."""
        self.last_end = ""
        """How the last incarnation ended; empty before any did."""
        self.ended = 0.0
        """Unix time of that."""
        self.stopping = asyncio.Event()
        self.done = asyncio.Event()
        self.grace_s = 0.0
        self.leave_running = False
        """Whether the instance stays when the keeper stops, for the next gateway."""

    # -- the task

    async def run(self) -> None:
        """Until `stop` is called, or an instance of one session ended."""
        try:
            async with asyncio.TaskGroup() as tasks:
                living = tasks.create_task(self.live())
                await self.stopping.wait()
                living.cancel()
        finally:
            try:
                await self.take_down(self.grace_s, leave_running=self.leave_running)
                if not self.once or self.state is not BackendState.FAILED:
                    await self.enter(BackendState.STOPPED)
            finally:
                self.done.set()

    async def live(self) -> None:
        """Incarnation after incarnation, with pauses."""
        try:
            while True:
                failure = await self.bring_up()
                permanent = isinstance(failure, NO_RETRY)
                sentence = str(failure) if failure else await self.watch()
                if self.once:
                    await self.enter(BackendState.FAILED, sentence)
                    return
                if isinstance(failure, BuildError):
                    sentence = f"{sentence}\n{BUILT_ONCE.format(self.backend)}"
                await self.pause(sentence, permanent=permanent)
        except Exception:
            logger.exception("server %s: its keeper failed", self.id)
            await self.enter(BackendState.FAILED, "An error of Stockade's own; see the log.")
        finally:
            self.stopping.set()

    async def bring_up(self) -> Exception | None:
        """Starts it, whatever part of it exists already. Returns what failed, or None."""
        try:
            if self.instance is None:
                await self.enter(BackendState.BUILDING)
                self.instance = await self.prepare(self.id)
                self.version = self.instance.version
            if not self.instance.is_running:
                await self.enter(BackendState.STARTING)
                await self.in_time(self.instance.start())
        except (*NO_RETRY, *RETRY) as error:
            await self.take_down(0)
            return self.explain(error)
        await self.enter(BackendState.RUNNING)
        return None

    async def in_time(self, start: Awaitable[None]) -> None:
        """Bounds a start. Raises BackendUnavailable when it takes too long."""
        try:
            async with asyncio.timeout(self.start_timeout_s):
                await start
        except TimeoutError:
            why = await self.instance.why_late() if self.instance else ""
            late = f"It did not start within {self.start_timeout_s:g} s."
            sentence = " ".join(filter(None, (late, why, "Raise `start_timeout_s` if it needs longer.")))
            raise BackendUnavailable(self.backend, sentence) from None

    async def watch(self) -> str:
        """Waits until this incarnation ends; how it ended."""
        assert self.instance is not None
        return await self.instance.wait_end()

    @property
    def trouble(self) -> str:
        """What is wrong with it: its state's reason or, while an incarnation is young, how the last one ended."""
        beginning = self.is_young or self.state in (BackendState.BUILDING, BackendState.STARTING)
        return self.detail or (self.last_end if beginning else "")

    @property
    def is_young(self) -> bool:
        """Whether it runs, and may end as the last incarnation did: each crash in a row makes that time longer."""
        for_s = YOUNG_S * max(1, self.backoff.crashes)
        return self.state is BackendState.RUNNING and time.time() - self.since < for_s

    @property
    def shown_state(self) -> BackendState:
        """Its state for people: one that crashed and has just started again does not count as running yet."""
        again = self.is_young or self.state is BackendState.STARTING
        return BackendState.BACKOFF if again and self.last_end and self.backoff.crashes else self.state

    async def pause(self, sentence: str, *, permanent: bool) -> None:
        """After a crash or a failed start: waits, or gives up until `wake`."""
        self.last_end = sentence
        started_at = self.instance.started_at if self.instance else 0.0
        ran_s = time.monotonic() - started_at if started_at else 0.0
        if ran_s:
            self.ended = time.time()
        if self.instance is not None and not self.instance.can_restart:
            await self.take_down(0)
        self.restarts += 1
        if permanent:
            self.backoff.rest(time.monotonic())
        pause_s = None if permanent else self.backoff.crashed(ran_s, time.monotonic())
        self.wake.clear()
        if pause_s is None:
            await self.take_down(0)
            await self.enter(BackendState.FAILED, self.final_sentence(sentence, permanent))
        else:
            await self.enter(BackendState.BACKOFF, sentence)
        try:
            async with asyncio.timeout(pause_s):
                await self.wake.wait()
        except TimeoutError:
            pass

    def final_sentence(self, sentence: str, permanent: bool) -> str:
        """Why it is not tried any more, and what to do."""
        if permanent:
            return sentence
        return (
            f"{as_sentence(sentence)} It failed {self.backoff.crashes} times in a row, so Stockade stopped retrying. "
            f"Fix the cause (`stockade logs {self.backend}` shows what it printed), then run "
            f"`stockade restart {self.backend}`. A call also retries it, at most once every {COOL_S:g} s."
        )

    async def take_down(self, grace_s: float, *, leave_running: bool = False) -> None:
        """Removes what this incarnation made, or lets go of it with `leave_running`."""
        instance, self.instance = self.instance, None
        if instance is None:
            return
        try:
            await (instance.release() if leave_running else instance.stop(grace_s))
        except EngineError as error:
            logger.warning("server %s: %s", self.id, error)

    async def enter(self, state: BackendState, detail: str = "") -> None:
        """Takes a new state and reports it."""
        if (state, detail) == (self.state, self.detail):
            return
        self.state, self.detail, self.since = state, detail, time.time()
        self.on_state(self)
        async with self.changed:
            self.changed.notify_all()

    # -- what the supervisor asks

    async def ready(self) -> ManagedInstance:
        """The running instance, once it runs. Raises BackendUnavailable, at the latest after the start timeout.

        For a build it waits `BUILD_PATIENCE_S` at most, then raises StillBuilding; the start timeout begins after it.
        """
        if self.state is BackendState.FAILED and not self.once and self.backoff.may_retry(time.monotonic()):
            self.retry()
        asked = started = asyncio.get_running_loop().time()
        while True:
            async with self.changed:
                if instance := self.usable():
                    return instance
                if (self.state is BackendState.FAILED and not self.wake.is_set()) or self.done.is_set():
                    raise BackendUnavailable(self.backend, self.detail or "It is stopped.")
                building = self.state is BackendState.BUILDING
                until = asked + BUILD_PATIENCE_S if building else started + self.start_timeout_s
                try:
                    async with asyncio.timeout_at(until):
                        await self.changed.wait()
                except TimeoutError:
                    raise self.late() from None
                if building:
                    started = asyncio.get_running_loop().time()

    def usable(self) -> ManagedInstance | None:
        """The instance, if it runs and has not just ended."""
        return self.instance if self.state is BackendState.RUNNING and not self.is_over else None

    async def built(self) -> None:
        """Waits while an image is being built for it."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.state is not BackendState.BUILDING)

    @property
    def is_over(self) -> bool:
        """Whether it ran and has just ended, even if this keeper has not acted on it yet."""
        return self.state is BackendState.RUNNING and (self.instance is None or self.instance.is_over)

    @property
    def is_leaving(self) -> bool:
        """Whether it is ending for good."""
        if self.done.is_set():
            return False
        return self.stopping.is_set() or (self.once and (self.is_over or self.state is BackendState.FAILED))

    def late(self) -> BackendUnavailable:
        """The error for a caller that waits no longer."""
        if self.state is BackendState.BUILDING:
            return StillBuilding(self.backend, building_sentence(self.since))
        return BackendUnavailable(self.backend, self.late_sentence())

    def late_sentence(self) -> str:
        """Why a caller waits no longer."""
        why = f" {self.detail}" if self.detail else ""
        return f"It is not ready after {self.start_timeout_s:g} s ({self.state.value}).{why}"

    def retry(self) -> None:
        """Ends a pause, or a rest, at once."""
        self.backoff.reset()
        self.wake.set()

    async def stop(self, grace_s: float, *, leave_running: bool = False) -> None:
        """Ends the task and waits until everything is down."""
        self.grace_s, self.leave_running = grace_s, leave_running
        self.stopping.set()
        await self.done.wait()

"""The configuration in force, and the file that it comes from: edits of ours, changes by others, and what was refused.

The file is the only truth. A change takes effect when it validates and is not half of a file that opens access; else
the configuration before stays in force, and `warnings` say why until the file is fixed.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from gateway.control.base import Edited
from gateway.in_force import InForce
from gateway.runtime.inventory.egress_link import PolicyRejected
from gateway.runtime.sandbox.errors import EngineError
from gateway.watch import ConfigWatcher
from observability.events import Event, NoticeEvent, Severity
from registry.check.cut_off import cut_off
from registry.config import Config
from registry.edit import EMPTY, Change, edit_config
from registry.edit import apply as apply_edit
from registry.file.document import Document, parse
from registry.importers import adopt
from registry.load import load_config
from registry.model.errors import ConfigError, Problem

logger = logging.getLogger(__name__)

AT_THE_START: Final = (("project",), ("gateway", "listen"), ("gateway", "admin"), ("gateway", "history"))


class LiveConfig:
    """One configuration file, and the last content of it that was applied."""

    def __init__(
        self,
        path: Path,
        config: Config,
        in_force: InForce,
        carry_out: Callable[[Config], Awaitable[None]],
        on_event: Callable[[Event], None],
    ) -> None:
        """`carry_out` applies a configuration to every part; when it raises, a later reload calls it again."""
        self.path = path
        self.now = self._begun_with = config
        self._in_force = in_force
        self._carry_out = carry_out
        self._on_event = on_event
        self._applying = asyncio.Lock()
        self._watcher = ConfigWatcher(path, self.file_changed)
        self._rejected = ""
        """Why the file as it is now is not in force; empty when it is."""

    async def watch(self) -> None:
        """Applies changes of the file, until cancelled."""
        await self._watcher.run()

    @property
    def warnings(self) -> Sequence[str]:
        """What a person should know: what is not in force, then what the file itself warns of.

        The trust overrides of `egress.resolve` are reported apart from these.
        """
        loud = [self._rejected] if self._rejected else []
        loud += [str(one) for one in not_before_a_start(self._begun_with, self.now)]
        return loud + [str(one) for one in self.now.warnings if not one.key_path.startswith("egress.resolve")]

    async def edit(self, change: Change, *, dry_run: bool = False) -> Edited:
        """Changes the file and applies it at once. Raises ConfigError, KeyError, OSError (`gateway.control.base`)."""
        edit = await asyncio.to_thread(edit_config, self.path, change)
        if edit.before != self.now.text:  # the watcher has not read it yet, and an edit does not repair half a file
            self._refuse_cut_off(adopt(parse(edit.before or EMPTY, str(self.path)))[0])
        if dry_run or not edit.changed:
            return Edited(diff=edit.diff, applied=False, warnings=edit.worth_knowing)
        await asyncio.to_thread(apply_edit, edit)
        self._watcher.acknowledge()
        await self._read_again(ours=True)
        return Edited(diff=edit.diff, applied=True, warnings=edit.worth_knowing)

    async def reload(self) -> None:
        """Reads the file again and applies it. Raises ConfigError; the old configuration then stays."""
        await self._read_again()

    async def _read_again(self, *, ours: bool = False) -> None:
        """`ours`: the file is whole, since an edit of ours wrote it."""
        config = await asyncio.to_thread(load_config, self.path)
        if not ours:
            self._refuse_cut_off(config.document)
        await self.apply(config)
        self._notice("config_reloaded", f"{self.path} was read again and applied.")

    def _refuse_cut_off(self, document: Document | None) -> None:
        """Raises ConfigError when the file may have lost a part of what is in force, and access would be wider."""
        if document is not None and self.now.document is not None:
            if problems := cut_off(self.now.document, document):
                raise ConfigError(problems)

    async def file_changed(self) -> None:
        """The file has changed: applies it, or reports why not."""
        try:
            await self.reload()
        except ConfigError as error:
            logger.error("The configuration was not applied; the one before stays in force.\n%s", error)
            self._refused(f"The file is not what is in force: {error}", str(error))
        except (EngineError, PolicyRejected, OSError) as error:
            text = f"The file is not all in force: {error} `stockade reload` tries again."
            logger.error("%s", text)
            self._refused(text, text)

    def _refused(self, warning: str, notice: str) -> None:
        self._rejected = warning
        self._notice("config_rejected", notice, Severity.ERROR)

    async def apply(self, config: Config) -> None:
        """Puts a configuration in force. Raises what carrying it out raises."""
        async with self._applying:
            await self._carry_out(config)
            self.now = config
            self._rejected = ""
            await asyncio.to_thread(self._in_force.remember, config)

    def _notice(self, code: str, message: str, severity: Severity = Severity.INFO) -> None:
        self._on_event(NoticeEvent(time=time.time(), source="config", code=code, severity=severity, message=message))


def not_before_a_start(begun_with: Config, now: Config) -> list[Problem]:
    """Settings that the file has changed and that a gateway reads only when it starts."""
    found: list[Problem] = []
    for path in AT_THE_START:
        was, wanted = (functools.reduce(getattr, path, one) for one in (begun_with, now))
        if was != wanted:
            message = "is not in force before the gateway is started again"
            found.append(now.problem(path, message, "Run: stockade down, then: stockade up -d"))
    return found

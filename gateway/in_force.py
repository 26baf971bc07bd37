"""Remembers the configuration in force, so that a start with a truncated file does not widen access either."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
from pathlib import Path

from registry.check.cut_off import cut_off
from registry.config import Config
from registry.file.document import Document, parse
from registry.importers import adopt
from registry.model.errors import ConfigError

logger = logging.getLogger(__name__)


class InForce:
    """The text of the configuration that was applied last, in a file that only its owner can read."""

    def __init__(self, record: Path) -> None:
        self.record = record
        self._written = ""

    def check(self, config: Config) -> None:
        """Raises ConfigError when the file may have lost a part of what was in force, and access would be wider."""
        before = self._recall(config.path)
        if before is not None and config.document is not None and (problems := cut_off(before, config.document)):
            raise ConfigError(problems)

    def remember(self, config: Config) -> None:
        """Record that this configuration is in force. A write that fails is logged, and the earlier record stays."""
        if config.path is None or config.text == self._written:
            return
        try:
            self._write(config)
        except OSError as error:
            logger.warning(
                "%s cannot be written (%s), so a later start may not notice half a file.", self.record, error
            )

    def _write(self, config: Config) -> None:
        handle, temporary = tempfile.mkstemp(dir=self.record.parent, prefix=f".{self.record.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
                json.dump({"path": str(config.path), "text": config.text}, file)
            os.replace(temporary, self.record)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        self._written = config.text

    def _recall(self, path: Path | None) -> Document | None:
        """What was in force last of this file; None where there is no record, or none that can be read."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(self.record.read_text("utf-8"))
            if kept["path"] == str(path):
                return adopt(parse(kept["text"], str(path)))[0]
        return None

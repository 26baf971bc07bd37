"""The directories of one project: where the gateway, the egress and the doors meet, and what outlives a reboot."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from gateway.disk import in_words

MAX_SOCKET_PATH = 100
"""Bytes; the kernel's `sun_path` holds 108."""


def runtime_root() -> Path:
    """Where run directories live: STOCKADE_STATE_DIR, or /run for root, or the user's runtime directory."""
    if override := os.environ.get("STOCKADE_STATE_DIR"):
        return Path(override).absolute()
    if os.geteuid() == 0:
        return Path("/run/stockade")
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "stockade"
    return Path.home() / ".local/state/stockade"


def persistent_root() -> Path:
    """Where the record of what is ours lives; it must outlive a reboot, as stopped containers do."""
    if override := os.environ.get("STOCKADE_STATE_DIR"):
        return Path(override).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/stockade")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "stockade"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDirectory:
    """The run directory of one project. Only its owner gets in; below, the egress may write."""

    path: Path
    persistent: Path

    @classmethod
    def of(cls, project: str) -> RunDirectory:
        """The directory of a project, not yet made."""
        return cls(path=runtime_root() / project, persistent=persistent_root() / project)

    @property
    def control_socket(self) -> Path:
        """The socket that the CLI connects to (0600)."""
        return self.path / "control.sock"

    @property
    def gateway_file(self) -> Path:
        """pid, URLs, configuration path and version of the gateway."""
        return self.path / "gateway.json"

    @property
    def log_file(self) -> Path:
        """What a gateway in the background logs; earlier ones are beside it. Not in the run directory: that may be in
        memory.
        """
        return self.persistent / "gateway.log"

    @property
    def control(self) -> Path:
        """Shared with the egress container alone."""
        return self.path / "control"

    @property
    def doors(self) -> Path:
        """Shared with the egress and, read-only, every door."""
        return self.path / "doors"

    @property
    def ca_bundle(self) -> Path:
        """The combined certificate bundle when `extra_ca` is set."""
        return self.path / "ca-bundle.pem"

    @property
    def record_file(self) -> Path:
        """What is ours: engine, containers, networks."""
        return self.persistent / "state.json"

    @property
    def probe_file(self) -> Path:
        """The last probe that passed."""
        return self.persistent / "probe.json"

    def clear_meeting_places(self) -> None:
        """Before an egress is created: removes what an earlier one left there, which may have run as another user."""
        for directory in (self.control, self.doors):
            for path in directory.iterdir():
                path.unlink(missing_ok=True)

    def remove_meeting_places(self) -> None:
        """After the last container is gone: removes the directories in which egress and doors met, with their sockets."""
        for directory in (self.control, self.doors):
            shutil.rmtree(directory, ignore_errors=True)
        with contextlib.suppress(OSError):  # a log or a record is in it
            self.path.rmdir()

    def forget(self) -> None:
        """After a first start that failed: removes what the project had stored."""
        shutil.rmtree(self.persistent, ignore_errors=True)

    def create(self) -> bool:
        """Makes what is missing; returns whether this is the project's first start.

        Raises ValueError for a path that is too long for sockets, or that another user owns.
        """
        longest = len(os.fsencode(self.control / "ingress.sock"))
        if longest > MAX_SOCKET_PATH:
            raise ValueError(
                f"The run directory {self.path} is too long: a socket in it would have a path of {longest} bytes "
                f"({MAX_SOCKET_PATH} at most). Set STOCKADE_STATE_DIR to a shorter directory."
            )
        first = not self.persistent.exists()
        try:
            self._make()
        except OSError as error:
            raise ValueError(in_words(error, self.path, "made")) from error
        return first

    def _make(self) -> None:
        for directory in (self.path, self.persistent):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            refuse_foreign(directory)
            directory.chmod(0o700)
        for directory in (self.control, self.doors):
            directory.mkdir(exist_ok=True)
            directory.chmod(0o1777)  # each process in there has a uid of its own; none may remove another's socket


def refuse_foreign(directory: Path) -> None:
    """Raises ValueError for a directory that another user made first, or a link in its place."""
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise ValueError(
            f"{directory} is a link, or belongs to another user, who could then reach the gateway's sockets. "
            "Remove it, or set STOCKADE_STATE_DIR to a directory of your own."
        )

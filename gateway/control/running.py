"""Who runs a project: `gateway.json` in its run directory, and how another process finds it.

Nothing here needs the configuration to be loaded, so the CLI stays quick.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from gateway.disk import naming
from gateway.runtime.inventory.rundir import RunDirectory, runtime_root


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayFile:
    """What `gateway.json` says about the process that runs a project."""

    pid: int
    pid_started: str
    """The kernel's start time of that process, so that a reused pid is not taken for the gateway."""
    project: str
    config: str
    """Absolute path of the configuration file."""
    version: str
    started: float
    """Unix time."""
    endpoint: str
    """URL of the MCP endpoint."""
    admin: str
    """URL of the admin page."""

    @property
    def alive(self) -> bool:
        """True while that very process exists."""
        started = process_started(self.pid)
        return started is not None and (not self.pid_started or started == self.pid_started)

    def write(self, path: Path) -> None:
        """Replace the file in one step, readable by its owner only."""
        fresh = path.with_suffix(".tmp")
        with naming(path):
            fresh.touch(mode=0o600)
            fresh.write_text(json.dumps(asdict(self), indent=1))
            fresh.replace(path)


@dataclass(frozen=True, slots=True)
class Running:
    """A project's run directory and the gateway that its file names, which may be dead."""

    directory: RunDirectory
    info: GatewayFile


def process_started(pid: int) -> str | None:
    """The start time (clock ticks since boot) of a live process; `""` where /proc has none; None when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return _exists(pid)
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else fields[19]


def _exists(pid: int) -> str | None:
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""


def read_gateway(path: Path) -> GatewayFile | None:
    """What a `gateway.json` says; None where there is none, or it cannot be read."""
    try:
        return GatewayFile(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def known_gateways() -> Iterator[Running]:
    """Every project with a `gateway.json`, alive or left behind, by name."""
    try:
        names = sorted(path.name for path in runtime_root().iterdir())
    except OSError:
        return
    for directory in map(RunDirectory.of, names):
        if info := read_gateway(directory.gateway_file):
            yield Running(directory, info)


def find_gateway(config: Path | None, project: str | None = None) -> Running | None:
    """The gateway of a project by its name, else of a configuration file by its path.

    A live one goes before what a dead one left behind: the file's project may have had another name.
    """
    path = str(config.resolve()) if config is not None else None
    matching = [
        one
        for one in known_gateways()
        if (one.info.project == project if project is not None else one.info.config == path)
    ]
    return next((one for one in matching if one.info.alive), matching[0] if matching else None)

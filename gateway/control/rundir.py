"""Where a project's gateway keeps what lives while it runs, and how another process finds it.

`<state>/PROJECT/` holds `control.sock` (the CLI's way in) and `gateway.json` (who runs). Nothing here needs the
configuration to be loaded, so the CLI stays quick.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from gateway.disk import naming
from gateway.runtime.inventory.rundir import runtime_root

CONTROL_SOCKET = "control.sock"
GATEWAY_FILE = "gateway.json"
ADMIN_FILE = "admin.json"
"""In the persistent directory, since the admin token outlives a reboot."""


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
    endpoint: str
    admin: str

    @property
    def alive(self) -> bool:
        """True while that very process exists."""
        started = process_started(self.pid)
        return started is not None and (not self.pid_started or started == self.pid_started)

    def write(self, directory: Path) -> None:
        """Put the file in place at once, readable by its owner only."""
        path = directory / GATEWAY_FILE
        fresh = path.with_suffix(".tmp")
        with naming(path):
            fresh.touch(mode=0o600)
            fresh.write_text(json.dumps(asdict(self), indent=1))
            fresh.replace(path)


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


def read_gateway(directory: Path) -> GatewayFile | None:
    """What `gateway.json` in that directory says, or None where there is none or it is not ours to read."""
    try:
        return GatewayFile(**json.loads((directory / GATEWAY_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def known_gateways(root: Path | None = None) -> Iterator[tuple[Path, GatewayFile]]:
    """Every project with a `gateway.json`, alive or left over, by name."""
    try:
        directories = sorted((root or runtime_root()).iterdir())
    except OSError:
        return
    for directory in directories:
        if found := read_gateway(directory):
            yield directory, found


def find_gateway(
    config: Path | None, project: str | None = None, root: Path | None = None
) -> tuple[Path, GatewayFile] | None:
    """The run directory and gateway of a project by its name, else of a configuration file by its path.

    One that runs goes before what a dead one left: a file's project may have had another name.
    """
    path = str(config.resolve()) if config is not None else None
    matching = [
        (directory, found)
        for directory, found in known_gateways(root)
        if (found.project == project if project is not None else found.config == path)
    ]
    return next((one for one in matching if one[1].alive), matching[0] if matching else None)

"""Which configuration file and which gateway a command means."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli.failure import Failure
from gateway.control.running import Running, find_gateway, known_gateways

if TYPE_CHECKING:
    from gateway.cli.client import Api

LOCAL_FILE = Path("stockade.yaml")


def user_file() -> Path:
    """The configuration of a user, for when the directory has none."""
    return Path.home() / ".config/stockade/stockade.yaml"


@dataclass(frozen=True, slots=True)
class Place:
    """What `--file` and `--project` say; every command has them."""

    file: Path | None = None
    project: str | None = None

    def config(self) -> Path:
        """The file: the one named, else ./stockade.yaml, else the user's. Raises Failure when there is none."""
        if self.file is None and (running := find_gateway(None, self.project) if self.project else None):
            return Path(running.info.config)
        path = self.file or (LOCAL_FILE if LOCAL_FILE.exists() else user_file())
        if not path.is_file():
            looked = str(path) if self.file else f"./{LOCAL_FILE} or {user_file()}"
            raise Failure(
                f"There is no configuration file at {looked}. Name one with --file, or start with: stockade run fetch"
            )
        return path

    def config_to_write(self) -> Path:
        """The same, but a file that does not exist yet is no error: the command is about to make it."""
        try:
            return self.config()
        except Failure:
            return self.file or LOCAL_FILE

    def running(self) -> Running | None:
        """The live gateway, or None."""
        found = find_gateway(None if self.project else self.config_to_write(), self.project)
        return found if found and found.info.alive else None

    def api(self) -> Api:
        """The running gateway. Raises Failure, saying how to start it, when there is none."""
        from gateway.cli.client import Api

        found = self.running()
        if found is None:
            raise Failure(self._not_running())
        return Api(found.directory.control_socket)

    def _not_running(self) -> str:
        name = f"project {self.project}" if self.project else display(self.config())
        others = [f"{one.info.project} ({one.info.config})" for one in known_gateways() if one.info.alive]
        also = f"\nRunning now: {', '.join(others)}; name one with --project." if others else ""
        flag = "" if self.project or self.file is None else f" {display(self.file)}"
        return f"No gateway is running for {name}. Start it: stockade up -d{flag}{also}"


def display(path: Path) -> str:
    """A path as a person would type it: relative to here where it is below here."""
    try:
        return f"./{path.resolve().relative_to(Path.cwd())}"
    except ValueError:
        return str(path)

"""Creates the sandbox of a gateway. No other module creates an engine or a sandbox.

Today there is one kind: containers on the Docker engine of this machine. A second engine of that kind is another line in
`local_engine`; an orchestrator is another branch in `make_sandbox`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gateway.runtime.containers.sandbox import ContainerSandbox
from gateway.runtime.docker.engine import DockerEngine
from gateway.runtime.engine.base import Engine
from gateway.runtime.images.build_settings import BuildSettings, gather
from gateway.runtime.images.images import Images
from gateway.runtime.images.package_builds import BUILD_TIMEOUT_S
from gateway.runtime.inventory.context import Link
from gateway.runtime.inventory.ownership import Ownership
from gateway.runtime.inventory.record import Record
from gateway.runtime.inventory.rundir import RunDirectory
from gateway.runtime.sandbox.secrets import Secrets
from observability.events import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxNeeds:
    """What a gateway gives its sandbox."""

    project: str
    run_directory: RunDirectory
    link: Link
    secrets: Secrets
    on_event: Callable[[Event], None]
    build_settings: Callable[[], BuildSettings] = gather
    """The host's settings for image builds, as they are now."""
    build_timeout_s: Callable[[], float] = lambda: BUILD_TIMEOUT_S
    on_progress: Callable[[str], None] = lambda line: None
    """Called with each long step of a start, as a sentence."""
    gateway_ports: Callable[[], Iterable[int]] = tuple
    """The ports that the gateway really listens on."""
    probe: bool = True
    """Whether opening it tests the isolation."""


def local_engine() -> Engine:
    """The container engine of this machine; it is not asked anything yet."""
    return DockerEngine()


def make_sandbox(needs: SandboxNeeds, engine: Engine | None = None) -> ContainerSandbox:
    """The sandbox of a gateway, not opened. `engine`: a connection that the caller has already."""
    engine = engine or local_engine()
    images = Images(engine, needs.build_settings, needs.on_progress, needs.build_timeout_s, needs.run_directory.path)
    return ContainerSandbox(
        engine,
        needs.link,
        project=needs.project,
        run_directory=needs.run_directory,
        images=images,
        secrets=needs.secrets,
        on_event=needs.on_event,
        gateway_ports=needs.gateway_ports,
        probe=needs.probe,
    )


async def clean_up(project: str) -> list[str]:
    """Removes what a gateway that died left behind; the names of what was removed. Raises EngineError."""
    engine = local_engine()
    try:
        directory = RunDirectory.of(project)
        ownership = Ownership(engine, Record.load(directory.record_file))
        names = [owned.name for owned in ownership.record.all()]
        await ownership.remove_all()
        directory.remove_meeting_places()
        return names
    finally:
        await engine.close()

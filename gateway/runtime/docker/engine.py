"""The Docker Engine behind the `Engine` protocol.

The SDK is synchronous: its calls run on a few threads of this adapter's own. Its exceptions end here, as one
sentence with the next step (`host.py`, `refusals.py`). Attaching is ours (`attach.py`): it is the path of every stdio
call.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import tarfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import docker
import docker.errors

from gateway.pace import Pace
from gateway.runtime.docker import arguments
from gateway.runtime.docker.attach import HijackedStreams, attach
from gateway.runtime.docker.cgroup import is_bounded, limit_now, limited_from_the_start
from gateway.runtime.docker.host import (
    CALL_TIMEOUT_S,
    check_socket,
    endpoint_of,
    engine_host,
    require_this_kernel,
    translated,
)
from gateway.runtime.docker.refusals import CONFLICT
from gateway.runtime.docker.streams import first_bytes, follow_build, log_line, pump_changes
from gateway.runtime.engine.base import (
    PROJECT_LABEL,
    USER_LABEL,
    BuildContext,
    Change,
    ContainerChange,
    ContainerInfo,
    ContainerPlan,
    EngineInfo,
    ImageInfo,
    LineSink,
    NetworkInfo,
    NetworkPlan,
)
from gateway.runtime.sandbox.errors import EngineError
from gateway.runtime.sandbox.log_ring import LogLine

P = ParamSpec("P")
T = TypeVar("T")

OLDEST_API: Final = (1, 40)
THREADS: Final = 16
REMOVAL_S: Final = 10.0
REMOVAL_LOOK_S: Final = 0.1
BUILD_MEMORY: Final = 2 * 1024**3
BUILD_SILENCE_S: Final = 900
"""The longest that a build by the engine may print nothing."""


class DockerEngine:
    """One connection to one engine. `open` it first; `close` ends its threads."""

    def __init__(self, host: str | None = None) -> None:
        self.host = host or engine_host()
        self.threads = ThreadPoolExecutor(THREADS, thread_name_prefix="docker")
        self.client: Any = None
        self.opening = threading.Lock()
        self.known: EngineInfo | None = None
        """What `info` returned; every caller asks for it first."""

    # -- calls on threads

    def api(self) -> Any:
        """The SDK's client, made on first use, in a thread: that asks the engine for its version."""
        with self.opening:
            if self.client is None:
                self.client = self.connect()
            return self.client

    def connect(self) -> Any:
        """A client that speaks the engine's version. Raises EngineUnreachable, or EngineError when it is too old."""
        with translated(self.host, "connect"):
            check_socket(self.host)
            client = docker.from_env(
                environment={**os.environ, "DOCKER_HOST": self.host},
                version="auto",
                timeout=CALL_TIMEOUT_S,
                max_pool_size=THREADS,
            ).api
        version = client.api_version
        if tuple(int(part) for part in version.split(".")) < OLDEST_API:
            client.close()
            raise EngineError(
                f"The Docker engine at {self.host} speaks API {version}; 1.40 (Docker 19.03) or newer is "
                "needed. Update it."
            )
        return client

    async def call(self, what: str, function: Callable[[Any], T], *, abandon: threading.Event | None = None) -> T:
        """Runs one piece of SDK work on a thread.

        A caller that is cancelled still waits for the work (otherwise a half-made container would be lost track of),
        unless `abandon` can tell the work to end.
        """

        def work() -> T:
            api = self.api()
            with translated(self.host, what):
                return function(api)

        future = asyncio.get_running_loop().run_in_executor(self.threads, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if abandon is not None:
                abandon.set()
            elif not future.done():
                await asyncio.wait([future])
            future.add_done_callback(swallow)
            raise

    async def close(self) -> None:
        """Ends the threads and the connections."""
        self.threads.shutdown(wait=False, cancel_futures=True)
        if self.client is not None:
            self.client.close()

    # -- the engine and its images

    async def info(self) -> EngineInfo:
        """Which engine this is. Raises EngineError for one that runs on another machine (a virtual one too)."""
        found = await self.call("ask the engine about itself", lambda a: arguments.engine_info(a.info(), a.version()))
        require_this_kernel(self.host, found.kernel)
        self.known = found
        return found

    async def image(self, reference: str) -> ImageInfo | None:
        """The image, None when the engine has none of that name."""

        def look(api: Any) -> ImageInfo | None:
            try:
                return arguments.image_info(api.inspect_image(reference))
            except docker.errors.ImageNotFound:
                return None

        return await self.call(f"look at image {reference}", look)

    async def pull(self, reference: str, timeout_s: float) -> ImageInfo:
        """Fetches an image from its registry."""
        name, tag = split_reference(reference)
        try:
            async with asyncio.timeout(timeout_s):
                await self.call(f"pull {reference}", lambda api: api.pull(name, tag=tag), abandon=threading.Event())
        except TimeoutError:
            raise EngineError(
                f"Could not pull {reference}: no answer from its registry in {timeout_s:g} s."
            ) from None
        found = await self.image(reference)
        if found is None:
            raise EngineError(f"Could not pull {reference}: the engine does not have it afterwards.")
        return found

    async def tag(self, image: str, reference: str) -> None:
        """Gives an image another name."""
        name, tag = split_reference(reference)
        await self.call(f"tag {image} as {reference}", lambda api: api.tag(image, name, tag))

    async def import_tree(self, tarball: str, reference: str) -> None:
        """Makes an image of a root file system."""
        name, tag = split_reference(reference)

        def load(api: Any) -> None:
            with Path(tarball).open("rb") as file:
                api.import_image_from_data(file, repository=name, tag=tag)

        await self.call(f"import {reference}", load)

    async def remove_image(self, reference: str) -> None:
        """Removes an image's name; absent is fine."""

        def remove(api: Any) -> None:
            with contextlib.suppress(docker.errors.ImageNotFound):
                api.remove_image(reference)

        await self.call(f"remove image {reference}", remove)

    async def remove_stages(self, label: str, older_than: str = "") -> None:
        """Removes untagged images and ended containers with a label: build stages, with the settings that were in them.

        `older_than` (`1h`) spares those of a build that may still be running.
        """
        filters = {"label": label, **({"until": older_than} if older_than else {})}

        def remove(api: Any) -> None:
            api.prune_containers(filters=filters)
            api.prune_images(filters={**filters, "dangling": True})

        await self.call("remove build stages", remove, abandon=threading.Event())

    async def build(self, context: BuildContext, reference: str, on_line: Callable[[str], None]) -> None:
        """Builds an image with the classic builder. Raises BuildError with what the engine said.

        `on_line` is called on the thread that reads, so that a build which prints a lot takes no time of the loop.
        """

        def build(api: Any) -> None:
            stream = api.build(
                fileobj=context_archive(context),
                custom_context=True,
                tag=reference,
                rm=True,
                forcerm=True,
                buildargs=dict(context.build_args),
                container_limits={"memory": BUILD_MEMORY, "memswap": BUILD_MEMORY},
                decode=True,
                timeout=BUILD_SILENCE_S,
            )
            follow_build(stream, on_line, abandoned)

        abandoned = threading.Event()
        await self.call(f"build {reference}", build, abandon=abandoned)

    # -- containers

    async def create(self, plan: ContainerPlan) -> str:
        """Makes a container; returns its ID. Raises NameTaken or CapabilityRefused."""
        body = arguments.create_arguments(plan, self.known)
        made = await self.call(
            f"create container {plan.name}", lambda api: api.create_container_from_config(body, plan.name)
        )
        return str(made["Id"])

    async def start(self, container: str) -> None:
        """Starts a container that exists. Raises CapabilityRefused or LimitRefused."""

        def start(api: Any) -> None:
            info = self.known
            if info is None or info.cgroup != 1:
                api.start(container)
                return
            found = api.inspect_container(container)
            limit = int((found["Config"].get("Labels") or {}).get(arguments.SOCKETS_LABEL, 0))
            early = (
                limited_from_the_start(found["Id"], limit) if limit and info.cgroupfs else contextlib.nullcontext()
            )
            with early:
                api.start(container)
            if limit:
                limit_now(found["Id"], api.inspect_container(container)["State"]["Pid"], limit)

        await self.call(f"start container {container[:12]}", start)

    async def bounds_sockets(self, container: str) -> bool:
        """Whether a limit holds for the buffers of a running container's sockets."""
        info = await self.inspect(container)
        return info is not None and await asyncio.to_thread(is_bounded, info.id, info.pid)

    async def stop(self, container: str, grace_s: float) -> None:
        """Asks it to end, then kills it; absent or stopped is fine."""
        await self.call(
            f"stop container {container[:12]}",
            lambda api: ignore_missing(lambda: api.stop(container, timeout=int(grace_s))),
        )

    async def kill(self, container: str) -> None:
        """Kills it; absent or stopped is fine."""
        await self.call(
            f"kill container {container[:12]}", lambda api: ignore_missing(lambda: api.kill(container), also=(409,))
        )

    async def users(self, project: str) -> frozenset[int]:
        """The uids that containers of every other project are labelled with, running or not."""
        filters = {"label": USER_LABEL}
        listed = await self.call("list containers", lambda api: api.containers(all=True, filters=filters))
        labels = [item.get("Labels") or {} for item in listed]
        texts = [found.get(USER_LABEL, "") for found in labels if found.get(PROJECT_LABEL) != project]
        return frozenset(int(text) for text in texts if text.isdecimal())

    async def remove(self, container: str) -> None:
        """Kills and removes it with its volumes; absent is fine. One that is being removed is waited for."""

        def remove(api: Any) -> None:
            try:
                ignore_missing(lambda: api.remove_container(container, v=True, force=True))
            except docker.errors.APIError as error:
                if error.status_code != CONFLICT or not is_gone_soon(api, container):
                    raise

        await self.call(f"remove container {container[:12]}", remove)

    async def commit(self, container: str, labels: Mapping[str, str]) -> str:
        """An untagged image of what the container's file system is now; its ID. What is mounted is not in it."""
        config = {"Labels": dict(labels)}
        made = await self.call(f"keep container {container[:12]}", lambda api: api.commit(container, conf=config))
        return str(made["Id"])

    async def inspect(self, container: str) -> ContainerInfo | None:
        """The container by ID or name, None when there is none."""

        def look(api: Any) -> ContainerInfo | None:
            try:
                return arguments.container_info(api.inspect_container(container))
            except docker.errors.NotFound:
                return None

        return await self.call(f"look at container {container[:12]}", look)

    async def archive(self, container: str, path: str, most: int) -> bytes | None:
        """The first `most` bytes of a tar archive of that path; None where the container has none."""

        def read(api: Any) -> bytes | None:
            try:
                return first_bytes(api.get_archive(container, path)[0], most)
            except docker.errors.NotFound:
                return None

        return await self.call(f"read {path} of container {container[:12]}", read)

    async def logs(self, container: str, tail: int) -> Sequence[LogLine]:
        """The last lines that the engine kept; standard output and error come as one."""
        raw = await self.call(
            f"read the log of container {container[:12]}",
            lambda api: api.logs(container, stdout=True, stderr=True, timestamps=True, tail=tail),
        )
        return [log_line(line) for line in raw.decode(errors="replace").splitlines() if line]

    async def attach(
        self, container: str, *, stdin: bool, on_line: LineSink, stdout_lines: bool, pace: Pace | None = None
    ) -> HijackedStreams:
        """Opens the container's streams; before `start`, so nothing is lost."""
        query = f"stream=1&stdout=1&stderr=1{'&stdin=1' if stdin else ''}"
        version = (await self.call("connect", lambda api: api)).api_version
        path = f"/v{version}/containers/{container}/attach?{query}"
        return await attach(endpoint_of(self.host), path, on_line, stdout_lines=stdout_lines, pace=pace)

    async def watch(self, labels: Mapping[str, str]) -> AsyncIterator[ContainerChange]:
        """Changes of containers with these labels, until the engine goes away (then it ends)."""
        queue: asyncio.Queue[ContainerChange | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        filters = {"type": ["container"], "label": [f"{key}={value}" for key, value in labels.items()]}
        stream = await self.call("watch containers", lambda api: api.events(decode=True, filters=filters))

        def say(change: ContainerChange | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(queue.put_nowait, change)

        thread = threading.Thread(target=pump_changes, args=(stream, say), name="docker-events", daemon=True)
        thread.start()
        try:
            yield ContainerChange(change=Change.RESYNC)
            while (change := await queue.get()) is not None:
                yield change
        finally:
            with contextlib.suppress(Exception):  # the SDK's close raises on a dead connection
                stream.close()
            thread.join(timeout=1)

    # -- networks

    async def create_network(self, plan: NetworkPlan) -> str:
        """Makes a network; returns its ID."""
        wanted = arguments.network_arguments(plan)
        made = await self.call(f"create network {plan.name}", lambda api: api.create_network(**wanted))
        return str(made["Id"])

    async def network(self, reference: str) -> NetworkInfo | None:
        """The network by ID or name, None when there is none."""

        def look(api: Any) -> NetworkInfo | None:
            try:
                return arguments.network_info(api.inspect_network(reference))
            except docker.errors.NotFound:
                return None

        return await self.call(f"look at network {reference}", look)

    async def networks(self) -> Sequence[NetworkInfo]:
        """Every network the engine has."""
        return await self.call("list networks", lambda api: [arguments.network_info(n) for n in api.networks()])

    async def remove_network(self, reference: str) -> None:
        """Removes it; absent is fine."""
        await self.call(
            f"remove network {reference}", lambda api: ignore_missing(lambda: api.remove_network(reference))
        )


def split_reference(reference: str) -> tuple[str, str]:
    """`registry:5000/name:tag` as (name, tag); digests stay with the name."""
    if "@" in reference:
        return reference, ""
    name, colon, tag = reference.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (reference, "latest")


def is_gone_soon(api: Any, container: str) -> bool:
    """Whether a container that is being removed is gone within `REMOVAL_S`. Blocks."""
    deadline = time.monotonic() + REMOVAL_S
    while time.monotonic() < deadline:
        try:
            api.inspect_container(container)
        except docker.errors.NotFound:
            return True
        time.sleep(REMOVAL_LOOK_S)
    return False


def ignore_missing(work: Callable[[], object], also: tuple[int, ...] = ()) -> None:
    """Does it, unless the thing is gone already."""
    try:
        work()
    except docker.errors.APIError as error:
        if error.status_code != 404 and error.status_code not in also:
            raise


def context_archive(context: BuildContext) -> io.BytesIO:
    """The build context as a tar archive."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in {"Dockerfile": context.dockerfile.encode(), **context.files}.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    archive.seek(0)
    return archive


def swallow(future: asyncio.Future[Any]) -> None:
    """Retrieves the exception of work whose caller is gone."""
    if not future.cancelled():
        future.exception()

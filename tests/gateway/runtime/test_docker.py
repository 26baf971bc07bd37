"""The adapter: the SDK's errors become sentences, and no exception of the engine's own gets out."""

from __future__ import annotations

import asyncio
import http.server
import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import docker.errors
import pytest
import requests.exceptions
import urllib3.exceptions

from gateway.runtime.docker.engine import DockerEngine, context_archive, split_reference
from gateway.runtime.docker.host import endpoint_of, require_this_kernel, unreachable
from gateway.runtime.docker.streams import log_line
from gateway.runtime.engine.base import BuildContext, Change, ContainerPlan
from gateway.runtime.engine.errors import CapabilityRefused, LimitRefused, NameTaken
from gateway.runtime.sandbox.errors import EngineError, EngineUnreachable

Answer = tuple[int, object]


class FakeDaemon(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Answers `METHOD PATH-without-version` from a table."""

    daemon_threads = True

    def __init__(self, path: Path, api: str, answers: dict[str, Answer]) -> None:
        self.answers = {
            "GET /version": (200, {"ApiVersion": api, "Version": "1", "MinAPIVersion": "1.12"}),
            **answers,
        }

        class Handler(http.server.BaseHTTPRequestHandler):
            def reply(inner) -> None:
                path = inner.path.partition("?")[0]
                bare = "/" + path.split("/", 2)[2] if path.startswith("/v1.") else path
                status, body = self.answers.get(f"{inner.command} {bare}", (500, {"message": f"no {bare}"}))
                raw = json.dumps(body).encode()
                inner.send_response(status)
                inner.send_header("Content-Type", "application/json")
                inner.send_header("Content-Length", str(len(raw)))
                inner.end_headers()
                inner.wfile.write(raw)

            do_GET = do_POST = do_DELETE = reply

            def log_message(inner, *args: object) -> None:
                return

            def address_string(inner) -> str:
                return ""

        super().__init__(str(path), Handler)


MakeEngine = Callable[..., DockerEngine]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[MakeEngine]:
    servers: list[FakeDaemon] = []

    def make(answers: dict[str, Answer] | None = None, api: str = "1.41") -> DockerEngine:
        path = tmp_path / f"{len(servers)}.sock"
        server = FakeDaemon(path, api, answers or {})
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return DockerEngine(f"unix://{path}")

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.anyio
async def test_no_engine_says_how_to_get_one(tmp_path: Path) -> None:
    engine = DockerEngine(f"unix://{tmp_path}/none.sock")
    with pytest.raises(EngineUnreachable, match=r"There is no Docker engine at unix:.*apt-get install docker\.io"):
        await engine.info()
    await engine.close()


def test_no_permission_says_how_to_get_it() -> None:
    denied = PermissionError(13, "Permission denied")
    wrapped = requests.exceptions.ConnectionError(urllib3.exceptions.ProtocolError("Connection aborted.", denied))
    raised = docker.errors.DockerException("Error while fetching server API version")
    raised.__cause__ = wrapped
    for error in (denied, wrapped, raised):
        text = str(unreachable("unix:///var/run/docker.sock", error))
        assert "usermod -aG docker" in text
        assert "sudo" in text


def test_the_reason_is_the_type_of_an_error_and_not_what_it_says() -> None:
    text = str(unreachable("tcp://x:1", OSError("a file named PermissionError: No such file")))
    assert "does not answer" in text


@pytest.mark.anyio
async def test_an_engine_that_is_too_old_says_which_is_needed(daemon: MakeEngine) -> None:
    engine = daemon(api="1.24")
    with pytest.raises(EngineError, match=r"1\.40 \(Docker 19\.03\) or newer|too old|1\.24"):
        await engine.info()
    await engine.close()


@pytest.mark.anyio
async def test_a_name_that_is_taken_is_told_apart(daemon: MakeEngine) -> None:
    message = 'Conflict. The container name "/x" is already in use by container "abc".'
    engine = daemon({"POST /containers/create": (409, {"message": message})})
    with pytest.raises(NameTaken, match="already in use"):
        await engine.create(ContainerPlan(name="x", image="i"))
    await engine.close()


@pytest.mark.anyio
async def test_what_the_engine_says_is_in_the_error_and_nothing_of_the_sdk(daemon: MakeEngine) -> None:
    engine = daemon({"POST /containers/abc/start": (500, {"message": "OCI runtime create failed: no such program"})})
    with pytest.raises(EngineError) as caught:
        await engine.start("abc")
    assert str(caught.value) == "Could not start container abc: OCI runtime create failed: no such program"
    assert type(caught.value).__module__ == "gateway.runtime.sandbox.errors"
    await engine.close()


@pytest.mark.anyio
async def test_what_is_gone_already_is_fine_to_stop_and_remove(daemon: MakeEngine) -> None:
    gone = (404, {"message": "No such container: abc"})
    engine = daemon(
        {"POST /containers/abc/stop": gone, "DELETE /containers/abc": gone, "GET /containers/abc/json": gone}
    )
    await engine.stop("abc", 1)
    await engine.remove("abc")
    assert await engine.inspect("abc") is None
    await engine.close()


@pytest.mark.anyio
async def test_a_cancelled_caller_waits_for_the_engine_to_finish(daemon: MakeEngine) -> None:
    """Otherwise a container could be made that nobody knows of."""
    engine = daemon()
    began, finish, finished = threading.Event(), threading.Event(), threading.Event()

    def slow(api: object) -> None:
        began.set()
        finish.wait(60)
        finished.set()

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(engine.call("be slow", slow))
        await asyncio.to_thread(began.wait, 60)
        task.cancel()
        finish.set()
        await asyncio.wait([task])
    assert task.cancelled()
    assert finished.is_set()
    await engine.close()


@pytest.mark.parametrize(
    ("host", "words"),
    [("ssh://me@host", "ssh:// is not supported"), ("npipe:////./pipe/docker_engine", "npipe:// is not supported")],
)
def test_engines_that_cannot_be_attached_to_say_what_to_do(host: str, words: str) -> None:
    with pytest.raises(EngineError, match=words):
        endpoint_of(host)


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("python:3.12-slim", ("python", "3.12-slim")),
        ("registry:5000/a/b", ("registry:5000/a/b", "latest")),
        ("registry:5000/a/b:1", ("registry:5000/a/b", "1")),
        ("a@sha256:00", ("a@sha256:00", "")),
    ],
)
def test_references_are_taken_apart(reference: str, parts: tuple[str, str]) -> None:
    assert split_reference(reference) == parts


def test_the_context_is_an_archive_with_the_dockerfile() -> None:
    import tarfile

    context = BuildContext(dockerfile="FROM x", files={"settings/env": b"y"}, build_args={})
    with tarfile.open(fileobj=context_archive(context)) as archive:
        assert archive.getnames() == ["Dockerfile", "settings/env"]


def test_log_lines_have_their_time_and_no_escape_sequences() -> None:
    line = log_line("2026-11-23T01:42:30.300144599Z \x1b[31mhello")
    assert line.time == pytest.approx(1795398150.300144)
    assert "\x1b" not in line.text
    assert log_line("no time at all").text == "no time at all"


@pytest.mark.docker
@pytest.mark.anyio
async def test_the_real_engine_tells_of_starts_and_ends() -> None:
    engine = DockerEngine()
    from gateway.runtime.images.build_settings import gather
    from gateway.runtime.images.images import Images

    image = await Images(engine, gather).egress()
    labels = (("stockade.project", "watchtest"),)
    name = "stockade-watchtest"
    plan = ContainerPlan(name=name, image=image, command=("python3", "-c", "raise SystemExit(7)"), labels=labels)
    await engine.remove(name)
    seen: list[tuple[Change, int]] = []
    async with asyncio.timeout(60):
        async for change in engine.watch(dict(labels)):
            seen.append((change.change, change.exit_code))
            if change.change is Change.RESYNC:
                container = await engine.create(plan)
                await engine.start(container)
            if change.change is Change.DIED:
                await engine.remove(name)
            if change.change is Change.REMOVED:
                break
    assert seen == [(Change.RESYNC, 0), (Change.STARTED, 0), (Change.DIED, 7), (Change.REMOVED, 0)]
    await engine.close()


@pytest.mark.docker
@pytest.mark.anyio
async def test_the_real_engine_refuses_a_limit_and_a_capability_as_what_they_are() -> None:
    """In the words of the runtime that is installed here, whatever they are."""
    from gateway.runtime.images.build_settings import gather
    from gateway.runtime.images.images import Images

    engine = DockerEngine()
    name, most = "stockade-refusaltest", int(Path("/proc/sys/fs/nr_open").read_text())  # noqa: ASYNC240
    plan = ContainerPlan(name=name, image=await Images(engine, gather).egress(), command=("true",))
    for asked, kind in (
        (replace(plan, nofile=2 * most), LimitRefused),
        (replace(plan, capabilities=("NO_SUCH",)), CapabilityRefused),
    ):
        await engine.remove(name)
        with pytest.raises(kind):
            await engine.start(await engine.create(asked))
    await engine.remove(name)
    await engine.close()


def test_an_engine_with_another_kernel_is_refused_with_words() -> None:
    require_this_kernel("unix:///var/run/docker.sock", "6.1.0", "6.1.0")
    with pytest.raises(EngineError, match=r"another machine \(kernel 6.6.0-linuxkit, here 6.1.0\)"):
        require_this_kernel("unix:///run/desktop.sock", "6.6.0-linuxkit", "6.1.0")

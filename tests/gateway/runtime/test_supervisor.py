"""What is started, stopped and started again, and in which order: the supervisor on an engine in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from egress.doors.states import DoorState
from gateway.runtime.containers import backend_instance, policies
from gateway.runtime.containers.sandbox import ContainerSandbox
from gateway.runtime.engine.base import Change, ContainerChange, ContainerPlan
from gateway.runtime.engine.errors import CapabilityRefused
from gateway.runtime.images.build_settings import BuildSettings
from gateway.runtime.images.images import Images
from gateway.runtime.images.recipes import python_base_tag
from gateway.runtime.inventory import exit_watch
from gateway.runtime.inventory.ownership import Ownership
from gateway.runtime.inventory.record import Owned, Record, Role
from gateway.runtime.inventory.rundir import RunDirectory
from gateway.runtime.plan.plans import Names
from gateway.runtime.sandbox.errors import BackendUnavailable, EngineError, StillBuilding
from gateway.runtime.supervise.status import origin
from gateway.runtime.supervise.supervisor import Supervisor
from observability.events import BackendEvent, BackendState, Event
from registry.config import Config
from tests.gateway.runtime.fakes import FakeEngine, FakeLink

pytestmark = pytest.mark.anyio


class NoSecrets:
    def resolve(self, values: Mapping[str, str]) -> dict[str, str]:
        return dict(values)


def config(servers: dict[str, Any], **more: Any) -> Config:
    return Config.model_validate({"mcpServers": servers, **more})


TIME = {"command": "uvx", "args": ["mcp-server-time"]}
WEB = {"image": "example/web:1", "port": 8000}
LAZY = {**TIME, "start": "lazy"}


class Stage:
    """A supervisor with everything in memory but its run directory."""

    def __init__(self, path: Path) -> None:
        self.engine = FakeEngine()
        self.engine.add_image(python_base_tag())
        self.link = FakeLink(log=self.engine.log)
        self.directory = RunDirectory(path=path / "run", persistent=path / "kept")
        self.events: list[Event] = []
        self.names = Names(project="p")
        self.sandbox: ContainerSandbox

    def supervisor(self) -> Supervisor:
        self.sandbox = ContainerSandbox(
            self.engine,
            self.link,
            project="p",
            run_directory=self.directory,
            images=Images(self.engine, BuildSettings),
            secrets=NoSecrets(),
            on_event=self.events.append,
            probe=False,
        )
        return Supervisor(self.sandbox, self.events.append)

    @asynccontextmanager
    async def running(self, first: Config, *, remove: bool = True) -> AsyncIterator[Supervisor]:
        supervisor = self.supervisor()
        await supervisor.apply(first)
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            task = tasks.create_task(supervisor.run())
            await supervisor.wait_begun()
            try:
                yield supervisor
            finally:
                await supervisor.stop(remove=remove)
                await task

    def noted_plans(self) -> dict[str, ContainerPlan]:
        """The plans of all containers that are created from now on, by name; of two with one name the last."""
        plans: dict[str, ContainerPlan] = {}
        create = self.engine.create

        async def noted(plan: ContainerPlan) -> str:
            plans[plan.name] = plan
            return await create(plan)

        self.engine.create = noted  # type: ignore[method-assign]
        return plans

    def states(self, backend: str) -> list[BackendState]:
        return [e.state for e in self.events if isinstance(e, BackendEvent) and e.backend == backend]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Lets the supervisor's tasks run until the condition holds."""
        async with asyncio.timeout(60):
            while not condition():  # the condition reads plain values that many tasks change
                await asyncio.sleep(0)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr("gateway.runtime.sandbox.backoff.FIRST_S", 0.001)
    monkeypatch.setattr(exit_watch, "REWATCH_S", 0.001)
    monkeypatch.setattr(policies, "interface_addresses", list)  # this machine's change while other tests run
    return Stage(tmp_path)


async def test_up_is_policy_then_door_then_its_sockets_then_the_backend(stage: Stage) -> None:
    async with stage.running(config({"clock": TIME})) as supervisor:
        await supervisor.instance("clock")
        log = [line for line in stage.engine.log if not line.startswith(("build", "pull", "network"))]
        assert log == [
            "create stockade-p-egress",
            "start stockade-p-egress",
            "push clock",
            "push build:clock clock",
            "create stockade-p-b-build--clock-door",
            "expect build:clock",
            "start stockade-p-b-build--clock-door",
            "ready build:clock",
            "drop build:clock",
            "remove stockade-p-b-build--clock-door",
            "push clock",
            "create stockade-p-b-clock-door",
            "expect clock",
            "start stockade-p-b-clock-door",
            "ready clock",
            "create stockade-p-b-clock",
            "attach stockade-p-b-clock",
            "start stockade-p-b-clock",
        ]
        stage.engine.log.clear()
    assert stage.engine.log == [
        "stop stockade-p-b-clock",
        "remove stockade-p-b-clock",
        "drop clock",
        "remove stockade-p-b-clock-door",
        "remove stockade-p-egress",
        "remove network stockade-p-egress-net",
    ]


async def test_down_leaves_nothing_and_records_nothing(stage: Stage) -> None:
    async with stage.running(
        config({"clock": TIME, "web": WEB, "open": {**TIME, "network": {"isolated": False}}})
    ) as s:
        for name in ("clock", "web", "open"):
            await s.instance(name)
    assert stage.engine.containers == {}
    assert stage.engine.nets == {}
    assert Record.load(stage.directory.record_file).owned == {}


async def test_a_backend_shares_the_network_of_its_door_and_nothing_else(stage: Stage) -> None:
    async with stage.running(config({"clock": TIME})) as supervisor:
        await supervisor.instance("clock")
        door = stage.engine.named("stockade-p-b-clock-door")
        backend = stage.engine.named("stockade-p-b-clock").plan
        assert door.plan.network == "none"
        assert backend.network == f"container:{door.id}"
        assert backend.capabilities == ()


async def test_a_backend_that_is_not_isolated_gets_a_network_of_its_own_and_no_proxy(stage: Stage) -> None:
    async with stage.running(config({"open": {**TIME, "network": {"isolated": False}}})) as supervisor:
        await supervisor.instance("open")
        plan = stage.engine.named("stockade-p-b-open").plan
        assert plan.network == "stockade-p-b-open-net"
        assert not [key for key, _ in plan.env if "proxy" in key.lower()]
        assert supervisor.status()[0].warnings[0].startswith("not isolated")
        assert "open" not in stage.link.pushes[-1][0]


async def test_a_lazy_backend_starts_at_the_first_call(stage: Stage) -> None:
    async with stage.running(config({"clock": LAZY})) as supervisor:
        assert stage.engine.running() == ["stockade-p-egress"]
        assert supervisor.status()[0].state is BackendState.STOPPED
        await supervisor.instance("clock")
        assert "stockade-p-b-clock" in stage.engine.running()


async def test_a_crashed_backend_starts_again_behind_the_same_door(stage: Stage) -> None:
    async with stage.running(config({"clock": TIME})) as supervisor:
        first = await supervisor.instance("clock")
        door = stage.engine.named("stockade-p-b-clock-door").id
        stage.engine.die("stockade-p-b-clock", 1)
        exit_info = await first.wait_exit()
        assert exit_info.code == 1
        await supervisor.instance("clock")
        assert "exited with code 1" in supervisor.status()[0].detail, "it has only just begun again"
        assert stage.engine.named("stockade-p-b-clock").starts == 2
        assert stage.engine.named("stockade-p-b-clock-door").id == door
        assert supervisor.status()[0].restarts == 1


async def test_a_backend_that_outlives_its_streams_is_killed_and_starts_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could serve no client: a server that did not answer was disconnected, or closed its output itself."""
    monkeypatch.setattr(backend_instance, "DEAF_GRACE_S", 0.001)
    async with stage.running(config({"clock": TIME})) as supervisor:
        await supervisor.instance("clock")
        left = stage.engine.named("stockade-p-b-clock").attachment
        assert left is not None
        left.end()
        await stage.until(lambda: stage.engine.named("stockade-p-b-clock").starts == 2)
        await supervisor.instance("clock")
        assert supervisor.status()[0].restarts == 1


async def test_where_all_servers_are_remote_nothing_is_opened_before_one_is_to_run_here(stage: Stage) -> None:
    far = {"url": "https://web.example/mcp"}
    async with stage.running(config({"far": far, "off": {**TIME, "disabled": True}})) as supervisor:
        await supervisor.apply(config({"far": {**far, "tools": {"deny": ["x"]}}}))
        assert stage.engine.log == []
        changing = asyncio.ensure_future(supervisor.apply(config({"far": far, "clock": TIME})))
        await stage.until(supervisor.applying.locked)
        await supervisor.instance("clock")
        await changing
        assert stage.engine.log.index("push clock") < stage.engine.log.index("start stockade-p-b-clock")
        await supervisor.apply(config({"far": far}))
    assert stage.engine.log[-2:] == ["remove stockade-p-egress", "remove network stockade-p-egress-net"]
    assert stage.sandbox.is_empty


async def test_an_opening_that_fails_half_way_leaves_no_task_behind(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = {"url": "https://web.example/mcp"}

    async def refuse(*_: object) -> None:
        raise EngineError("The engine went away.")

    async with stage.running(config({"far": far})) as supervisor:
        with monkeypatch.context() as away:
            away.setattr(stage.sandbox.egress, "up", refuse)
            away.setattr(Ownership, "remove_all", refuse)
            with pytest.raises(EngineError, match="went away"):
                await supervisor.apply(config({"far": far, "clock": TIME}))
        assert stage.sandbox.listening == []
        await supervisor.apply(config({"far": far, "clock": TIME}))
        await supervisor.instance("clock")


async def test_a_dead_door_recreates_both(stage: Stage) -> None:
    async with stage.running(config({"clock": TIME})) as supervisor:
        await supervisor.instance("clock")
        old = {c.id for c in stage.engine.containers.values()}
        stage.engine.die("stockade-p-b-clock-door", 137)
        await stage.until(lambda: supervisor.status()[0].restarts == 1)
        await supervisor.instance("clock")
        pair = {stage.engine.named(name).id for name in ("stockade-p-b-clock", "stockade-p-b-clock-door")}
        assert not pair & old


async def test_a_dead_egress_is_started_again_and_no_backend_is_touched(stage: Stage) -> None:
    async with stage.running(config({"clock": TIME})) as supervisor:
        await supervisor.instance("clock")
        stage.engine.log.clear()
        stage.engine.die("stockade-p-egress", 137)
        await stage.until(lambda: stage.engine.named("stockade-p-egress").starts == 2)
        assert [line for line in stage.engine.log if "clock" in line] == []
        assert stage.engine.named("stockade-p-b-clock").starts == 1


@pytest.mark.parametrize("read", [False, True], ids=["nobody read it", "read"])
async def test_what_a_backend_said_on_standard_output_is_told_when_it_ends(stage: Stage, read: bool) -> None:
    async with stage.running(config({"clock": TIME})) as supervisor:
        instance = await supervisor.instance("clock")
        attachment = stage.engine.named("stockade-p-b-clock").attachment
        assert attachment is not None
        if read:
            await instance.attach()
            instance.take_stray("error: API key \x1b[31mis required")
        else:
            attachment.reader.feed_data(b"error: API key \x1b[31mis required\r\n\n caf\xe9")
        stage.engine.die("stockade-p-b-clock", 2)
        await stage.until(lambda: "exited with code 2" in supervisor.status()[0].detail)
        assert "It printed: error: API key is required" in supervisor.status()[0].detail
        lines = [line async for line in supervisor.logs("clock")]
        assert [line.text for line in lines] == ["error: API key \ufffd[31mis required"] + [" caf\ufffd"] * (not read)
        assert {line.stream for line in lines} == {"stdout"}
        assert {line.instance for line in lines} == {"clock"}


async def test_a_backend_that_always_ends_is_given_up_and_says_what_it_printed(stage: Stage) -> None:
    stage.engine.exits_at_once.add("stockade-p-b-clock")
    async with stage.running(config({"clock": TIME})) as supervisor:
        await stage.until(lambda: supervisor.status()[0].state is BackendState.FAILED)
        with pytest.raises(BackendUnavailable, match=r"exited with code 3.*5 times in a row.*stockade restart clock"):
            await supervisor.instance("clock")
        stage.engine.exits_at_once.clear()
        await supervisor.restart("clock")
        await supervisor.instance("clock")


async def test_a_build_that_fails_is_not_tried_again(stage: Stage) -> None:
    stage.engine.builds_fail = "package-mcp-server-time"
    async with stage.running(config({"clock": TIME})) as supervisor:
        with pytest.raises(BackendUnavailable, match=r"package mcp-server-time could not be built"):
            await supervisor.instance("clock")
        assert stage.engine.log.count("build stockade-package-mcp-server-time") == 1
        assert stage.states("clock") == [BackendState.BUILDING, BackendState.FAILED]


async def test_a_failing_image_is_built_once_for_every_instance_call_and_restart_of_a_gateways_servers(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.engine.builds_fail = "package-mcp-server-time"
    built = "build stockade-package-mcp-server-time"
    monkeypatch.setattr("gateway.runtime.sandbox.backoff.COOL_S", 0.0)
    twin = {**TIME, "env": {"OTHER": "1"}}
    async with stage.running(config({"clock": TIME, "twin": twin})) as supervisor:
        for name in ("clock", "clock", "twin"):
            with pytest.raises(BackendUnavailable, match=r"could not be built[^$]*stockade restart"):
                await supervisor.instance(name)
        with pytest.raises(BackendUnavailable, match=r"could not be built"):
            await supervisor.instance("clock", "a-session")
        assert stage.engine.log.count(built) == 1
        stage.engine.builds_fail = ""
        with pytest.raises(BackendUnavailable, match=r"could not be built"):
            await supervisor.instance("clock")
        await supervisor.restart("clock")
        await supervisor.instance("clock")
        assert stage.engine.log.count(built) == 2


async def test_a_backend_that_crashes_again_and_again_is_not_shown_as_running(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage.running(config({"clock": TIME})) as supervisor:
        await supervisor.instance("clock")
        assert supervisor.status()[0].state is BackendState.RUNNING
        stage.engine.die("stockade-p-b-clock", 3)
        await stage.until(lambda: stage.engine.named("stockade-p-b-clock").starts == 2)
        await stage.until(lambda: supervisor.keepers["clock"].state is BackendState.RUNNING)
        shown = supervisor.status()[0]
        assert shown.state is BackendState.BACKOFF
        assert "exited with code 3" in shown.detail
        assert shown.ended > 0
        monkeypatch.setattr("gateway.runtime.supervise.keeper.YOUNG_S", 0.0)
        assert supervisor.status()[0].state is BackendState.RUNNING, "it has held by now"


@pytest.mark.parametrize(
    ("entry", "image", "source", "package", "version"),
    [
        (TIME, "mcp-server-time", "pypi", "mcp-server-time", ""),
        (
            {"command": "uvx", "args": ["mcp-server-time==1.2"]},
            "mcp-server-time==1.2",
            "pypi",
            "mcp-server-time",
            "==1.2",
        ),
        ({"command": "npx", "args": ["-y", "@a/b@1.0", "x"]}, "@a/b@1.0", "npm", "@a/b", "1.0"),
        ({"command": "docker", "args": ["run", "-i", "--rm", "some/image:2"]}, "some/image:2", "image", "", ""),
        (WEB, "example/web:1", "image", "", ""),
        ({"url": "https://a.example/mcp"}, "https://a.example/mcp", "remote", "", ""),
    ],
)
def test_a_status_names_what_a_server_is_made_from(
    entry: dict[str, Any], image: str, source: str, package: str, version: str
) -> None:
    found = origin(config({"x": entry}).servers["x"])
    assert (found["image"], found["source"]) == (image, source)
    assert (found.get("package", ""), found.get("version", "").lstrip("=")) == (package, version.lstrip("="))


async def test_a_status_shows_the_version_that_is_installed_also_after_a_crash(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.runtime.images.package_builds.content", lambda archive: "2026.1.14")
    entry = {**TIME, "args": ["mcp-server-time>=2026"]}
    async with stage.running(config({"clock": entry, "web": WEB})) as supervisor:
        await supervisor.instance("clock")
        assert [one.version for one in supervisor.status()] == ["2026.1.14", ""]
        stage.engine.die("stockade-p-b-clock", 3)
        await stage.until(lambda: supervisor.keepers["clock"].restarts == 1)
        assert supervisor.status()[0].version == "2026.1.14"


@pytest.mark.parametrize("entry", [TIME, LAZY])
async def test_a_call_during_a_build_waits_for_a_while_and_the_next_one_finds_the_server(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, entry: dict[str, Any]
) -> None:
    monkeypatch.setattr("gateway.runtime.supervise.keeper.BUILD_PATIENCE_S", 0.01)
    stage.engine.builds_wait = asyncio.Event()
    async with stage.running(config({"clock": {**entry, "start_timeout_s": 50}, "web": WEB})) as supervisor:
        before = time.time()
        with pytest.raises(
            StillBuilding, match=r"since \d\d:\d\d:\d\d UTC .* the first call after it finds the server"
        ):
            await supervisor.instance("clock")
        assert before - 60 < supervisor.building("clock") <= time.time()
        assert supervisor.building("web") == 0, "its image is there"
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(supervisor.built("clock"))
            stage.engine.builds_wait.set()
        assert supervisor.building("clock") == 0
        assert (await supervisor.instance("clock")).id == "clock"
        assert stage.engine.log.count("build stockade-package-mcp-server-time") == 1, "the build went on"


async def test_a_call_before_our_own_images_are_built_waits_for_a_while(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.runtime.supervise.supervisor.BUILD_PATIENCE_S", 0.01)
    supervisor = stage.supervisor()
    await supervisor.apply(config({"clock": TIME, "far": {"url": "https://a.example/mcp"}}))
    with pytest.raises(StillBuilding, match="still being built"):
        await supervisor.instance("clock")
    assert supervisor.building("clock") > 0
    assert supervisor.building("far") == 0


async def test_a_lazy_backend_says_when_it_starts(stage: Stage) -> None:
    async with stage.running(config({"lazy": LAZY, "off": {**TIME, "disabled": True}})) as supervisor:
        assert [one.detail for one in supervisor.status()] == ["starts at first call", "disabled"]


async def test_a_failed_start_leaves_no_door_behind(stage: Stage) -> None:
    stage.engine.create_fails.add("stockade-p-b-clock")
    async with stage.running(config({"clock": TIME})) as supervisor:
        await stage.until(lambda: supervisor.status()[0].state is BackendState.FAILED)
        assert stage.engine.running() == ["stockade-p-egress"]
        assert stage.link.tickets == {}


async def test_a_door_that_stays_silent_fails_the_start(stage: Stage) -> None:
    stage.link.deaf = True
    async with stage.running(config({"clock": TIME})) as supervisor:
        await stage.until(lambda: supervisor.status()[0].state is BackendState.FAILED)
        assert "did not reach the egress" in supervisor.status()[0].detail
        assert "create stockade-p-b-clock" not in stage.engine.log


async def test_a_changed_policy_is_one_push_and_touches_no_container(stage: Stage) -> None:
    async with stage.running(config({"clock": TIME})) as supervisor:
        await supervisor.instance("clock")
        stage.engine.log.clear()
        await supervisor.apply(config({"clock": {**TIME, "network": {"allowed_hosts": ["api.example.com"]}}}))
        assert stage.engine.log == ["push clock"]


async def test_a_changed_command_replaces_that_backend_and_no_other(stage: Stage) -> None:
    async with stage.running(config({"clock": TIME, "other": TIME})) as supervisor:
        await supervisor.instance("clock")
        await supervisor.instance("other")
        stage.engine.log.clear()
        await supervisor.apply(config({"clock": {**TIME, "env": {"A": "b"}}, "other": TIME}))
        await supervisor.instance("clock")
        assert ("A", "b") in stage.engine.named("stockade-p-b-clock").plan.env
        assert [line for line in stage.engine.log if "other" in line and "push" not in line] == []


async def test_a_call_for_a_backend_that_is_being_replaced_gets_the_new_one(stage: Stage) -> None:
    async with stage.running(config({"clock": TIME})) as supervisor:
        instances = [await supervisor.instance("clock")]
        changed = config({"clock": {**TIME, "env": {"A": "b"}}})
        for work in (lambda: supervisor.apply(changed), lambda: supervisor.restart("clock")):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(work())
                asked = tasks.create_task(supervisor.instance("clock"))
            assert asked.result() not in instances
            instances.append(asked.result())
        assert ("A", "b") in stage.engine.named("stockade-p-b-clock").plan.env


async def test_a_disk_that_takes_nothing_stops_no_other_backend_and_no_shutdown(stage: Stage) -> None:
    async with stage.running(config({"clock": TIME, "other": TIME})) as supervisor:
        await supervisor.instance("clock")
        other = await supervisor.instance("other")
        full = stage.directory.record_file.with_suffix(".tmp")
        full.mkdir()
        await supervisor.restart("clock")
        await stage.until(lambda: stage.states("clock")[-1] is BackendState.FAILED)
        with pytest.raises(BackendUnavailable, match="The record of what runs cannot be written"):
            await supervisor.instance("clock")
        assert await supervisor.instance("other") is other
        full.rmdir()
        await supervisor.restart("clock")
        await supervisor.instance("clock")
        full.mkdir()
    assert stage.engine.running() == []


async def test_a_removed_backend_is_down_before_its_policy_goes(stage: Stage) -> None:
    async with stage.running(config({"clock": TIME})) as supervisor:
        await supervisor.instance("clock")
        stage.engine.log.clear()
        await supervisor.apply(config({}))
        assert stage.engine.log == [
            "stop stockade-p-b-clock",
            "remove stockade-p-b-clock",
            "drop clock",
            "remove stockade-p-b-clock-door",
            "push",
        ]


async def test_each_session_gets_a_backend_and_a_door_of_its_own(stage: Stage) -> None:
    async with stage.running(config({"clock": {**TIME, "sessions": "per-client", "spares": 0}})) as supervisor:
        assert stage.engine.running() == ["stockade-p-egress"]
        one = await supervisor.instance("clock", "one")
        two = await supervisor.instance("clock", "two")
        assert {one.id, two.id} == {"clock/one", "clock/two"}
        assert len(stage.engine.running()) == 5
        assert {t.backend for t in stage.link.tickets.values()} == {"clock"}
        await supervisor.release("clock/one")
        assert len(stage.engine.running()) == 3


def uids(stage: Stage, role: str) -> dict[str, str]:
    """The uid on the label of every container of a role, by instance."""
    labels = [dict(container.plan.labels) for container in stage.engine.containers.values()]
    return {found["stockade.instance"]: found["stockade.uid"] for found in labels if found["stockade.role"] == role}


async def test_every_session_is_a_user_of_its_own_in_its_backends_group(stage: Stage) -> None:
    entry = {**TIME, "sessions": "per-client", "spares": 0}
    servers = config({"clock": entry, "notes": {**entry, "mounts": ["/srv:/data"]}})
    async with stage.running(servers) as supervisor:
        for session in ("one", "two"):
            await supervisor.instance("clock", session)
            await supervisor.instance("notes", session)
        own, doors = uids(stage, "backend"), uids(stage, "door")
        assert own["notes/one"] == own["notes/two"], "or no session could write what an earlier one wrote"
        everybody = {own["notes/one"], own["clock/one"], own["clock/two"], *doors.values()}
        assert len(everybody | set(uids(stage, "egress").values())) == 3 + 4 + 1
        users = [stage.engine.named(stage.names.backend(f"clock/{name}")).plan.user for name in ("one", "two")]
        assert len({user.partition(":")[2] for user in users}) == 1
        await supervisor.release("clock/one")
        assert not [holder for holder in stage.sandbox.users.record.users if holder.endswith("/clock/one")]
    assert set(Record.load(stage.directory.record_file).users) >= {"backend/clock", "backend/notes"}


async def test_root_volumes_are_given_to_a_server_with_a_user_of_its_own_alone(stage: Stage) -> None:
    stage.engine.exits_at_once |= {"stockade-p-b-notes-owner", "stockade-p-b-mine-owner", "stockade-p-b-shown-owner"}
    servers = config(
        {
            "notes": {**TIME, "mounts": ["notes:/data", "/srv:/srv"]},
            "shown": {**TIME, "mounts": ["notes:/data:ro"]},
            "mine": {**TIME, "mounts": ["mine:/data"], "user": "1000:1000"},
        }
    )
    async with stage.running(servers) as supervisor:
        for backend in ("notes", "shown", "mine"):
            await supervisor.instance(backend)
        assert [line for line in stage.engine.log if line.endswith("-owner")] == [
            "create stockade-p-b-notes-owner",
            "start stockade-p-b-notes-owner",
            "remove stockade-p-b-notes-owner",
        ], "although it failed, as it may: the server starts all the same"
        order = [stage.engine.log.index(f"{what} stockade-p-b-notes") for what in ("create", "start")]
        assert order[0] < stage.engine.log.index("start stockade-p-b-notes-owner") < order[1]


async def test_storage_is_given_to_whoever_the_server_runs_as_and_all_its_sessions_are_one_user(stage: Stage) -> None:
    stage.engine.exits_at_once |= {f"stockade-p-b-{name}-owner" for name in ("kept", "mine")}
    stage.engine.exits_at_once |= {stage.names.owner(f"kept/{name}") for name in ("one", "two")}
    plans = stage.noted_plans()
    servers = config(
        {
            "kept": {**TIME, "sessions": "per-client", "spares": 0, "storage": "/data"},
            "mine": {**TIME, "storage": ["/data"], "user": "1000:1001", "mounts": ["notes:/notes"]},
        }
    )
    async with stage.running(servers) as supervisor:
        await supervisor.instance("mine")
        for session in ("one", "two"):
            await supervisor.instance("kept", session)
        own = uids(stage, "backend")
        assert own["kept/one"] == own["kept/two"]
    given = {name: plan for name, plan in plans.items() if plan.name.endswith("-owner")}
    mine = given["stockade-p-b-mine-owner"]
    assert [(mount.source, mount.target) for mount in mine.mounts] == [("stockade_p_mine_data", "/storage/0")]
    assert mine.command is not None
    assert mine.command[3:5] == ("1000", "1001")
    kept = [given[stage.names.owner(f"kept/{name}")] for name in ("one", "two")]
    assert {mount.source for plan in kept for mount in plan.mounts} == {"stockade_p_kept_data"}
    assert not any(line.startswith("remove") and "stockade_p_" in line for line in stage.engine.log), (
        "it outlives them"
    )


async def test_an_image_that_brings_a_user_of_ours_is_refused(stage: Stage) -> None:
    async with stage.running(config({})) as supervisor:
        (egress,) = uids(stage, "egress").values()
        stage.engine.add_image("insider", egress)
        await supervisor.apply(config({"insider": {"image": "insider", "start": "lazy"}}))
        with pytest.raises(BackendUnavailable, match=rf"Its image would run as user {egress}.*`user`"):
            await supervisor.instance("insider")
        assert not [line for line in stage.engine.log if line == "create stockade-p-b-insider"]
        await supervisor.apply(config({"insider": {"image": "insider", "start": "lazy", "user": "1234:1234"}}))
        await supervisor.instance("insider")


async def test_backends_whose_images_bring_the_same_user_are_told_apart_in_ps(stage: Stage) -> None:
    stage.engine.add_image("one", "1000:1000")
    stage.engine.add_image("two", "1000")
    async with stage.running(config({"a": {"image": "one"}, "b": {"image": "two"}, "c": TIME})) as supervisor:
        for backend in ("a", "b", "c"):
            await supervisor.instance(backend)
        warned = {status.name: " ".join(status.warnings) for status in supervisor.status()}
        assert "runs as user 1000, as b does" in warned["a"]
        assert "runs as user 1000, as a does" in warned["b"]
        assert warned["c"] == ""


async def test_what_the_endpoint_cannot_use_is_restarted(stage: Stage) -> None:
    async with stage.running(config({"clock": TIME})) as supervisor:
        first = await supervisor.instance("clock")
        await supervisor.renew("clock")
        await first.wait_exit()
        await supervisor.instance("clock")
        assert stage.engine.named("stockade-p-b-clock").starts == 2
        own = await supervisor.instance("clock", "one")
        await supervisor.renew(own.id)
        assert own.id not in supervisor.keepers
        await supervisor.renew("nobody")


async def test_the_next_gateway_takes_over_the_same_containers(stage: Stage) -> None:
    wanted = config({"clock": TIME, "web": WEB})
    async with stage.running(wanted, remove=False) as supervisor:
        await supervisor.instance("clock")
        await supervisor.instance("web")
    before = {c.plan.name: (c.id, c.starts) for c in stage.engine.containers.values() if c.running}
    assert len(before) == 5
    async with stage.running(wanted) as supervisor:
        await supervisor.instance("clock")
        await supervisor.instance("web")
        after = {c.plan.name: (c.id, c.starts) for c in stage.engine.containers.values() if c.running}
        assert {name: key[0] for name, key in after.items()} == {name: key[0] for name, key in before.items()}
        assert after["stockade-p-b-web"][1] == 1, "an http backend goes on"
        assert after["stockade-p-b-clock"][1] == 2, "a stdio conversation starts again"
        assert set(stage.link.tickets) == {"clock", "web"}


async def test_the_next_gateway_removes_what_is_not_wanted_any_more_and_remakes_what_changed(stage: Stage) -> None:
    async with stage.running(config({"clock": TIME, "gone": TIME}), remove=False) as supervisor:
        await supervisor.instance("clock")
        await supervisor.instance("gone")
    old = stage.engine.named("stockade-p-b-clock").id
    async with stage.running(config({"clock": {**TIME, "env": {"A": "b"}}})) as supervisor:
        await supervisor.instance("clock")
        assert stage.engine.named("stockade-p-b-clock").id != old
        assert not [name for name in stage.engine.running() if "gone" in name]


async def test_a_container_with_our_name_that_we_did_not_make_is_left_alone(stage: Stage) -> None:
    await stage.engine.create(ContainerPlan(name="stockade-p-b-clock-door", image="x"))
    async with stage.running(config({"clock": TIME})) as supervisor:
        await stage.until(lambda: supervisor.status()[0].state is BackendState.FAILED)
        assert "did not make it" in supervisor.status()[0].detail
    assert stage.engine.named("stockade-p-b-clock-door")


async def test_a_crash_between_intent_and_creation_leaks_nothing(stage: Stage) -> None:
    record = Record.load(stage.directory.record_file)
    record.use_engine("ENGINE")
    mark = record.intend(Owned(name="stockade-p-b-lost", role=Role.BACKEND, mark="", instance="lost")).mark
    record.intend(Owned(name="stockade-p-b-other", role=Role.BACKEND, mark="", instance="other"))
    await stage.engine.create(ContainerPlan(name="stockade-p-b-lost", image="x", labels=(("stockade.mark", mark),)))
    await stage.engine.create(ContainerPlan(name="stockade-p-b-other", image="x", labels=(("stockade.mark", "?"),)))
    async with stage.running(config({})):
        names = {c.plan.name for c in stage.engine.containers.values()}
        assert "stockade-p-b-lost" not in names, "ours, by its mark"
        assert "stockade-p-b-other" in names, "a label alone proves nothing"


async def test_an_exit_whose_event_was_lost_is_noticed_when_the_stream_reopens(stage: Stage) -> None:
    async with stage.running(config({"clock": TIME})) as supervisor:
        await supervisor.instance("clock")
        stage.engine.die("stockade-p-b-clock", 1, silently=True)
        stage.engine.tell(ContainerChange(change=Change.RESYNC))
        await stage.until(lambda: supervisor.status()[0].restarts == 1)


async def test_an_engine_that_fails_at_the_start_ends_the_run_and_leaves_nothing(stage: Stage) -> None:
    stage.engine.create_fails.add("stockade-p-egress")
    supervisor = stage.supervisor()
    await supervisor.apply(config({"clock": TIME}))
    with pytest.raises(EngineError, match="Could not create"):
        await supervisor.run()
    assert stage.engine.containers == {}
    assert stage.engine.nets == {}
    with pytest.raises(BackendUnavailable, match="Could not create"):
        await supervisor.instance("clock")


async def test_a_probe_that_got_out_refuses_isolated_backends_only(stage: Stage) -> None:
    servers = {"clock": TIME, "open": {**TIME, "network": {"isolated": False}}}
    async with stage.running(config({})) as supervisor:
        stage.sandbox.refusal = "Isolation does not hold on this engine."
        await supervisor.apply(config(servers))
        with pytest.raises(BackendUnavailable, match="does not hold"):
            await supervisor.instance("clock")
        await supervisor.instance("open")


async def test_a_port_of_its_own_where_the_door_must_listen_is_an_error(stage: Stage) -> None:
    async with stage.running(config({"web": {**WEB, "port": 3128}})) as supervisor:
        with pytest.raises(BackendUnavailable, match=r"listens on port 3128 .*another port"):
            await supervisor.instance("web")


async def test_an_http_backend_that_ends_before_it_listens_says_so(stage: Stage) -> None:
    stage.engine.exits_at_once.add("stockade-p-b-web")

    async def refuse(door: str, port: int, timeout_s: float = 5) -> Any:
        raise ConnectionRefusedError("refused")

    stage.link.connect_inside = refuse  # type: ignore[method-assign]
    async with stage.running(config({"web": WEB})) as supervisor:
        await stage.until(lambda: supervisor.status()[0].state is BackendState.FAILED)
        assert "exited with code 3" in supervisor.status()[0].detail


async def test_logs_are_kept_over_restarts_and_followed(stage: Stage) -> None:
    from gateway.runtime.sandbox.log_ring import LogLine

    async with stage.running(config({"clock": TIME})) as supervisor:
        await supervisor.instance("clock")
        say = stage.engine.named("stockade-p-b-clock").stderr
        assert say is not None
        say(LogLine(time=1.0, stream="stderr", text="hello"))
        assert [line.text async for line in supervisor.logs("clock")] == ["hello"]
        follower = supervisor.logs("clock", follow=True)
        assert (await anext(follower)).instance == "clock"
        say(LogLine(time=2.0, stream="stderr", text="again"))
        assert (await anext(follower)).text == "again"
        await follower.aclose()  # type: ignore[attr-defined]


async def test_a_run_that_is_cancelled_leaves_nothing(stage: Stage) -> None:
    supervisor = stage.supervisor()
    await supervisor.apply(config({"clock": TIME}))
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(supervisor.run())
        await supervisor.wait_begun()
        await supervisor.instance("clock")
        task.cancel()
        await asyncio.wait([task])
    assert stage.engine.containers == {}
    assert stage.engine.nets == {}


async def test_an_engine_that_refuses_the_capability_gets_a_door_without_it(stage: Stage) -> None:
    start = stage.engine.start

    async def refuse(container: str) -> None:
        if "NET_ADMIN" in stage.engine.containers[container].plan.capabilities:
            raise CapabilityRefused("Could not start container x: unable to apply caps: operation not permitted")
        await start(container)

    stage.engine.start = refuse  # type: ignore[method-assign]
    async with stage.running(config({"clock": TIME})) as supervisor:
        await supervisor.instance("clock")
        assert "NET_ADMIN" not in stage.engine.named("stockade-p-b-clock-door").plan.capabilities
        assert stage.link.on_door is not None
        stage.link.on_door("clock", DoorState.NO_ROUTE, "no AnyIP route: Operation not permitted")
        assert supervisor.status()[0].direct_supported is False


async def test_events_of_the_probe_belong_to_no_backend(stage: Stage) -> None:
    from observability.events import NoticeEvent

    heard: list[str] = []
    stage.link.on_event = lambda event: heard.append(event.backend)
    stage.supervisor()
    for backend in ("_probe", "clock"):
        stage.link.on_event(NoticeEvent(time=0, source="egress", code="x", backend=backend))
    assert heard == ["clock"]


async def test_an_unknown_backend_is_a_sentence(stage: Stage) -> None:
    async with stage.running(config({})) as supervisor:
        with pytest.raises(BackendUnavailable, match="It runs in no container here"):
            await supervisor.instance("nope")


@pytest.mark.parametrize("noticed", [False, True])
async def test_a_call_right_after_a_sessions_own_backend_ended_gets_the_next_incarnation(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, noticed: bool
) -> None:
    remove, may_go = stage.engine.remove, asyncio.Event()

    async def slow(container: str) -> None:
        if "-b-clock" in stage.engine.containers[container].plan.name:
            await may_go.wait()
        await remove(container)

    monkeypatch.setattr(stage.engine, "remove", slow)
    servers = {"clock": {**TIME, "sessions": "per-client", "spares": 0, "start_timeout_s": 20}}
    async with stage.running(config(servers)) as supervisor, asyncio.TaskGroup() as tasks:
        first = await supervisor.instance("clock", "one")
        keeper = supervisor.keepers["clock/one"]
        stage.engine.die(stage.names.backend("clock/one"), 3)
        if noticed:
            await stage.until(lambda: keeper.state is BackendState.FAILED)
        second = tasks.create_task(supervisor.instance("clock", "one"))
        await stage.until(lambda: keeper.state is BackendState.FAILED)
        may_go.set()
        assert await second is not first
        assert keeper.done.is_set()


async def test_a_call_while_a_backend_restarts_gets_the_next_incarnation(stage: Stage) -> None:
    async with stage.running(config({"clock": TIME})) as supervisor, asyncio.TaskGroup() as tasks:
        first = await supervisor.instance("clock")
        keeper = supervisor.keepers["clock"]
        restart = tasks.create_task(supervisor.restart("clock"))
        await stage.until(keeper.stopping.is_set)
        second = await supervisor.instance("clock")
        assert second is not first
        await restart
        assert await supervisor.instance("clock") is second


async def test_a_call_waits_for_a_replacement_that_never_ends_no_longer_than_for_a_start(stage: Stage) -> None:
    never = asyncio.Event()

    async def stuck(container: str) -> None:
        await never.wait()

    async with stage.running(config({"clock": TIME})) as supervisor, asyncio.TaskGroup() as tasks:
        await supervisor.instance("clock")
        remove, stage.engine.remove = stage.engine.remove, stuck  # type: ignore[method-assign]
        restart = tasks.create_task(supervisor.restart("clock"))
        await stage.until(lambda: "clock" in supervisor.replacing)
        supervisor.start_timeout_s = lambda backend: 0.01  # type: ignore[method-assign]
        with pytest.raises(BackendUnavailable, match=r"It is not ready after|It was not replaced within"):
            await supervisor.instance("clock")
        stage.engine.remove = remove  # type: ignore[method-assign]
        never.set()
        await restart


async def test_a_keeper_that_replaced_another_is_not_forgotten_with_it(stage: Stage) -> None:
    async with stage.running(config({"clock": {**LAZY, "spares": 0}})) as supervisor:
        await supervisor.instance("clock", "one")
        old = supervisor.keepers["clock/one"]
        await old.stop(0)
        await supervisor.instance("clock", "one")
        supervisor.forget(old)
        assert supervisor.keepers["clock/one"] is not old


async def test_an_http_backend_whose_output_is_lost_serves_on(stage: Stage) -> None:
    """Its output is only printed: an engine that restarts and lets containers live ends the streams alone."""
    async with stage.running(config({"web": {**WEB, "start_timeout_s": 10}})) as supervisor:
        first = await supervisor.instance("web")
        left = stage.engine.named("stockade-p-b-web").attachment
        assert left is not None
        left.end()
        assert await supervisor.instance("web") is first

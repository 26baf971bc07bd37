"""What works and what does not on this machine and its engine, as data; each finding says what to do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from gateway.runtime.containers.egress_keeper import NOFILE
from gateway.runtime.containers.probe import idle_plan
from gateway.runtime.containers.sandbox import ContainerSandbox
from gateway.runtime.engine.base import Engine, EngineInfo
from gateway.runtime.factory import SandboxNeeds, local_engine, make_sandbox
from gateway.runtime.images.bases import Bases, bootstrap_problem
from gateway.runtime.images.build_settings import CA_VARIABLES, SYSTEM_BUNDLES
from gateway.runtime.inventory.context import owned
from gateway.runtime.inventory.egress_link import EgressLink
from gateway.runtime.inventory.record import Role
from gateway.runtime.inventory.rundir import RunDirectory
from gateway.runtime.inventory.users import PROBE
from gateway.runtime.sandbox.errors import EngineError, first_leaf
from registry.secrets import SecretStore
from registry.secrets.errors import Fault, SealError
from registry.secrets.places import Store

State = Literal["ok", "warn", "fail"]
ENOUGH_DISK: Final = 5 * 1024**3
ENOUGH_FILES: Final = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check's outcome."""

    name: str
    state: State
    detail: str
    fix: str = ""
    """What to do; empty when nothing is wrong."""


async def examine(project: str) -> list[Finding]:
    """Every check, in the order in which one would fix things. Takes some seconds: it runs containers of its own."""
    findings = [run_directory_finding(project), secrets_finding(SecretStore())]
    engine = local_engine()
    try:
        info = await engine.info()
    except EngineError as error:
        return [*findings, failed("engine", error)]
    try:
        findings += [engine_finding(engine.host, info), seccomp_finding(info), disk_finding(info)]
        findings.append(files_finding())
        findings += [certificates_finding(dict(os.environ)), await base_finding(engine)]
        return findings + await isolation_findings(engine)
    finally:
        await engine.close()


def failed(name: str, error: BaseException) -> Finding:
    """A check that an error ended; our errors carry the next step."""
    return Finding(name=name, state="fail", detail=str(error))


def run_directory_finding(project: str) -> Finding:
    """Whether sockets can be made in the run directory. What is made only to find out is removed again."""
    directory = RunDirectory.of(project)
    made = [path for path in (directory.path, directory.persistent) if not path.exists()]
    try:
        directory.create()
        for path in made:
            shutil.rmtree(path, ignore_errors=True)
    except (OSError, ValueError) as error:
        return Finding(
            name="run directory",
            state="fail",
            detail=str(error),
            fix="Set STOCKADE_STATE_DIR to a short path you own.",
        )
    return Finding(name="run directory", state="ok", detail=str(directory.path))


def secrets_finding(stores: SecretStore) -> Finding:
    """Where secrets are looked for here, and whether the encrypted file opens."""
    vault = stores.vault
    asked = [place.where for place in stores.places() if place.store is not Store.ENCRYPTED or vault.exists]
    detail = f"new ones go to {vault.path if stores.default() is Store.ENCRYPTED else stores.folder}; "
    detail += f"looked for in {', then '.join(asked)}"
    try:
        if names := vault.names():
            vault.get(names[0])
    except SealError as error:
        state: State = "warn" if error.fault is Fault.NO_KEY else "fail"
        return Finding(name="secrets", state=state, detail=detail, fix=str(error))
    return Finding(name="secrets", state="ok", detail=detail)


def engine_finding(host: str, info: EngineInfo) -> Finding:
    """The engine, and whether it is on this machine."""
    detail = f"Docker {info.version} (API {info.api_version}), kernel {info.kernel}, {info.architecture}"
    if not host.startswith("unix://"):
        return Finding(
            name="engine",
            state="fail",
            detail=f"{detail}, at {host}: apparently not on this machine",
            fix="Run the gateway where the engine is, and unset DOCKER_HOST.",
        )
    return Finding(name="engine", state="ok", detail=detail)


def seccomp_finding(info: EngineInfo) -> Finding:
    """Whether the engine filters system calls at all."""
    if info.seccomp:
        return Finding(name="system call filter", state="ok", detail="seccomp is on; servers get a profile of ours")
    return Finding(
        name="system call filter",
        state="fail",
        detail="The engine has no seccomp, so a server could open sockets that no network namespace covers.",
        fix="Use an engine and a kernel with seccomp (CONFIG_SECCOMP_FILTER).",
    )


def disk_finding(info: EngineInfo) -> Finding:
    """Room for images."""
    try:
        free = shutil.disk_usage(info.root_directory).free
    except OSError:
        return Finding(
            name="disk", state="ok", detail="the engine's directory is not readable from here: not checked"
        )
    detail = f"{free / 1024**3:.1f} GiB free in {info.root_directory}"
    if free < ENOUGH_DISK:
        return Finding(name="disk", state="warn", detail=detail, fix="Free some: `docker system prune`.")
    return Finding(name="disk", state="ok", detail=detail)


def files_finding(limit: Path = Path("/proc/sys/fs/file-max")) -> Finding:
    """Whether the machine allows so many open files that no backend can use them all up."""
    name = "files of the machine"
    try:
        most = int(limit.read_text())
    except (OSError, ValueError):
        return Finding(name=name, state="ok", detail="fs.file-max is not readable from here: not checked")
    if most >= ENOUGH_FILES:
        return Finding(name=name, state="ok", detail="fs.file-max is practically unlimited")
    return Finding(
        name=name,
        state="warn",
        detail=(
            f"This machine allows {most} open files in total (fs.file-max). A server's memory is enough for about "
            "2000 per MiB, so a few servers could use them all up."
        ),
        fix="sysctl -w fs.file-max=9223372036854775807, which systemd 240 and newer does by itself.",
    )


def certificates_finding(environ: Mapping[str, str]) -> Finding:
    """Which certificates builds trust."""
    named = next((f"{name}={environ[name]}" for name in CA_VARIABLES if environ.get(name)), "")
    usual = next((path for path in SYSTEM_BUNDLES if Path(path).is_file()), "")
    if named or usual:
        return Finding(name="certificates", state="ok", detail=f"builds trust {named or usual}")
    return Finding(
        name="certificates",
        state="warn",
        detail="no certificate bundle was found; builds trust what their base image has",
        fix="Install ca-certificates, or set SSL_CERT_FILE.",
    )


async def base_finding(engine: Engine) -> Finding:
    """Whether the base image is there, or can be made."""
    pythons, nodes = await Bases(engine).made()
    if pythons:
        there = [f"{name} {', '.join(found)}" for name, found in (("Python", pythons), ("Node", nodes)) if found]
        detail = f"made: {'; '.join(there)} (the first is the default; another is made when a server needs it)"
        return Finding(name="base image", state="ok", detail=detail)
    problem = bootstrap_problem()
    if not problem:
        return Finding(name="base image", state="ok", detail="not made yet; it can be, with debootstrap if need be")
    return Finding(
        name="base image",
        state="warn",
        detail="not made yet; it is pulled if a registry answers, and cannot be made here otherwise",
        fix=problem,
    )


async def isolation_findings(engine: Engine) -> list[Finding]:
    """The probe, in a project of its own that is gone afterwards."""
    findings: list[Finding] = []
    try:
        async with scratch_project(engine) as sandbox:
            problem = await sandbox.test_isolation(force=True)
            findings = [isolation_finding(problem), route_finding(sandbox.sees_direct), nofile_finding(sandbox)]
            findings.append(sockets_finding(sandbox.info, await sockets_bounded(sandbox)))
    except* EngineError as group:
        findings = [failed("isolation", first_leaf(group))]
    return findings


def isolation_finding(problem: str) -> Finding:
    """What the probe found."""
    if problem:
        return Finding(name="isolation", state="fail", detail=problem)
    return Finding(
        name="isolation",
        state="ok",
        detail="a container behind a door reached nothing on this machine; one on an ordinary network did",
    )


def route_finding(sees_direct: bool) -> Finding:
    """Whether direct connections are seen."""
    if sees_direct:
        return Finding(name="direct connections", state="ok", detail="the engine grants the door its route: seen")
    return Finding(
        name="direct connections",
        state="warn",
        detail="The engine refuses NET_ADMIN to the door: connections past the proxy are blocked, and not seen.",
        fix="Nothing is less safe. To see them, let the engine grant NET_ADMIN (rootless and some hosted engines do not).",
    )


def nofile_finding(sandbox: ContainerSandbox) -> Finding:
    """How many connections the egress can hold."""
    granted = sandbox.egress.nofile
    if granted == NOFILE[0]:
        return Finding(name="open files", state="ok", detail=f"{granted} for the egress")
    return Finding(
        name="open files",
        state="warn" if granted < 8192 else "ok",
        detail=f"{granted} for the egress ({NOFILE[0]} were asked for)",
        fix="" if granted >= 8192 else "Raise the engine's own limit (LimitNOFILE= of docker.service).",
    )


async def sockets_bounded(sandbox: ContainerSandbox) -> bool:
    """Whether a container with a backend's limits cannot buffer what it likes in sockets. Raises EngineError."""
    plan = idle_plan(sandbox.context, sandbox.egress_image, await sandbox.users.of(PROBE))
    container = await sandbox.ownership.create(plan, owned(plan.name, Role.PROBE))
    try:
        await sandbox.engine.start(container)
        return await sandbox.engine.bounds_sockets(container)
    finally:
        await sandbox.ownership.remove(plan.name)


def sockets_finding(info: EngineInfo | None, bounded: bool) -> Finding:
    """Whether what a server's sockets buffer is within a limit."""
    name = "socket memory"
    if bounded:
        how = "counts as" if info is None or info.cgroup == 2 else "is limited like"
        return Finding(name=name, state="ok", detail=f"what a server's sockets buffer {how} its memory")
    return Finding(
        name=name,
        state="warn",
        detail=(
            "What a server's sockets buffer is outside of its memory limit (cgroup v1): one server can take all that "
            "the kernel has for TCP and UDP, and then connections of the whole machine stall."
        ),
        fix="Boot with cgroup v2 (systemd.unified_cgroup_hierarchy=1), or run the gateway as root.",
    )


@contextlib.asynccontextmanager
async def scratch_project(engine: Engine) -> AsyncIterator[ContainerSandbox]:
    """A project with an egress and nothing else. Raises an ExceptionGroup of EngineError."""
    with tempfile.TemporaryDirectory(prefix="sk-") as directory:
        run_directory = RunDirectory(path=Path(directory) / "r", persistent=Path(directory) / "p")
        needs = SandboxNeeds(
            project=f"doctor{os.getpid()}",
            run_directory=run_directory,
            link=EgressLink(run_directory.control, on_event=lambda event: None),
            secrets=NoSecrets(),
            on_event=lambda event: None,
            probe=False,
        )
        sandbox = make_sandbox(needs, engine)
        async with asyncio.TaskGroup() as tasks:
            try:
                await sandbox.open(tasks)
                yield sandbox
                await sandbox.close(remove=True)
            finally:
                await sandbox.clear()


class NoSecrets:
    """Resolves nothing: the scratch project has no servers."""

    def resolve(self, values: Mapping[str, str], *, commands: bool = True) -> dict[str, str]:
        """The values as they are."""
        return dict(values)

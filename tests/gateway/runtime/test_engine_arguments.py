"""Every container's creation arguments, word for word, so that no option changes unseen.

The arguments are in `arguments/NAME.json`, with what differs from run to run replaced by `<…>`. A change that is meant:
run with `STOCKADE_WRITE_ARGUMENTS=1`, and review the diff as one reviews code.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.runtime.docker.arguments import create_arguments, network_arguments
from gateway.runtime.engine.base import ContainerPlan, EngineInfo, NetworkPlan
from gateway.runtime.engine.seccomp import backend_profile
from tests.gateway.runtime.test_supervisor import TIME, WEB, Stage, config

pytestmark = pytest.mark.anyio
FOLDER = Path(__file__).with_name("arguments")
SHARED = {"allowed_hosts": ["db.internal:5432"], "join": ["shared"]}
SERVERS: dict[str, Any] = {
    "clock": {**TIME, "env": {"TZ": "UTC"}, "network": SHARED},
    "web": {**WEB, "mounts": ["/srv:/srv:ro", "notes:/data"], "resources": {"memory": "256m", "cpus": 2}},
    "own": {**TIME, "sessions": "per-client", "spares": 0},
    "open": {**TIME, "network": {"isolated": False}},
    "kept": {**TIME, "storage": ["/data", "/home/stockade/my_notes"]},
}
CONTAINERS = {
    "stdio-backend": "stockade-p-b-clock",
    "http-backend": "stockade-p-b-web",
    "backend-that-is-not-isolated": "stockade-p-b-open",
    "egress": "stockade-p-egress",
    "door": "stockade-p-b-clock-door",
    "connector": "stockade-p-c-shared",
    "storage-backend": "stockade-p-b-kept",
    "storage-owner": "stockade-p-b-kept-owner",
}
NETWORKS = {"egress-network": "stockade-p-egress-net", "backend-network": "stockade-p-b-open-net"}


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    found = Stage(tmp_path)
    found.engine.nets["shared"] = NetworkPlan(name="shared")
    found.engine.exits_at_once |= {"stockade-p-b-web-owner", "stockade-p-b-kept-owner"}
    return found


async def test_no_container_and_no_network_gets_another_option_unseen(stage: Stage, tmp_path: Path) -> None:
    plans = stage.noted_plans()
    async with stage.running(config(SERVERS)) as supervisor:
        for backend, session in (("clock", ""), ("web", ""), ("own", "one"), ("open", ""), ("kept", "")):
            await supervisor.instance(backend, session)
        await stage.until(lambda: "stockade-p-c-shared" in plans)
        named = {name: plans[container] for name, container in CONTAINERS.items()}
        named["session-backend"] = stage.engine.named(stage.names.backend("own/one")).plan
        named["session-door"] = stage.engine.named(stage.names.door("own/one")).plan
        named["build"] = stage.engine.installs[0]
        named["volume-owner"] = plans["stockade-p-b-web-owner"]
        users = dict(stage.sandbox.users.record.users)
        networks = {name: stage.engine.nets[network] for name, network in NETWORKS.items()}
    info = await stage.engine.info()
    for name, plan in named.items():
        compare(name, plain(create_arguments(plan, info), plan.name, users, tmp_path))
    for name, network in networks.items():
        compare(name, plain(network_arguments(network), network.name, users, tmp_path))


def test_an_engine_with_the_first_control_groups_gets_a_limit_for_sockets(tmp_path: Path) -> None:
    engine = EngineInfo(
        id="E", version="1", api_version="1.41", kernel="k", architecture="x", seccomp=True, root_directory="/",
        cgroup=1, cgroupfs=True, limits_sockets=True,
    )  # fmt: skip
    plan = ContainerPlan(name="x", image="i", socket_bytes=7, seccomp=backend_profile())
    compare("cgroup-1", plain(create_arguments(plan, engine), plan.name, {}, tmp_path))


def plain(arguments: dict[str, Any], name: str, users: dict[str, int], path: Path) -> dict[str, Any]:
    """The arguments with a name for each thing that is another in each run."""
    text = json.dumps({"name": name, **arguments}).replace(json.dumps(backend_profile())[1:-1], profile())
    text = text.replace(str(path), "<tmp>")
    for holder, uid in users.items():
        text = re.sub(rf"\b{uid}\b", f"<uid of {holder}>", text)
    for pattern, replacement in (
        (r"\bid\d+\b", "<door>"),
        (r"(STOCKADE_NONCE=|stockade\.mark\": \")[0-9a-f]{32}", r"\1<random>"),
        (r"(STOCKADE_GENERATION=)\d+", r"\1<number>"),
        (r"(stockade-(?!p-)[a-z-]+:)[0-9a-f]{12,}", r"\1<hash>"),
        (r"(stockade-build-)[0-9a-f]{16}", r"\1<random>"),
        (r"(stockade\.build\": \"|stockade\.stage\": \")[0-9a-f]{16}", r"\1<random>"),
        (r"\"[^\"]*/build-[a-z0-9_]{8}/[0-9a-f]{16}", '"<folder>/build-<random>/<random>'),
        (r"\b655(?:2\d|3[0-2])\b", "<builder>"),
    ):
        text = re.sub(pattern, replacement, text)
    found: dict[str, Any] = json.loads(text)
    return found


def profile() -> str:
    """The seccomp profile, as short as tells a change of it."""
    return f"<profile {hashlib.sha256(backend_profile().encode()).hexdigest()[:16]}>"


def compare(name: str, arguments: dict[str, Any]) -> None:
    file = FOLDER / f"{name}.json"
    text = json.dumps(arguments, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    if os.environ.get("STOCKADE_WRITE_ARGUMENTS"):
        file.write_text(text)
    assert file.read_text() == text, name

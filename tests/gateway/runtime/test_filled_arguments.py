"""References in a server's arguments: its container gets their values, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from observability.events import NoticeEvent
from registry.secrets import SecretStore
from tests.gateway.runtime import test_supervisor
from tests.gateway.runtime.test_supervisor import Stage, config

pytestmark = pytest.mark.anyio
VALUE = "s3cret-value"


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    known = SecretStore(env={"STOCKADE_SECRET_K": VALUE}, folder=tmp_path / "none", keyring=None)
    monkeypatch.setattr(test_supervisor, "NoSecrets", lambda: known)
    monkeypatch.setattr("gateway.runtime.containers.policies.interface_addresses", list)
    return Stage(tmp_path)


async def test_the_container_is_made_with_the_values_and_they_are_said_nowhere(stage: Stage) -> None:
    entry = {
        "command": "uvx",
        "args": ["mcp-server-time", "--key=${secret:k}", "${env:OWN}", "$${kept}"],
        "env": {"OWN": "o"},
    }
    async with stage.running(config({"clock": entry})) as supervisor:
        await supervisor.instance("clock")
        (found,) = [box.plan for box in stage.engine.containers.values() if box.plan.name == "stockade-p-b-clock"]
        assert found.command == (f"--key={VALUE}", "o", "${kept}")
        said = [str(event) for event in stage.events] + [str(status) for status in supervisor.status()]
        assert VALUE not in "".join([*said, *stage.engine.log])


async def test_a_server_whose_argument_lacks_its_secret_is_not_started_and_says_which(stage: Stage) -> None:
    entry = {"command": "uvx", "args": ["mcp-server-time", "${secret:k}", "${secret:gone}"]}
    async with stage.running(config({"clock": entry})) as supervisor:
        await stage.until(lambda: supervisor.status()[0].detail != "")
        assert "the secret 'gone' is not set" in supervisor.status()[0].detail
        assert VALUE not in supervisor.status()[0].detail
        assert not any(box.plan.name == "stockade-p-b-clock" for box in stage.engine.containers.values())
    assert not any(isinstance(event, NoticeEvent) and VALUE in event.message for event in stage.events)


async def test_a_command_runs_once_at_a_start_and_never_for_a_check_of_what_changed(
    stage: Stage, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    line = f"${{command:sh -c 'echo x >> {runs}; echo {VALUE}'}}"
    entry = {"command": "uvx", "args": ["mcp-server-time", line], "env": {"A": line}}
    async with stage.running(config({"clock": entry})) as supervisor:
        await supervisor.instance("clock")
        (found,) = [box.plan for box in stage.engine.containers.values() if box.plan.name == "stockade-p-b-clock"]
        assert found.command == (VALUE,)
        await supervisor.apply(config({"clock": entry}))
        assert runs.read_text() == "x\n"
        said = [str(event) for event in stage.events] + [str(status) for status in supervisor.status()]
        assert VALUE not in "".join(said)


async def test_a_server_whose_command_fails_is_not_started_and_says_why(stage: Stage) -> None:
    entry = {
        "command": "uvx",
        "args": ["mcp-server-time"],
        "env": {"A": "${command:sh -c 'echo no item >&2; exit 2'}"},
    }
    async with stage.running(config({"clock": entry})) as supervisor:
        await stage.until(lambda: supervisor.status()[0].detail != "")
        said = "mcpServers.clock.env.A: the command `sh -c 'echo no item >&2; exit 2'` ended with code 2: no item. Run it"
        assert said in supervisor.status()[0].detail
        assert not any(box.plan.name == "stockade-p-b-clock" for box in stage.engine.containers.values())

"""Secrets are planted, a whole story is played, and everything that it left anywhere is searched for them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import docker
import pytest

from examples.demo.story import Scene, Shown, client, play
from tests.e2e import lean
from tests.e2e.otlp_receiver import OtlpReceiver
from tests.e2e.stockade_process import ROOT, StockadeProcess, until
from tests.e2e.test_page_story import admin_token

pytestmark = [pytest.mark.docker, pytest.mark.anyio, pytest.mark.timeout(300)]

SERVERS = """\
version: 1
gateway: {{listen: "127.0.0.1:0", admin: "127.0.0.1:0"}}
mcpServers:
  keeper:                   # has them all
    image: stockade-test-rogue:latest
    entrypoint: [python3, -u, /keeper.py]
    mounts: ["./keeper.py:/keeper.py:ro"]
    env:
      MY_PLAIN: "${{secret:plain}}"
      MY_ENCRYPTED: "${{secret:encrypted}}"
      MY_SYSTEM: "${{secret:system}}"
      MY_COMMAND: "${{command:cat {folder}/command}}"
    secret_files:
      /run/secrets/encrypted: "${{secret:file-encrypted}}"
      /run/secrets/command: "${{command:cat {folder}/file-command}}"
  other:                    # has none
    image: stockade-test-rogue:latest
  failing:                  # its command prints one, repeats it as an error, and fails
    image: stockade-test-rogue:latest
    env: {{A: "${{secret:encrypted}}", B: "${{command:sh -c 'cat {folder}/failing; cat {folder}/failing >&2; exit 3'}}"}}
  unready:                  # one secret is there, another is not
    image: stockade-test-rogue:latest
    secret_files: {{/run/secrets/a: "${{secret:encrypted}} ${{secret:gone}}"}}
  far:                      # a remote server that is not there
    url: "http://127.0.0.1:9/mcp"
    headers: {{Authorization: "Bearer ${{command:cat {folder}/header}}"}}
"""
PLANTED = ("plain", "encrypted", "system", "command", "file-encrypted", "file-command", "failing", "header")
FILES = ("file-encrypted", "file-command")
"""Those that only a file in the server has: they are in no container's arguments at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """A gateway whose servers have the planted values."""

    gateway: StockadeProcess
    values: Mapping[str, str]
    folder: Path
    otlp: OtlpReceiver


@pytest.fixture(scope="module")
def planted(engine: docker.DockerClient, python_base: str, workspace: Path, otlp: OtlpReceiver) -> Iterator[Planted]:
    folder = workspace / "planted"
    folder.mkdir(mode=0o700)
    values = {name: f"planted-{name}-{secrets.token_urlsafe(40)}/+ä" for name in PLANTED}
    for name in ("command", "file-command", "failing", "header"):
        (folder / name).write_text(values[name])
    credentials = folder / "credentials"
    credentials.mkdir()
    (credentials / "system").write_text(values["system"])
    key = folder / "key"
    key.touch(0o600)
    key.write_bytes(os.urandom(32))
    keeper = workspace / "keeper.py"
    keeper.write_bytes((ROOT / "tests" / "e2e" / "keeper.py").read_bytes())
    keeper.chmod(0o644)
    environment = {
        "STOCKADE_SECRETS_DIR": str(folder / "own"),
        "STOCKADE_SECRETS_KEY_FILE": str(key),
        "CREDENTIALS_DIRECTORY": str(credentials),
        "OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    config = workspace / "planted.yaml"
    config.write_text(SERVERS.format(folder=folder))
    lean.stage.build_rogue(engine, python_base, lean.ROGUE)
    process = StockadeProcess(config=config, state=workspace / "s", environment=environment)
    process.run("secret", "set", "plain", "--in", "folder", stdin=values["plain"])
    for name in ("encrypted", "file-encrypted"):
        process.run("secret", "set", name, "--in", "encrypted", stdin=values[name])
    try:
        process.run("up", "-d", str(config), timeout_s=900, check=False)  # two servers fail, as they should
        yield Planted(gateway=process, values=values, folder=folder, otlp=otlp)
    finally:
        process.down()


async def call(gateway: StockadeProcess, server: str, tool: str, **arguments: Any) -> Shown:
    async with client(gateway.server_endpoint(server), "") as connected:
        return await play(connected, Scene(says="", tool=tool, arguments=arguments))


async def fail(gateway: StockadeProcess, server: str, tool: str) -> None:
    """A call that ends in some error."""
    with suppress(Exception):
        assert (await call(gateway, server, tool)).is_error


async def looked(gateway: StockadeProcess) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((await call(gateway, "keeper", "look")).text)
    return found


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def states(gateway: StockadeProcess) -> dict[str, dict[str, Any]]:
    return {backend["name"]: backend for backend in gateway.json("ps")["backends"]}


async def test_the_server_has_its_secrets_and_its_files_are_its_own_in_memory(planted: Planted) -> None:
    values = planted.values
    found = await looked(planted.gateway)
    names = ("plain", "encrypted", "system", "command")
    assert found["variables"] == {f"MY_{name.upper()}": digest(values[name]) for name in names}
    assert found["files"] == {
        "encrypted": [digest(values["file-encrypted"]), "0o400", True],
        "command": [digest(values["file-command"]), "0o400", True],
    }
    ((kind, options),) = found["mounts"]
    assert (kind, {"nosuid", "nodev", "noexec"} <= set(options.split(","))) == ("tmpfs", True)
    assert found["writable"] is False


async def test_the_files_are_there_again_after_a_crash_and_new_ones_after_a_restart(planted: Planted) -> None:
    await fail(planted.gateway, "keeper", "crash")
    until(lambda: states(planted.gateway)["keeper"]["state"] == "running", "it runs again")
    assert len((await looked(planted.gateway))["files"]) == 2
    (planted.folder / "file-command").write_text(planted.values["file-command"] + "2")
    planted.gateway.run("restart", "keeper")
    assert (await looked(planted.gateway))["files"]["command"][0] == digest(planted.values["file-command"] + "2")


def test_a_failing_command_keeps_its_server_down_and_ps_says_why(planted: Planted) -> None:
    found = states(planted.gateway)
    assert found["failing"]["state"] == "failed"
    assert f"{planted.gateway.config.name}:20:" in found["failing"]["detail"].splitlines()[0]
    assert "; exit 3'` ended with code 3. Run it by hand" in found["failing"]["detail"]
    assert (found["unready"]["state"], "the secret 'gone' is not set" in found["unready"]["detail"]) == (
        "failed",
        True,
    )


async def test_no_secret_is_anywhere_but_in_its_server(planted: Planted, engine: docker.DockerClient) -> None:
    gateway = planted.gateway
    denied = await call(gateway, "keeper", "proxy_connect", host="evil.example", port=443)
    assert [denial["reason"] for denial in denied.denials] == ["empty_policy"]
    await fail(gateway, "keeper", "no-such-tool")
    await fail(gateway, "far", "anything")
    await call(gateway, "other", "proxy_connect", host="evil.example", port=443)
    planted.otlp.wait_for("tools/call proxy_connect")
    seen = {**told(gateway), **kept(gateway), **on_the_engine(engine), **of_processes(gateway)}
    seen["spans"] = repr(planted.otlp.spans).encode()
    assert len(seen) > 40
    assert b"empty_policy" in seen["egress tail"]
    wrong = {
        (name, what) for name, value in planted.values.items() for what, data in seen.items() if holds(data, value)
    }
    assert wrong == set()


def test_the_search_finds_what_it_looks_for(planted: Planted, engine: docker.DockerClient) -> None:
    (own,) = [
        box for box in engine.containers.list() if box.name.endswith("-b-keeper") and is_ours(box, planted.gateway)
    ]
    inspected = json.dumps(own.attrs).encode()
    hidden = {name for name, value in planted.values.items() if not holds(inspected, value)}
    assert hidden == {*FILES, "failing", "header"}
    for form in forms(planted.values["plain"]):
        assert holds(b"x" + form + b"y", planted.values["plain"])


def forms(value: str) -> set[bytes]:
    """The value as it is and as it may be written: JSON, URL, hex, base64 (at every offset)."""
    raw = value.encode()
    found = {raw, json.dumps(value)[1:-1].encode(), quote(value).encode(), quote(value, safe="").encode()}
    found |= {raw.hex().encode(), raw.hex().upper().encode(), repr(value)[1:-1].encode(), value[:48].encode()}
    for shift in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.add(encode(b"x" * shift + raw)[4:-4])
    return found


def holds(data: bytes, value: str) -> bool:
    """Whether the data has the value in any form."""
    return any(form in data for form in forms(value))


def told(gateway: StockadeProcess) -> dict[str, bytes]:
    """What the gateway says to people and programs."""
    commands = {
        name: gateway.run(*name.split(), check=False, timeout_s=60)
        for name in (
            "ps", "ps --json", "logs keeper", "logs failing", "logs far", "egress tail", "egress tail --json", "egress top",
            "egress blocked", "secret ls", "secret ls --json", "validate", "validate --json", "tools ls",
        )
    }  # fmt: skip
    found = {name: (result.stdout + result.stderr).encode() for name, result in commands.items()}
    found["metrics"] = gateway.metrics().encode()
    admin, token = str(gateway.gateway["admin"]).rstrip("/"), admin_token(gateway)
    for path in ("status", "config", "backends", "backends/keeper", "backends/failing", "backends/unready",
                 "backends/keeper/logs", "backends/failing/logs", "egress/connections", "egress/top", "egress/blocked",
                 "clients", "catalog"):  # fmt: skip
        url = f"{admin}/api/v1/{path}"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            found[url] = answer.read()
    return found


def kept(gateway: StockadeProcess) -> dict[str, bytes]:
    """All files of the state folder: the encrypted file, the record, the history, logs."""
    found = {str(path): path.read_bytes() for path in gateway.state.rglob("*") if path.is_file()}
    assert {"secrets.enc", "state.json", "history.db", "gateway.log"} <= {Path(path).name for path in found}
    return found


def is_ours(box: Any, gateway: StockadeProcess) -> bool:
    return bool(box.labels.get("stockade.project") == gateway.gateway["project"])


def on_the_engine(engine: docker.DockerClient) -> dict[str, bytes]:
    """What the engine shows of everything but the server's own container, in which only the files are looked for."""
    found: dict[str, bytes] = {}
    for item in engine.api.containers(all=True):
        try:
            whole = engine.api.inspect_container(item["Id"])
        except docker.errors.NotFound:  # another test's
            continue
        if whole["Name"].endswith("-b-keeper"):
            whole["Config"]["Env"] = [one for one in whole["Config"]["Env"] if not one.startswith("MY_")]
        found[f"container {whole['Name']} {item['Id']}"] = json.dumps(whole).encode()
    for item in engine.api.images(all=True):
        try:
            shown = [engine.api.inspect_image(item["Id"]), engine.api.history(item["Id"])]
        except docker.errors.NotFound:
            continue
        found[f"image {item['Id']}"] = json.dumps(shown).encode()
    found["volumes"] = json.dumps(engine.api.volumes()).encode()
    root = Path(engine.info()["DockerRootDir"])
    for path in (root / "volumes").glob("*/opts.json"):
        found[str(path)] = path.read_bytes()
    return found


def of_processes(gateway: StockadeProcess) -> dict[str, bytes]:
    """Arguments and variables of the gateway and of all processes but those of the server with the secrets."""
    found: dict[str, bytes] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            data = (folder / "cmdline").read_bytes() + b"\0" + (folder / "environ").read_bytes()
        except OSError:
            continue
        if b"MY_ENCRYPTED=" in data:
            data = b"\0".join(part for part in data.split(b"\0") if not part.startswith(b"MY_"))
        found[f"process {folder.name}"] = data
    assert f"process {gateway.gateway['pid']}" in found
    return found

"""Half a configuration: an editor that is still writing, a full disk, a crash. Access is never wider than before."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from egress.policy.decide import DEFAULT_PORTS
from gateway.app import IN_FORCE_FILE, Gateway, prepare
from gateway.mcp.downstream.auth import Denied, Gate
from gateway.mcp.view.filters import Globs
from gateway.watch import ConfigWatcher
from registry.check.cut_off import HARMLESS, cut_off
from registry.config import Config
from registry.edit import add_client, allow_host, edit_config, remove_client
from registry.file.document import Document
from registry.load import load_text
from registry.model.errors import ConfigError

TOKEN = hashlib.sha256(b"t").hexdigest()
OTHER = hashlib.sha256(b"o").hexdigest()
ALICE = f"clients:\n  alice:\n    token_sha256: {TOKEN}\n"
ONE = "mcpServers:\n  one:\n    image: x\n"
NETWORK = """\
    network:
      mode: enforce
      allowed_hosts:
        - 10.20.0.0/16  # a comment
        - host: db.example
          ports:
            - 5432
        - .co.example.com
      allowed_ports:
        - 443
        - 8000-8010
"""
FILTERS = """\
    args:
      - --read-only
    tools:
      deny:
        - secret_*
        - delete_all
      allow:
        - read
        - secret_*
        - delete_*
      fixed:
        read:
          path: /pub
    env:
      READ_ONLY: "1"
    pin: strict
    sessions: per-client
    disabled: true
"""
MOUNTS = """\
    mounts:
      - ./data:/data:ro
      - source: ./data
        target: /more
        read_only: true
"""
RULES = """\
    tools:
      deny:
        - "*secret*"
        - one__delete_all
    prompts:
      allow: []
    servers:
      - one
    resources:
      allow:
        - docs:*
      deny:
        - docs:private*
"""
EGRESS = """\
egress:
  resolve:
    - api.example:443:203.0.113.7
  resolvers:
    - 9.9.9.9
"""
OAUTH = """\
gateway:
  listen: 127.0.0.1:8420
  anonymous: never
  auth:
    oauth:
      issuer: https://i.example
      audience: https://g.example
      required_scopes:
        - mcp
        - tools
"""
FILES = {
    "rules of a client last": ONE + ALICE + RULES,
    "the second client last": ONE + ALICE + ALICE.partition("\n")[2].replace("alice", "bob").replace(TOKEN, OTHER),
    "filters of a server last": ONE + FILTERS,
    "its network last": ONE + NETWORK,
    "its mounts last": ONE + MOUNTS,
    "the gateway last": ONE + OAUTH,
    "the egress last, without a line break": ONE + EGRESS.rstrip("\n"),
    "clients by OAuth last": ONE + OAUTH + f"clients:\n  alice:\n    token_sha256: {TOKEN}\n    servers: [one]\n",
}
TOOLS = ("read", "secret_x", "delete_all", "delete_one", "other")
URIS = ("docs:a", "docs:private/a", "other:a")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the file is, with a folder for each beginning of the name `data`."""
    for length in range(1, 5):
        (tmp_path / "data"[:length]).mkdir()
    return tmp_path


def read(text: str, folder: Path) -> Config:
    return load_text(text, folder / "stockade.yaml")


def access(config: Config) -> set[tuple[object, ...]]:
    """Everything that the configuration lets anybody do, as facts: more facts are more access."""
    return {*entry_facts(config), *server_facts(config), *client_facts(config), *outside_facts(config)}


def entry_facts(config: Config) -> Iterator[tuple[object, ...]]:
    oauth = config.gateway.auth.oauth if config.gateway.auth else None
    shut = config.clients or oauth or config.gateway.anonymous == "never"
    yield from () if shut else (("anybody",),)
    for name, client in config.clients.items():
        if client.token_sha256:
            yield "token", name, client.token_sha256
    if oauth:
        yield from (("without scope", scope) for scope in {"mcp", "tools"} - set(oauth.required_scopes))


def server_facts(config: Config) -> Iterator[tuple[object, ...]]:
    for name, server in config.servers.items():
        if server.disabled:
            continue
        yield "server", name, server.image
        tools, prompts = (Globs.of(rules.allow, rules.deny) for rules in (server.tools, server.prompts))
        for item in TOOLS:
            yield from [("tool", name, item)] if tools.passes(item) else []
            yield from [("prompt", name, item.partition("_")[0])] if prompts.passes(item.partition("_")[0]) else []
        yield from [("free argument", name, "read")] if "read" not in server.tools.fixed else []
        yield from [("unpinned", name)] if server.pin != "strict" else []
        yield from [("shared", name)] if server.sessions != "per-client" else []
        yield from [("may write", name)] if "--read-only" not in server.args or "READ_ONLY" not in server.env else []
        for mount in server.mounts:
            yield "mount", name, mount.source, mount.target
            yield from [] if mount.read_only else [("mount, written", name, mount.source, mount.target)]


def outside_facts(config: Config) -> Iterator[tuple[object, ...]]:
    yield from [("name service",)] if not config.egress.resolvers else []
    yield from (("override", text) for text in config.egress.resolve)
    for name, server in config.servers.items():
        policy = server.network.policy
        for rule in policy.rules:
            ports = rule.ports or policy.ports
            numbers = {number for one in ports for number in range(one.first, one.last + 1)} or set(DEFAULT_PORTS)
            yield from (("host", name, rule.pattern, rule.protocol, number) for number in numbers)
        yield from [("not enforced", name)] if policy.mode != "enforce" else []
        yield from [("not isolated", name)] if not server.isolated else []


def client_facts(config: Config) -> Iterator[tuple[object, ...]]:
    """What each client sees; one that is known by OAuth alone sees everything."""
    for client in ("alice", "bob"):
        settings = config.clients.get(client)
        if settings is None or (settings.token_sha256 is None and config.gateway.auth is None):
            continue
        tools, resources, prompts = (
            Globs.of(rules.allow, rules.deny) for rules in (settings.tools, settings.resources, settings.prompts)
        )
        for server in config.servers if settings.servers == "*" else settings.servers:
            yield "sees", client, server
        yield from (("sees", client, one) for one in TOOLS if tools.passes(f"one__{one}"))
        yield from (("sees", client, one) for one in URIS if resources.passes(one))
        yield from (("sees prompt", client, one) for one in TOOLS if prompts.passes(one))


def parsed(config: Config) -> Document:
    assert config.document is not None
    return config.document


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_a_file_that_is_cut_at_any_byte_opens_nothing(folder: Path, text: str) -> None:
    """Red team M12 (the file was truncated just before `clients:`), and every other cut."""
    before = read(text, folder)
    had, wider = access(before), 0
    for length in range(len(text)):
        try:
            half = read(text[:length], folder)
        except ConfigError:
            continue
        if not access(half) <= had:
            wider += 1
            assert cut_off(parsed(before), parsed(half)), f"{text[:length][-60:]!r}: {access(half) - had}"
    assert not cut_off(parsed(before), parsed(read(text, folder)))
    assert wider, "there is a cut that would open something"


@pytest.mark.parametrize("length", range(0, 300, 7))
def test_what_is_in_brackets_is_whole_or_not_read(folder: Path, length: int) -> None:
    text = f"{{clients: {{alice: {{token_sha256: {TOKEN}, tools: {{deny: [secret]}}}}}}, mcpServers: {{one: {{image: x}}}}}}"
    with pytest.raises(ConfigError):
        read(text[: min(length, len(text) - 1)], folder)


def test_a_cut_of_a_file_that_was_changed_further_up_is_seen_too(folder: Path) -> None:
    """What is on the disk is the beginning of the new text, not of the old one."""
    text = ONE + EGRESS + ALICE
    changed = text.replace("image: x", "image: another   # with a comment")
    half = read(changed[: changed.index("clients:")], folder)
    assert [one.key_path for one in cut_off(parsed(read(text, folder)), parsed(half))] == ["clients"]


WHOLE = ONE + FILTERS + NETWORK + ALICE + RULES + "  bob: {}\n" + EGRESS + "gateway:\n  listen: 127.0.0.1:8420\n"
BOB = "  bob: {}\n"
DELIBERATE = {
    "a host": ("        - .co.example.com\n", ""),
    "a filter further up": ("      deny:\n        - secret_*\n        - delete_all\n", ""),
    "pinning further up": ("    pin: strict\n", ""),
    "a client": (BOB, ""),
    "all clients, in words": (ALICE + RULES + BOB, "clients: {}\n"),
    "all clients, by another word": (ALICE + RULES + BOB + EGRESS + "gateway:\n", EGRESS + "gateway:\n  anonymous: auto\n"),
    "a new host": ("        - 10.20.0.0/16", "        - new.example\n        - 10.20.0.0/16"),
    "the last section, which is harmless": ("gateway:\n  listen: 127.0.0.1:8420\n", ""),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new"), DELIBERATE.values(), ids=DELIBERATE)
def test_what_a_person_takes_out_or_says_is_taken_up(folder: Path, old: str, new: str) -> None:
    changed = WHOLE.replace(old, new)
    assert changed != WHOLE
    assert cut_off(parsed(read(WHOLE, folder)), parsed(read(changed, folder))) == ()


def test_storage_that_is_taken_out_last_is_taken_up(folder: Path) -> None:
    whole = f"{ONE}    storage:\n      - /data\n      - /more\n"
    for now in (ONE, f"{ONE}    storage:\n      - /data\n"):
        assert cut_off(parsed(read(whole, folder)), parsed(read(now, folder))) == ()


def test_a_key_that_is_not_known_to_be_harmless_is_held_back(folder: Path) -> None:
    """The list of keys that may go names existing ones only; a key that comes later is held until it is listed."""
    known = {pattern[:1] for pattern in HARMLESS}
    assert known <= {
        ("version",),
        ("project",),
        ("extra_ca",),
        ("gateway",),
        ("egress",),
        ("mcpServers",),
        ("clients",),
    }
    before = Document(
        file="s", text="", value={"mcpServers": {"a": {"image": "x", "new": 1}}}, is_json=False, spans={}
    )
    now = parsed(read("mcpServers:\n  a:\n    image: x\n", folder))
    assert [one.key_path for one in cut_off(before, now)] == ["mcpServers.a.new"]


def test_a_clients_json_file_that_loses_its_clients_stays_shut(folder: Path) -> None:
    """JSON is never half of itself, but the section may be missing all the same."""
    servers = {"one": {"command": "uvx", "args": ["x"]}}
    path = folder / "mcp.json"
    before = load_text(json.dumps({"clients": {"a": {"token_sha256": TOKEN}}, "mcpServers": servers}), path)
    now = load_text(json.dumps({"mcpServers": servers}), path)
    assert [one.key_path for one in cut_off(parsed(before), parsed(now))] == ["clients"]


# the gateway


SMALL = f"mcpServers: {{}}\nclients:\n  alice:\n    token_sha256: {TOKEN}\n"
CUT = SMALL[: SMALL.index("clients:")]


@contextlib.asynccontextmanager
async def gateway_of(folder: Path, text: str) -> AsyncIterator[Gateway]:
    """A gateway with this file in force, not started."""
    (folder / "stockade.yaml").write_text(text)
    gateway = prepare(folder / "stockade.yaml", "test")
    try:
        await gateway.live.apply(gateway.config)
        yield gateway
    finally:
        await asyncio.to_thread(gateway.recorders.close)


@pytest.fixture
def state(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STOCKADE_STATE_DIR", str(folder / "s"))
    return folder / "s" / "test"


async def open_to_anybody(gateway: Gateway) -> bool:
    try:
        await Gate(gateway.config, None).admit({}, "127.0.0.1", "/mcp")
    except Denied:
        return False
    return True


@pytest.mark.anyio
async def test_a_running_gateway_stays_shut_and_says_so(folder: Path, state: Path) -> None:
    async with gateway_of(folder, SMALL) as gateway:
        (folder / "stockade.yaml").write_text(CUT)
        await gateway.live.file_changed()
        assert not await open_to_anybody(gateway)
        (said,) = gateway.warnings
        assert "The file is not what is in force" in said
        assert "clients: was in force and is missing" in said.lower()
        assert "write `clients: {}`" in said
        with pytest.raises(ConfigError, match="may be truncated"):
            await gateway.reload()
        with pytest.raises(ConfigError, match="may be truncated"):
            await gateway.edit(add_client("bob", OTHER))
        assert (folder / "stockade.yaml").read_text() == CUT, "an edit does not make half a file whole"
        (folder / "stockade.yaml").write_text(CUT + "clients: {}\n")
        await gateway.live.file_changed()
        assert await open_to_anybody(gateway)


@pytest.mark.anyio
async def test_the_last_client_is_removed_by_a_command_as_before(folder: Path, state: Path) -> None:
    async with gateway_of(folder, SMALL) as gateway:
        edited = await gateway.edit(remove_client("alice"))
        assert edited.applied
        assert await open_to_anybody(gateway)
        await gateway.reload()


@pytest.mark.anyio
async def test_an_edit_of_ours_may_take_out_what_stands_last(folder: Path, state: Path) -> None:
    text = "mcpServers: {}\nclients:\n  a:\n    token_sha256: " + TOKEN + "\n  b:\n    token_sha256: " + OTHER + "\n"
    async with gateway_of(folder, text) as gateway:
        await gateway.edit(add_client("b", OTHER, {"tools": {"deny": ["x"]}}))
        await gateway.edit(remove_client("b"))
        assert list(gateway.config.clients) == ["a"]


@pytest.mark.anyio
async def test_a_start_with_half_a_file_is_refused(folder: Path, state: Path) -> None:
    async with gateway_of(folder, SMALL):
        pass
    file = folder / "stockade.yaml"
    assert (state / IN_FORCE_FILE).stat().st_mode & 0o077 == 0
    for half in (CUT, f"{CUT}clients:\n"):
        file.write_text(half)
        with pytest.raises(ConfigError, match="may be truncated"):
            prepare(file, "test")
    async with gateway_of(folder, f"{CUT}clients: {{}}\n") as gateway:
        assert await open_to_anybody(gateway)


@pytest.mark.anyio
async def test_a_start_after_an_edit_while_nothing_ran_needs_no_more_words(folder: Path, state: Path) -> None:
    async with gateway_of(folder, SMALL):
        pass
    edit = edit_config(folder / "stockade.yaml", remove_client("alice"))
    async with gateway_of(folder, edit.after) as gateway:
        assert await open_to_anybody(gateway)


@pytest.mark.anyio
@pytest.mark.parametrize("kept", ["", "not json", "[]", '{"path": 5}', '{"path": "PATH", "text": "a: b: c"}'])
async def test_what_is_remembered_and_cannot_be_read_does_not_stop_a_start(
    folder: Path, state: Path, kept: str
) -> None:
    await asyncio.to_thread(state.mkdir, parents=True)
    (state / IN_FORCE_FILE).write_text(kept.replace("PATH", str(folder / "stockade.yaml")))
    async with gateway_of(folder, CUT):
        assert "path" in json.loads((state / IN_FORCE_FILE).read_text())


@pytest.mark.anyio
async def test_a_file_that_is_still_being_written_is_left_alone(tmp_path: Path) -> None:
    """Written in place, piece by piece: it is read once nothing came for the time between two looks."""
    path = tmp_path / "f"
    path.write_text(SMALL)
    seen: list[str] = []

    async def changed() -> None:
        seen.append(path.read_text())

    watcher = ConfigWatcher(path, changed)
    with path.open("w") as file:
        for piece in (SMALL[:10], SMALL[10:20], SMALL[20:] + "# end\n"):
            file.write(piece)
            file.flush()
            await watcher.look()
            assert seen == []
    await watcher.look()
    assert seen == [SMALL + "# end\n"]
    await watcher.look()
    await watcher.look()
    assert len(seen) == 1


@pytest.mark.anyio
async def test_a_file_that_is_gone_for_a_moment_is_not_missed(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("1")
    seen: list[str] = []

    async def changed() -> None:
        seen.append(path.read_text() if path.exists() else "gone")

    watcher = ConfigWatcher(path, changed)
    path.unlink()
    await watcher.look()
    path.write_text("2")
    await watcher.look()
    await watcher.look()
    assert seen == ["2"]
    path.unlink()
    for _ in range(3):
        await watcher.look()
    assert seen == ["2", "gone"]


def test_a_policy_that_a_command_widens_is_not_taken_for_a_cut(folder: Path) -> None:
    text = "mcpServers:\n  one:\n    image: x\n    network:\n      allowed_hosts:\n        - a.example\n"
    (folder / "stockade.yaml").write_text(text)
    edit = edit_config(folder / "stockade.yaml", allow_host("one", "b.example"))
    assert cut_off(parsed(read(text, folder)), parsed(edit.config)) == ()

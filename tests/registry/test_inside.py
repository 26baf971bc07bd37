"""What works on this machine and not in a container is warned about, with what to write instead; the rest is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from registry.load import load_text
from registry.model.errors import ConfigError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home" / "me"
    (folder / "docs").mkdir(parents=True)
    (folder / "docs" / "key.json").touch()
    monkeypatch.setenv("HOME", str(folder))
    return folder


def warned(entry: dict[str, Any], file: str = "stockade.json") -> str:
    config = load_text(json.dumps({"version": 1, "mcpServers": {"a": entry}}), file)
    return "\n".join(str(warning) for warning in config.warnings)


def uvx(*args: str, **more: Any) -> dict[str, Any]:
    return {"command": "uvx", "args": ["x", *args], **more}


LOCALHOST: dict[str, tuple[dict[str, Any], str]] = {
    "a database": (
        uvx("postgresql://app@localhost/shop"),
        "args[1]: localhost is the server's own container, not this machine. If a service of this machine is meant, write "
        "host.docker.internal here, and network: {direct: allow, allowed_hosts: "
        "[{host: host.docker.internal, port: 5432, protocol: tcp}]}",
    ),
    "a database with its port": (uvx(env={"DB": "mongodb://127.0.0.1:27018/x"}), "port: 27018, protocol: tcp"),
    "a host and a port": (
        uvx(env={"OBSIDIAN_HOST": "127.0.0.1", "OBSIDIAN_PORT": "27124"}),
        "port: 27124, protocol: tcp",
    ),
    "a Go address": (uvx("user@tcp(localhost:3306)/db"), "port: 3306, protocol: tcp"),
    "a web service": (
        uvx("--browserUrl=http://127.0.0.1:9222"),
        'and network: {allowed_hosts: ["host.docker.internal:9222"]}',
    ),
    "a web service on its usual port": (uvx(env={"OLLAMA_HOST": "http://localhost"}), '["host.docker.internal:80"]'),
    "IPv6": (uvx("http://[::1]:5000/"), '["host.docker.internal:5000"]'),
    "docker's variable": (
        {"command": "docker", "args": ["run", "img", "--url", "redis://localhost"]},
        "port: 6379, protocol: tcp",
    ),
}


@pytest.mark.parametrize(("entry", "said"), LOCALHOST.values(), ids=LOCALHOST)
def test_localhost_is_told_to_be_the_container_with_the_lines_to_write(entry: dict[str, Any], said: str) -> None:
    assert said in warned(entry)
    assert "own container" not in warned({**entry, "network": {"isolated": False}})


QUIET: dict[str, dict[str, Any]] = {
    "our own proxy": uvx(env={"SLACK_MCP_PROXY": "http://127.0.0.1:3128"}),
    "NO_PROXY": uvx(env={"NO_PROXY": "localhost,127.0.0.1"}),
    "an origin": uvx(env={"ALLOWED_ORIGINS": "http://localhost:3000"}),
    "where it listens": {"image": "x", "port": 8000, "args": ["--host", "127.0.0.1", "--port", "8000"]},
    "another name": uvx("http://localhost.example/x", "http://notlocalhost:1/"),
    "docker's folder": {"command": "docker", "args": ["run", "-w", "/tmp", "--name", "/usr", "img"]},
    "/tmp": uvx("--dir", "/tmp"),
    "what mounts refuse": uvx("/var/run", "/etc/passwd", "--x=/proc", env={"CERTS": "/etc/ssl/certs"}),
    "a path of a URL": uvx("--path", "/mcp", "--base=/api/v1"),
    "a price": uvx(env={"TEXT": "costs 5$US", "PASS_PHRASE": "pa$WORD"}),
    "a container's file": {"image": "x", "args": ["/usr/share/x", "/bin/sh"]},
}


@pytest.mark.parametrize("entry", QUIET.values(), ids=QUIET)
def test_what_is_no_mistake_is_not_warned_about(entry: dict[str, Any]) -> None:
    assert warned(entry) == ""


def test_a_path_of_this_machine_is_found_wherever_it_stands(home: Path) -> None:
    key = home / "docs/key.json"
    variable = uvx(env={"GOOGLE_APPLICATION_CREDENTIALS": str(key)})
    for entry in (uvx(str(key)), uvx(f"--cred={key}"), variable, uvx("~/docs/key.json")):
        said = warned(entry)
        assert "is on this machine, and the server's container does not see it" in said
        assert f'mounts: ["{key}:{key}:ro"]' in said
        assert warned({**entry, "mounts": [f"{home}/docs:{home}/docs:ro"]}) == ""


def test_keys_are_advised_with_the_word_that_accepts_them(home: Path) -> None:
    (home / ".kube").mkdir()
    (home / ".kube" / "config").touch()
    said = warned(uvx(env={"KUBECONFIG": "~/.kube/config"}))
    entry = {
        "source": f"{home}/.kube/config",
        "target": f"{home}/.kube/config",
        "read_only": True,
        "accept": ["secrets"],
    }
    written = f"{{source: {entry['source']}, target: {entry['target']}, read_only: true, accept: [secrets]}}"
    assert f"It holds keys: if the server may have them, add mounts: [{written}]" in said
    assert "on this machine" not in warned(uvx(env={"KUBECONFIG": "~/.kube/config"}, mounts=[entry]))


def test_a_path_that_is_mounted_at_another_place_is_told_where(home: Path) -> None:
    said = warned(uvx(f"{home}/docs/key.json", mounts=[f"{home}/docs:/keys:ro"]))
    assert "is somewhere else in the server's container. Write /keys/key.json here" in said
    assert "Add it" not in said


def test_what_would_be_written_and_lost_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.check.inside.WRITABLE", ())  # where pytest's folders are
    said = warned(uvx("--db-path", "~/test.db"))
    assert "~/test.db would be in the container's memory, and gone at its next start" in said
    assert (
        'add storage: /data, and write /data/test.db here; to have it on this machine, mounts: ["~/data:/data"]'
        in said
    )
    said = warned(uvx(env={"MEMORY_FILE_PATH": f"{home}/docs/new.jsonl"}))
    assert (
        f'nothing can be written there. Add it: mounts: ["{home}/docs:{home}/docs"], or keep it in a volume: ' in said
    )
    assert f"storage: {home}/docs" in said


UNWRITABLE: dict[str, tuple[dict[str, Any], str]] = {
    "a file in a folder of nobody's": (uvx(env={"MEMORY_FILE_PATH": "/data/m.jsonl"}), "storage: /data"),
    "deeper": (uvx("--db-path", "/srv/shop/db/x.sqlite"), "storage: /srv/shop/db"),
    "a folder": (uvx("--data-dir=/chroma"), "storage: /chroma"),
    "where this machine has its own": (uvx("--log-file", "/var/log/x.log"), "storage: /var/log"),
}


@pytest.mark.parametrize(("entry", "line"), UNWRITABLE.values(), ids=UNWRITABLE)
def test_a_path_where_nothing_can_be_written_is_told_with_the_line_that_keeps_it(
    entry: dict[str, Any], line: str
) -> None:
    said = warned(entry)
    assert "nothing can be written to /" in said
    assert said.endswith(f"Add {line}.")
    assert warned({**entry, "storage": line.removeprefix("storage: ")}) == ""


def test_where_a_server_can_write_anyway_no_storage_is_advised() -> None:
    assert warned(uvx("--cache-dir", "/home/stockade/x", "--log-file=/tmp/x/y.log", "--data", "/x.db")) == ""
    assert warned({"image": "x", "args": ["--db-path", "/var/opt/x/db"]}) == ""


def test_a_folder_that_the_server_writes_to_is_not_advised_as_read_only(home: Path) -> None:
    said = warned(uvx("--storage-path", f"{home}/docs"))
    assert f'mounts: ["{home}/docs:{home}/docs"]' in said


def test_the_whole_home_folder_is_not_advised(home: Path) -> None:
    assert 'such as mounts: ["~/projects:/projects:ro"], and write /projects here' in warned(uvx(str(home)))


def test_a_folder_below_roots_home_is_advised_at_another_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image's /root is closed to the server's user."""
    monkeypatch.setenv("HOME", "/root")
    monkeypatch.setattr("registry.check.inside.os.path.exists", lambda path: path == "/root/projects")
    said = warned(uvx("/root/projects"))
    assert 'mounts: ["/root/projects:/mnt/projects:ro"], and write /mnt/projects here' in said


def test_a_program_of_this_machine_is_a_package_and_no_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.check.inside.PROGRAM_FOLDERS", (f"{tmp_path}/",))
    program = tmp_path / "google-chrome"
    program.touch(0o755)
    said = warned(uvx("--executable-path", str(program)))
    assert "packages: [chromium]" in said
    assert "mounts" not in said
    assert warned(uvx("--executable-path", str(program), packages=["chromium"])) == ""


OTHER: dict[str, tuple[dict[str, Any], str]] = {
    "a shell's variable": (
        uvx(env={"TOKEN": "$GITHUB_TOKEN"}),
        "env.TOKEN: the server gets $GITHUB_TOKEN as it is written",
    ),
    "a shell's variable in a header": (
        {"url": "https://a.example/mcp", "headers": {"X": "Bearer $MY_TOKEN"}},
        "headers.X: the server gets $MY_TOKEN as it is written, since no shell reads this. Write ${env:MY_TOKEN}",
    ),
    "a shell's variable in an argument": (uvx("$HOME/x"), "args[1]: the server gets $HOME as it is written"),
    "mcp-remote": (
        {"command": "npx", "args": ["-y", "mcp-remote@latest", "https://a.example/sse"]},
        "args[2]: mcp-remote would run in a container and reach nothing; Stockade connects to remote servers itself. "
        "Write `url:` with this address",
    ),
    "a password in an argument": (
        uvx("postgresql://app:hunter2pw@db.example/shop"),
        "args[1]: holds a secret in plain text. Keep it as a secret: ${secret:postgresql-password}",
    ),
    "a token in an option": (uvx("--api-key=abcdef123456"), "args[1]: holds a secret in plain text"),
    "a key in a URL": ({"url": "https://a.example/mcp?api_key=abcdef1234"}, "url: holds a secret in plain text"),
}


@pytest.mark.parametrize(("entry", "said"), OTHER.values(), ids=OTHER)
def test_what_looks_right_and_is_not_is_told(entry: dict[str, Any], said: str) -> None:
    text = warned(entry)
    assert said in text
    assert not [value for value in ("hunter2pw", "abcdef123456", "abcdef1234") if value in text]


def test_everything_that_is_wrong_is_told_at_once() -> None:
    docker = ["run", "--privileged", "-v", "/var/run/docker.sock:/s", "--network", "host", "-e", "1x=3", "img"]
    value = {
        "version": 1,
        "gateway": {"admin": 8421},
        "mcpServers": {
            "b": {"command": "docker", "args": docker, "network": {"allowed_hosts": ["http://x"]}},
            "c": {**uvx(), "allowed_hosts": ["a.example"], "memory": "1g"},
        },
        "clients": {"c": {"token_sha256": "abc", "servers": ["d"]}},
    }
    with pytest.raises(ConfigError) as caught:
        load_text(json.dumps(value), "stockade.json")
    said = str(caught.value)
    for words in (
        "gateway.admin: '8421' is not an address to listen on. Write HOST:PORT, such as 127.0.0.1:8421",
        "b.args[1]: docker run --privileged is refused",
        "b.args[2]: /var/run/docker.sock is the container engine's socket",
        "b.args[4]: docker run --network is refused",
        "b.args[6]: '1x' is not an environment variable's name",
        "b.network.allowed_hosts[0]: 'http://x' is a URL",
        "c.allowed_hosts: unknown key 'allowed_hosts'. It belongs under `network:`",
        "c.memory: unknown key 'memory'. It belongs under `resources:`",
        "clients.c.token_sha256: is not a SHA-256",
        "clients.c.servers[0]: there is no server 'd'",
    ):
        assert words in said


KNOWN: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "memory": (
        {"command": "npx", "args": ["-y", "@modelcontextprotocol/server-memory"]},
        "env: {MEMORY_FILE_PATH: /data/memory.jsonl} and storage: /data",
        {"env": {"MEMORY_FILE_PATH": "/data/memory.jsonl"}, "storage": "/data"},
    ),
    "git": ({"command": "uvx", "args": ["mcp-server-git"]}, "packages: [git]", {"packages": ["git"]}),
    "playwright": (
        {"command": "npx", "args": ["@playwright/mcp@latest"]},
        "Add packages: [chromium]",
        {"packages": ["chromium"]},
    ),
    "chrome-devtools": (
        {"command": "npx", "args": ["-y", "chrome-devtools-mcp"]},
        "Add packages: [chromium]",
        {"packages": ["chromium"]},
    ),
    "puppeteer": (
        {"command": "npx", "args": ["-y", "@modelcontextprotocol/server-puppeteer"]},
        "Add packages: [chromium]",
        {"packages": ["chromium"]},
    ),
}


@pytest.mark.parametrize(("entry", "said", "mended"), KNOWN.values(), ids=KNOWN)
def test_what_a_well_known_package_lacks_is_told(entry: dict[str, Any], said: str, mended: dict[str, Any]) -> None:
    assert said in warned(entry)
    assert warned({**entry, **mended}) == ""


def program(home: Path, *args: str, **more: Any) -> dict[str, Any]:
    return {"command": "python", "args": ["s.py", *args], "cwd": str(home / "docs"), **more}


def test_the_folder_of_a_program_of_this_machine_is_there(home: Path) -> None:
    assert warned(program(home, f"{home}/docs/key.json", f"--x={home}/docs")) == ""
    (home / "other").mkdir()
    assert f'mounts: ["{home}/other:{home}/other:ro"]' in warned(program(home, f"{home}/other"))


def test_what_a_program_of_this_machine_would_write_beside_itself_is_told(home: Path) -> None:
    said = warned(program(home, "--db", f"{home}/docs/my.db"))
    assert "is in the program's own folder, which the server may only read" in said
    assert "add storage: /data, and write /data/my.db here" in said
    assert f'add mounts: ["{home}/docs/data:{home}/docs/data"]' in warned(
        program(home, "--db", f"{home}/docs/data/my.db")
    )
    assert "may only read" in warned(program(home, "--db", f"{home}/docs/my.db", source="copy"))


def test_a_path_in_a_shell_s_text_is_found_too(home: Path) -> None:
    said = warned({"command": "bash", "args": ["-lc", f"npx -y b {home}/docs"]})
    assert f"args[1]: {home}/docs is on this machine" in said

"""Secrets that others keep: files of a service manager or an engine, and what a program prints."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from registry.load import load_text
from registry.model.errors import ConfigError
from registry.model.references import from_own
from registry.model.server import Server
from registry.model.spec import plan_source
from registry.secrets import SecretError, SecretStore
from registry.secrets.command import CommandFailed, run
from registry.secrets.folders import SecretFolder, filled_folders
from registry.secrets.vault import Vault

VALUE = "correct-horse-battery-staple"


def store(tmp_path: Path, **env: str) -> SecretStore:
    path = os.environ["PATH"]
    return SecretStore(
        env={"PATH": path, **env},
        folder=tmp_path / "own",
        keyring=None,
        vault=Vault(path=tmp_path / "x.enc"),
        filled=(),
    )


# -- folders


def test_a_credential_of_systemd_is_found_before_a_secret_of_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/x")
    assert filled_folders() == (Path("/run/credentials/x"), Path("/run/secrets"))


def test_a_file_of_the_folder_is_a_secret_and_its_mode_is_its_makers_matter(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{VALUE}\n")
    (tmp_path / "token").chmod(0o444)
    assert SecretFolder(tmp_path).get("token") == VALUE
    assert SecretFolder(tmp_path).names() == ["token"]


def test_links_within_the_folder_are_followed_and_none_that_leads_out(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    (folder / "..data").mkdir(parents=True)
    (folder / "..data" / "token").write_text(VALUE)
    (folder / "token").symlink_to("..data/token")
    (tmp_path / "outside").write_text("no")
    (folder / "out").symlink_to("../outside")
    (folder / "abs").symlink_to(tmp_path / "outside")
    assert SecretFolder(folder).get("token") == VALUE
    assert SecretFolder(folder).names() == ["token"]
    for name in ("out", "abs"):
        with pytest.raises(SecretError, match="leads out of its folder"):
            SecretFolder(folder).get(name)


def test_what_is_no_file_or_too_large_is_no_secret(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "large").write_text("x" * 65_537)
    folder = SecretFolder(tmp_path)
    assert folder.get("pipe") is None
    assert folder.get("folder") is None
    assert folder.get("gone") is None
    with pytest.raises(SecretError, match="larger than"):
        folder.get("large")


# -- commands


def test_a_reference_is_filled_in_with_what_a_program_prints(tmp_path: Path) -> None:
    values = {"A": "Bearer ${command:printf '%s\\n' 'one two'}", "B": "${command:sh -c 'echo $PATH | wc -l'}"}
    assert store(tmp_path).resolve(values) == {"A": "Bearer one two", "B": "1"}


def test_no_shell_takes_part_unless_one_is_named(tmp_path: Path) -> None:
    assert store(tmp_path).resolve({"A": "${command:echo $HOME; id}"}) == {"A": "$HOME; id"}


def test_one_command_runs_once_in_one_resolve_and_again_in_the_next(tmp_path: Path) -> None:
    line = f"${{command:sh -c 'echo x >> {tmp_path}/runs; wc -l < {tmp_path}/runs'}}"
    secrets = store(tmp_path)
    assert secrets.resolve({"A": line, "B": line}) == {"A": "1", "B": "1"}
    assert secrets.resolve({"A": line}) == {"A": "2"}
    assert secrets.resolve({"A": line}, commands=False) == {"A": line}
    assert (tmp_path / "runs").read_text() == "x\nx\n"


def test_the_program_has_no_input_and_none_of_stockades_variables(tmp_path: Path) -> None:
    secrets = store(tmp_path, STOCKADE_SECRET_K="s3cret", OP_SESSION="o")
    line = "${command:sh -c 'cat; env | cut -d= -f1 | grep -c -e STOCKADE; echo $OP_SESSION'}"
    assert secrets.resolve({"A": line}) == {"A": "0\no"}


FAILING = {
    "a code": ("sh -c 'echo hidden-part; echo no such item >&2; exit 3'", "ended with code 3: no such item"),
    "no program": ("/nonexistent/op read x", "could not be started: No such file or directory"),
    "nothing printed": ("true", "printed nothing"),
    "too much": ("head -c 70000 /dev/zero", "printed more than 65536 bytes"),
    "its output among its errors": (f"sh -c 'echo {VALUE}; echo {VALUE} >&2; exit 1'", "ended with code 1"),
}


@pytest.mark.parametrize(("line", "said"), FAILING.values(), ids=FAILING)
def test_a_command_that_fails_says_why_and_gives_no_value(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(SecretError) as caught:
        store(tmp_path).resolve({"A": f"${{command:{line}}}"}, ("mcpServers", "x", "env"))
    assert str(caught.value).startswith(f"mcpServers.x.env.A: the command `{line}` {said}. Run it by hand")


def test_a_long_error_is_cut_and_steers_no_terminal() -> None:
    with pytest.raises(CommandFailed) as caught:
        run("sh -c 'printf \"\\033[2J%0999d\" 1 >&2; exit 1'", os.environ)
    assert len(str(caught.value)) < 260
    assert "\x1b" not in str(caught.value)


def test_a_command_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    started = time.monotonic()
    line = f"sh -c 'sleep 600 & echo $! > {tmp_path}/child; wait'"
    with pytest.raises(CommandFailed, match=r"did not end within 0\.5 seconds"):
        run(line, os.environ, timeout_s=0.5)
    assert time.monotonic() - started < 60
    child = int((tmp_path / "child").read_text())
    assert is_gone(child)


def is_gone(pid: int) -> bool:
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_a_program_that_leaves_another_running_does_not_keep_the_start_waiting() -> None:
    assert run("sh -c 'sleep 5 & echo done'", os.environ, timeout_s=4) == "done"


OWN = 'version: 1\nmcpServers:\n  a:\n    image: x\n    env:\n      T: "{}"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("${vault:x}", "${vault:x} is not a reference: there is no store named 'vault'"),
        ("${command:}", "${command:} is not a reference: it names no program to run"),
        ("${command:op 'read}", "a quote in it is not closed"),
    ],
)
def test_an_unknown_store_or_a_broken_command_is_told_with_its_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(OWN.format(text), Path("stockade.yaml"))
    assert str(caught.value).startswith("stockade.yaml:6:10: mcpServers.a.env.T: ")
    assert said in str(caught.value)


def test_a_check_of_the_file_runs_no_command(tmp_path: Path) -> None:
    config = load_text(OWN.format(f"${{command:touch {tmp_path}/ran}}"), Path("stockade.yaml"))
    assert store(tmp_path).missing(config) == []
    assert not (tmp_path / "ran").exists()


# -- who may bring one

RUNS = "${command:touch /tmp/ran}"
TRICKS: dict[str, dict[str, Any]] = {
    "in env": {"command": "uvx", "args": ["x"], "env": {"A": RUNS}},
    "in an argument": {"command": "uvx", "args": ["x", RUNS]},
    "in a header": {"url": "https://x.example/mcp", "headers": {"A": RUNS}},
    "in a URL": {"url": "https://x.example/mcp?k=" + RUNS},
    "escaped once": {"command": "uvx", "args": ["x", "$" + RUNS]},
    "escaped twice": {"command": "uvx", "args": ["x", "$$" + RUNS]},
    "around a variable": {"command": "uvx", "args": ["x", "${command:{env:A}}"], "env": {"A": "touch /tmp/ran"}},
    "a variable's value inside of braces": {"command": "uvx", "args": ["x", "${${A}}"], "env": {"A": RUNS[2:-1]}},
    "put together": {"command": "uvx", "args": ["x", "${A}${B}"], "env": {"A": "$", "B": RUNS[1:]}},
    "after a variable": {"command": "uvx", "args": ["x", "${A}" + RUNS[1:]], "env": {"A": "$"}},
    "an entrypoint": {"image": "i", "entrypoint": [RUNS]},
    "a client's secret": {
        "url": "https://x.example/mcp",
        "auth": {"client_credentials": {"token_url": "https://x.example/t", "client_id": "i", "client_secret": RUNS}},
    },
}


@pytest.mark.parametrize("entry", TRICKS.values(), ids=TRICKS)
def test_no_clients_file_runs_a_program_of_this_machine(
    tmp_path: Path, entry: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    monkeypatch.setattr("registry.secrets.store.run", lambda line, env: ran.append(line) or "x")
    config = load_text(json.dumps({"mcpServers": {"a": entry}}), ".mcp.json")
    for server in config.servers.values():
        source = plan_source(server)
        texts = [getattr(source, "url", ""), *getattr(source, "args", ()), *getattr(source, "entrypoint", ())]
        texts += [*server.env.values(), *server.headers.values()]
        texts += (
            [server.auth.client_credentials.client_secret] if server.auth and server.auth.client_credentials else []
        )
        for text in texts:
            try:
                store(tmp_path).resolve({"A": text})
            except SecretError:
                continue
    assert ran == []


def test_a_value_of_the_entry_makes_no_reference_with_what_is_around_it(tmp_path: Path) -> None:
    secrets = store(tmp_path, STOCKADE_SECRET_K="s3cret")
    for text, env in (
        ("${${env:A}}", {"A": "secret:k"}),
        ("${env:A}${env:B}", {"A": "$", "B": "{secret:k}"}),
        ("${env:A}{secret:k}", {"A": "$"}),
        ("${env:A}ret:k}", {"A": "${sec"}),
    ):
        assert secrets.resolve_text(from_own(text, env)) == "${secret:k}"
    assert secrets.resolve_text(from_own("a ${env:A} $${x} ${y", {"A": "${secret:k} ${"})) == "a s3cret ${ ${x} ${y"


def test_stockades_own_file_and_a_remote_servers_header_may_run_one(tmp_path: Path) -> None:
    entry = {"url": "https://x.example/mcp", "headers": {"Authorization": "Bearer ${command:printf 1}"}}
    server = Server.model_validate(entry)
    assert store(tmp_path).resolve(server.headers) == {"Authorization": "Bearer 1"}

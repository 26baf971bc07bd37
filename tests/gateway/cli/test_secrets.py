"""The commands about secrets: which store, where each comes from, and never a value."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.failure import Failure
from gateway.cli.unlock import handed_over, unlock
from gateway.runtime.doctor import secrets_finding
from registry.secrets import SecretStore, sealed
from registry.secrets.keys import take_passphrase
from registry.secrets.places import Store

VALUE = "correct-horse-battery-staple"
CONFIG = """\
version: 1
mcpServers:
  a: {image: x, env: {T: "${secret:token} ${secret:gone}"}}
  b: {url: "https://x.example/mcp", headers: {A: "${secret:token}", B: "${command:op read x}"}}
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sealed.SCRYPT, "n", 2**10)
    monkeypatch.setattr("registry.secrets.keys._taken", {})


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "credentials"
    folder.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    return folder


def test_a_passphrase_makes_the_encrypted_file_the_place_of_new_secrets(
    stockade: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOCKADE_SECRETS_PASSPHRASE", "open sesame")
    said = stockade("secret", "set", "token", stdin=VALUE)
    path = Path(os.environ["STOCKADE_STATE_DIR"]) / "secrets.enc"
    assert said.out == f"Stored in {path}, which only you can read.\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert not (home / ".config").exists()
    assert SecretStore().lookup("token") == VALUE
    said = stockade("secret", "rm", "token")
    assert said.out == f"token was removed from {path}.\n"
    assert SecretStore().lookup("token") is None


def test_once_there_is_an_encrypted_file_nothing_goes_into_a_plain_one_unasked(
    stockade: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOCKADE_SECRETS_PASSPHRASE", "open sesame")
    stockade("secret", "set", "token", stdin=VALUE)
    monkeypatch.setattr("registry.secrets.keys._taken", {})
    said = stockade("secret", "set", "other", stdin=VALUE)
    assert said.code == 1
    assert "secrets.enc: is locked: no key is given. Set STOCKADE_SECRETS_PASSPHRASE" in said.err
    assert VALUE not in said.err
    assert stockade("secret", "set", "other", "--in", "folder", stdin=VALUE).code == 0
    assert (home / ".config/stockade/secrets/other").read_text() == VALUE


def test_the_list_says_where_each_comes_from_and_who_uses_it_and_shows_no_value(
    stockade: Any, work: Path, home: Path, credentials: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / "stockade.yaml").write_text(CONFIG)
    (credentials / "db").write_text(VALUE)
    monkeypatch.setenv("STOCKADE_SECRETS_PASSPHRASE", "open sesame")
    stockade("secret", "set", "token", stdin=VALUE)
    stockade("secret", "set", "token", "--in", "folder", stdin=VALUE)
    monkeypatch.setenv("STOCKADE_SECRET_TOKEN", VALUE)
    said = stockade("secret", "ls")
    assert [line.split() for line in said.out.splitlines()] == [
        ["NAME", "FROM", "SERVERS"],
        ["db", str(credentials)],
        ["gone", "not", "set", "a"],
        ["token", *"the environment of Stockade".split(), "a,", "b"],
    ]
    path = Path(os.environ["STOCKADE_STATE_DIR"]) / "secrets.enc"
    folder = home / ".config/stockade/secrets"
    assert f"! token is also in {folder} and in {path}, which does not count." in said.err
    rows = json.loads(stockade("secret", "ls", "--json").out)
    assert [(row["name"], row["store"]) for row in rows] == [
        ("db", "system"),
        ("gone", None),
        ("token", "environment"),
    ]
    assert VALUE not in said.out + said.err + json.dumps(rows)


def test_the_list_needs_no_passphrase(stockade: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCKADE_SECRETS_PASSPHRASE", "open sesame")
    stockade("secret", "set", "token", stdin=VALUE)
    monkeypatch.setattr("registry.secrets.keys._taken", {})
    assert "token" in stockade("secret", "ls").out


def test_a_store_that_comes_first_is_named_when_a_secret_is_stored_behind_it(
    stockade: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOCKADE_SECRET_TOKEN", "other")
    said = stockade("secret", "set", "token", stdin=VALUE)
    assert "! token also comes from the environment of Stockade, which is looked at first." in said.err


def test_what_others_keep_is_not_removed_and_the_place_is_said(stockade: Any, credentials: Path) -> None:
    (credentials / "db").write_text(VALUE)
    said = stockade("secret", "rm", "db")
    assert said.code == 1
    assert f"It comes from {credentials}, which Stockade does not write: remove it there" in said.err
    assert (credentials / "db").exists()


def test_lines_of_a_file_become_secrets(stockade: Any, work: Path, home: Path) -> None:
    (work / "x.env").write_text(f"# mine\n\nexport TOKEN='{VALUE}'\nDB=postgres://a?b=c\n")
    said = stockade("secret", "import", "x.env")
    folder = home / ".config/stockade/secrets"
    assert said.out == f"Stored TOKEN, DB in {folder}.\n"
    assert (folder / "TOKEN").read_text() == VALUE
    assert (folder / "DB").read_text() == "postgres://a?b=c"
    assert stockade("secret", "import", "-", stdin="OTHER=1\n").code == 0
    assert (folder / "OTHER").read_text() == "1"


def test_a_file_with_a_wrong_line_stores_nothing_and_shows_nothing_of_it(
    stockade: Any, work: Path, home: Path
) -> None:
    (work / "x.env").write_text(f"TOKEN=1\n{VALUE}\n")
    said = stockade("secret", "import", "x.env")
    assert (said.code, "x.env:2: is not NAME=VALUE. Nothing was stored." in said.err) == (1, True)
    assert VALUE not in said.err
    assert not (home / ".config").exists()


def test_the_plain_files_move_into_the_encrypted_one(
    stockade: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stockade("secret", "set", "token", stdin=VALUE)
    monkeypatch.setenv("STOCKADE_SECRETS_PASSPHRASE", "open sesame")
    folder = home / ".config/stockade/secrets"
    said = stockade("secret", "import", str(folder), "--in", "encrypted")
    assert said.code == 0
    assert f"! token also comes from {folder}, which is looked at first." in said.err
    (folder / "token").unlink()
    assert SecretStore().lookup("token") == VALUE


def test_a_gateway_in_the_background_gets_the_passphrase_through_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCKADE_SECRETS_PASSPHRASE", "open sesame")
    env = dict(os.environ)
    (handle,) = handed_over(env)
    assert "open sesame" not in str(env)
    monkeypatch.setattr("registry.secrets.keys._taken", {})
    assert env["STOCKADE_SECRETS_PASSPHRASE_FD"] == str(handle)
    assert take_passphrase(env) == b"open sesame"


def test_the_doctor_says_which_stores_are_used(stockade: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = secrets_finding(SecretStore())
    assert (found.state, f"new ones go to {home}/.config/stockade/secrets;" in found.detail) == ("ok", True)
    assert "secrets.enc" not in found.detail
    monkeypatch.setenv("STOCKADE_SECRETS_PASSPHRASE", "open sesame")
    stockade("secret", "set", "token", stdin=VALUE)
    found = secrets_finding(SecretStore())
    assert (found.state, "new ones go to" in found.detail, "secrets.enc" in found.detail) == ("ok", True, True)
    monkeypatch.setattr("registry.secrets.keys._taken", {})
    assert secrets_finding(SecretStore()).state == "warn"
    monkeypatch.setattr("registry.secrets.keys._taken", {"passphrase": b"wrong"})
    found = secrets_finding(SecretStore())
    assert (found.state, "does not open with this passphrase" in found.fix) == ("fail", True)


def test_the_check_of_a_file_says_an_unknown_store_with_its_line(stockade: Any, work: Path) -> None:
    (work / "stockade.yaml").write_text(CONFIG.replace("${secret:gone}", "${vault:gone}"))
    said = stockade("validate")
    assert said.code == 1
    assert "./stockade.yaml:3:" in said.err or "stockade.yaml:3:" in said.err
    assert "mcpServers.a.env.T: ${vault:gone} is not a reference: there is no store named 'vault'." in said.err


class KeyRing:
    """A system's key ring."""

    class KeyringError(Exception):
        pass

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, name: str) -> str | None:
        return self.kept.get((service, name))

    def set_password(self, service: str, name: str, value: str) -> None:
        if name == "locked":
            raise self.KeyringError(value)
        self.kept[service, name] = value

    def delete_password(self, service: str, name: str) -> None:
        if self.kept.pop((service, name), None) is None:
            raise self.KeyringError(name)


def test_the_key_ring_is_written_and_read_where_there_is_one(
    stockade: Any, home: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = stockade("secret", "set", "token", "--in", "keyring", stdin=VALUE)
    assert said.code == 1
    assert "the system's key ring needs the extra stockade[keyring]. Use --in encrypted, or --in folder." in said.err
    ring = KeyRing()
    for name in ("keyring", "keyring.errors"):
        monkeypatch.setitem(sys.modules, name, ring)  # type: ignore[arg-type]
    said = stockade("secret", "set", "token", "--in", "keyring", stdin=VALUE)
    assert said.out == "Stored in the system's key ring, which only you can read.\n"
    assert ring.kept == {("stockade", "token"): VALUE}
    (work / "stockade.yaml").write_text(CONFIG)
    assert "token  the system's key ring  a, b" in stockade("secret", "ls").out
    assert stockade("secret", "rm", "token").out == "token was removed from the system's key ring.\n"
    assert ring.kept == {}
    refused = stockade("secret", "set", "locked", "--in", "keyring", stdin=VALUE)
    assert (refused.code, VALUE in refused.err, "refuses: KeyringError" in refused.err) == (1, False, True)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_person_who_starts_a_gateway_is_asked_for_the_passphrase_of_what_is_there(
    stockade: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    answers = ["open sesame", "wrong"]

    def ask(new: bool) -> str:
        asked.append(new)
        return answers.pop()

    monkeypatch.setattr("gateway.cli.unlock.ask", ask)
    monkeypatch.setattr("sys.stdin", Terminal())
    unlock()
    assert asked == [], "there is no encrypted file"
    monkeypatch.setenv("STOCKADE_SECRETS_PASSPHRASE", "open sesame")
    SecretStore().set("token", VALUE, Store.ENCRYPTED)
    unlock()
    assert asked == [], "the environment gave one"
    monkeypatch.setattr("registry.secrets.keys._taken", {})
    with pytest.raises(Failure, match="does not open with this passphrase"):
        unlock()
    monkeypatch.setattr("registry.secrets.keys._taken", {})
    unlock()
    assert asked == [False, False]
    assert SecretStore().lookup("token") == VALUE

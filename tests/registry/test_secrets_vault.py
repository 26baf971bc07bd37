"""The encrypted file keeps what it is given, shows nothing of it, and says what is wrong with it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.secrets import SecretError, sealed
from registry.secrets.errors import Fault, SealError
from registry.secrets.keys import KEY_FILE, Keys, key_file, take_passphrase
from registry.secrets.vault import Vault

VALUE = "correct-horse-battery-staple-0123456789"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sealed.SCRYPT, "n", 2**10)


def with_passphrase(path: Path, passphrase: str = "open sesame") -> Vault:
    return Vault(path=path / "secrets.enc", keys=Keys(file=lambda: None, passphrase=passphrase.encode))


def with_file(path: Path, key: Path) -> Vault:
    return Vault(path=path / "secrets.enc", keys=Keys(file=lambda: key, passphrase=lambda: None))


def fault(work: Callable[[], object]) -> Fault:
    with pytest.raises(SealError) as caught:
        work()
    assert VALUE not in str(caught.value)
    assert "secrets.enc" in str(caught.value) or caught.value.fault is Fault.BAD_KEY_FILE
    return caught.value.fault


def test_a_secret_comes_back_in_another_process_and_its_value_is_not_in_the_file(tmp_path: Path) -> None:
    with_passphrase(tmp_path).set("token", VALUE)
    with_passphrase(tmp_path).set("lines", "a\r\nb\udcff")
    path = tmp_path / "secrets.enc"
    assert path.stat().st_mode & 0o777 == 0o600
    content = path.read_bytes()
    for form in (VALUE.encode(), base64.b64encode(VALUE.encode())[:20], VALUE.encode().hex().encode()):
        assert form not in content
    assert with_passphrase(tmp_path).get("token") == VALUE
    assert with_passphrase(tmp_path).get("lines") == "a\r\nb\udcff"
    assert with_passphrase(tmp_path).names() == ["lines", "token"]
    assert with_passphrase(tmp_path).remove("token")
    assert with_passphrase(tmp_path).get("token") is None
    assert not with_passphrase(tmp_path).remove("token")


def test_the_key_is_made_by_a_slow_function_with_a_salt_of_its_own(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.undo()
    made = sealed.new_document(sealed.KeyKind.PASSPHRASE)
    assert made["kdf"]["n"] * made["kdf"]["r"] * 128 >= 128 * 2**20
    assert made["kdf"]["salt"] != sealed.new_document(sealed.KeyKind.PASSPHRASE)["kdf"]["salt"]


def test_names_need_no_key_and_a_value_does(tmp_path: Path) -> None:
    with_passphrase(tmp_path).set("token", VALUE)
    locked = Vault(path=tmp_path / "secrets.enc", keys=Keys(file=lambda: None, passphrase=lambda: None))
    assert locked.names() == ["token"]
    assert locked.get("other") is None
    assert fault(lambda: locked.get("token")) is Fault.NO_KEY
    assert fault(lambda: locked.set("new", "x")) is Fault.NO_KEY


def test_another_passphrase_is_told_from_a_file_that_was_changed(tmp_path: Path) -> None:
    with_passphrase(tmp_path).set("token", VALUE)
    assert fault(lambda: with_passphrase(tmp_path, "else").get("token")) is Fault.WRONG_KEY
    assert fault(lambda: with_passphrase(tmp_path, "else").set("new", "x")) is Fault.WRONG_KEY
    assert with_passphrase(tmp_path).names() == ["token"]


def change_value(document: dict[str, Any]) -> None:
    raw = bytearray(base64.b64decode(document["secrets"]["token"]))
    raw[-1] ^= 1
    document["secrets"]["token"] = base64.b64encode(raw).decode()


def swap(document: dict[str, Any]) -> None:
    entries = document["secrets"]
    entries["token"], entries["second"] = entries["second"], entries["token"]


TAMPERED: dict[str, Callable[[dict[str, Any]], object]] = {
    "a bit of a value": change_value,
    "two values changed places": swap,
    "an entry is gone": lambda document: document["secrets"].pop("second"),
    "an entry under another name": lambda document: document["secrets"].update(x=document["secrets"]["token"]),
    "the seal of the whole is gone": lambda document: document.pop("whole"),
    "no base64": lambda document: document["secrets"].update(token="!"),
}


@pytest.mark.parametrize("change", TAMPERED.values(), ids=TAMPERED)
def test_a_file_that_was_changed_is_not_used(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    vault = with_passphrase(tmp_path)
    vault.set("token", VALUE)
    vault.set("second", "2")
    document = json.loads(vault.path.read_text())
    change(document)
    vault.path.write_text(json.dumps(document))
    before = vault.path.read_bytes()
    assert fault(lambda: with_passphrase(tmp_path).get("token")) is Fault.TAMPERED
    assert fault(lambda: with_passphrase(tmp_path).set("token", "new")) is Fault.TAMPERED
    assert vault.path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"stockade-secrets": 1}'])
def test_what_is_no_such_file_is_said_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secrets.enc"
    path.touch(0o600)
    path.write_bytes(content)
    assert fault(lambda: with_passphrase(tmp_path).get("token")) is Fault.TAMPERED
    assert fault(lambda: with_passphrase(tmp_path).set("token", "new")) is Fault.TAMPERED
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.update({"stockade-secrets": 2}),
        lambda document: document["kdf"].update(name="argon2id"),
        lambda document: document["kdf"].update(n=2**40),
        lambda document: document["kdf"].update(n="many"),
    ],
)
def test_another_versions_format_is_said_and_takes_no_gigabytes(tmp_path: Path, change: Any) -> None:
    vault = with_passphrase(tmp_path)
    vault.set("token", VALUE)
    document = json.loads(vault.path.read_text())
    change(document)
    vault.path.write_text(json.dumps(document))
    assert fault(lambda: with_passphrase(tmp_path).get("token")) is Fault.FOREIGN


def test_a_key_file_opens_it_and_the_other_kind_of_key_is_told(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch(0o600)
    key.write_bytes(os.urandom(32))
    with_file(tmp_path, key).set("token", VALUE)
    assert with_file(tmp_path, key).get("token") == VALUE
    assert fault(lambda: with_passphrase(tmp_path).get("token")) is Fault.OTHER_KIND
    key.write_bytes(os.urandom(32))
    assert fault(lambda: with_file(tmp_path, key).get("token")) is Fault.WRONG_KEY


def test_a_key_file_that_is_short_gone_or_open_to_others_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "key"
    assert fault(lambda: with_file(tmp_path, key).set("token", VALUE)) is Fault.BAD_KEY_FILE
    key.touch(0o600)
    key.write_bytes(b"short")
    assert fault(lambda: with_file(tmp_path, key).set("token", VALUE)) is Fault.BAD_KEY_FILE
    key.write_bytes(os.urandom(32))
    key.chmod(0o640)
    assert fault(lambda: with_file(tmp_path, key).set("token", VALUE)) is Fault.BAD_KEY_FILE
    assert not (tmp_path / "secrets.enc").exists()


def test_a_file_that_others_can_read_or_that_is_a_link_is_refused(tmp_path: Path) -> None:
    vault = with_passphrase(tmp_path)
    vault.set("token", VALUE)
    vault.path.chmod(0o640)
    assert fault(lambda: vault.get("token")) is Fault.EXPOSED
    vault.path.chmod(0o600)
    vault.path.rename(tmp_path / "real")
    vault.path.symlink_to(tmp_path / "real")
    assert fault(lambda: vault.get("token")) is Fault.UNUSABLE


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = with_passphrase(tmp_path)
    vault.set("token", VALUE)
    before = vault.path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert fault(lambda: vault.set("token", "new")) is Fault.UNUSABLE
    assert vault.path.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secrets.enc", "secrets.lock"]


def test_two_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    def write(name: str) -> None:
        for number in range(5):
            with_passphrase(tmp_path).set(f"{name}{number}", VALUE)

    threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(with_passphrase(tmp_path).names()) == 15
    assert with_passphrase(tmp_path).get("a0") == VALUE


PRINTS = "import os; from registry.secrets import SecretStore; SecretStore(); print([k for k in os.environ if 'PASS' in k])"


def test_no_child_gets_the_passphrase_once_the_stores_are_there() -> None:
    env = {**os.environ, "STOCKADE_SECRETS_PASSPHRASE": "open sesame"}
    said = subprocess.run([sys.executable, "-c", PRINTS], env=env, check=True, capture_output=True, text=True).stdout
    assert said.strip() == "[]"


def test_the_passphrase_is_taken_from_the_environment_or_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.secrets.keys._taken", {})
    env = {"STOCKADE_SECRETS_PASSPHRASE": "one"}
    assert take_passphrase(env) == b"one"
    assert env == {}
    assert take_passphrase(env) == b"one"
    reading, writing = os.pipe()
    os.write(writing, b"two\n")
    os.close(writing)
    assert take_passphrase({"STOCKADE_SECRETS_PASSPHRASE_FD": str(reading)}) == b"two"


def test_the_key_file_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_FILE, "/x/key")
    assert key_file() == Path("/x/key")


def test_a_person_is_asked_where_nothing_else_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.secrets.keys._taken", {})
    asked: list[bool] = []

    def ask(new: bool) -> str:
        asked.append(new)
        return "open sesame"

    keys = Keys(file=lambda: None, passphrase=lambda: None, ask=ask)
    Vault(path=tmp_path / "secrets.enc", keys=keys).set("token", VALUE)
    assert asked[0] is True
    assert with_passphrase(tmp_path).get("token") == VALUE
    with pytest.raises(SecretError, match="is locked"):
        Vault(
            path=tmp_path / "secrets.enc", keys=Keys(file=lambda: None, passphrase=lambda: None, ask=lambda new: "")
        ).get("token")

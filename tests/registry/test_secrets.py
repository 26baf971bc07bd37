"""Secrets are filled in at the last moment, and never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.load import load_text
from registry.secrets import SecretError, SecretStore, needed_by
from registry.secrets.keys import Keys
from registry.secrets.places import Store
from registry.secrets.vault import Vault


def store(folder: Path, **env: str) -> SecretStore:
    return SecretStore(env=env, folder=folder, keyring=None, vault=Vault(path=folder / "none.enc"), filled=())


def test_references_are_filled_in(tmp_path: Path) -> None:
    secrets = store(tmp_path, STOCKADE_SECRET_API_KEY="k1", HOME_DIR="/h")
    secrets.set("db.url", "postgres://x\n")
    values = {
        "A": "Bearer ${secret:api-key}",
        "B": "${env:HOME_DIR}/x",
        "C": "${secret:db.url}",
        "D": "${env:NONE:-fallback}",
        "E": "$${literal}",
        "F": "plain $HOME",
    }
    assert secrets.resolve(values) == {
        "A": "Bearer k1",
        "B": "/h/x",
        "C": "postgres://x",
        "D": "fallback",
        "E": "${literal}",
        "F": "plain $HOME",
    }


def test_references_in_arguments_are_filled_in_too(tmp_path: Path) -> None:
    assert store(tmp_path, STOCKADE_SECRET_URL="pg://x").resolve_list(("-y", "${secret:url}")) == ("-y", "pg://x")


def test_a_value_that_looks_like_a_reference_is_not_filled_in_again(tmp_path: Path) -> None:
    assert store(tmp_path, A="${env:B}", B="x").resolve_text("${env:A}") == "${env:B}"


def test_every_missing_secret_is_named_with_its_place_and_how_to_set_it(tmp_path: Path) -> None:
    with pytest.raises(SecretError) as caught:
        store(tmp_path).resolve({"A": "${secret:one}", "B": "${env:TWO}"}, ("mcpServers", "x", "env"))
    assert str(caught.value).splitlines() == [
        "mcpServers.x.env.A: the secret 'one' is not set. "
        "Run: stockade secret set one (or set STOCKADE_SECRET_ONE where Stockade runs).",
        "mcpServers.x.env.B: the environment variable TWO is not set. Set it: export TWO=….",
    ]


def test_missing_secrets_of_a_configuration_have_their_lines(tmp_path: Path) -> None:
    text = 'version: 1\nmcpServers:\n  a:\n    image: x\n    env:\n      T: "${secret:tok}"\n'
    (problem,) = store(tmp_path).missing(load_text(text, Path("stockade.yaml")))
    assert str(problem).startswith("stockade.yaml:6:10: mcpServers.a.env.T: the secret 'tok' is not set.")
    assert store(tmp_path).missing(load_text(text + "    disabled: true\n", Path("stockade.yaml"))) == []


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    secrets = store(tmp_path)
    path = Path(secrets.set("one", "s3cret"))
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(SecretError, match="can be read by others") as caught:
        secrets.resolve({"A": "${secret:one}"})
    assert "s3cret" not in str(caught.value)


def test_a_secret_is_removed_and_one_that_is_not_there_is_said(tmp_path: Path) -> None:
    secrets = store(tmp_path)
    secrets.set("one", "line\r\nline")
    assert secrets.lookup("one") == "line\r\nline"
    secrets.remove("one")
    assert secrets.lookup("one") is None
    with pytest.raises(SecretError, match="there is no secret 'one' in"):
        secrets.remove("one")


def test_a_secret_that_is_too_large_or_has_no_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match="larger than"):
        store(tmp_path).set("one", "x" * 65_537)
    (tmp_path / "file").write_text("")
    with pytest.raises(SecretError, match="cannot be written"):
        store(tmp_path / "file").set("one", "x")


def test_the_servers_that_need_a_secret_are_known() -> None:
    text = (
        "version: 1\nmcpServers:\n"
        '  a: {image: x, env: {T: "Bearer ${secret:tok}"}}\n'
        '  b: {image: x, env: {T: "${secret:token}"}}\n'
        '  c: {url: "https://x.example/mcp", headers: {A: "${secret:tok}"}}\n'
    )
    assert needed_by(load_text(text, Path("stockade.yaml")), "tok") == ["a", "c"]


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "", "a b"])
def test_a_secrets_name_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(SecretError):
        store(tmp_path).set(name, "x")
    with pytest.raises(SecretError, match="is not a reference"):
        store(tmp_path).resolve({"A": f"${{secret:{name}}}"})


def test_a_store_never_shows_what_it_has(tmp_path: Path) -> None:
    assert "k1" not in repr(store(tmp_path, STOCKADE_SECRET_A="k1"))


def test_the_stores_are_asked_in_their_order_and_each_says_where_it_is(tmp_path: Path) -> None:
    keys = Keys(file=lambda: None, passphrase=lambda: b"open sesame")
    system = tmp_path / "run"
    system.mkdir()
    secrets = SecretStore(
        env={"STOCKADE_SECRET_A": "environment"},
        folder=tmp_path / "own",
        keyring=dict.fromkeys("abc", "ring").get,
        vault=Vault(path=tmp_path / "secrets.enc", keys=keys),
        filled=(system,),
    )
    for name in "ab":
        secrets.set(name, "file", Store.FOLDER)
    for name in "abcd":
        secrets.set(name, "encrypted", Store.ENCRYPTED)
    for name in "abcde":
        (system / name).write_text("system\n")
    values = secrets.resolve({name: f"${{secret:{name}}}" for name in "abcde"})
    assert values == {"a": "environment", "b": "file", "c": "ring", "d": "encrypted", "e": "system"}
    where = ["the environment of Stockade", str(tmp_path / "own"), "the system's key ring"]
    where += [str(tmp_path / "secrets.enc"), str(system)]
    assert [place.where for place in secrets.origins("a")] == where
    assert [secrets.origins(name)[0].where for name in "abcde"] == where
    assert secrets.origins("f") == []
    assert secrets.names() == list("abcde")


def test_a_store_that_is_locked_is_named_beside_the_line_that_needs_it(tmp_path: Path) -> None:
    path = tmp_path / "secrets.enc"
    key = tmp_path / "key"
    key.touch(0o600)
    key.write_bytes(b"k" * 32)
    Vault(path=path, keys=Keys(file=lambda: key, passphrase=lambda: None)).set("tok", "x")
    locked = Vault(path=path, keys=Keys(file=lambda: None, passphrase=lambda: None))
    secrets = SecretStore(env={}, folder=tmp_path, keyring=None, vault=locked, filled=())
    text = 'version: 1\nmcpServers:\n  a:\n    image: x\n    env:\n      T: "${secret:tok}"\n'
    (problem,) = secrets.missing(load_text(text, Path("stockade.yaml")))
    assert str(problem).startswith(f"stockade.yaml:6:10: mcpServers.a.env.T: {path} is locked: no key is given.")

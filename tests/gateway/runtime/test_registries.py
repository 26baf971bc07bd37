"""What an installation may reach: the registries that this machine's settings name, and what the entry itself names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from egress.policy.decide import parse_policy
from gateway.runtime.containers import build_wall
from gateway.runtime.containers.build_wall import special_addresses, upstream
from gateway.runtime.images.build_settings import gather
from gateway.runtime.images.registries import allowed_hosts
from gateway.runtime.sandbox.errors import BuildError

PYPI = ["files.pythonhosted.org:443", "pypi.org:443"]
NPM = ["registry.npmjs.org:443"]
GITHUB = ["codeload.github.com:443", "github.com:443"]


def reached(home: Path, kind: str, variables: Mapping[str, str] = {}, *requirements: str) -> list[str]:
    entries = allowed_hosts(kind, gather(variables, home, home), requirements or ["x"])
    assert parse_policy({"allowed_hosts": entries}).rules, "the egress takes them"
    return sorted(f"{entry['host']}:{entry['port']}" for entry in entries)


@pytest.mark.parametrize(
    ("kind", "variables", "hosts"),
    [
        ("uvx", {}, PYPI),
        ("npx", {}, NPM),
        ("uvx", {"UV_DEFAULT_INDEX": "https://me:pw@pypi.corp.example/simple"}, ["pypi.corp.example:443"]),
        ("uvx", {"PIP_INDEX_URL": "http://10.1.2.3:8080/simple"}, ["10.1.2.3:8080"]),
        ("uvx", {"UV_INDEX": "one=https://a.example/s https://b.example:444"}, ["a.example:443", "b.example:444", *PYPI]),
        ("uvx", {"PIP_EXTRA_INDEX_URL": "https://c.example/s"}, ["c.example:443", *PYPI]),
        ("npx", {"npm_config_registry": "https://npm.corp.example/"}, ["npm.corp.example:443"]),
        ("npx", {"UV_DEFAULT_INDEX": "https://pypi.corp.example"}, NPM),
        ("uvx", {"npm_config_registry": "https://npm.corp.example/"}, PYPI),
        ("uvx", {"UV_DEFAULT_INDEX": "not a url"}, []),
    ],
)  # fmt: skip
def test_the_registries_of_this_machine_and_no_others(
    tmp_path: Path, kind: str, variables: dict[str, str], hosts: list[str]
) -> None:
    if not hosts:
        assert allowed_hosts(kind, gather(variables, tmp_path, tmp_path), ["x"]) == []
    else:
        assert reached(tmp_path, kind, variables) == sorted(hosts)


def test_registries_of_npms_file_scopes_included(tmp_path: Path) -> None:
    (tmp_path / ".npmrc").write_text(
        "registry=https://npm.corp.example/\n@ours:registry=http://10.0.0.7:4873/\n//npm.corp.example/:_authToken=x\n"
    )
    assert reached(tmp_path, "npx") == ["10.0.0.7:4873", "npm.corp.example:443"]
    assert reached(tmp_path, "uvx") == PYPI


@pytest.mark.parametrize(
    ("kind", "requirement", "more"),
    [
        ("uvx", "x @ git+https://github.com/o/r@v1", GITHUB),
        ("uvx", "git+https://git.corp.example/o/r", ["git.corp.example:443"]),
        ("npx", "github:o/r", GITHUB),
        ("npx", "o/r#main", GITHUB),
        ("npx", "https://files.example/x.tgz", ["files.example:443"]),
        ("uvx", "x @ https://files.example:8443/x.whl", ["files.example:8443"]),
        ("uvx", "x @ http://169.254.169.254/a.tar.gz ; sys_platform == 'win32'", []),
        ("uvx", "x @ https://192.168.1.1/a.tar.gz", []),
        ("uvx", "x @ https://[::1]/a.tar.gz", []),
        ("npx", "http://host.docker.internal:8080/x.tgz", []),
        ("npx", "https://host.docker.internal:8080/x.tgz", []),
        ("npx", "https://localhost:8080/x.tgz", []),
        ("npx", "https://metadata.google.internal/x.tgz", []),
        ("npx", "http://files.example/x.tgz", []),
        ("npx", "@scope/name@1.2", []),
        ("uvx", "name[extra]>=1,<2", []),
    ],
)
def test_what_the_entry_itself_names(tmp_path: Path, kind: str, requirement: str, more: list[str]) -> None:
    """An entry may come from a stranger's file, and every package of the installation could reach what is opened."""
    named = allowed_hosts(kind, gather({}, tmp_path, tmp_path), [requirement])
    assert [entry for entry in named if entry.get("private") and f"{entry['host']}:{entry['port']}" in more] == []
    assert reached(tmp_path, kind, {}, requirement) == sorted([*more, *(PYPI if kind == "uvx" else NPM)])


def test_this_machines_proxy_is_the_egresss_for_installations() -> None:
    assert upstream({}) is None
    found = upstream({"HTTPS_PROXY": "http://me:pw@proxy.example:8080", "NO_PROXY": "corp.example, 10.0.0.0/8"})
    assert found == {
        "upstream_proxy": "http://me:pw@proxy.example:8080",
        "no_proxy": ["corp.example", "10.0.0.0/8"],
    }
    with pytest.raises(BuildError, match=r"cannot use this machine's proxy \(HTTPS_PROXY\)") as caught:
        upstream({"HTTPS_PROXY": "https://me:hunter2@proxy.example"})
    assert "hunter2" not in str(caught.value)


def test_a_registry_at_a_reserved_address_is_opened_by_that_address_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Companies resolve the registries' names to proxies of their own; `private: true` does not open a reserved address."""
    names = {
        "a.example": "203.0.113.80",
        "b.example": "10.0.0.1",
        "c.example": "127.0.0.1",
        "d.example": "169.254.169.254",
    }

    def looked_up(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        if host not in names:
            raise OSError("no such name")
        return [(2, 1, 6, "", (names[host], port))]

    monkeypatch.setattr(build_wall.socket, "getaddrinfo", looked_up)
    entries = [{"host": host, "port": 443, "private": True} for host in (*names, "nowhere.example")]
    assert special_addresses(entries) == [{"host": "203.0.113.80", "port": 443}]

"""What builds get of the host: certificates, indexes, proxies; no path of the host, no index in a folder."""

from __future__ import annotations

import subprocess
from pathlib import Path

from gateway.runtime.build_settings import INSIDE, BuildSettings, gather


def environment(settings: BuildSettings) -> dict[str, str]:
    script = settings.files["env"].decode()
    shell = subprocess.run(["env", "-i", "sh", "-c", f"{script}\nenv"], capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in shell.stdout.splitlines())


def make(root: Path, path: str, text: str) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_a_bare_host_gives_a_script_and_no_more(tmp_path: Path) -> None:
    settings = gather({}, tmp_path / "home", tmp_path)
    assert set(settings.files) == {"env"}
    assert environment(settings)["UV_PYTHON_DOWNLOADS"] == "never"
    assert settings.proxies == {}


def test_the_systems_bundle_is_trusted_by_every_tool(tmp_path: Path) -> None:
    make(tmp_path, "etc/ssl/certs/ca-certificates.crt", "SYSTEM")
    settings = gather({}, tmp_path / "home", tmp_path)
    assert settings.files["ca.pem"] == b"SYSTEM"
    env = environment(settings)
    for name in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "npm_config_cafile"):
        assert env[name] == f"{INSIDE}/ca.pem"


def test_a_bundle_named_by_a_variable_wins_and_extra_ca_is_added(tmp_path: Path) -> None:
    company = make(tmp_path, "company.pem", "COMPANY\n")
    extra = make(tmp_path, "extra.pem", "EXTRA\n")
    make(tmp_path, "etc/ssl/certs/ca-certificates.crt", "SYSTEM")
    settings = gather({"SSL_CERT_FILE": str(company)}, tmp_path / "home", tmp_path, extra)
    assert settings.files["ca.pem"] == b"COMPANY\nEXTRA\n"


def test_pips_index_is_uvs_too_and_folders_of_the_host_are_left_out(tmp_path: Path) -> None:
    make(
        tmp_path,
        "etc/pip.conf",
        "[global]\nindex-url = https://u:p@pypi.example/simple\nextra-index-url = file:///opt/pypi https://b.example/s\n"
        "trusted-host = pypi.example\nfind-links = /opt/wheels\ncert = /etc/x.pem\n",
    )
    env = environment(gather({}, tmp_path / "home", tmp_path))
    assert env["PIP_INDEX_URL"] == env["UV_DEFAULT_INDEX"] == "https://u:p@pypi.example/simple"
    assert env["PIP_EXTRA_INDEX_URL"] == env["UV_EXTRA_INDEX_URL"] == "https://b.example/s"
    assert env["UV_INSECURE_HOST"] == "pypi.example"
    assert "PIP_FIND_LINKS" not in env
    assert "PIP_CERT" not in env


def test_variables_of_pip_uv_and_npm_are_passed_and_paths_are_not(tmp_path: Path) -> None:
    host = {
        "PIP_INDEX_URL": "https://one.example/simple",
        "UV_INDEX_COMPANY_PASSWORD": "it's secret",
        "npm_config_registry": "https://npm.example/",
        "PIP_FIND_LINKS": "/opt/wheels",
        "UV_CACHE_DIR": "/root/.cache/uv",
        "npm_config_cache": "/root/.npm",
        "HOME": "/root",
    }
    env = environment(gather(host, tmp_path / "home", tmp_path))
    assert env["PIP_INDEX_URL"] == env["UV_DEFAULT_INDEX"] == "https://one.example/simple"
    assert env["UV_INDEX_COMPANY_PASSWORD"] == "it's secret"
    assert env["npm_config_registry"] == "https://npm.example/"
    assert not {"PIP_FIND_LINKS", "UV_CACHE_DIR", "npm_config_cache", "HOME"} & env.keys()


def test_npmrc_comes_without_the_hosts_own_paths(tmp_path: Path) -> None:
    home = tmp_path / "home"
    make(home, ".npmrc", "registry=https://npm.example/\n//npm.example/:_authToken=t\ncafile=/etc/x\nprefix=/usr\n")
    settings = gather({}, home, tmp_path)
    assert settings.files["npmrc"] == b"registry=https://npm.example/\n//npm.example/:_authToken=t\n"
    assert environment(settings)["npm_config_userconfig"] == f"{INSIDE}/npmrc"


def test_proxies_come_in_both_cases(tmp_path: Path) -> None:
    settings = gather({"https_proxy": "http://p:1", "NO_PROXY": "x"}, tmp_path, tmp_path)
    assert settings.proxies == {
        "HTTPS_PROXY": "http://p:1", "https_proxy": "http://p:1", "NO_PROXY": "x", "no_proxy": "x",
    }  # fmt: skip


def test_credentials_are_not_in_the_repr(tmp_path: Path) -> None:
    settings = gather({"PIP_INDEX_URL": "https://u:hunter2@x.example/"}, tmp_path, tmp_path)
    assert "hunter2" not in repr(settings)

"""What builds get of the host: certificates, indexes, proxies; no path of the host, no index in a folder."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from gateway.runtime.images.build_settings import INSIDE, BuildSettings, gather


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
    settings = gather({}, tmp_path / "home", tmp_path)
    env = environment(settings)
    assert env["PIP_INDEX_URL"] == env["UV_DEFAULT_INDEX"] == "https://pypi.example/simple"
    assert environment(settings.for_download)["UV_DEFAULT_INDEX"] == "https://u:p@pypi.example/simple"
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
    settings = gather(host, tmp_path / "home", tmp_path)
    env = environment(settings)
    assert env["PIP_INDEX_URL"] == env["UV_DEFAULT_INDEX"] == "https://one.example/simple"
    assert environment(settings.for_download)["UV_INDEX_COMPANY_PASSWORD"] == "it's secret"
    assert "UV_INDEX_COMPANY_PASSWORD" not in env
    assert env["npm_config_registry"] == "https://npm.example/"
    assert not {"PIP_FIND_LINKS", "UV_CACHE_DIR", "npm_config_cache", "HOME"} & env.keys()


NPMRC = """\
registry=https://me:hunter2@npm.example/
@company:registry = https://npm.company.example/
//npm.example/:_authToken=hunter2
//npm.example/:_password=hunter2
_auth=hunter2
email=me@hunter2.example
strict-ssl=false
cafile=/etc/x
prefix=/usr
init-author-name=hunter2
//npm.example/:certfile=/home/me/hunter2.pem
; a comment, hunter2
"""


def test_of_npmrc_only_what_leads_to_a_registry_comes_and_credentials_apart(tmp_path: Path) -> None:
    home = tmp_path / "home"
    make(home, ".npmrc", NPMRC)
    settings = gather({}, home, tmp_path)
    assert settings.files["npmrc"] == (
        b"registry=https://npm.example/\n@company:registry =https://npm.company.example/\nstrict-ssl=false\n"
    )
    complete = settings.for_download.files["npmrc"].decode()
    assert complete.splitlines() == NPMRC.splitlines()[:7]
    assert environment(settings)["npm_config_userconfig"] == f"{INSIDE}/npmrc"


def test_of_uvs_file_only_the_indexes_come(tmp_path: Path) -> None:
    make(
        tmp_path,
        "home/.config/uv/uv.toml",
        'cache-dir = "/x"\nindex-strategy = "first-index"\nallow-insecure-host = ["a.example"]\n'
        '[[index]]\nname = "company"\nurl = "https://me:hunter2@b.example/simple"\n'
        '[[index]]\nurl = "https://c.example/simple"\ndefault = true\n[[index]]\nurl = "/opt/wheels"\n',
    )
    settings = gather({}, tmp_path / "home", tmp_path)
    env = environment(settings)
    assert env["UV_INDEX"] == "company=https://b.example/simple"
    assert env["UV_DEFAULT_INDEX"] == "https://c.example/simple"
    assert (env["UV_INDEX_STRATEGY"], env["UV_INSECURE_HOST"]) == ("first-index", "a.example")
    assert environment(settings.for_download)["UV_INDEX"] == "company=https://me:hunter2@b.example/simple"
    assert set(settings.files) == {"env"}


HOLDERS: dict[str, tuple[dict[str, str], str, str]] = {
    "a URL of pip's": ({"PIP_INDEX_URL": "https://u:hunter2@x.example/"}, "", ""),
    "several URLs": ({"UV_INDEX": "a=https://x.example/ b=https://hunter2@y.example/"}, "", ""),
    "uv's password": ({"UV_INDEX_A_PASSWORD": "hunter2"}, "", ""),
    "uv's user": ({"UV_INDEX_A_USERNAME": "hunter2"}, "", ""),
    "a proxy": ({"HTTPS_PROXY": "http://u:hunter2@proxy.example:3128"}, "", ""),
    "a proxy without a scheme": ({"HTTPS_PROXY": "u:hunter2@proxy.example:3128"}, "", ""),
    "a password with a slash": ({"PIP_INDEX_URL": "https://u:x/hunter2@x.example/"}, "", ""),
    "npmrc's proxy": ({}, "home/.npmrc", "proxy = u:hunter2@proxy.example:3128\n"),
    "npm's proxy": ({"npm_config_proxy": "http://u:hunter2@proxy.example:3128"}, "", ""),
    "npmrc": ({}, "home/.npmrc", "//npm.example/:_authToken=hunter2\n"),
    "pip.conf": ({}, "etc/pip.conf", "[global]\nextra-index-url = https://u:hunter2@x.example/\n"),
    "uv.toml": ({}, "home/.config/uv/uv.toml", 'index-url = "https://hunter2@x.example/simple"\n'),
}


@pytest.mark.parametrize(("environ", "path", "text"), HOLDERS.values(), ids=HOLDERS)
def test_no_credential_is_where_a_packages_code_runs(
    tmp_path: Path, environ: dict[str, str], path: str, text: str
) -> None:
    """Red team M14: credentials in npmrc, pip.conf, variables and URLs went to every build."""
    if path:
        make(tmp_path, path, text)
    settings = gather(environ, tmp_path / "home", tmp_path)
    assert b"hunter2" not in b"".join(settings.files.values())
    assert "hunter2" not in str(dict(settings.proxies))
    complete = settings.for_download
    assert b"hunter2" in b"".join(complete.files.values()) or "hunter2" in str(dict(complete.proxies))


def test_without_credentials_there_is_one_kind_of_settings(tmp_path: Path) -> None:
    settings = gather({"PIP_INDEX_URL": "https://x.example/simple"}, tmp_path, tmp_path)
    assert (settings.complete, settings.wanted_by) == (None, frozenset())


@pytest.mark.parametrize(
    ("environ", "npmrc", "wanted_by"),
    [
        ({"UV_INDEX_A_PASSWORD": "x"}, "", {"uvx"}),
        ({}, "//npm.example/:_authToken=x\n", {"npx"}),
        ({"npm_config_proxy": "http://u:p@x.example"}, "", {"uvx", "npx"}),
        ({"HTTPS_PROXY": "http://u:p@x.example"}, "", {"uvx", "npx"}),
    ],
)
def test_npms_token_does_not_keep_a_python_package_from_being_built(
    tmp_path: Path, environ: dict[str, str], npmrc: str, wanted_by: set[str]
) -> None:
    make(tmp_path, "home/.npmrc", npmrc)
    assert gather(environ, tmp_path / "home", tmp_path).wanted_by == wanted_by


def test_proxies_come_in_both_cases(tmp_path: Path) -> None:
    settings = gather({"https_proxy": "http://p:1", "NO_PROXY": "x"}, tmp_path, tmp_path)
    assert settings.proxies == {
        "HTTPS_PROXY": "http://p:1", "https_proxy": "http://p:1", "NO_PROXY": "x", "no_proxy": "x",
    }  # fmt: skip


FROM_NPM = 'proxy=http://p.example:1\nhttps-proxy = "http://s.example:2/"\nnoproxy=a.example,b.example\n'


@pytest.mark.parametrize(
    ("environ", "npmrc", "https", "http", "no"),
    [
        ({}, FROM_NPM, "http://s.example:2/", "http://p.example:1", "a.example,b.example"),
        ({}, "proxy=http://p.example:1\nhttps-proxy=null\n", "http://p.example:1", "http://p.example:1", None),
        ({}, "; proxy=http://p.example:1\nhttps-proxy=false\n", None, None, None),
        ({"COMPANY": "c.example"}, "proxy=http://${COMPANY}:3\n", "http://c.example:3", "http://c.example:3", None),
        ({"NPM_CONFIG_HTTPS_PROXY": "http://v.example:4"}, "https-proxy=http://s:2\n", "http://v.example:4", None, None),
        ({"PIP_PROXY": "http://v.example:4"}, "", "http://v.example:4", "http://v.example:4", None),
        ({"https_proxy": "http://e:5", "npm_config_proxy": "http://p:1"}, FROM_NPM, "http://e:5", None, None),
        ({"NO_PROXY": "n.example", "HTTPS_PROXY": ""}, FROM_NPM, "http://s.example:2/", "http://p.example:1", "n.example"),
    ],
)  # fmt: skip
def test_a_proxy_that_npm_or_pip_is_set_to_is_for_the_egress_alone(
    tmp_path: Path, environ: dict[str, str], npmrc: str, https: str | None, http: str | None, no: str | None
) -> None:
    """npm takes its own before HTTPS_PROXY, which is the door; behind that no other proxy is reached."""
    make(tmp_path, "home/.npmrc", "registry=https://npm.example/\n" + npmrc)
    settings = gather(environ, tmp_path / "home", tmp_path)
    for every in (settings, settings.for_download):
        assert every.files["npmrc"] == b"registry=https://npm.example/\n"
        assert b"proxy" not in every.files["env"].lower()
        assert [every.proxies.get(name) for name in ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")] == [https, http, no]


def test_credentials_are_not_in_the_repr(tmp_path: Path) -> None:
    settings = gather({"PIP_INDEX_URL": "https://u:hunter2@x.example/"}, tmp_path, tmp_path)
    assert "hunter2" not in repr(settings)

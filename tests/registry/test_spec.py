"""What commands mean."""

from __future__ import annotations

from typing import Any

import pytest

from registry.model.errors import ConfigError
from registry.model.server import Server
from registry.model.sources import ImageSource, PackageSource, RemoteSource
from registry.model.spec import plan_source


def plan(command: str, *args: str, **more: Any) -> Any:
    return plan_source(Server.model_validate({"command": command, "args": list(args), **more}))


PACKAGES = {
    "uvx": (["uvx", "mcp-server-fetch"], "uvx", "mcp-server-fetch", "", "mcp-server-fetch", ()),
    "arguments are passed on": (["uvx", "x", "--from", "y"], "uvx", "x", "", "x", ("--from", "y")),
    "version by @": (["uvx", "ruff@0.3.0", "check"], "uvx", "ruff", "0.3.0", "ruff", ("check",)),
    "newest by @": (["uvx", "ruff@latest"], "uvx", "ruff", "", "ruff", ()),
    "version by ==": (["uvx", "x==1.2"], "uvx", "x", "1.2", "x", ()),
    "from": (["uvx", "--from", "mcp[cli]>=1,<2", "mcp", "run"], "uvx", "mcp", ">=1,<2", "mcp", ("run",)),
    "from with =": (["uvx", "--from=pkg", "cmd"], "uvx", "pkg", "", "cmd", ()),
    "python": (["uvx", "--python", "3.12", "-q", "x"], "uvx", "x", "", "x", ()),
    "uv tool run": (["uv", "tool", "run", "x", "a"], "uvx", "x", "", "x", ("a",)),
    "pipx": (["pipx", "run", "x"], "uvx", "x", "", "x", ()),
    "one string": (
        ["uvx mcp-server-fetch", "--flag"],
        "uvx",
        "mcp-server-fetch",
        "",
        "mcp-server-fetch",
        ("--flag",),
    ),
    "whole path": (["/home/u/.local/bin/uvx", "x"], "uvx", "x", "", "x", ()),
    "npx": (["npx", "-y", "@a/b"], "npx", "@a/b", "", "", ()),
    "npx version": (["npx", "-y", "@a/b@1.2.3", "--x"], "npx", "@a/b", "1.2.3", "", ("--x",)),
    "npx tag": (["npx", "b@next"], "npx", "b", "next", "", ()),
    "npx latest": (["npx", "b@latest"], "npx", "b", "", "", ()),
    "npx package": (["npx", "-y", "--package=@a/b", "--", "cmd", "-x"], "npx", "@a/b", "", "cmd", ("-x",)),
    "windows": (["cmd", "/c", "npx", "-y", "b"], "npx", "b", "", "", ()),
    "npx.cmd": ([r"C:\node\npx.cmd", "b"], "npx", "b", "", "", ()),
    "bunx": (["bunx", "b"], "npx", "b", "", "", ()),
    "npm exec": (["npm", "exec", "-y", "--", "b", "c"], "npx", "b", "", "", ("c",)),
    "pnpm dlx": (["pnpm", "dlx", "b"], "npx", "b", "", "", ()),
}


@pytest.mark.parametrize(
    ("words", "kind", "package", "version", "executable", "args"), PACKAGES.values(), ids=PACKAGES
)
def test_a_package_is_found_in_a_command(
    words: list[str], kind: str, package: str, version: str, executable: str, args: tuple[str, ...]
) -> None:
    source = plan(*words)
    assert isinstance(source, PackageSource)
    assert (source.kind, source.package, source.version) == (kind, package, version)
    assert (source.executable, source.args) == (executable, args)


REQUIREMENTS = {
    "bare": (["uvx", "x"], "x"),
    "pinned": (["uvx", "x@1.0"], "x==1.0"),
    "extras": (["uvx", "--from", "mcp[cli]==1.0", "mcp"], "mcp[cli]==1.0"),
    "npm": (["npx", "@a/b@^1.2"], "@a/b@^1.2"),
    "git": (["uvx", "--from", "git+https://git.example/o/r@v1", "serena"], "git+https://git.example/o/r@v1"),
}


@pytest.mark.parametrize(("words", "requirement"), REQUIREMENTS.values(), ids=REQUIREMENTS)
def test_a_requirement_is_spelled_as_the_installer_wants_it(words: list[str], requirement: str) -> None:
    assert plan(*words).requirement == requirement


def test_more_packages_and_what_they_need_are_kept() -> None:
    source = plan("uvx", "--with", "a", "--with=b", "-p", "3.12", "x", packages=["ffmpeg"])
    assert source.extra_requirements == ("a", "b")
    assert source.runtime_version == "3.12"
    assert source.system_packages == ("ffmpeg",)
    assert plan("uvx", "--from", "git+https://git.example/o/r", "x").system_packages == ("git",)


def test_docker_run_becomes_an_image_with_variables_and_mounts(tmp_path: Any) -> None:
    source = plan(
        "docker", "run", "-i", "--rm", "--init", "-e", "TOKEN", "-eMODE=x", "--env", "HOST", "--name", "n",
        "--mount", f"type=bind,src={tmp_path},dst=/data,readonly", "-v", "vol:/v", "-u", "1000:1000",
        "--network", "none", "--entrypoint", "/bin/server", "ghcr.io/a/b:1", "stdio", "--read-only",
        env={"TOKEN": "${secret:t}"},
    )  # fmt: skip
    assert isinstance(source, ImageSource)
    assert (source.image, source.command) == ("ghcr.io/a/b:1", ("stdio", "--read-only"))
    assert source.env == {"TOKEN": "${secret:t}", "MODE": "x", "HOST": "${env:HOST}"}
    assert [(mount.source, mount.target, mount.read_only, mount.volume) for mount in source.mounts] == [
        (str(tmp_path), "/data", True, False),
        ("vol", "/v", False, True),
    ]
    assert (source.user, source.entrypoint) == ("1000:1000", ("/bin/server",))


def test_an_image_keeps_its_arguments() -> None:
    source = plan_source(Server.model_validate({"image": "a/b", "args": ["stdio"], "env": {"A": "1"}}))
    assert source == ImageSource(image="a/b", command=("stdio",), args=("stdio",), env={"A": "1"})


def test_a_url_is_a_remote_source() -> None:
    source = plan_source(Server.model_validate({"url": "https://a.example/mcp", "headers": {"X": "1"}}))
    assert source == RemoteSource(url="https://a.example/mcp", headers={"X": "1"})


REFUSED = {
    "no package": (["uvx"], "uvx does not say which package to run"),
    "only options": (["npx", "-y"], "npx does not say which package to run"),
    "unknown option": (["uvx", "--zzz", "x"], "args[0]: Stockade does not know uvx's option --zzz"),
    "option without value": (["uvx", "--from"], "uvx --from has no value"),
    "an index": (["uvx", "--index-url", "https://x.example", "p"], "uvx --index-url is refused"),
    "a folder": (["uvx", "--from", "x.whl/", "p"], "'x.whl/' is not a package of PyPI"),
    "a path": (["npx", "./server.js"], "'./server.js' is not a package of npm"),
    "git without command": (["uvx", "git+https://x.example/a"], "uvx does not know the command of a git URL"),
    "docker exec": (["docker", "exec", "x"], "Stockade reads `docker run …`, not `docker exec`"),
    "docker without image": (["docker", "run", "-i"], "docker run is not told which image to run"),
    "cap-add": (["docker", "run", "--cap-add=NET_ADMIN", "x"], "docker run --cap-add is refused"),
    "device": (["docker", "run", "--device", "/dev/kvm", "x"], "docker run --device is refused"),
    "pid": (["docker", "run", "--pid=host", "x"], "docker run --pid is refused"),
    "network": (["docker", "run", "--net", "host", "x"], "docker run --net is refused"),
    "security-opt": (["docker", "run", "--security-opt", "seccomp=unconfined", "x"], "--security-opt is refused"),
    "add-host": (["docker", "run", "--add-host=a:1.2.3.4", "x"], "docker run --add-host is refused"),
    "ports": (["docker", "run", "-p", "80:80", "x"], "no port is published"),
    "env file": (["docker", "run", "--env-file", "x", "y"], "or its variables under `env:`"),
    "short in one word": (["docker", "run", "-ip80:80", "y"], "docker run -p is refused"),
    "privileged as a value": (["docker", "run", "--privileged=true", "y"], "docker run --privileged is refused"),
    "unknown docker option": (["docker", "run", "--zzz=1", "y"], "does not know docker run's option --zzz"),
    "socket": (
        ["docker", "run", "-v", "/var/run/docker.sock:/var/run/docker.sock", "y"],
        "container engine's socket",
    ),
    "socket by --mount": (
        ["docker", "run", "--mount", "type=bind,src=/run/docker.sock,dst=/s", "y"],
        "engine's socket",
    ),
    "socket's folder": (["docker", "run", "-v", "/run:/r", "y"], "/run is not mounted into a server"),
    "root": (["docker", "run", "-v", "/:/host", "y"], "/ is not mounted into a server"),
    "root by dots": (["docker", "run", "-v", "/tmp/..:/host", "y"], "/ is not mounted into a server"),
    "relative": (["docker", "run", "-v", "./x:/x", "y"], "relative to nothing"),
    "user by name": (["docker", "run", "-u", "root", "y"], "docker run --user root is not a number"),
}


@pytest.mark.parametrize(("words", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_understood_or_opens_the_wall_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(*words)
    assert message in str(caught.value)


def test_a_mount_through_a_symlink_to_the_engines_socket_is_refused(tmp_path: Any) -> None:
    (tmp_path / "docker.sock").write_text("")
    (tmp_path / "innocent").symlink_to(tmp_path / "docker.sock")
    with pytest.raises(ConfigError, match="engine's socket"):
        plan("docker", "run", "-v", f"{tmp_path}/innocent:/x", "y")


def test_privileged_false_is_harmless() -> None:
    assert plan("docker", "run", "--privileged=false", "y").image == "y"

"""Reads `docker run …` as an image with arguments, variables and mounts.

Options about that command's own terminal are dropped; what Stockade sets in another way is refused, with the key to use;
what would break the isolation is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from registry.model.env_file import read_env_file
from registry.model.errors import Finding, Invalid, KeyPath
from registry.model.mounts import Mount, make_mount, parse_mount
from registry.model.options import Grammar, Options, Place, read_options
from registry.model.references import fill_path, from_own, refuse_references


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerRun:
    """What a `docker run` command asks for."""

    image: str
    command: tuple[str, ...]
    entrypoint: tuple[str, ...]
    env: Mapping[str, str]
    mounts: tuple[Mount, ...]
    user: str | None
    workdir: str


DROPPED = "--rm -i --interactive -t --tty --init -q --quiet -d --detach --no-healthcheck --sig-proxy"
DROPPED_VALUES = (
    "--name --pull --platform -l --label --hostname -h --restart --stop-timeout --stop-signal --log-driver --log-opt"
    " -a --attach --cidfile --detach-keys --label-file"
)
TAKEN = "-e --env --env-file -v --volume --mount -u --user -w --workdir --entrypoint"
WALL = "it would open the wall around the server"
LIMITS = "limits stand in the file"
REFUSED = {
    **dict.fromkeys(("--privileged", "--cap-add", "--device", "--security-opt", "--pid", "--ipc", "--uts"), WALL),
    **dict.fromkeys(("--userns", "--cgroupns", "--cgroup-parent", "--volumes-from", "--runtime", "--sysctl"), WALL),
    **dict.fromkeys(("--device-cgroup-rule", "--group-add", "--add-host", "--dns", "--dns-search", "--ip"), WALL),
    **dict.fromkeys(("--link", "--dns-option", "--network-alias", "--net-alias", "--expose", "--mac-address"), WALL),
    "--gpus": "devices of this machine are not given to a server",
    "--network": "Stockade is the server's network",
    "--net": "Stockade is the server's network",
    "-p": "no port is published; for a server that speaks http write `type: http` and `port:`",
    "--publish": "no port is published; for a server that speaks http write `type: http` and `port:`",
    "-P": "no port is published; for a server that speaks http write `type: http` and `port:`",
    "--publish-all": "no port is published; for a server that speaks http write `type: http` and `port:`",
    "-m": f"{LIMITS}: resources: {{memory: …}}",
    "--memory": f"{LIMITS}: resources: {{memory: …}}",
    "--memory-swap": f"{LIMITS}: resources: {{memory: …}}",
    "--cpus": f"{LIMITS}: resources: {{cpus: …}}",
    "--pids-limit": f"{LIMITS}: resources: {{pids: …}}",
    "--ulimit": f"{LIMITS}: resources: {{pids: …}}",
    "--shm-size": f"{LIMITS}: resources: {{memory: …}}",
    "--tmpfs": "a server has its own writable /tmp; for more use `mounts:`",
}
HARMLESS = {("--network", "none"), ("--net", "none"), ("--security-opt", "no-new-privileges")}
HARMLESS_FLAGS = "--read-only"
HARMLESS_VALUES = "--cap-drop"
FILLED = frozenset("-e --env --env-file -v --volume --mount --entrypoint".split())
"""The options in whose values references are filled in."""
IGNORED = frozenset(f"{DROPPED} {DROPPED_VALUES} {HARMLESS_FLAGS} {HARMLESS_VALUES}".split())
FLAGS = frozenset(f"{DROPPED} {HARMLESS_FLAGS} --privileged -P --publish-all".split())
GRAMMAR = Grammar(
    flags=FLAGS,
    values=frozenset(f"{DROPPED_VALUES} {HARMLESS_VALUES} {TAKEN}".split()) | (REFUSED.keys() - FLAGS),
)


def read_docker_run(
    words: Sequence[str],
    env: Mapping[str, str],
    *,
    place: Place,
    tool: str = "docker run",
    port: int | None = None,
    joined: Collection[str] = (),
) -> DockerRun:
    """The words after `docker run`; `env` is the entry's own. Raises Invalid with what is refused and why.

    A published port is no matter where it is the entry's own `port`, nor a network that the entry joins (`joined`).
    """
    options = read_options(words, GRAMMAR, tool=tool, refused={}, place=place)
    wrong = list(refused(options, place, tool, fitting(port, joined)))
    found: dict[str, str] = {}
    for text, index in given(options, "--env-file"):
        with noting(wrong):
            found |= from_file(text, env, place(index))
    for text, index in given(options, "-e", "--env"):
        with noting(wrong):
            key, value = variable(text, env, place(index))
            found[key] = value
    found |= env
    mounts: list[Mount] = []
    for name, text, index in options.given:
        if name in ("-v", "--volume", "--mount"):
            with noting(wrong):
                mounts.append(one_mount(text, found, place(index), long=name == "--mount"))
    with noting(wrong):
        user = user_of(options, place, tool)
    with noting(wrong):
        if not options.rest:
            raise Invalid(f"{tool} is not told which image to run", "Add the image to args", path=("args",))
        refuse_references(options.rest[0], "it names the image", place(options.end))
    if wrong:
        raise Invalid.all(wrong)
    entrypoint = options.last("--entrypoint")
    return DockerRun(
        image=options.rest[0],
        command=options.rest[1:],
        entrypoint=(entrypoint,) if entrypoint else (),
        env=found,
        mounts=tuple(mounts),
        user=user,
        workdir=options.last("-w", "--workdir"),
    )


def given(options: Options, *names: str) -> Iterator[tuple[str, int]]:
    """The values of these options, and where each stands."""
    return ((value, index) for name, value, index in options.given if name in names)


@contextmanager
def noting(wrong: list[Finding]) -> Iterator[None]:
    """Keeps what is wrong with one option, so that the others are looked at too."""
    try:
        yield
    except Invalid as error:
        wrong += error.findings


def refused(options: Options, place: Place, tool: str, fits: Callable[[str, str], bool]) -> Iterator[Finding]:
    """What no server gets, and references where none is filled in."""
    for name, value, index in options.given:
        if name not in FILLED and name not in IGNORED:
            problems: list[Finding] = []
            with noting(problems):
                refuse_references(value, f"{name} is read before the server starts", place(index))
            yield from problems
        if name not in REFUSED or (name, value.removesuffix(":true")) in HARMLESS or value == "false":
            continue
        if not fits(name, value):
            hint = network_hint(name, value) if name in NETWORK else f"Remove {name}"
            yield Finding(place(index), f"{tool} {name} is refused: {REFUSED[name]}", hint)


NETWORK = ("--network", "--net")
PUBLISH = ("-p", "--publish")


def fitting(port: int | None, joined: Collection[str]) -> Callable[[str, str], bool]:
    """Whether an option asks for what the entry says anyway."""

    def fits(name: str, value: str) -> bool:
        inside = re.split(r"[:/]", re.sub(r"/tcp$", "", value))[-1]
        return (name in NETWORK and value in joined) or (name in PUBLISH and port is not None and inside == str(port))

    return fits


def network_hint(name: str, value: str) -> str:
    """The line that replaces a network of the engine."""
    if value == "host":
        line = 'for a service of this machine write network: {allowed_hosts: ["host.docker.internal:PORT"]}'
    elif value in ("bridge", "default") or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", value):
        line = "and name what it may reach: network: {allowed_hosts: [HOST]}"
    else:
        line = f'and write network: {{join: [{value}], allowed_hosts: ["CONTAINER:PORT"]}}'
    return f"Remove {name}; {line}" if value == "host" else f"Remove {name}, {line}"


def from_file(text: str, env: Mapping[str, str], where: KeyPath) -> dict[str, str]:
    """The variables of `--env-file`; what stands there is taken as it is, so no reference in it is filled in."""
    try:
        path = Path(fill_path(text, env)).expanduser()
        if not path.is_absolute():
            raise Invalid(f"{text} is relative to nothing", "Write the whole path, or its variables under `env:`")
        return {
            name: env.get(name, f"${{env:{name}}}") if value is None else value.replace("${", "$${")
            for name, value in read_env_file(path).items()
        }
    except Invalid as error:
        finding = error.findings[0]
        raise Invalid(finding.message, finding.hint, path=where) from None


def variable(text: str, env: Mapping[str, str], where: KeyPath) -> tuple[str, str]:
    """`-e KEY=VALUE`, or `-e KEY` from the entry's env or, as Docker does it, from the environment."""
    key, equals, value = text.partition("=")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", key):
        raise Invalid(f"{key!r} is not an environment variable's name", "Write -e NAME=VALUE", path=where)
    return key, from_own(value, env) if equals else env.get(key, f"${{env:{key}}}")


def one_mount(text: str, env: Mapping[str, str], where: KeyPath, *, long: bool) -> Mount:
    """A mount of `-v` or `--mount`; a relative path has no meaning here, since Docker takes it from the shell."""
    try:
        if not long:
            if text.startswith("."):
                raise Invalid(f"{text!r} is relative to nothing", "Give an absolute path, or use `mounts:`")
            return parse_mount(text, Path("/"), env)
        return long_mount(fill_path(text, env))
    except Invalid as error:
        finding = error.findings[0]
        raise Invalid(finding.message, finding.hint, path=where) from None


def long_mount(text: str) -> Mount:
    parts = {part.partition("=")[0]: part.partition("=")[2] for part in text.split(",")}
    source = parts.get("source") or parts.get("src") or ""
    target = parts.get("target") or parts.get("destination") or parts.get("dst") or ""
    if parts.get("type", "volume") not in ("bind", "volume") or not source or not target:
        raise Invalid(f"--mount {text} is not understood", "Use `mounts:` with SOURCE:TARGET:ro")
    read_only = any(parts.get(key) in ("", "true", "1") for key in ("readonly", "ro"))
    return make_mount(source, target, read_only, base=Path("/"))


def user_of(options: Options, place: Place, tool: str) -> str | None:
    text = options.last("-u", "--user")
    if not text:
        return None
    if not re.fullmatch(r"\d{1,10}(:\d{1,10})?", text):
        where = place(options.index("-u", options.index("--user", 0)))
        raise Invalid(f"{tool} --user {text} is not a number", "Write `user: 1000` in the entry", path=where)
    return text

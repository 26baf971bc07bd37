"""What to run for a server's entry: a package, an image, or a remote server. Pure: nothing is looked up.

`plan_source` reads the commands that people have in their configurations (`uvx`, `npx`, `uv tool run`,
`docker run …`, wrapped in `cmd /c` or with a whole path) and gives what a runtime needs to build and start it. An
unknown command is an error, since a container has no such program.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from registry.model.docker_run import read_docker_run
from registry.model.errors import ConfigError, Invalid, Problem, render_path
from registry.model.mounts import Mount
from registry.model.options import Grammar, Options, read_options
from registry.model.references import from_own, refuse_references
from registry.model.server import Server
from registry.model.sources import ImageSource, PackageSource, RemoteSource, Source
from registry.model.storage import kept

UVX = Grammar(
    flags=frozenset(
        "-q --quiet -v --verbose -n --no-cache --refresh --isolated --offline --no-progress --native-tls -U --upgrade"
        " --no-config --no-env-file --no-python-downloads --managed-python --no-managed-python --system-certs".split()
    ),
    values=frozenset(
        "--from --with -w --python -p --prerelease --resolution --index-strategy --color --cache-dir --link-mode"
        " --refresh-package --exclude-newer --index --default-index --index-url -i --extra-index-url --env-file"
        " --with-editable --with-requirements -c --constraints --directory --project -f --find-links".split()
    ),
)
UVX_REFUSED = {
    "--index": "package indexes are the host's own settings (UV_INDEX)",
    "--default-index": "package indexes are the host's own settings (UV_DEFAULT_INDEX)",
    "--index-url": "package indexes are the host's own settings (UV_DEFAULT_INDEX)",
    "-i": "package indexes are the host's own settings (UV_DEFAULT_INDEX)",
    "--extra-index-url": "package indexes are the host's own settings (UV_INDEX)",
    "--env-file": "files of the host are not in the container; use `env:`",
    "--with-editable": "folders of the host are not in the image",
    "--with-requirements": "files of the host are not in the image; use --with",
    "-c": "files of the host are not in the image",
    "--constraints": "files of the host are not in the image",
    "--directory": "folders of the host are not in the image",
    "--project": "folders of the host are not in the image",
    "-f": "folders of the host are not in the image",
    "--find-links": "folders of the host are not in the image",
}
NPX = Grammar(
    flags=frozenset("-y --yes -q --quiet --silent --prefer-online --prefer-offline --no-install --no -s".split()),
    values=frozenset("-p --package -c --call --registry --loglevel --cache --workspace -w --userconfig".split()),
)
NPX_REFUSED = {
    "-c": "a shell command is not a package",
    "--call": "a shell command is not a package",
    "--registry": "the registry is the host's own setting (npm config)",
    "--workspace": "folders of the host are not in the image",
    "-w": "folders of the host are not in the image",
    "--userconfig": "files of the host are not in the image",
}
WRAPPED = {
    ("uv", "tool", "run"): "uvx",
    ("uv", "x"): "uvx",
    ("pipx", "run"): "uvx",
    ("npm", "exec"): "npx",
    ("npm", "x"): "npx",
    ("pnpm", "dlx"): "npx",
    ("yarn", "dlx"): "npx",
    ("bun", "x"): "npx",
}
SAME = {"uvx": "uvx", "npx": "npx", "bunx": "npx", "pnpx": "npx"}


def plan_source(server: Server) -> Source:
    """What to run for this entry. Raises ConfigError, with paths relative to the entry."""
    try:
        return plan(server)
    except Invalid as error:
        problems = [
            Problem(key_path=render_path(finding.path), message=finding.message, hint=finding.hint)
            for finding in error.findings
        ]
        raise ConfigError(problems) from None


def plan(server: Server) -> Source:
    """As `plan_source`, raising Invalid."""
    if server.url is not None:
        url = from_own(server.url, server.env)
        return RemoteSource(url=url, headers=dict(server.headers), auth=server.auth)
    if server.image is not None:
        return image_source(server)
    kind, words = unwrap(server)
    if kind == "uvx":
        return uvx_source(server, words)
    if kind == "npx":
        return npx_source(server, words)
    return docker_source(server, words)


def own_values(words: Iterable[str], env: Mapping[str, str]) -> tuple[str, ...]:
    """Arguments with what their references take from the entry's own variables; the rest is filled in at the start."""
    return tuple(from_own(word, env) for word in words)


def own_mounts(server: Server) -> tuple[Mount, ...]:
    """What the entry mounts itself: its `mounts`, then its `storage`."""
    return (*server.mounts, *map(kept, server.storage))


def image_source(server: Server) -> ImageSource:
    refuse_references(server.image or "", "it names the image", ("image",))
    args = own_values(server.args, server.env)
    return ImageSource(
        image=server.image or "",
        command=args,
        args=args,
        entrypoint=own_values(server.entrypoint, server.env),
        env=dict(server.env),
        mounts=own_mounts(server),
        user=server.user,
    )


def program(command: str) -> str:
    """The program's bare name: no folder, no .cmd or .exe."""
    return re.sub(r"\.(cmd|exe|bat|ps1)$", "", re.split(r"[/\\]", command)[-1].lower())


@dataclass(frozen=True, slots=True)
class Words:
    """Arguments still to be read, and how many stood before them in `args`, so that a problem can be placed."""

    rest: tuple[str, ...]
    offset: int

    def place(self, index: int) -> tuple[str | int, ...]:
        where = self.offset + index
        return ("args", where) if where >= 0 else ("command",)


def unwrap(server: Server) -> tuple[str, Words]:
    """The tool (uvx, npx or docker) and its arguments, without what wraps them."""
    command, args = (server.command or "").strip(), list(server.args)
    parts = command.split()
    shift = 0
    if len(parts) > 1 and not re.search(r"[\"'\\/]", command):
        command, args, shift = parts[0], [*parts[1:], *args], len(parts) - 1
    name = program(command)
    if name == "cmd" and args[:1] and args[0].lower() in ("/c", "/s"):
        name, args, shift = program(args[1]) if len(args) > 1 else "", args[2:], shift - 2
    if name in SAME:
        return SAME[name], Words(tuple(args), -shift)
    for length in (2, 1):
        if tool := WRAPPED.get((name, *args[:length])):
            rest = args[length:]
            return tool, Words(tuple(rest), length - shift)
    if name in ("docker", "podman", "nerdctl"):
        return docker_words(name, args, shift)
    raise unknown_command(name or command, args)


def docker_words(name: str, args: list[str], shift: int) -> tuple[str, Words]:
    head = 2 if args[:2] == ["container", "run"] else 1
    if args[head - 1 : head] == ["run"]:
        return "docker", Words(tuple(args[head:]), head - shift)
    what = " ".join([name, *args[:1]])
    raise Invalid(
        f"Stockade reads `{name} run …`, not `{what}`", "Write image: … with args and env", path=("command",)
    )


def unknown_command(name: str, args: list[str]) -> Invalid:
    """The error for a command that has no meaning in a container, with the nearest thing that has."""
    message = f"{name!r} is a program of this machine, and the server runs in a container that does not have it"
    hint = "Use `command: uvx` (PyPI), `command: npx` (npm), or `image:`"
    if name.startswith("python") and args[:1] == ["-m"] and len(args) > 1:
        hint = f"If it is on PyPI, write command: uvx, args: [{args[1].replace('_', '-')}]"
    elif name in ("python", "python3", "node", "uv", "bun", "deno", "ts-node", "tsx"):
        hint = "Publish it and use `uvx` or `npx`, or build an image of it and use `image:`"
    elif name in ("bash", "sh", "zsh", "cmd", "powershell", "pwsh", "env", "wsl"):
        hint = "Write the command that it starts: uvx, npx or docker run, with its arguments in args"
    return Invalid(message, hint, path=("command",))


REQUIREMENT = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?P<extras>\[[A-Za-z0-9._,\s-]*\])?\s*"
    r"(?:@(?P<at>[A-Za-z0-9.+!_-]+)|(?P<spec>[=<>!~][^;]*))?"
)


def uvx_source(server: Server, words: Words) -> PackageSource:
    options = read_options(words.rest, UVX, tool="uvx", refused=UVX_REFUSED, place=words.place)
    refuse_in_options(words, options)
    target, args = first_word(options.rest, "uvx", words.place(options.end))
    wanted = options.last("--from") or target
    where = words.place(options.index("--from", options.end))
    name, version, requirement = python_requirement(wanted, where)
    command = re.split(r"[@\[=<>!~ ]", target)[0]
    git = ("git",) if requirement.startswith("git+") or "@ git+" in requirement else ()
    if git and not options.last("--from"):
        raise Invalid("uvx does not know the command of a git URL", "Write --from URL COMMAND", path=where)
    return PackageSource(
        kind="uvx",
        package=name,
        version=version,
        executable=command,
        args=own_values(args, server.env),
        requirement=requirement,
        extra_requirements=options.all("--with", "-w"),
        runtime_version=server.python or options.last("--python", "-p"),
        system_packages=tuple(dict.fromkeys((*server.packages, *git))),
        env=dict(server.env),
        mounts=own_mounts(server),
        user=server.user,
    )


def python_requirement(text: str, where: tuple[str | int, ...]) -> tuple[str, str, str]:
    """Name, version and pip's spelling of what uvx was asked for."""
    if re.match(r"git\+https://", text) or re.match(r"[A-Za-z0-9._-]+ ?@ ?git\+https://", text):
        return text.partition("@ ")[0].strip() or text, "", text
    match = REQUIREMENT.fullmatch(text.strip())
    if match is None:
        message = f"{text!r} is not a package of PyPI"
        if "/" in text or text.startswith("."):
            hint = "A folder or file of this machine is not in the image; publish it, or build an image of it"
        else:
            hint = "Write a name such as mcp-server-fetch, or mcp-server-fetch==1.2.3"
        raise Invalid(message, hint, path=where)
    version = match["at"] or (match["spec"] or "").strip()
    version = "" if version == "latest" else version
    extras = (match["extras"] or "").replace(" ", "")
    spelled = f"=={version}" if version and match["at"] else version
    return match["name"], version.removeprefix("=="), f"{match['name']}{extras}{spelled}"


NPM = re.compile(r"(?P<name>(?:@[a-z0-9~-][a-z0-9._~-]*/)?[a-zA-Z0-9~-][a-zA-Z0-9._~-]*)(?:@(?P<version>[^\s/:]+))?")


def npx_source(server: Server, words: Words) -> PackageSource:
    options = read_options(words.rest, NPX, tool="npx", refused=NPX_REFUSED, place=words.place)
    refuse_in_options(words, options)
    target, args = first_word(options.rest, "npx", words.place(options.end))
    packages = options.all("-p", "--package")
    wanted = packages[0] if packages else target
    where = words.place(options.index("-p", options.index("--package", options.end)))
    match = NPM.fullmatch(wanted)
    if match is None:
        hint = "Write a name such as @modelcontextprotocol/server-everything, with @VERSION if you like"
        raise Invalid(f"{wanted!r} is not a package of npm", hint, path=where)
    version = "" if match["version"] in (None, "latest") else match["version"]
    return PackageSource(
        kind="npx",
        package=match["name"],
        version=version,
        executable=target if packages else "",
        runtime_version=server.node,
        args=own_values(args, server.env),
        requirement=f"{match['name']}@{version}" if version else match["name"],
        extra_requirements=packages[1:],
        system_packages=server.packages,
        env=dict(server.env),
        mounts=own_mounts(server),
        user=server.user,
    )


def refuse_in_options(words: Words, options: Options) -> None:
    """References among what decides which package is installed, which happens before anything is filled in."""
    for index, word in enumerate(words.rest[: options.end + 1]):
        refuse_references(word, "it decides what is installed", words.place(index))


def first_word(words: Sequence[str], tool: str, where: tuple[str | int, ...]) -> tuple[str, Sequence[str]]:
    if not words:
        example = '"@modelcontextprotocol/server-everything"' if tool == "npx" else "mcp-server-fetch"
        hint = f"Write it as the first of args, such as args: [{example}]"
        raise Invalid(f"{tool} does not say which package to run", hint, path=where[:1])
    return words[0], words[1:]


def docker_source(server: Server, words: Words) -> ImageSource:
    run = read_docker_run(words.rest, server.env, place=words.place)
    return ImageSource(
        image=run.image,
        command=own_values(run.command, run.env),
        args=own_values(run.command, run.env),
        entrypoint=own_values(run.entrypoint, run.env),
        env=run.env,
        mounts=(*run.mounts, *own_mounts(server)),
        user=server.user or run.user,
        workdir=run.workdir,
    )

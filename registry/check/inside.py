"""What a server would not find in its container, or would lose with it: this machine's files, programs and `localhost`.

All of it works as written outside of a container, so it is what people have in their files; each warning has the lines to
write instead. Folders that `mounts` would refuse are not advised, nor is anything about options of `docker run`, whose paths
are the container's own.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator

from registry.model.errors import Finding, Invalid, KeyPath
from registry.model.mount_risks import Risk, refuse_forbidden
from registry.model.mounts import covers
from registry.model.references import SHELL
from registry.model.secret_places import secret_place
from registry.model.server import Server
from registry.model.sources import HOME, ImageSource, LocalSource, PackageSource, ProjectSource
from registry.model.spec import program_args, unread_folders
from registry.model.storage import check_storage

Found = Iterator[Finding]
Texts = list[tuple[KeyPath, str]]


def warn_inside(server: Server, source: LocalSource) -> Found:
    """The warnings about a server that runs in a container; paths are relative to its entry."""
    args = program_args(server)
    env: Texts = [(("env", key), text) for key, text in server.env.items()]
    yield from warn_shell([*args, *env])
    for where, folder in unread_folders(server):
        message = f"the server does not start in {folder}, which its container does not have"
        yield Finding(
            where, message, f'Remove it; if the server needs the folder, add mounts: ["{folder}:{folder}:ro"]'
        )
    yield from warn_known(server, source)
    bridge = list(warn_remote(source, args))
    yield from bridge
    yield from warn_paths(server, source, [*args, *env])
    if server.isolated and not bridge:
        yield from warn_localhost(server, [*args, *env])


def warn_shell(texts: Texts) -> Found:
    """Variables as a shell writes them: no shell reads this file."""
    for where, text in texts:
        match = SHELL.search(text)
        if match and match[1].isupper() and (match.start() == 0 or not text[match.start() - 1].isalnum()):
            message = f"the server gets ${match[1]} as it is written, since no shell reads this"
            yield Finding(where, message, f"Write ${{env:{match[1]}}}, or ${{secret:NAME}} for a secret")


BRIDGES = frozenset({"mcp-remote", "mcp-proxy", "supergateway"})
"""Packages that make a stdio server of a remote one."""


def warn_remote(source: LocalSource, args: Texts) -> Found:
    """A bridge to a remote server: from its container it reaches nothing, and the gateway can reach that server itself."""
    if not isinstance(source, PackageSource) or source.package not in BRIDGES:
        return
    url = next(((where, text) for where, text in args if re.match(r"https?://", text)), None)
    if url is not None:
        message = (
            f"{source.package} would run in a container and reach nothing; Stockade connects to remote servers itself"
        )
        hint = "Write `url:` with this address instead of command and args, and what follows --header under `headers`"
        yield Finding(url[0], message, f"{hint} (a sign-in in a browser is not possible)")


CHROMIUM = ("chromium", "add packages: [chromium], which it then finds by itself")
LACKING = {
    "mcp-server-git": ("git", "add packages: [git], and mount the repository"),
    "@playwright/mcp": CHROMIUM,
    "chrome-devtools-mcp": CHROMIUM,
    "@executeautomation/playwright-mcp-server": CHROMIUM,
    "@modelcontextprotocol/server-puppeteer": CHROMIUM,
}
"""Well-known packages that start a program which their image does not have: its Debian package, and what to write."""


def warn_known(server: Server, source: LocalSource) -> Found:
    """What well-known packages do not say until they are used."""
    if not isinstance(source, PackageSource):
        return
    if source.package in LACKING and LACKING[source.package][0] not in source.system_packages:
        program, hint = LACKING[source.package]
        message = f"{source.package} starts {program}, which its image does not have"
        yield Finding(("args",), message, f"{hint[0].upper()}{hint[1:]}")
    if source.package == "@modelcontextprotocol/server-memory" and "MEMORY_FILE_PATH" not in server.env:
        message = "it keeps what it learns beside its own program, where nothing can be written"
        hint = "Add env: {MEMORY_FILE_PATH: /data/memory.jsonl} and storage: /data"
        yield Finding(("args",), message, hint)


# this machine's files


WRITTEN = re.compile(
    r"(?:db|database|data|storage|store|cache|output|out|log|logs|memory|history|save|write)(?:[-_]|$)", re.I
)
"""In the names of options and variables for what the server writes."""
WRITABLE = ("/tmp", HOME)  # noqa: S108 - compared, not written to
"""Where servers of packages can write anyway."""
PROGRAMS = {
    "chrome": "chromium",
    "google-chrome": "chromium",
    "google-chrome-stable": "chromium",
    "chromium-browser": "chromium",
}
"""Debian packages that are called otherwise than their program."""


def warn_paths(server: Server, source: LocalSource, texts: Texts) -> Found:
    """Paths of this machine that nothing shows to the server."""
    before = ""
    for where, text in texts:
        name, path = split_path(text)
        written = WRITTEN.search(name or (before if where[0] == "args" else str(where[1])))
        before = text if text.startswith("-") else ""
        if path and (finding := warn_path(server, source, where, path, written=bool(written))):
            yield finding


def split_path(text: str) -> tuple[str, str]:
    """The option's name and the path in `PATH`, `--option=PATH` or `NAME=PATH`; no path: empty."""
    match = re.fullmatch(r"(?:(?P<name>-{0,2}[A-Za-z_][\w.-]*)=)?(?P<path>~?/[^\s,;$*?]*)", text)
    return (match["name"] or "", match["path"]) if match else ("", "")


def warn_path(server: Server, source: LocalSource, where: KeyPath, text: str, *, written: bool) -> Finding | None:
    path = os.path.normpath(os.path.expanduser(text))
    mounts = source.mounts
    if path == "/" or path.startswith("//") or covered(path, [mount.target for mount in mounts]):
        return None
    if isinstance(source, ProjectSource) and covers(source.folder, path):
        return warn_source(source.folder, where, path) if written else None
    kept = keepable(path) if written and not isinstance(source, ImageSource) else ""
    if is_refused(path):
        return unwritable(where, path, kept)
    if server.image is not None and not covered(path, [os.path.expanduser("~")]):
        return None  # the image has files of its own
    if seen := next((mount for mount in mounts if not mount.volume and covered(path, [mount.source])), None):
        here = seen.target + path[len(seen.source) :]
        return Finding(where, f"{text} is somewhere else in the server's container", f"Write {here} here")
    if is_program(path) and not written:
        return None if isinstance(source, ImageSource) else warn_program(server, where, path)
    if os.path.exists(path):
        message = f"{text} is on this machine, and the server's container does not see it"
        return Finding(where, message, mount_hint(path, path, read_only=not written))
    if text.startswith("~"):
        message = f"{text} would be in the container's memory, and gone at its next start"
        name = os.path.basename(path)
        keep = f"To keep it, add storage: /data, and write /data/{name} here"
        return Finding(where, message, f'{keep}; to have it on this machine, mounts: ["~/data:/data"]')
    parent = os.path.dirname(path)
    if parent == "/" or is_refused(parent) or not os.path.isdir(parent):
        return unwritable(where, path, kept)
    message = f"the server's container has no {parent}, and nothing can be written there"
    hint = mount_hint(parent, path, read_only=False)
    return Finding(where, message, f"{hint}, or keep it in a volume: storage: {kept}" if kept else hint)


def warn_source(folder: str, where: KeyPath, path: str) -> Finding:
    """A path in the folder of a program of this machine, which the server would write."""
    message = f"{path} is in the program's own folder, which the server may only read"
    parent = os.path.dirname(path)
    if parent in (folder, os.path.dirname(folder)):
        hint = f"To keep it, add storage: /data, and write /data/{os.path.basename(path)} here"
    else:
        hint = f'If it may write there, add mounts: ["{parent}:{parent}"]'
    return Finding(where, message, hint)


def keepable(path: str) -> str:
    """What to write under `storage` so that this path can be written and is kept: its folder, or a top folder itself. Empty
    where there is no such thing, or no need."""
    if covered(path, [*WRITABLE]):
        return ""
    parent = os.path.dirname(path)
    folder = path if parent == "/" else parent
    try:
        return "" if parent == "/" and "." in path else check_storage(folder)
    except Invalid:
        return ""


def unwritable(where: KeyPath, path: str, kept: str) -> Finding | None:
    """The warning about a path in the container that the server would write, if `storage` can keep it."""
    message = f"nothing can be written to {path} in the server's container"
    return Finding(where, message, f"Add storage: {kept}") if kept else None


def mount_hint(source: str, path: str, *, read_only: bool) -> str:
    """The line that mounts a folder, and what to write instead of `path`. No server's user sees an image's /root."""
    option = ":ro" if read_only else ""
    home = os.path.expanduser("~")
    if path == home:
        example = f'mounts: ["~/projects:/projects{option}"]'
        return f"Mount only the folder that it works on, such as {example}, and write /projects here"
    target = f"/mnt/{os.path.basename(source)}" if source.startswith("/root/") else source
    instead = f", and write {target}{path[len(source) :]} here" if target != source else ""
    if secret_place(source):
        only = ", read_only: true" if read_only else ""
        entry = f"{{source: {source}, target: {target}{only}, accept: [secrets]}}"
        return f"It holds keys: if the server may have them, add mounts: [{entry}]{instead}"
    return f'Add it: mounts: ["{source}:{target}{option}"]{instead}'


def warn_program(server: Server, where: KeyPath, path: str) -> Finding | None:
    name = os.path.basename(path)
    package = PROGRAMS.get(name, name)
    if package in server.packages:
        return None
    message = f"{path} is a program of this machine, and the server's container does not have it"
    hint = f"If Debian has it, add packages: [{package}], and write where Debian keeps it, such as /usr/bin/{package}"
    return Finding(where, message, hint)


def covered(path: str, targets: list[str]) -> bool:
    return any(covers(target, path) for target in targets)


PROGRAM_FOLDERS = ("/bin/", "/usr/bin/", "/usr/local/bin/", "/opt/", "/snap/")


def is_program(path: str) -> bool:
    return path.startswith(PROGRAM_FOLDERS) and os.path.isfile(path) and os.access(path, os.X_OK)


def is_refused(path: str) -> bool:
    """Whether `mounts` would refuse the path, so that nothing is advised. For a program and the home folder there is other
    advice than that."""
    if is_program(path) or path == os.path.expanduser("~"):
        return False
    try:
        refuse_forbidden(path, (Risk.SECRETS,))
    except Invalid:
        return True
    return False


# this machine's ports


LOCALHOST = re.compile(
    r"(?:(?P<scheme>[a-z][a-z0-9+.-]*)://(?:[^\s/@]*@)?|(?<![\w./-]))"
    r"(?P<host>localhost|127\.0\.0\.1|\[::1\])(?![\w.-])(?::(?P<port>\d{1,5}))?",
    re.I,
)
USUAL_PORTS = {
    "postgres": 5432, "postgresql": 5432, "mysql": 3306, "mariadb": 3306, "mongodb": 27017, "redis": 6379, "rediss": 6379,
    "amqp": 5672, "bolt": 7687, "neo4j": 7687, "clickhouse": 9000, "http": 80, "https": 443, "ws": 80, "wss": 443,
}  # fmt: skip
WEB = frozenset({"http", "https", "ws", "wss"})
OWN_PROXY = 3128
NO_SERVICE = re.compile(r"NO_PROXY|ORIGIN|REDIRECT|CALLBACK|BIND|LISTEN", re.I)
"""In the names of variables and options for addresses that the server does not connect to."""


def warn_localhost(server: Server, texts: Texts) -> Found:
    """`localhost` and its addresses: to an isolated server that is its own container."""
    for where, text in texts:
        key = str(where[1]) if where[0] == "env" else ""
        match = LOCALHOST.search(text)
        if match is None or match["port"] == str(OWN_PROXY) or NO_SERVICE.search(key or text[: match.start()]):
            continue
        port = int(match["port"]) if match["port"] else guessed_port(match["scheme"], key, server)
        if server.port is not None and (port in (None, server.port) or not match["scheme"]):
            continue  # where a server over http listens itself
        yield Finding(
            where, f"{match['host']} is the server's own container, not this machine", host_hint(match, port)
        )


def guessed_port(scheme: str | None, key: str, server: Server) -> int | None:
    """The scheme's usual port, or the variable's beside it: OBSIDIAN_HOST and OBSIDIAN_PORT."""
    beside = server.env.get(re.sub(r"HOST(NAME)?$", "PORT", key)) if key.endswith(("HOST", "HOSTNAME")) else None
    if beside is not None and beside.isdecimal():
        return int(beside)
    return USUAL_PORTS.get((scheme or "").lower().partition("+")[0])


def host_hint(match: re.Match[str], port: int | None) -> str:
    """What to write for a service of this machine."""
    number = port or "PORT"
    lines = (
        f"network: {{direct: allow, allowed_hosts: [{{host: host.docker.internal, port: {number}, protocol: tcp}}]}}"
    )
    if (match["scheme"] or "").lower() in WEB:
        lines = f"network: {{allowed_hosts: {json.dumps([f'host.docker.internal:{number}'])}}}"
    return f"If a service of this machine is meant, write host.docker.internal here, and {lines}"

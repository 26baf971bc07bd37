"""Finds what a Node project declares: by its package.json and the lock of npm, pnpm, Yarn or Bun."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from gateway.runtime.images.build_settings import public_npmrc
from gateway.runtime.images.projects.disk import (
    below,
    climb,
    files_below,
    found_by,
    json_file,
    table,
    text,
    words,
)
from gateway.runtime.images.projects.files import declared_file
from gateway.runtime.images.projects.layout import Declares, Layout, ProjectError
from registry.model.sources import ProjectSource

LOCKS: Final = {
    "package-lock.json": Declares.NPM_LOCK,
    "npm-shrinkwrap.json": Declares.NPM_LOCK,
    "pnpm-lock.yaml": Declares.PNPM_LOCK,
    "yarn.lock": Declares.YARN_LOCK,
    "bun.lock": Declares.BUN_LOCK,
    "bun.lockb": Declares.BUN_LOCK,
}
MANIFEST: Final = "package.json"
TOOLS: Final = {
    Declares.PNPM_LOCK: "pnpm",
    Declares.YARN_LOCK: "yarn",
    Declares.YARN_MODERN_LOCK: "yarn",
    Declares.BUN_LOCK: "bun",
}
SETTINGS: Final = re.compile(
    r"(?i)(legacy-peer-deps|strict-peer-deps|node-linker|shamefully-hoist|auto-install-peers)\s*="
)
MOST_MEMBERS: Final = 200
MOST_VERSION: Final = re.compile(r"[A-Za-z0-9@/][A-Za-z0-9@/.+_-]{0,200}")
TREE: Final = "/opt/stockade"
BUN: Final = f"{TREE}/runtime/node_modules/.bin/bun"
ARCHIVES: Final = (".tgz", ".tar.gz")
PARTS: Final = ("dependencies", "devDependencies", "optionalDependencies")


def node_layout(source: ProjectSource, root: str, file: str) -> Layout:
    """What there is for a program of Node or Bun. `root` is empty where no project was found. Raises ProjectError."""
    manifest = json_file(root, MANIFEST) if root else {}
    start, started = node_start(source, root, file, manifest)
    found = Layout(
        root=root or source.folder,
        language=source.language,
        declares=Declares.NOTHING,
        start=start,
        started=started,
        requirements=source.requirements,
    )
    if not root or source.standalone:
        return found
    members = members_of(root, manifest)
    links = dict(local_packages(root, manifest, members))
    return replace(
        found,
        declares=lock_of(root),
        declared=manifests(root, links.values()),
        links=links,
        variables=variables_of(source, manifest),
        runtime=runtime_of(root, manifest),
        name=str(manifest.get("name") or ""),
        version=str(manifest.get("version") or ""),
    )


def node_root(folder: str) -> str:
    """The project at or above a folder: the nearest with a package.json, or the workspace that it is a member of."""
    above = list(climb(folder))
    nearest = next((at for at in above if os.path.isfile(f"{at}/{MANIFEST}")), "")
    for at in above[above.index(nearest) + 1 :] if nearest else ():
        if nearest in members_of(at, json_file(at, MANIFEST)):
            return at
    return nearest


def lock_of(root: str) -> Declares:
    """Which lock there is."""
    found = next((declares for name, declares in LOCKS.items() if os.path.isfile(f"{root}/{name}")), None)
    if found is Declares.YARN_LOCK and "__metadata:" in text(root, "yarn.lock"):
        return Declares.YARN_MODERN_LOCK
    return found or Declares.PACKAGE_JSON


def runtime_of(root: str, manifest: Mapping[str, Any]) -> str:
    """The version of Node that a project declares; empty = any."""
    said = table(manifest, "engines").get("node")
    pinned = (text(root, ".nvmrc") or text(root, ".node-version")).strip().splitlines()
    return said if isinstance(said, str) else pinned[0].removeprefix("v") if pinned else ""


# -- how it starts


def node_start(
    source: ProjectSource, root: str, file: str, manifest: Mapping[str, Any]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The command, and the paths below `root` that it names. Raises ProjectError."""
    program = BUN if source.language == "bun" else "node"
    if source.how == "file":
        return (program, *source.runtime_args, file), named(root, source.folder, [file])
    if source.how == "script":
        script = script_of(source, root, manifest)
        return ("sh", "-c", f'{script} "$@"', source.name), named(root, root, split(script))
    if source.how == "command":
        paths = named(root, source.folder, source.args)
        return (source.name, *source.runtime_args), paths
    raise ProjectError(f"{source.language} runs no module by its name. Name the file in the server's entry.")


def script_of(source: ProjectSource, root: str, manifest: Mapping[str, Any]) -> str:
    """The text of an entry of `scripts`, as the tool would run it. Raises ProjectError with those that there are."""
    if not root:
        raise ProjectError(f"There is no {MANIFEST} in {source.folder} or above it. Correct the folder in the entry.")
    scripts = table(manifest, "scripts")
    script = scripts.get(source.name)
    if isinstance(script, str) and script.strip():
        return script.strip()
    if source.name == "start" and os.path.isfile(f"{root}/server.js"):
        return "node server.js"
    there = ", ".join(sorted(scripts)) or "none"
    raise ProjectError(
        f"{root}/{MANIFEST} has no script {source.name!r}; it has: {there}. Correct the server's entry."
    )


def split(script: str) -> list[str]:
    """The words of a script, as far as they are plain."""
    try:
        return shlex.split(script)
    except ValueError:
        return script.split()


def named(root: str, folder: str, texts: Iterator[str] | list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """The paths below `root` among some words."""
    found = (below(root, os.path.normpath(os.path.join(folder, word))) for word in texts if word and "\0" not in word)
    return tuple(path for path in found if root and path and os.path.exists(f"{root}/{path}"))


def variables_of(source: ProjectSource, manifest: Mapping[str, Any]) -> dict[str, str]:
    """What npm sets for a script."""
    if source.how != "script":
        return {}
    given = {
        "npm_lifecycle_event": source.name,
        "npm_package_name": manifest.get("name"),
        "npm_package_version": manifest.get("version"),
    }
    return {key: value for key, value in given.items() if isinstance(value, str) and MOST_VERSION.fullmatch(value)}


def build_hint(root: str, file: str) -> str:
    """What to do about a file that is not there, where the project has a step that makes it; else empty."""
    scripts = table(json_file(root, MANIFEST), "scripts") if root else {}
    if "build" not in scripts:
        return ""
    tool = TOOLS.get(lock_of(root), "npm")
    return f"Run `{tool} run build` in {root}, which makes it, then `stockade restart` the server."


# -- what is declared


def manifests(root: str, locals: Any) -> dict[str, bytes]:
    """What an installation reads. The project's own scripts are left out: they would run before its source is there."""
    found: dict[str, bytes] = {}
    for name in (*LOCKS, "pnpm-workspace.yaml", ".pnpmfile.cjs"):
        if (content := declared_file(root, name)) is not None:
            found[name] = content
    for folder in ("", *locals):
        path = f"{folder}/{MANIFEST}" if folder else MANIFEST
        if declared_file(root, path) and (manifest := json_file(root, path)):
            manifest.pop("scripts", None)
            found[path] = written_again(manifest, f"{root}/{path}")
    settings = text(root, ".npmrc")
    public = public_npmrc(settings) + "".join(f"{line}\n" for line in settings.splitlines() if SETTINGS.match(line))
    if public:
        found[".npmrc"] = public.encode()
    for path in (*patches(root), *archives(root)):
        if (content := declared_file(root, path)) is not None:
            found[path] = content
    return found


def written_again(manifest: Mapping[str, Any], path: str) -> bytes:
    """A manifest as it is given to the installation. Raises ProjectError."""
    try:
        return json.dumps(manifest, indent=1).encode()
    except RecursionError:
        raise ProjectError(f"{path} is nested too deeply to be read. Correct it.") from None


def archives(root: str) -> Iterator[str]:
    """Packed packages that a project depends on, by their paths below `root`. Raises ProjectError for one elsewhere."""
    manifest = json_file(root, MANIFEST)
    for part in PARTS:
        for name, wanted in table(manifest, part).items():
            if not isinstance(wanted, str) or not wanted.startswith("file:") or not wanted.endswith(ARCHIVES):
                continue
            path = below(root, os.path.normpath(os.path.join(root, wanted.removeprefix("file:"))))
            if not path:
                raise ProjectError(
                    f"{root}/{MANIFEST} takes {name} from {wanted}, which is not in {root}. Put the file there, and name it "
                    "by its path from there on."
                )
            yield path


def patches(root: str) -> list[str]:
    """Files that change packages as they are installed (pnpm, Yarn)."""
    folders = ("patches", ".yarn/patches")
    return [path for folder in folders for path in sorted(files_below(root, folder, ".patch"))[:MOST_MEMBERS]]


def members_of(root: str, manifest: Mapping[str, Any]) -> list[str]:
    """The folders of a workspace's members."""
    listed = manifest.get("workspaces")
    patterns = words(listed.get("packages")) if isinstance(listed, dict) else words(listed)
    for line in text(root, "pnpm-workspace.yaml").splitlines():
        if match := re.fullmatch(r"\s*-\s*['\"]?([^'\"#\s]+)['\"]?\s*(?:#.*)?", line):
            patterns += (match[1],)
    found: dict[str, None] = {}
    for path in found_by(root, (pattern for pattern in patterns if not pattern.startswith("!"))):
        if "/node_modules" not in path and os.path.isfile(f"{path}/{MANIFEST}"):
            found[path] = None
    return list(found)[:MOST_MEMBERS]


def local_packages(root: str, manifest: Mapping[str, Any], members: list[str]) -> Iterator[tuple[str, str]]:
    """Name and folder of what is a part of the project. Raises ProjectError for one that lies elsewhere."""
    for path in members:
        if isinstance(name := json_file(root, f"{below(root, path)}/{MANIFEST}").get("name"), str):
            yield name, below(root, path)
    for part in PARTS:
        for name, wanted in table(manifest, part).items():
            scheme, _, rest = wanted.partition(":") if isinstance(wanted, str) else ("", "", "")
            if scheme not in ("file", "link", "portal") or rest.endswith(ARCHIVES):
                continue
            path = os.path.normpath(os.path.join(root, rest))
            if not below(root, path):
                raise ProjectError(
                    f"{root}/{MANIFEST} takes {name} from {rest}, a folder outside of {root}. Make both a workspace, or "
                    f"build an image: build: {root}"
                )
            yield name, below(root, path)

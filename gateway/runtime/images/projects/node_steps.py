"""How what a Node project declares is installed: `node_modules` in /opt/stockade, from its lock only. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable
from typing import Final

from gateway.runtime.images.download_only import ALONE, PREPARE, REFUSED
from gateway.runtime.images.package_builds import PROJECT
from gateway.runtime.images.projects.layout import Declares, Layout
from registry.model.sources import ProjectSource

TREE: Final = "/opt/stockade"
NPM: Final = "--no-fund --no-audit --loglevel=error --cache /tmp/npm"
APART: Final = f"npm install --no-save --prefix {TREE}/runtime {NPM}"
SKIPPED: Final = " --ignore-scripts"
YARNS_REGISTRY: Final = "https://registry.yarnpkg.com/"
"""The same packages as npm's; of the two, an installation reaches the one that npm is set to here."""
NO_HOOKS: Final = (
    "sed -i '/^pnpmfileChecksum:/d' pnpm-lock.yaml\nexport npm_config_manage_package_manager_versions=false\n"
)
"""The hooks of a project change what is resolved; that is in its lock."""
NO_REPOSITORY: Final = f"if grep -q '#commit=' yarn.lock; then echo {shlex.quote(REFUSED)} >&2; exit 1; fi\n"
"""Yarn 2 and newer take some repositories as archives, without Git, and builds them too."""
RUNNERS: Final = {"tsx": "tsx", "ts-node": "ts-node typescript"}
HEAD: Final = (
    'export npm_config_nodedir="$(dirname "$(dirname "$(readlink -f "$(command -v node)")")")"\n'
    "export npm_config_update_notifier=false CI=1 HUSKY=0 COREPACK_ENABLE_STRICT=0\n"
)


def install_node(source: ProjectSource, layout: Layout, only: Collection[str]) -> tuple[str, str, str]:
    """Downloading, building, and both at once; `only`: the files that the downloading sees."""
    bun = f"{APART} bun{version_of(source)}\n" if layout.language == "bun" else ""
    head = f"{HEAD}cd {TREE}\n"
    fetch = f"{copied(only)}{PREPARE}{bun_fetch(bun)}{install(layout, SKIPPED)}{added(source, SKIPPED)}"
    both = f"{copied(layout.declared)}{bun}{install(layout, '')}{added(source, '')}"
    links = "".join(linked(layout, name, path) for name, path in layout.links.items())
    rebuild = f"if [ -d node_modules ]; then npm rebuild {NPM} >&2; fi\n"
    rebuild += f"if [ -d runtime ]; then (cd runtime && npm rebuild {NPM} >&2); fi\n"
    return head + fetch, head + rebuild + links, head + both + links


def copied(names: Iterable[str]) -> str:
    """The line that puts manifests and locks where packages are installed."""
    paths = shlex.join(f"./{name}" for name in sorted(names))
    return f"(cd {PROJECT} && cp --parents {paths} {TREE}/)\n" if paths else ""


def version_of(source: ProjectSource) -> str:
    return f"@{shlex.quote(source.runtime_version)}" if source.language == "bun" and source.runtime_version else ""


def bun_fetch(bun: str) -> str:
    """Bun's own installation, without its step: that is done later."""
    return bun.replace("npm install", f"{ALONE} npm install --ignore-scripts", 1)


def install(layout: Layout, scripts: str) -> str:
    """The line that installs what the lock says, with the tool that wrote it; `scripts` is an option of it."""

    alone = f"{ALONE} " if scripts else ""
    within = f"env {alone}" if scripts else ""

    def by(tool: str, command: str) -> str:
        return f"npm exec --yes {NPM} --package={tool} -- {within}{command}{scripts} >&2\n"

    match layout.declares:
        case Declares.NPM_LOCK:
            return f"{alone}npm ci{scripts} {NPM} >&2\n"
        case Declares.PACKAGE_JSON:
            return f"{alone}npm install{scripts} {NPM} >&2\n"
        case Declares.PNPM_LOCK:
            hoisted = "--config.node-linker=hoisted --config.dangerouslyAllowAllBuilds=true --store-dir /tmp/pnpm"
            install = f"pnpm install --frozen-lockfile {hoisted}"
            changed = NO_HOOKS if scripts else ""
            hooks = " --ignore-pnpmfile" if scripts else ""
            return changed + by(f"pnpm@{pnpm_line(layout)}", install + hooks)
        case Declares.YARN_LOCK:
            return f'sed -i "s#{YARNS_REGISTRY}#$(npm config get registry)#" yarn.lock\n' + by(
                "yarn@1", "yarn install --frozen-lockfile --non-interactive --cache-folder /tmp/yarn"
            )
        case Declares.YARN_MODERN_LOCK:
            own = "export YARN_NPM_REGISTRY_SERVER=\"$(npm config get registry | sed 's#/$##')\"\n"
            mode = (
                f"{own}export YARN_NODE_LINKER=node-modules YARN_ENABLE_GLOBAL_CACHE=1 YARN_GLOBAL_FOLDER=/tmp/yarn\n"
            )
            skipped = f"{NO_REPOSITORY}export YARN_ENABLE_SCRIPTS=0\n" if scripts else ""
            run = f"npm exec --yes {NPM} --package=@yarnpkg/cli-dist -- {within}yarn install --immutable >&2\n"
            return f"{mode}{skipped}{run}"
        case Declares.BUN_LOCK:
            own = (
                "npm_config_ignore_scripts=false " if scripts else ""
            )  # Bun's package fetches Bun itself in a script
            return f"{own}npm exec --yes {NPM} --package=bun -- bun install --frozen-lockfile{scripts} >&2\n"
        case _:
            return ""


def pnpm_line(layout: Layout) -> str:
    """The major version of pnpm that reads this format of lock."""
    head = layout.declared.get("pnpm-lock.yaml", b"")[:200]
    return "8" if b"lockfileVersion: '6" in head else "10"


def added(source: ProjectSource, scripts: str) -> str:
    """The line that installs what is wanted besides, apart from the project's own. A runner of TypeScript that the project
    does not have is installed too, as npx would."""
    lines = ""
    apart = f"{ALONE} {APART}" if scripts else APART
    if source.requirements:
        lines += f"{apart}{scripts} {shlex.join(source.requirements)} >&2\n"
    if source.how == "command":
        wanted = shlex.quote(source.name)
        runner = RUNNERS.get(source.name)
        if runner and not source.requirements:
            lines += f"[ -e node_modules/.bin/{wanted} ] || {apart}{scripts} {runner} >&2\n"
        lines += (
            f"[ -e node_modules/.bin/{wanted} ] || [ -e runtime/node_modules/.bin/{wanted} ] || "
            f"{{ echo {shlex.quote(f'No package of the project has the program {source.name}.')} >&2; exit 1; }}\n"
        )
    return lines


def linked(layout: Layout, name: str, path: str) -> str:
    """A part of the project: its name leads to the folder in the source, wherever the installation put it."""
    target = shlex.quote(f"{layout.root}/{path}")
    link = shlex.quote(f"node_modules/{name}")
    return f'mkdir -p "$(dirname {link})"\nrm -rf {link}\nln -s {target} {link}\n'

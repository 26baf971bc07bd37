"""How what a Python project declares is installed: into one virtual environment, from its lock only. Pure."""

from __future__ import annotations

import shlex
from typing import Final

from gateway.runtime.images.projects.layout import Declares, Layout
from gateway.runtime.images.projects.pins import FILE
from registry.model.sources import ProjectSource

VENV: Final = "/opt/stockade/venv"
LOCK: Final = "/opt/stockade/uv.lock"
"""What was resolved for a project without a lock, for the step that follows."""
UV: Final = "/opt/uv/bin/uv"
PYTHON: Final = '"$(command -v python3)"'
HEAD: Final = (
    f"export UV_PROJECT_ENVIRONMENT={VENV} VIRTUAL_ENV={VENV}\n"
    "export UV_LINK_MODE=copy UV_CACHE_DIR=/tmp/uv UV_TOOL_DIR=/tmp/tools\n"
    "export SETUPTOOLS_SCM_PRETEND_VERSION=0.0.0+local PDM_BUILD_SCM_VERSION=0.0.0+local UV_PYTHON_PREFERENCE=only-system\n"
)
"""A version that is read from Git is not to be had: the history is not there."""
REQUIREMENTS: Final = "/tmp/requirements.txt"  # noqa: S108 - of a container
NO_EDITABLE: Final = (
    f"if grep -qE '(^|[[:space:]])(-e|--editable)' {REQUIREMENTS}; then "
    "echo 'The file takes a package from a folder, which would be built where the credentials for registries are. Put it "
    "into a project with a uv.lock.' >&2; exit 1; fi\n"
)
"""uv builds what is editable even with `--no-build`."""


def install_python(source: ProjectSource, layout: Layout) -> tuple[str, str, str]:
    """Downloading, building, and both at once.

    While it only downloads, nothing of a package is run: uv compiles with the environment's own Python, so not yet.
    """
    head = f"{HEAD}cd {shlex.quote(layout.root)}\n"
    fetch = dependencies(source, layout, f"--quiet --python {PYTHON}", " --no-build")
    both = dependencies(source, layout, f"--quiet --python {PYTHON}", "")
    own = rest(layout, shlex.join(layout.requirements)) + itself(source, layout)
    compiled = f"{VENV}/bin/python -m compileall -q {VENV}/lib || true\n"
    return head + fetch, head + own + compiled, f"{head}export UV_COMPILE_BYTECODE=1\n{both}{itself(source, layout)}"


def rest(layout: Layout, packages: str) -> str:
    """The lines for what the first step leaves: requirements that lie in the project's folder, and what is wanted besides a
    project of uv's."""
    if layout.declares is Declares.REQUIREMENTS:
        return f"{UV} pip install --quiet -r requirements.txt{besides(packages)}\n"
    if layout.declares in (Declares.UV_LOCK, Declares.PYPROJECT) and packages:
        return f"{UV} pip install --quiet -- {packages}\n"
    return ""


def besides(packages: str) -> str:
    """Packages at the end of a command."""
    return f" -- {packages}" if packages else ""


def dependencies(source: ProjectSource, layout: Layout, python: str, build: str) -> str:
    """The lines that install what the project needs; `python` and `build` are options of uv.

    With `--no-build` there is one command that installs: the next would start the environment's Python to ask what it is,
    and that runs the `.pth` files of the packages that are there.
    """
    file = shlex.quote(next((name for name in layout.declared if name.endswith(".lock")), "").removesuffix(".lock"))
    pip = f"{UV} pip install --quiet{build}"
    venv = f"{UV} venv {python} --clear {VENV}\n"
    packages = shlex.join(layout.requirements)
    options = shlex.join(source.options)
    member = f" --package {shlex.quote(layout.member)}" if layout.member else ""
    sync = f"{UV} sync {python}{build} --no-install-local{member} {options}".rstrip()
    match layout.declares:
        case Declares.UV_LOCK:
            lines = f"{sync} --frozen\n"
        case Declares.PYPROJECT:
            lines = f"{sync}\ncp uv.lock {LOCK}\n"
        case Declares.REQUIREMENTS:
            lines = f"{venv}{pip} -r requirements.txt{besides(packages if build else '')}\n"
        case Declares.SCRIPT:
            name = shlex.quote(next(name for name in layout.declared if not name.endswith(".lock")))
            frozen = " --frozen" if file != "''" else ""
            export = f"{UV} export {python}{build} --script {name}{frozen} --output-file {REQUIREMENTS} >/dev/null"
            alone = NO_EDITABLE if build else ""
            lines = f"{venv}{export}\n{alone}{pip} -r {REQUIREMENTS}{besides(packages if build else '')}\n"
        case Declares.POETRY_LOCK | Declares.PDM_LOCK:
            lines, pip = venv, f"{pip} --constraint {FILE}"
        case Declares.INSTALLED:
            return f"{venv}{pip} --no-deps -- {packages}\n" if packages else venv
        case _:
            lines = venv
    if build and lines != venv:  # something is installed
        return lines
    return f"{lines}{pip} -- {packages}\n" if packages else lines


def itself(source: ProjectSource, layout: Layout) -> str:
    """The lines that install the project, editable, so that its path leads to the folder that is mounted."""
    if not layout.wants_source:
        return ""
    if layout.declares in (Declares.UV_LOCK, Declares.PYPROJECT):
        member = f" --package {shlex.quote(layout.member)}" if layout.member else ""
        resolved = f"[ -e uv.lock ] || cp {LOCK} uv.lock\n"
        options = shlex.join(source.options)
        return f"{resolved}{UV} sync --quiet --python {PYTHON} --inexact --frozen{member} {options}".rstrip() + "\n"
    deps = "" if layout.declares is Declares.SETUP else " --no-deps"
    return f"{UV} pip install --quiet{deps} --editable .\n"

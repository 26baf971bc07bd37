"""From what a project declares to the image that runs it: the steps of the installation and the Dockerfile. Pure.

What is installed lies in /opt/stockade, like a package's. The source is mounted at its own path, or copied to
/opt/stockade/source, to which that path is then a link. Node looks for packages in the folders above a file, so the folder
above the project's gets a link to what is installed.
"""

from __future__ import annotations

import json
import posixpath
import re
import shlex
from collections.abc import Mapping
from typing import Final

from gateway.runtime.images.build_settings import INSIDE
from gateway.runtime.images.needs import CALLED_COMPILER, COMPILER
from gateway.runtime.images.package_builds import PROJECT
from gateway.runtime.images.projects.downloads import download_tree
from gateway.runtime.images.projects.layout import Declares, Layout, ProjectError, Tree
from gateway.runtime.images.projects.node_steps import install_node
from gateway.runtime.images.projects.python_steps import install_python
from gateway.runtime.images.recipes import (
    EVERYBODY,
    INSTALLED,
    TREE,
    VERSION_LABEL,
    Recipe,
    Step,
    recipe,
    slug,
)
from registry.model.sources import HOME, ProjectSource

SOURCE: Final = f"{TREE}/source"
PATH: Final = (
    f"{TREE}/venv/bin:{TREE}/node_modules/.bin:{TREE}/runtime/node_modules/.bin:"
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)
TEMPORARY: Final = ("/tmp", HOME)  # noqa: S108 - compared, not written to
"""Folders that are a container's own memory: what an image has there is hidden."""
LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+!_-]{0,63}")


def project_steps(source: ProjectSource, layout: Layout, *, credentials: bool) -> tuple[Step, ...]:
    """How a project is installed. With `credentials` it is downloaded with them first, and only then built without.

    The downloading sees the files of `download_tree` alone. Raises ProjectError where that is not enough.
    """
    only = download_tree(layout).files if credentials else {}
    python = layout.language == "python"
    fetch, build, both = install_python(source, layout) if python else install_node(source, layout, only)
    root = shlex.quote(layout.root)
    head = (
        f"trap 'code=$?; [ $code = 0 ] || ! {{ {CALLED_COMPILER}; }} || exit {COMPILER}' EXIT\n"
        f'. {INSIDE}/env\nexport HOME=/tmp/home PATH="$PATH:/stockade-install/absent"\nmkdir -p /tmp/home\n'
        f"if [ -d {PROJECT} ]; then cp -R {PROJECT}/. {root}/; fi\n"
    )
    keep = f"mkdir -p {SOURCE}\ncp -R {PROJECT}/. {SOURCE}/\n" if source.copied else ""
    tail = f"find {TREE} -mindepth 1 ! -type l -exec chmod a+rX {{}} + 2>/dev/null || true\n"
    if not credentials:
        return (Step(script=f"{head}{both}{keep}{tail}", credentials=False),)
    return (
        Step(script=f"{head}{fetch}", credentials=True),
        Step(script=f"{head}{build}{keep}{tail}", credentials=False),
    )


def project_image(source: ProjectSource, layout: Layout, tree: Tree, runtime: str, builder: str) -> Recipe:
    """The image of one project. Its tag covers `tree`: manifests and lock where the source is mounted, else every file.

    Raises ProjectError where what the image has would be hidden in the container.
    """
    check_place(source, layout)
    dockerfile = f"""\
FROM {runtime}
COPY --from={INSTALLED} {TREE} {TREE}
RUN {json.dumps(["sh", "-euc", place_script(source, layout)])}
ENV PATH={PATH} HOME={HOME} PYTHONDONTWRITEBYTECODE=1 npm_config_loglevel=silent npm_config_update_notifier=false
{variable_lines(layout.variables)}USER {EVERYBODY}
ENTRYPOINT {json.dumps(layout.start)}
"""
    if LABEL.fullmatch(layout.version):
        dockerfile += f"LABEL {VERSION_LABEL}={layout.version}\n"
    steps = [step.script for step in project_steps(source, layout, credentials=False)]
    files = [part for path in sorted(tree.files) for part in (path, tree.files[path].hex())]
    programs = sorted(tree.programs)
    name = f"project-{slug(posixpath.basename(layout.root))[:60]}"
    return recipe(name, layout.subject, dockerfile, {}, builder, *steps, *files, *programs)


def place_script(source: ProjectSource, layout: Layout) -> str:
    """What the engine's builder does besides copying: nothing of the project runs in it."""
    root = layout.root
    above = posixpath.dirname(root)
    lines = [
        f"find {TREE} -xdev -type f -perm /6000 -exec chmod ug-s {{}} +",
        f"mkdir -p {shlex.quote(above)}",
        "chmod 755 /root",  # in most images only root can enter it; a project may lie below it
    ]
    if layout.language != "python" and not source.copied:
        lines.append(f"[ ! -d {TREE}/node_modules ] || ln -sfn {TREE}/node_modules {shlex.quote(above)}/node_modules")
    lines.append(f"ln -sfn {SOURCE} {shlex.quote(root)}" if source.copied else f"mkdir -p {shlex.quote(root)}")
    return "; ".join(lines)


def check_place(source: ProjectSource, layout: Layout) -> None:
    """Raises ProjectError for a project whose path belongs to something else in the container."""
    root = layout.root
    if root == TREE or root.startswith(f"{TREE}/") or (posixpath.dirname(root) == "/" and root[1:] in TOP):
        raise ProjectError(
            f"{root} is a folder of the image itself. Move the project to another, such as /srv/{layout.name}."
        )
    hidden = next((at for at in TEMPORARY if root.startswith(f"{at}/")), "")
    if hidden and (source.copied or (layout.language != "python" and layout.declares is not Declares.NOTHING)):
        raise ProjectError(
            f"{root} is in {hidden}, which is the server's own memory in its container: what was installed would not be "
            "found from there. Move the project to another folder, such as one below your home."
        )


TOP: Final = frozenset("bin boot dev etc home lib lib64 media mnt opt proc root run sbin srv sys tmp usr var".split())


def variable_lines(variables: Mapping[str, str]) -> str:
    """A Dockerfile's lines for variables whose values are plain."""
    return "".join(f"ENV {name}={json.dumps(value)}\n" for name, value in sorted(variables.items()))

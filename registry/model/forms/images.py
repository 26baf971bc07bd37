"""Container images: `image:`, and `docker run …` (`podman`, `nerdctl`)."""

from __future__ import annotations

from typing import Final

from registry.model.docker_run import GRAMMAR, read_docker_run
from registry.model.errors import Invalid
from registry.model.forms.words import Command, Read, Words, own_values
from registry.model.options import read_options
from registry.model.references import refuse_references
from registry.model.server import Server
from registry.model.sources import ImageSource

ENGINES: Final = ("docker", "podman", "nerdctl")


def read_image(server: Server) -> Read:
    """An entry with `image:`, whose `args` are all the program's."""
    refuse_references(server.image or "", "it names the image", ("image",))
    args = own_values(server.args, server.env)
    source = ImageSource(
        image=server.image or "",
        command=args,
        args=args,
        entrypoint=own_values(server.entrypoint, server.env),
        env=dict(server.env),
        mounts=Command(server, Words()).mounts,
        user=server.user,
    )
    return source, Words(server.args, tuple(("args", index) for index in range(len(server.args))))


def env_files(command: Command) -> Words:
    """The files of variables that `docker run` reads on this machine."""
    if command.name not in ENGINES or "run" not in command.rest.texts[:2]:
        return Words()
    words = command.rest.drop(command.rest.texts.index("run") + 1)
    options = read_options(words.texts, GRAMMAR, tool=command.name, refused={}, place=words.place)
    found = Words()
    for name, value, index in options.given:
        if name == "--env-file":
            found += Words.at([value], words.place(index))
    return found


def read_engine(command: Command) -> Read:
    """`docker [container] run …`."""
    tool, words = command.name, command.rest
    head = 2 if words.texts[:2] == ("container", "run") else 1
    if words.text(head - 1) != "run":
        what = " ".join((tool, *words.texts[:1]))
        message = f"Stockade reads `{tool} run …`, not `{what}`"
        raise Invalid(message, "Write image: … with args and env", path=("command",))
    words, server = words.drop(head), command.server
    run = read_docker_run(
        words.texts,
        command.variables,
        place=words.place,
        tool=f"{tool} run",
        port=server.port,
        joined=server.network.join,
    )
    args = own_values(run.command, run.env)
    source = ImageSource(
        image=run.image,
        command=args,
        args=args,
        entrypoint=own_values(run.entrypoint, run.env),
        env=run.env,
        mounts=(*run.mounts, *command.mounts),
        user=server.user or run.user,
        workdir=run.workdir,
    )
    return source, words.drop(len(words) - len(run.command))

"""What people put around a command (`cmd /c`, `bash -c`, `env`, `wsl`, …), seen through: it only starts what is inside."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from registry.model.errors import Invalid, KeyPath
from registry.model.forms.shell import split_shell
from registry.model.forms.tool_options import NPX
from registry.model.forms.words import Command, Words
from registry.model.options import Grammar, Options, read_options

DEPTH: Final = 12
"""More wrappers than anyone nests."""
ASSIGNMENT: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)


def see_through(command: Command) -> Command:
    """The command inside. Raises Invalid where a wrapper does more than start one."""
    for _ in range(DEPTH):
        peel = PEELS.get(command.name)
        inner = peel(command) if peel is not None else None
        if inner is None:
            return command
        if not inner.words:
            raise Invalid(f"{command.name} does not say what to start", "Write the command after it", path=("args",))
        command = inner
    raise Invalid("too many commands are around this one", "Write the command that is inside", path=("command",))


def from_text(command: Command, text: str, where: KeyPath, *, escapes: bool = True) -> Command:
    """The one command that a shell's text starts, after `cd`, `export` and the activation of a virtual environment."""
    commands = split_shell(text, where, escapes=escapes)
    *before, last = commands or [[]]
    for words in before:
        command = prepared(command, words, where)
    command, rest = assigned(command, Words.at(last, where))
    return replace(command, words=rest)


def prepared(command: Command, words: list[str], where: KeyPath) -> Command:
    """The command with what one of the preparations before it does."""
    match words:
        case ["cd", *rest] if len(rest := [word for word in rest if word.lower() not in ("--", "/d")]) == 1:
            return replace(command, folders=command.folders + Words.at(rest, where))
        case ["source" | ".", script] if re.fullmatch(r"(.*/)?bin/activate", script):
            venv = re.sub(r"/?bin/activate$", "", script) or "."
            return replace(command, activated=Words.at([venv], where))
        case ["set", option] if re.fullmatch(r"[-+][euxo]+|-o", option):
            return command
        case ["export", *rest] if rest:
            command, left = assigned(command, Words.at(rest, where))
        case _:
            command, left = assigned(command, Words.at(words, where))
    if left:
        message = (
            f"Stockade starts one command and no shell, and this text starts another before it: {' '.join(words)}"
        )
        raise Invalid(message, "Write only the command that is the server, with its args", path=where)
    return command


def assigned(command: Command, words: Words) -> tuple[Command, Words]:
    """The variables that stand before a program (`A=1 B=2 PROGRAM`), as the command's own, and the words after them."""
    found: dict[str, str] = {}
    while words and (match := ASSIGNMENT.fullmatch(words.texts[0])):
        found[match[1]] = match[2]
        words = words.drop(1)
    return replace(command, env={**command.env, **found}), words


def options_of(command: Command, flags: str, values: str) -> tuple[Options, Words]:
    """A wrapper's own options, and the words after them."""
    grammar = Grammar(flags=frozenset(flags.split()), values=frozenset(values.split()))
    options = read_options(command.rest.texts, grammar, tool=command.name, refused={}, place=command.rest.place)
    return options, command.rest.drop(options.end)


# shells


def peel_cmd(command: Command) -> Command | None:
    """`cmd /c …` (also `/s /c`, `/d`, `/q`)."""
    words = command.rest
    while words and re.fullmatch(r"/[sdqaeuvft](:\w+)?", words.texts[0], re.IGNORECASE):
        words = words.drop(1)
    if words.text(0).lower() not in ("/c", "/k"):
        return None
    return of_windows(command, words.drop(1))


POWERSHELL_FLAGS: Final = frozenset(
    "-noprofile -nop -nologo -noninteractive -noni -noexit -sta -mta -login -l".split()
)
POWERSHELL_VALUES: Final = frozenset("-executionpolicy -ep -ex -exec -windowstyle -w -version -v".split())


def peel_powershell(command: Command) -> Command | None:
    """`powershell -Command …`, with the options that say nothing about the command."""
    words = command.rest
    while words and (name := words.texts[0].lower()).startswith("-"):
        words = words.drop(1)
        if "-command".startswith(name) and len(name) > 1:
            if words.text(0) == "&":
                words = words.drop(1)
            return of_windows(command, words)
        if name in POWERSHELL_VALUES:
            words = words.drop(1)
        elif name not in POWERSHELL_FLAGS:
            return None
    return of_windows(command, words) if words and command.name == "powershell" else None


def of_windows(command: Command, words: Words) -> Command:
    """The command after `cmd /c`: words, or one text that holds them all."""
    if len(words) == 1 and re.search(r"\s", words.texts[0]):
        text, where = words.texts[0].strip(), words.places[0]
        return from_text(command, text.removeprefix("& "), where, escapes=False)
    return replace(command, words=words)


def peel_shell(command: Command) -> Command | None:
    """`bash -c TEXT`, `sh -lc TEXT`."""
    words, text_follows = command.rest, False
    while words and (option := words.texts[0]).startswith(("-", "+")) and option not in ("-", "--"):
        if option not in ("--login", "--noprofile", "--norc", "--posix") and not re.fullmatch(r"[-+][a-z]+", option):
            return None
        text_follows |= not option.startswith("--") and "c" in option
        words = words.drop(2 if option == "-o" else 1)
    if not text_follows or not words:
        return None
    return from_text(command, words.texts[0], words.places[0])


def peel_wsl(command: Command) -> Command | None:
    """`wsl [-d DISTRO] [-e|--] …`: that system is the one that Stockade itself runs in."""
    options, words = options_of(
        command, "-e --exec", "-d --distribution -u --user --cd --shell-type --distribution-id"
    )
    changed = [(value, command.rest.place(index)) for name, value, index in options.given if name == "--cd"]
    for value, where in changed:
        command = replace(command, folders=command.folders + Words.at([value], where))
    return replace(command, words=words)


# programs that start another one


def peel_env(command: Command) -> Command | None:
    """`env A=1 -u B PROGRAM …`."""
    grammar = "-i --ignore-environment -v --debug -"
    words = command.rest
    while words and (words.texts[0].startswith("-") or ASSIGNMENT.fullmatch(words.texts[0])):
        command, words = assigned(command, words.drop(1) if words.texts[0] == "-" else words)
        options, after = options_of(replace(command, words=command.words.take(1) + words), grammar, ENV_VALUES)
        for name, value, index in options.given:
            where = words.place(index)
            if name in ("-C", "--chdir"):
                command = replace(command, folders=command.folders + Words.at([value], where))
            elif name in ("-S", "--split-string"):
                split = split_shell(value, where)
                after = Words.at(split[0] if split else [], where) + after
        words = after
    return replace(command, words=words)


ENV_VALUES: Final = "-u --unset -C --chdir -S --split-string"


def peel_nice(command: Command) -> Command | None:
    words = command.rest
    if re.fullmatch(r"-\d+", words.text(0)):  # as it was written once: nice -10
        return replace(command, words=words.drop(1))
    _, words = options_of(command, "", "-n --adjustment")
    return replace(command, words=words)


def peel_ionice(command: Command) -> Command | None:
    return replace(command, words=options_of(command, "-t --ignore", "-c --class -n --classdata")[1])


def peel_stdbuf(command: Command) -> Command | None:
    return replace(command, words=options_of(command, "", "-i --input -o --output -e --error")[1])


def peel_plain(command: Command) -> Command | None:
    """`exec PROGRAM …` and others without options of their own that matter."""
    return replace(command, words=options_of(command, "-w --wait -f --fork -c --ctty -p -l", "-a")[1])


def peel_mise(command: Command) -> Command | None:
    """`mise exec [TOOL@VERSION …] -- PROGRAM …`."""
    words = command.rest
    if words.text(0) not in ("exec", "x") or "--" not in words.texts:
        return None
    return replace(command, words=words.drop(words.texts.index("--") + 1))


CALLS: Final = ("-c", "--call")


def peel_npx(command: Command) -> Command | None:
    """`npx -c "PROGRAM …"`, and `npx -p PACKAGE -c "PROGRAM …"`, which is `npx -p PACKAGE PROGRAM …`."""
    words = command.rest
    if command.name == "npm":
        if words.text(0) not in ("exec", "x"):
            return None
        words = words.drop(1)
    try:
        options = read_options(words.texts, NPX, tool=command.name, refused={}, place=words.place)
    except Invalid:
        return None  # said where its options are read
    call = next(((value, words.place(index)) for name, value, index in options.given if name in CALLS), None)
    if call is None:
        return None
    inner = from_text(command, *call)
    packages = [(value, words.place(index)) for name, value, index in options.given if name in ("-p", "--package")]
    before = Words.at(["npx"], ("command",))
    for package, where in packages:
        before += Words.at(["-p", package], where)
    return replace(inner, words=before + Words.at(["--"], call[1]) + inner.words) if packages else inner


PEELS: Final[Mapping[str, Callable[[Command], Command | None]]] = {
    "cmd": peel_cmd,
    "powershell": peel_powershell,
    "pwsh": peel_powershell,
    **dict.fromkeys(("bash", "sh", "zsh", "dash", "ash", "ksh"), peel_shell),
    "wsl": peel_wsl,
    "env": peel_env,
    "nice": peel_nice,
    "ionice": peel_ionice,
    "stdbuf": peel_stdbuf,
    **dict.fromkeys(("exec", "nohup", "setsid", "call", "corepack", "command", "time"), peel_plain),
    "mise": peel_mise,
    "npx": peel_npx,
    "npm": peel_npx,
}

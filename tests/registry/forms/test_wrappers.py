"""What stands around a command is seen through, and every argument keeps its place."""

from __future__ import annotations

from typing import Any

import pytest

from registry.model.errors import KeyPath
from registry.model.spec import program_args
from tests.registry.forms.entries import entry, package, project, refused

SEEN_THROUGH: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "cmd": (["cmd", "/c", "npx", "-y", "b", "x"], ("x",)),
    "cmd with options": (["cmd.exe", "/d", "/s", "/c", "npx b x"], ("x",)),
    "cmd in capitals": (["CMD", "/C", "npx", "b"], ()),
    "cmd with quotes": (["cmd", "/c", 'npx -y b "a b" C:\\x\\y'], ("a b", "C:\\x\\y")),
    "powershell": (["powershell", "-NoProfile", "-ExecutionPolicy", "Bypass", "-Command", "npx -y b x"], ("x",)),
    "powershell by &": (["powershell.exe", "-Command", "& npx b 'a b'"], ("a b",)),
    "powershell without option": (["powershell", "npx", "b"], ()),
    "pwsh": (["pwsh", "-c", "npx", "-y", "b", "x"], ("x",)),
    "wsl": (["wsl", "npx", "-y", "b", "-d", "x"], ("-d", "x")),
    "wsl with a distribution": (["wsl.exe", "-d", "Ubuntu", "-u", "me", "-e", "npx", "b", "x"], ("x",)),
    "wsl --": (["wsl", "--", "bash", "-lc", "npx b x"], ("x",)),
    "bash": (["bash", "-c", "npx -y b x"], ("x",)),
    "a login shell": (["/bin/bash", "-l", "-i", "-c", "npx -y b x"], ("x",)),
    "zsh": (["zsh", "--login", "-ic", "npx b 'a b' c\\ d"], ("a b", "c d")),
    "sh with exec": (["sh", "-c", "exec npx b"], ()),
    "a shell's comment": (["sh", "-c", "npx b x # the server\n"], ("x",)),
    "env": (["env", "A=1", "npx", "b", "x"], ("x",)),
    "env by its path": (["/usr/bin/env", "-i", "npx", "b"], ()),
    "env -S": (["env", "-S", "npx b x"], ("x",)),
    "nice": (["nice", "-n", "10", "npx", "b", "x"], ("x",)),
    "nice as it was": (["nice", "-10", "npx", "b"], ()),
    "ionice": (["ionice", "-c2", "-n7", "npx", "b"], ()),
    "stdbuf": (["stdbuf", "-oL", "-e", "0", "npx", "b", "x"], ("x",)),
    "nohup": (["nohup", "npx", "b"], ()),
    "exec": (["exec", "npx", "b"], ()),
    "corepack": (["corepack", "pnpm", "dlx", "b", "x"], ("x",)),
    "mise": (["mise", "exec", "node@22", "--", "npx", "b", "x"], ("x",)),
    "nested": (["cmd", "/c", "wsl", "-e", "bash", "-c", "env A=1 nice npx b x"], ("x",)),
    "npx -c": (["npx", "-c", "npx b x"], ("x",)),
    "npx -p -c": (["npx", "-y", "-p", "b", "-c", "b x --y"], ("x", "--y")),
    "npm exec -c": (["npm", "exec", "--package=b", "--call=b x"], ("x",)),
    "one text": (["npx -y b", "x"], ("x",)),
    "one text with a scope and a path": (["/usr/bin/npx -y b '/x y'", "z"], ("/x y", "z")),
}


@pytest.mark.parametrize(("words", "args"), SEEN_THROUGH.values(), ids=SEEN_THROUGH)
def test_what_only_starts_a_command_is_seen_through(words: list[str], args: tuple[str, ...]) -> None:
    source = package(words)
    assert (source.kind, source.package, source.args) == ("npx", "b", args)


PLACES: dict[str, tuple[list[str], list[tuple[KeyPath, str]]]] = {
    "plain": (["npx", "-y", "b", "x", "y"], [(("args", 2), "x"), (("args", 3), "y")]),
    "cmd": (["cmd", "/c", "npx", "b", "x"], [(("args", 3), "x")]),
    "a text": (["bash", "-c", "npx b x y"], [(("args", 1), "x"), (("args", 1), "y")]),
    "the command": (["npx b x", "y"], [(("command",), "x"), (("args", 0), "y")]),
    "a project": (["uv", "run", "--directory", "/d", "server.py", "x"], [(("args", 4), "x")]),
    "a script": (["npm", "--prefix", "/d", "run", "start", "a", "--", "x"], [(("args", 4), "a"), (("args", 6), "x")]),
    "docker": (["docker", "run", "-i", "img", "x"], [(("args", 3), "x")]),
    "env": (["env", "A=1", "uvx", "b", "x"], [(("args", 3), "x")]),
    "a file of a runner": (["npx", "tsx", "/x/i.ts", "y"], [(("args", 1), "/x/i.ts"), (("args", 2), "y")]),
}


@pytest.mark.parametrize(("words", "found"), PLACES.values(), ids=PLACES)
def test_the_program_s_arguments_keep_their_places(words: list[str], found: list[tuple[KeyPath, str]]) -> None:
    assert program_args(entry(words)) == found


def test_an_image_s_arguments_are_all_the_program_s() -> None:
    assert program_args(entry(["docker", "run", "x"]).model_copy(update={"image": "x", "args": ("a",)})) == [
        (("args", 0), "a")
    ]


VARIABLES: dict[str, tuple[list[str], dict[str, str], dict[str, str]]] = {
    "env": (["env", "A=1", "-u", "B", "C=x=y", "npx", "b"], {}, {"A": "1", "C": "x=y"}),
    "a shell": (["sh", "-c", "A=1 B='x y' npx b"], {}, {"A": "1", "B": "x y"}),
    "export": (["sh", "-c", "export A=1 B=2 && C=3; npx b"], {}, {"A": "1", "B": "2", "C": "3"}),
    "the entry's own win": (["env", "A=1", "npx", "b"], {"A": "2", "D": "4"}, {"A": "2", "D": "4"}),
    "Node's options": (["npx", "--node-options=--no-warnings", "b"], {}, {"NODE_OPTIONS": "--no-warnings"}),
    "a reference": (["env", "A=${secret:x}", "npx", "b"], {}, {"A": "${secret:x}"}),
    "a shell's variable": (["sh", "-c", 'A="$HOME/x" npx b'], {}, {"A": "${env:HOME}/x"}),
}


@pytest.mark.parametrize(("words", "own", "env"), VARIABLES.values(), ids=VARIABLES)
def test_variables_around_a_command_are_the_server_s(
    words: list[str], own: dict[str, str], env: dict[str, str]
) -> None:
    assert package(words, env=own).env == env


TEXTS = {
    "a variable": ("npx b $A-$B", ("1-${env:B}",)),
    "a variable in braces": ('npx b "${A}" ${C:-x}', ("1", "${env:C:-x}")),
    "quoted": ("npx b '$A' \\$A \"\\$A\"", ("$A", "$A", "$A")),
    "a reference": ('npx b "${secret:t}" ${env:A}', ("${secret:t}", "1")),
    "a dollar": ("npx b 5$ $", ("5$", "$")),
    "a reference in single quotes": ("npx b '${secret:t}' '$${secret:t}'", ("${secret:t}", "$${secret:t}")),
    "a command's output": ('npx b "${command:op read x}"', ("${command:op read x}",)),
    "no reference out of pieces": ("npx b $\"{secret:t}\" '$''{command:id}'", ("$${secret:t}", "$${command:id}")),
    "an escaped backslash": ("npx b \\\\${A}", ("\\1",)),
    "an escaped one": ("npx b \\${secret:t}", ("$${secret:t}",)),
    "empty": ("npx b '' \"\"", ("", "")),
    "joined": ("npx b a'b c'\"d\"", ("ab cd",)),
}


@pytest.mark.parametrize(("text", "args"), TEXTS.values(), ids=TEXTS)
def test_a_shell_s_text_is_split_as_the_shell_does(text: str, args: tuple[str, ...]) -> None:
    assert package(["bash", "-c", text], env={"A": "1"}).args == args


def test_a_shell_s_home_is_this_machine_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert package(["sh", "-c", "npx b ~/x '~/x' a~"]).args == ("/home/me/x", "~/x", "a~")


FOLDERS: dict[str, tuple[list[str], dict[str, Any], str, str]] = {
    "cd": (["bash", "-c", "cd /p && python s.py"], {}, "/p", ""),
    "cd after cd": (["bash", "-c", "cd /p; cd q && python s.py"], {}, "/p/q", ""),
    "cd from cwd": (["bash", "-c", "cd q && python s.py"], {"cwd": "/p"}, "/p/q", ""),
    "wsl --cd": (["wsl", "--cd", "/p", "python3", "s.py"], {}, "/p", ""),
    "env -C": (["env", "--chdir=/p", "python3", "s.py"], {}, "/p", ""),
    "an environment": (
        ["bash", "-c", "cd /p && source .venv/bin/activate && python s.py"],
        {},
        "/p",
        "/p/.venv/bin/python",
    ),
    "an environment elsewhere": (["sh", "-c", ". /v/bin/activate; exec python s.py"], {"cwd": "/p"}, "/p", "/v/bin/python"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "more", "folder", "interpreter"), FOLDERS.values(), ids=FOLDERS)
def test_what_changes_the_folder_or_activates_an_environment_counts(
    words: list[str], more: dict[str, Any], folder: str, interpreter: str
) -> None:
    source = project(words, **more)
    assert (source.folder, source.name, source.interpreter) == (folder, "s.py", interpreter)


REFUSED = {
    "a pipe": (["bash", "-c", "npx b | tee x"], "args[1]: Stockade starts one command and no shell, and this text has a"),
    "or": (["bash", "-c", "npx b || true"], "a pipe"),
    "a redirection": (["sh", "-c", "npx b 2>/dev/null"], "a redirection"),
    "another's output": (["sh", "-c", "npx b $(cat x)"], "the output of another command"),
    "another's output in quotes": (["sh", "-c", 'npx b "`cat x`"'], "the output of another command"),
    "the background": (["sh", "-c", "npx b &"], "a command in the background"),
    "a group": (["sh", "-c", "(npx b)"], "a group of commands"),
    "another command before": (["sh", "-c", "npm ci && npx b"], "this text starts another before it: npm ci"),
    "another command after": (["sh", "-c", "npx b; echo"], "this text starts another before it: npx b"),
    "positions": (["sh", "-c", 'npx b "$@"'], "the shell's $@"),
    "an open quote": (["sh", "-c", "npx 'b"], "args[1]: a quote (') is not closed"),
    "a script": (["bash", "start.sh"], "command: 'bash' is a program of this machine"),
    "no text": (["bash", "-c"], "'bash' is a program of this machine"),
    "an empty text": (["bash", "-c", " "], "bash does not say what to start"),
    "cmd alone": (["cmd", "/c"], "cmd does not say what to start"),
    "a PowerShell script": (["powershell", "-File", "x.ps1"], "'powershell' is a program of this machine"),
    "inside": (["cmd", "/c", "foo"], "args[1]: 'foo' is a program of this machine"),
    "an option inside": (["cmd", "/c", "npx", "--zzz", "b"], "args[2]: Stockade does not know npx's option --zzz"),
    "an option in a text": (["bash", "-c", "uvx --zzz b"], "args[1]: Stockade does not know uvx's option --zzz"),
    "a wrapper's option": (["nice", "--zzz", "npx", "b"], "args[0]: Stockade does not know nice's option --zzz"),
    "npx -c of something else": (["npx", "-c", "foo x"], "args[0]: 'foo' is a program of this machine"),
    "too many": (["env"] + ["env"] * 20 + ["npx", "b"], "too many commands are around this one"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "message"), REFUSED.values(), ids=REFUSED)
def test_what_only_a_shell_can_do_is_refused_with_the_next_step(words: list[str], message: str) -> None:
    assert message in refused(words)

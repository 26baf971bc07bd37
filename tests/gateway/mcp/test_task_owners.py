"""Every task of the product has an owner, in whatever spelling it is started: a task group, or `wire.tasks.Tasks`."""

from __future__ import annotations

import ast
import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.mcp.wire.tasks import Tasks
from tests.gateway.mcp.fakes import ROOT

PACKAGES = ("gateway", "registry", "egress", "observability")
OWNER = Path("gateway/mcp/wire/tasks.py")
"""The one module that may start a task on the loop itself, because it keeps it."""
STARTERS = ("create_task", "ensure_future", "run_coroutine_threadsafe")


def last_name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def group_names(tree: ast.AST) -> set[str]:
    """What a module binds to a task group: by `async with … as`, by assignment or by annotation."""
    names, others = set(), set()
    for node in ast.walk(tree):
        pairs: list[tuple[ast.AST | None, ast.AST | None]] = []
        if isinstance(node, ast.withitem):
            pairs = [(node.optional_vars, node.context_expr)]
        elif isinstance(node, ast.Assign):
            pairs = [(target, node.value) for target in node.targets]
        elif isinstance(node, ast.AnnAssign):
            pairs = [(node.target, node.annotation), (node.target, node.value)]
        elif isinstance(node, ast.arg):
            if node.annotation is not None and "TaskGroup" in ast.unparse(node.annotation):
                names.add(node.arg)
        for target, value in pairs:
            if target is None or value is None:
                continue
            text = ast.unparse(value)
            if "TaskGroup" in text:
                names.add(last_name(target))
            elif "loop" in text:
                others.add(last_name(target))
    return names - others - {""}


def faults(tree: ast.AST, attributes: set[str]) -> Iterator[tuple[int, str]]:
    """Where a module starts a task that nothing owns. `attributes` are bound to task groups by any module."""
    groups = group_names(tree)
    owned = {
        id(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "create_task"
        if (isinstance(node.value, ast.Name) and node.value.id in groups)
        or (isinstance(node.value, ast.Attribute) and node.value.attr in groups | attributes)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in STARTERS and id(node) not in owned:
            yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Name) and node.id in STARTERS:
            yield node.lineno, node.id
        elif isinstance(node, ast.ImportFrom) and any(alias.name in STARTERS for alias in node.names):
            yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Constant) and node.value in STARTERS:
            yield node.lineno, f"{node.value!r} as text"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("asyncio.Task", "Task"):
            yield node.lineno, ast.unparse(node.func)


def modules() -> dict[Path, ast.AST]:
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {path.relative_to(ROOT): ast.parse(path.read_text()) for path in paths}


def test_no_module_of_the_product_starts_a_task_that_nothing_owns() -> None:
    trees = modules()
    assert len(trees) > 200
    attributes = set().union(*map(group_names, trees.values()))
    found = [
        f"{path}:{line}: {what}"
        for path, tree in trees.items()
        if path != OWNER
        for line, what in faults(tree, attributes)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "import asyncio\nasyncio.create_task(x())",
        "import asyncio as a\na.create_task(x())",
        "from asyncio import create_task as go\ngo(x())",
        "from asyncio import ensure_future",
        "import asyncio\nasyncio.ensure_future(x())",
        "import asyncio\nasyncio.tasks.ensure_future(x())",
        "import asyncio\nasyncio.get_running_loop().create_task(x())",
        "import asyncio\nloop = asyncio.get_running_loop()\nloop.create_task(x())",
        "import asyncio\ntasks = asyncio.get_running_loop()\ntasks.create_task(x())",
        "class A:\n  def f(self):\n    self._loop.create_task(x())",
        "import asyncio\ngo = asyncio.create_task\ngo(x())",
        "import asyncio\ngetattr(asyncio, 'create_task')(x())",
        "import asyncio\nasyncio.Task(x())",
    ],
)
def test_every_spelling_of_a_task_without_an_owner_is_found(text: str) -> None:
    assert list(faults(ast.parse(text), set()))


def test_a_task_group_is_an_owner() -> None:
    text = "import asyncio\nasync def f(group: asyncio.TaskGroup):\n  group.create_task(x())\n"
    text += "async def g(self):\n  async with asyncio.TaskGroup() as self._tasks:\n    self._tasks.create_task(x())\n"
    assert not list(faults(ast.parse(text), set()))


@pytest.mark.anyio
async def test_work_that_is_awaited_brings_its_result_or_error_and_ends_with_its_owner() -> None:
    tasks = Tasks()

    async def answer() -> int:
        return 4

    async def fail() -> int:
        raise ValueError("no")

    async def wait() -> None:
        await asyncio.Event().wait()

    assert await tasks.begin(answer()) == 4
    with pytest.raises(ValueError, match="no"):
        await tasks.begin(fail())
    waiting = tasks.begin(wait())
    await tasks.close()
    assert waiting.cancelled()


@pytest.mark.anyio
async def test_an_error_is_logged_where_nothing_waits_for_it(caplog: pytest.LogCaptureFixture) -> None:
    tasks = Tasks()

    async def fail() -> None:
        raise ValueError("seen in the log")

    with caplog.at_level(logging.ERROR):
        await tasks.spawn(fail())
    assert "seen in the log" in caplog.text

"""Tries every case of `docs/trials.md` again and prints what became of each: `scripts/trials [CASE …]`.

Each row of that page names the tests that hold its case. They are run here, those with containers one by one and only
where an engine answers, and the table says for each case how many passed. Exits 1 when one failed.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "trials.md"
NAMED = re.compile(r"(tests/[\w/]+\.py)?(?:::(\w+))?")
ORDER = ("failed", "skipped", "passed")


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the page."""

    trial: str
    """T (public reports and files), S (well-known servers) or U (first days)."""
    name: str
    """Such as `B8, C20`."""
    right: str
    """What is right now, in a sentence; one that is not done begins with `Open: `."""
    tests: tuple[str, ...] = ()
    """`FILE::NAME` or `FILE`, from the root of the repository."""


def cases(text: str) -> Iterator[Case]:
    """The rows of the page's tables. Raises ValueError for one whose tests cannot be read."""
    trial = ""
    for line in text.splitlines():
        if heading := re.fullmatch(r"## .*\((\w)\)", line):
            trial = heading[1]
        if re.match(r"\| [A-Z`]", line):
            name, *middle, named = (cell.strip() for cell in line.strip().strip("|").split(" | "))
            yield Case(trial, name, " | ".join(middle), tuple(tests_in(named)))


def tests_in(cell: str) -> Iterator[str]:
    """The tests that a cell names; one without a file is in the file of the one before it."""
    path = ""
    for one in re.findall(r"`([^`]+)`", cell):
        found = NAMED.fullmatch(one)
        path = (found and found[1]) or path
        if found is None or not path:
            raise ValueError(f"no test can be read in {cell!r}")
        yield path + (f"::{found[2]}" if found[2] else "")


@dataclass
class Outcomes:
    """A plugin of pytest that notes how each test ended."""

    of: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """`FILE::NAME` without parameters -> `passed`, `failed` or `skipped`, one for each set of parameters."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.of[report.nodeid.partition("[")[0]].append(report.outcome)

    def matching(self, test: str) -> list[str]:
        """How all tests ended that this one names."""
        return [
            one for name, ended in self.of.items() if name == test or name.startswith(f"{test}::") for one in ended
        ]

    def said(self, tests: tuple[str, ...]) -> str:
        """`12 passed`, `1 failed, 2 passed`; `not run` where one of them did not run at all."""
        if not all(self.matching(test) for test in tests):
            return "not run"
        ended = [one for test in tests for one in self.matching(test)]
        return ", ".join(f"{ended.count(kind)} {kind}" for kind in ORDER if kind in ended)


def run(tests: list[str]) -> Outcomes:
    """Run them, without containers first."""
    outcomes = Outcomes()
    common = ["-q", "--no-header", "--reruns", "1", *tests]
    pytest.main([*common, "-m", "not docker", "-n", "2", "--dist", "worksteal"], plugins=[outcomes])
    pytest.main([*common, "-m", "docker"], plugins=[outcomes])
    return outcomes


def main(wanted: list[str]) -> int:
    """Run the cases with these names, or all."""
    found = list(cases(PAGE.read_text()))
    chosen = [case for case in found if not wanted or set(re.findall(r"[\w-]+", case.name)) & set(wanted)]
    if not chosen:
        print(f"docs/trials.md has no case {' or '.join(wanted)}; it has {', '.join(case.name for case in found)}.")
        return 2
    outcomes = run(sorted({test for case in chosen for test in case.tests}))
    table = [(case, outcomes.said(case.tests) if case.tests else "open") for case in chosen]
    print("\n| trial | case | outcome | what is right |\n| --- | --- | --- | --- |")
    for case, said in table:
        print(f"| {case.trial} | {case.name} | {said} | {case.right} |")
    kinds = {kind: sum(1 for _, said in table if kind in said) for kind in ("failed", "not run", "skipped", "open")}
    print(f"\n{len(table)} cases: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()))
    return 1 if kinds["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

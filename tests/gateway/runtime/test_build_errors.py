"""What a failed build says: lines as uv, npm and apt print them."""

from __future__ import annotations

import time

import pytest

from gateway.runtime.images.build_errors import OutOfMemory, OutOfTime, Stopped, explain_failure

UV = "error: No solution found when resolving dependencies\n  cause: Because "


UNKNOWN = f"{UV}mcp-x was not found in the package registry and you require mcp-x"
NO_VERSION = f"{UV}there is no version of mcp-x==9 and you require mcp-x==9,"
NO_BUILD = (
    f"{UV}x==1.0 has no usable wheels\n\n"
    "hint: Wheels are required for `x` because building from source is disabled for all packages (i.e., with `--no-build`)"
)
OLD_PYTHON = f"{UV}the current Python version (3.11.2) does not satisfy Python>=3.13 and mcp-x"
NPM_404 = "npm error code E404\nnpm error 404 Not Found - GET https://r/@s%2fx"
NPM_VERSION = "npm error code ETARGET\nnpm error notarget No matching version found for @s/x@9.9.9."


@pytest.mark.parametrize(
    ("printed", "words"),
    [
        pytest.param(UNKNOWN, "mcp-x was not found on PyPI", id="no package"),
        pytest.param(NO_VERSION, "no such version: mcp-x==9", id="no version"),
        pytest.param(OLD_PYTHON, "needs Python 3.13 or newer", id="python"),
        pytest.param(NPM_404, "not found on npm", id="npm 404"),
        pytest.param(NPM_VERSION, "no such version: @s/x@9.9.9", id="npm version"),
        pytest.param(
            "stockade: x has no program y; it has: a, b", "Package x has no program y; it has: a, b.", id="no program"
        ),
        pytest.param("E: Release signed by unknown key (key id 6ED0E7B82643E131)", "have the keys", id="keys"),
        pytest.param("E: Unable to locate package gitt", "Debian has no package gitt", id="apt"),
        pytest.param("invalid peer certificate: UnknownIssuer", "certificate is not trusted", id="tls"),
        pytest.param("npm error code SELF_SIGNED_CERT_IN_CHAIN", "certificate is not trusted", id="npm tls"),
        pytest.param("dns error: failed to lookup address information", "could not be resolved", id="dns"),
        pytest.param("OSError: [Errno 28] No space left on device", "disk is full", id="disk"),
        pytest.param(NO_BUILD, "its own code would run to build it", id="a password, and no wheel"),
        pytest.param("gcc: something odd", "The last lines tell why", id="anything else"),
    ],
)
def test_the_meaning_and_the_next_step(printed: str, words: str) -> None:
    text = explain_failure("package x", printed)
    assert text.startswith("The image for package x could not be built.")
    assert words in text


@pytest.mark.parametrize(
    ("stopped", "words"),
    [
        pytest.param(OutOfTime(600), "It was ended after 600 s. If it needs longer", id="time"),
        pytest.param(OutOfMemory(2048), "more memory than a build gets (2048 MiB)", id="memory"),
    ],
)
def test_a_limit_that_ended_it_is_its_meaning_whatever_it_printed(stopped: Stopped, words: str) -> None:
    text = explain_failure("package x", UNKNOWN, stopped)
    assert words in text
    assert "was not found on PyPI" not in text


def test_no_package_can_print_that_a_limit_ended_it() -> None:
    """The limits are values, not lines of the output."""
    text = explain_failure("package x", "stockade-build: it did not end within 1 s")
    assert "The last lines tell why" in text


def test_the_last_lines_are_shown_without_colours_and_chatter() -> None:
    printed = "Step 1/9 : FROM x\n ---> 123\n\x1b[91merror: boom\x1b[0m\nThe command '/bin/sh -c x' returned 1"
    assert explain_failure("x", printed).splitlines()[1:] == ["    error: boom"]


def test_a_line_of_any_length_is_read_in_linear_time_and_its_end_is_shown() -> None:
    """Found by a build that printed 30 MB without a newline: the patterns took the event loop for minutes."""

    def cpu(length: int) -> float:
        started = time.thread_time()
        assert "the end" in explain_failure("package x", "y" * length + " the end")
        return time.thread_time() - started

    assert cpu(300_000) < 40 * min(cpu(30_000) for _ in range(3)) + 0.05

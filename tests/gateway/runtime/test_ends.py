"""How a server ended, or why it is late, in words."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.runtime.containers.ends import exit_sentence, late_sentence, late_words, listener, listening
from gateway.runtime.supervise.keeper import InstanceKeeper
from tests.gateway.runtime.real import Yard, yard
from tests.gateway.runtime.test_unwritten import source

OURS = frozenset({53, 80, 443, 3128})


def test_an_end_by_a_path_names_the_line_that_helps() -> None:
    """D4 and D6: which `mounts:` or `storage:` line."""
    docs = source(args=["x", "/home/me/docs"])
    said = exit_sentence(1, ["Error: ENOENT: no such file or directory, stat '/home/me/docs'"], docs)
    assert said == (
        "It exited with code 1. It printed: Error: ENOENT: no such file or directory, stat '/home/me/docs'. "
        "/home/me/docs is not in its container, and its entry names it: write "
        '`mounts: ["/home/me/docs:/home/me/docs:ro"]` in its entry.'
    )
    said = exit_sentence(1, ["mkdir: cannot create directory '/data/db': Read-only file system"], source(image="x"))
    assert said.endswith("It cannot write to /data/db in its container: write `storage: /data` in its entry.")
    assert "storage" not in exit_sentence(1, ["error: API key is required"], docs)


LATE = {
    "loopback only": ({("127.0.0.1", 8000)}, False, "it listens on 127.0.0.1:8000 only, which nothing outside of it can"),
    "loopback of IPv6": ({("::1", 8000)}, False, "it listens on ::1:8000 only"),
    "loopback, isolated": ({("127.0.0.1", 8000)}, True, ""),
    "everywhere": ({("127.0.0.1", 8000), ("0.0.0.0", 8000)}, False, ""),
    "another port": ({("0.0.0.0", 3000)}, False, "it listens on port 3000, not on 8000: write that as `port`"),
    "another port, isolated": (
        {("127.0.0.1", 3128), ("0.0.0.0", 53), ("127.0.0.1", 3000)}, True, "listens on port 3000, not on 8000",
    ),
    "nothing but ours": ({("127.0.0.1", 3128), ("0.0.0.0", 443)}, True, "Nothing in its container listens on port 8000"),
    "nothing": (set(), False, "Nothing in its container listens on port 8000 yet."),
    "not known": (None, False, ""),
}  # fmt: skip


@pytest.mark.parametrize(("found", "isolated", "words"), LATE.values(), ids=LATE)
def test_why_nothing_answers_on_its_port(found: set[tuple[str, int]] | None, isolated: bool, words: str) -> None:
    told = late_sentence(found, 8000, OURS if isolated else (), isolated=isolated)
    assert words in told
    assert bool(words) is bool(told)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0100007F:1F40", ("127.0.0.1", 8000)),
        ("00000000:0050", ("0.0.0.0", 80)),
        ("00000000000000000000000000000000:1F40", ("::", 8000)),
        ("00000000000000000000000001000000:1F40", ("::1", 8000)),
    ],
)
def test_an_address_of_the_kernels_tables_is_read(text: str, found: tuple[str, int]) -> None:
    assert listener(text) == found


def test_what_listens_is_read_from_the_kernel(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
        mark = Path("/proc/self/cgroup").read_text().strip()[-12:]
        found = listening(os.getpid(), mark)
        assert found is not None
        assert ("127.0.0.1", port) in found
    assert listening(os.getpid(), "another container") is None
    assert listening(os.getpid(), mark, tmp_path) is None


def test_what_is_known_makes_sentences() -> None:
    assert late_words([], source(), "") == ""
    assert late_words(["waiting"], source(), "Why.") == "It printed: waiting. Why."
    assert late_words([], source(), "Why.") == "Why."


@pytest.fixture(scope="module")
def site() -> Iterator[Yard]:
    with yard() as found:
        found.prepare()
        serve = (
            "import http.server as h; h.ThreadingHTTPServer(('{}', {}), h.SimpleHTTPRequestHandler).serve_forever()"
        )
        entry = {
            "image": found.image,
            "entrypoint": ["python3", "-c"],
            "type": "http",
            "port": 8000,
            "start_timeout_s": 4,
        }
        try:
            found.up(
                {
                    "loopback": {**entry, "args": [serve.format("127.0.0.1", 8000)], "network": {"isolated": False}},
                    "isolated": {**entry, "args": [serve.format("127.0.0.1", 8000)]},
                    "elsewhere": {**entry, "args": [serve.format("0.0.0.0", 3000)]},
                }
            )
            yield found
        finally:
            found.down()


def keeper(site: Yard, backend: str) -> InstanceKeeper:
    return site.supervisor.keepers[backend]


@pytest.mark.docker
@pytest.mark.parametrize(
    ("backend", "words"),
    [
        ("loopback", "did not start within 4 s. In its container it listens on 127.0.0.1:8000 only"),
        ("elsewhere", "did not start within 4 s. In its container it listens on port 3000, not on 8000"),
    ],
)
def test_a_real_server_that_listens_elsewhere_is_told_where(site: Yard, backend: str, words: str) -> None:
    site.until(lambda: words in keeper(site, backend).last_end or words in keeper(site, backend).detail, 90)


@pytest.mark.docker
def test_a_real_server_behind_a_door_may_listen_on_loopback(site: Yard) -> None:
    assert site.pair("isolated").is_running

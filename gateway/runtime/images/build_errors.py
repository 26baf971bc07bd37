"""What a failed image build means to a person. Pure: from printed lines to a sentence and the next step.

Package tools have no error codes that survive their wrappers, so their text is read; what we know is passed as a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.runtime.images.browsers import DOWNLOAD, download_failed
from gateway.runtime.images.needs import Need, Unmet
from gateway.runtime.images.wall import Refused
from gateway.runtime.sandbox.errors import BuildError

LAST_LINES: Final = 12
READ_LINES: Final = 200
FEW_LINES: Final = 3
"""Shown where the meaning is known."""
COLOURS: Final = re.compile(r"(\x1b|\N{REPLACEMENT CHARACTER})\[[0-9;]*m")
CHATTER: Final = (
    " --->",
    "Step ",
    "Removing ",
    "The command '/bin/sh",
    "npm error A complete log",
    "npm error 404 Note that you can",
    "npm error 404 tarball, folder",
)


@dataclass(frozen=True, slots=True)
class OutOfTime:
    """A build was ended because it took longer than it may."""

    limit_s: float

    def meaning(self) -> str:
        """What happened, and the next step."""
        return (
            f"It was ended after {self.limit_s:g} s. If it needs longer, set `build_timeout_s` under gateway and start "
            "again."
        )


@dataclass(frozen=True, slots=True)
class OutOfMemory:
    """A build was ended because it took more memory than it may."""

    limit_mib: int

    def meaning(self) -> str:
        """What happened, and the next step."""
        return f"It took more memory than a build gets ({self.limit_mib} MiB). Name another version, or an `image:`."


Stopped = OutOfTime | OutOfMemory


class InstallFailed(BuildError):
    """Raised when a package's installation failed; `str()` is what it printed."""

    def __init__(
        self,
        printed: str,
        stopped: Stopped | None = None,
        need: Need | None = None,
        refused: Sequence[Refused] = (),
    ) -> None:
        """`stopped`: which limit ended it; None when it ended by itself. `need`: what it would need, where that is known.
        `refused`: the connections that it was refused."""
        super().__init__(printed)
        self.stopped = stopped
        self.need = need
        self.refused = refused


Explain = Callable[[re.Match[str], str], str]

CASES: Final[tuple[tuple[re.Pattern[str], Explain], ...]] = (
    (
        re.compile(r"(?i)building (source distributions|from source) is disabled|--no-build"),
        lambda m, subject: (
            "It has no wheel, so its own code would run to build it, and the package index wants a password, which that "
            "code could read. Name a version with a wheel, take an index without a password, or give it as `image:`; or "
            "let builds see the password: set STOCKADE_BUILD_CREDENTIALS=visible where the gateway runs."
        ),
    ),
    (
        re.compile(r"(\S+) was not found in the package registry|No matching distribution found for (\S+)"),
        lambda m, subject: (
            f"{m[1] or m[2]} was not found on PyPI. Check the spelling, or set the index (UV_DEFAULT_INDEX)."
        ),
    ),
    (
        re.compile(r"npm error 404 Not Found - GET|E404.*is not in this registry"),
        lambda m, subject: f"The {subject} was not found on npm. Check the spelling, or set npm's registry.",
    ),
    (
        re.compile(r"there is no version of (\S+)|notarget No matching version found for (\S+)"),
        lambda m, subject: f"There is no such version: {(m[1] or m[2]).rstrip('.')}. Name one that exists, or none.",
    ),
    (
        re.compile(r"does not\s+satisfy\s+Python\s*(?:>=)?([0-9.]+)|requires[- ][Pp]ython:? *>=? *([0-9.]+)"),
        lambda m, subject: (
            f"The {subject} needs Python {(m[1] or m[2]).rstrip('.')} or newer; the image that it was installed in has "
            "an older one. Name a version of Python (`python:`), an older version of it, or give it as `image:`."
        ),
    ),
    (
        re.compile(r"stockade: (.+)"),
        lambda m, subject: f"Package {m[1]}. Name the program in `args` (uvx --from PACKAGE PROGRAM).",
    ),
    (
        re.compile(r"Release signed by unknown key|Keyring-based check was requested"),
        lambda m, subject: (
            "This machine does not have the keys that this Debian is signed with. Get newer ones: "
            "`sudo apt-get update && sudo apt-get install debian-archive-keyring`."
        ),
    ),
    (
        re.compile(r"Unable to locate package (\S+)"),
        lambda m, subject: f"Debian has no package {m[1]}. Check `packages:`.",
    ),
    (
        re.compile(
            r"(?i)certificate verify failed|UnknownIssuer|SELF_SIGNED_CERT|local issuer certificate|invalid peer cert"
        ),
        lambda m, subject: (
            "The registry's certificate is not trusted. If a proxy inspects TLS here, put its CA into the system's "
            "bundle or name it with SSL_CERT_FILE, and start again."
        ),
    ),
    (
        re.compile(r"(?i)temporary failure (in name )?resol|dns error|EAI_AGAIN|failed to lookup address|ENOTFOUND"),
        lambda m, subject: (
            "The registry's name could not be resolved. Check the network and the engine's DNS, or set HTTPS_PROXY."
        ),
    ),
    (
        re.compile(r"(?i)no space left on device"),
        lambda m, subject: "The engine's disk is full. Free some with `docker system prune`.",
    ),
)


def explain_failure(
    subject: str,
    printed: str,
    stopped: Stopped | Unmet | None = None,
    *,
    browser: bool = False,
    refused: Sequence[Refused] = (),
) -> str:
    """One paragraph: what failed, why as far as the lines tell, what to do, and the last lines.

    `browser`: the image has Debian's Chromium. `refused`: the connections that it was refused; they are told first.
    """
    printed = "\n".join(shortened(line) for line in COLOURS.sub("", printed).splitlines()[-READ_LINES:])
    text = " ".join(" ".join(line for line in printed.splitlines() if not line.startswith(CHATTER)).split())
    if stopped is not None:
        meaning = stopped.meaning()
    elif DOWNLOAD.search(text):
        meaning = download_failed(browser)
    elif refused:
        meaning = ""
    else:
        meaning = next((explain(m, subject) for pattern, explain in CASES if (m := pattern.search(text))), "")
    shown = telling_lines(printed.splitlines())[-FEW_LINES if meaning else -LAST_LINES :]
    meaning = " ".join([*(one.sentence for one in refused), meaning]).strip()
    tail = "\n".join(f"    {line}" for line in shown)
    return f"The image for {subject} could not be built. {meaning or 'The last lines tell why.'}\n{tail}"


def shortened(line: str) -> str:
    """The beginning and the end of a long line: patterns are matched in it, which takes more than linear time."""
    return line if len(line) <= 290 else f"{line[:100]} … {line[-180:]}"


def telling_lines(lines: Sequence[str]) -> list[str]:
    """The lines that say something, less the builder's own chatter."""
    telling = [line.rstrip() for line in lines if line.strip() and not line.startswith(CHATTER)]
    return [line[:300] for line in telling if line != "npm error 404"]

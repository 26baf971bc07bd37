"""Images with Debian's Chromium: packages are built without a browser of their own, and find this one. Pure.

Packages that drive a browser download one when they are installed, into the home of the installing user: it would not be in
the image, which takes only what was installed. So `packages: [chromium]` means this browser.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Collection
from typing import Final

DEBIAN_PACKAGE: Final = "chromium"
PROGRAM: Final = "/usr/bin/chromium"
GOOGLES_PLACE: Final = "/opt/google/chrome/chrome"
"""Where puppeteer-core and playwright look for the browser of the channel `chrome`."""
POLICIES: Final = "/etc/chromium/policies/managed"
FLAGS: Final = "--no-sandbox --headless"
"""Chromium's own sandbox needs namespaces that a server cannot make, and there is no display. Ours holds the whole of it."""
QUIET: Final = {
    "BrowserNetworkTimeQueriesEnabled": False,
    "ComponentUpdatesEnabled": False,
    "DefaultSearchProviderEnabled": False,
    "DomainReliabilityAllowed": False,
    "MetricsReportingEnabled": False,
    "NetworkPredictionOptions": 2,
    "SafeBrowsingProtectionLevel": 0,
    "SearchSuggestEnabled": False,
    "SyncDisabled": True,
    "TranslateEnabled": False,
}
"""Chromium's policies against connections of its own, which no page asked for: each would be a denial in a call's result."""
VARIABLES: Final = {
    "PUPPETEER_SKIP_DOWNLOAD": "true",
    "PUPPETEER_SKIP_CHROMIUM_DOWNLOAD": "true",
    "PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD": "1",
    "CHROMEDRIVER_SKIP_DOWNLOAD": "true",
    "PUPPETEER_EXECUTABLE_PATH": PROGRAM,
    "PLAYWRIGHT_MCP_EXECUTABLE_PATH": PROGRAM,
    "CHROME_EXECUTABLE_PATH": PROGRAM,
    "CHROME_PATH": PROGRAM,
    "CHROME_BIN": PROGRAM,
}
"""For the installation and for the server; an entry's `env` comes after them."""
DOWNLOAD: Final = re.compile(
    r"(?i)PUPPETEER_(?:[A-Z_]+_)?SKIP_(?:[A-Z_]+_)?DOWNLOAD|PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD|CHROMEDRIVER_SKIP_DOWNLOAD"
    r"|Failed to (?:set up|download) (?:chrom|firefox|webkit)|ChromeDriver installation failed"
    r"|cdn\.playwright\.dev|playwright\.download\.prss|playwright[a-z0-9-]*\.azureedge\.net"
    r"|googlechromelabs\.github\.io|chrome-for-testing|chromium-browser-snapshots"
)
"""What is printed by an install step that could not download a browser."""


def has_browser(packages: Collection[str]) -> bool:
    """Whether these Debian packages bring Chromium."""
    return DEBIAN_PACKAGE in packages


def browser_script(packages: Collection[str]) -> str:
    """What follows the installation of the packages, in the same layer; empty where they bring no browser."""
    if not has_browser(packages):
        return ""
    flags = f'export CHROMIUM_FLAGS="$CHROMIUM_FLAGS {FLAGS}"'
    folder = GOOGLES_PLACE.rpartition("/")[0]
    return (
        f" && mkdir -p {folder} /etc/chromium.d {POLICIES} && ln -s {PROGRAM} {GOOGLES_PLACE}"
        f" && echo {shlex.quote(flags)} > /etc/chromium.d/stockade"
        f" && echo {shlex.quote(json.dumps(QUIET))} > {POLICIES}/stockade.json"
    )


def browser_variables(packages: Collection[str]) -> str:
    """The line of a Dockerfile with the variables; empty where the packages bring no browser."""
    if not has_browser(packages):
        return ""
    return "ENV " + " ".join(f"{name}={value}" for name, value in VARIABLES.items()) + "\n"


def download_failed(browser: bool) -> str:
    """What it means that a browser could not be downloaded; `browser`: the image has Debian's already."""
    if browser:
        return (
            "Its installation downloads a browser of its own, although `packages:` has chromium, and cannot reach it. "
            "Name another version of it, or give it as `image:`."
        )
    return (
        "Its installation downloads a browser, which would not be in the image anyway. Add `packages: [chromium]` to its "
        "entry: it is then built without the download, and takes Debian's Chromium (/usr/bin/chromium)."
    )

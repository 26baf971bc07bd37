"""Servers that drive a browser: built without a download of their own, with Debian's Chromium where every one looks."""

from __future__ import annotations

import pytest

from gateway.runtime.images.browsers import has_browser
from gateway.runtime.images.build_errors import explain_failure
from gateway.runtime.images.recipes import runtime_image
from registry.model.server import Server
from registry.model.sources import PackageSource
from registry.model.spec import plan_source

PUPPETEER_23 = (
    'npm error ERROR: Failed to set up chrome v131.0.6778.204! Set "PUPPETEER_SKIP_DOWNLOAD" env variable to skip '
    "download.\nnpm error Error: getaddrinfo ENOTFOUND googlechromelabs.github.io"
)
PUPPETEER_5 = 'ERROR: Failed to set up Chromium r782078! Set "PUPPETEER_SKIP_DOWNLOAD" env variable to skip download.'
PUPPETEER_1 = 'ERROR: Failed to download Chromium r594312! Set "PUPPETEER_SKIP_CHROMIUM_DOWNLOAD" env variable'
PLAYWRIGHT = (
    "npm error Downloading Chromium 143.0.7499.4 (playwright build v1200) from "
    "https://cdn.playwright.dev/dbazure/download/playwright/builds/chromium/1200/chromium-linux.zip\n"
    "npm error Error: getaddrinfo EAI_AGAIN cdn.playwright.dev\n"
    "npm error Failed to install browsers\nnpm error Error: Failed to download Chromium 143.0.7499.4"
)
CHROMEDRIVER = "ChromeDriver installation failed Error: getaddrinfo ENOTFOUND googlechromelabs.github.io"


def dockerfile(*packages: str) -> str:
    entry = Server.model_validate({"command": "npx", "args": ["x"], "packages": list(packages)})
    source = plan_source(entry)
    assert isinstance(source, PackageSource)
    recipe = runtime_image(source, "base:1", "sha256:1")
    assert recipe is not None
    return recipe.dockerfile


@pytest.mark.parametrize("packages", [("chromium",), ("git", "chromium")])
def test_with_chromium_nothing_downloads_a_browser_and_servers_find_it(packages: tuple[str, ...]) -> None:
    text = dockerfile(*packages)
    assert has_browser(packages)
    for variable in (
        "PUPPETEER_SKIP_DOWNLOAD=true",
        "PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1",
        "PUPPETEER_EXECUTABLE_PATH=/usr/bin/chromium",
        "PLAYWRIGHT_MCP_EXECUTABLE_PATH=/usr/bin/chromium",
        "CHROME_PATH=/usr/bin/chromium",
    ):
        assert f" {variable}" in text
    assert "ln -s /usr/bin/chromium /opt/google/chrome/chrome" in text
    assert "--no-sandbox --headless" in text
    assert '"DefaultSearchProviderEnabled": false' in text
    assert "/etc/chromium/policies/managed/stockade.json" in text


@pytest.mark.parametrize("packages", [("git",), ("chromium-l10n",), ("libchromium",)])
def test_without_chromium_an_image_has_nothing_of_it(packages: tuple[str, ...]) -> None:
    assert not has_browser(packages)
    assert "PUPPETEER" not in dockerfile(*packages)
    assert "chrome/chrome" not in dockerfile(*packages)


def test_one_layer_for_all_that_name_the_same_packages() -> None:
    assert dockerfile("git", "chromium") == dockerfile("chromium", "git") == dockerfile("git", "chromium", "git")
    assert dockerfile("git") != dockerfile("git", "chromium")


@pytest.mark.parametrize("printed", [PUPPETEER_23, PUPPETEER_5, PUPPETEER_1, PLAYWRIGHT, CHROMEDRIVER])
def test_a_browser_that_cannot_be_downloaded_is_told_with_the_line_to_add(printed: str) -> None:
    text = explain_failure("package x", printed)
    assert "Add `packages: [chromium]` to its entry" in text
    assert "could not be resolved" not in text
    there = explain_failure("package x", printed, browser=True)
    assert "although `packages:` has chromium" in there
    assert "Add `packages" not in there


def test_another_name_that_is_not_found_is_no_browser() -> None:
    assert "chromium" not in explain_failure("package x", "npm error Error: getaddrinfo ENOTFOUND registry.npmjs.org")

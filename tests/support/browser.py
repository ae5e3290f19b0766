"""A headless Chromium for tests of web pages, and what a page did in it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def find_chromium() -> str | None:
    """Find the browser: `CIRCUITKIT_CHROMIUM`, or a Chromium or Chrome on the path."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("CIRCUITKIT_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@contextmanager
def launch_browser() -> Iterator[Any]:
    """Start the browser; skip the test, saying why, where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (extra `test`)")
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium: install one (Debian: apt-get install chromium), or set CIRCUITKIT_CHROMIUM")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=_ARGUMENTS)
        yield browser
        browser.close()


def expect(locator: Any) -> Any:
    """Say what a part of the page will be within half a minute, as Playwright's `expect`."""
    from playwright.sync_api import expect as expect_within

    expect_within.set_options(timeout=30_000)
    return expect_within(locator)


@dataclass
class Opened:
    """A page in the browser."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    """Messages of the console, and exceptions that nobody caught."""
    requests: list[str] = field(default_factory=list)
    """What the page asked for beside itself."""


def open_file(browser: Any, path: Path, width: int = 1280, dark: bool = False) -> Opened:
    """Open a file as a user would, from the disk, and watch it."""
    page = browser.new_page(
        viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", reduced_motion="reduce"
    )
    opened = Opened(page)
    address = path.resolve().as_uri()
    page.on("console", lambda message: opened.complaints.append(message.text))
    page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    page.on("request", lambda request: request.url == address or opened.requests.append(request.url))
    page.goto(address)
    return opened


def serious_findings(page: Any) -> list[str]:
    """Run axe-core on a page; list its serious and critical findings."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    found = axe.Axe().run(page).response["violations"]
    return [
        f"{finding['id']}: {node['html'][:200]}"
        for finding in found
        if finding["impact"] in ("serious", "critical")
        for node in finding["nodes"]
    ]

"""A real Chromium, driven by Playwright: for pictures and seconds of the pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium() -> Iterator[Browser]:
    """The Chromium of this machine, without a window.

    Raises:
        RuntimeError: none is installed.
    """
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise RuntimeError("no Chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


def collect_errors(page: Page) -> list[str]:
    """Returns a list that receives every error and warning of the page's console."""
    errors: list[str] = []
    page.on("console", lambda message: _keep(errors, message.type, message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    return errors


def _keep(errors: list[str], kind: str, text: str) -> None:
    if kind in ("error", "warning"):
        errors.append(text)

"""The machine's Chromium, for tests that look at a page."""

import contextlib
import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
TIMEOUT_MS = 60_000  # on a busy machine
expect.set_options(timeout=TIMEOUT_MS)


@contextlib.contextmanager
def started() -> Iterator[Browser]:
    """Start the browser, or skip the test that asks for it."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=TIMEOUT_MS)
        yield browser
        browser.close()

"""What tests of several folders share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

# Tensors of tests are small, and workers share the cores. For torch, not imported yet, and for what tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    """One Chromium for all browser tests: Playwright cannot be started twice in a process."""
    playwright = pytest.importorskip("playwright.sync_api", reason="browser tests need gridprune[page-tests]")
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("browser tests need Chromium: apt install chromium")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()

"""Take the images of the page for README.md and docs/: docs/images/page.png, and page-phone.png with --phone.

Serves the embedded model on a free port, opens it in Chromium without a window, and photographs the first sample with
its first question. Needs gridprune[demo,page-tests] and Chromium.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, ViewportSize, sync_playwright

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
DESK, PHONE = ViewportSize(width=1280, height=980), ViewportSize(width=390, height=844)


def main() -> None:
    """Serve, photograph, stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder to write to")
    parser.add_argument("--phone", action="store_true", help="also take the page on a narrow screen")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "gridprune", "demo", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            _take(browser.new_page(viewport=DESK), address, arguments.out / "page.png")
            if arguments.phone:
                _take(browser.new_page(viewport=PHONE), address, arguments.out / "page-phone.png", full_page=True)
    finally:
        server.terminate()
        server.wait()


def _take(page: Page, address: str, target: Path, full_page: bool = False) -> None:
    page.set_default_timeout(120_000)
    page.goto(address)
    page.locator(".gp-map").first.wait_for()
    page.locator("#gp-keep input[type=number]").fill("48")
    page.locator("#gp-keep input[type=number]").press("Enter")
    page.locator(".gp-map[aria-label^='48 of']").first.wait_for()
    taken = Image.open(BytesIO(page.screenshot(full_page=full_page)))
    taken.convert("RGB").quantize(256).save(target, optimize=True)  # a third of the bytes, and no difference to be seen


if __name__ == "__main__":
    main()

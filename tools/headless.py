"""Debian's Chromium without a window, for the browser tests and the screenshots. Never on the network."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.chrome.webdriver import WebDriver

FLAGS = (
    "--headless",
    "--no-sandbox",  # it runs as root in containers
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def missing_program() -> str | None:
    """What must be installed first, if anything."""
    return next((name for name in ("chromium", "chromedriver") if shutil.which(name) is None), None)


@contextmanager
def chromium() -> Generator[WebDriver]:
    """A browser with a fresh profile, whose console is recorded."""
    with tempfile.TemporaryDirectory(prefix="tinyopt-chromium-") as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            yield driver
        finally:
            driver.quit()


def resize(driver: WebDriver, width: int, height: int) -> None:
    """The page's own size, which the window's may differ from."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def open_page(driver: WebDriver, page: Path, fragment: str = "") -> None:
    driver.get("about:blank")  # or a new fragment alone would not load the page anew
    driver.get(page.resolve().as_uri() + (f"#{fragment}" if fragment else ""))

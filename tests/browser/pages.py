"""A headless Chromium for tests and screenshots: Debian's `chromium` and `chromium-driver`, driven by selenium."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")


class Page:
    """A browser's window.

    Args:
        driver: selenium's.
        endpoint: of `broker web`.
    """

    def __init__(self, driver: webdriver.Chrome, endpoint: str) -> None:
        self.driver, self._endpoint = driver, endpoint

    def open(self, path: str) -> None:
        """Opens a page."""
        self.driver.get(self._endpoint + path)

    def text(self) -> str:
        """What is to be read on the page."""
        return self.driver.find_element(By.TAG_NAME, "body").text

    def all(self, selector: str) -> list[WebElement]:
        """The elements of a CSS selector."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def button(self, name: str) -> WebElement:
        """The button with this text."""
        return self.driver.find_element(By.XPATH, f"//button[normalize-space()='{name}']")

    def until(self, holds: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
        """Waits. Raises AssertionError with the page's text."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if holds():
                    return
            except Exception as error:  # noqa: BLE001 - an element may have been replaced meanwhile
                problem = repr(error)
            else:
                problem = ""
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds} s: {what}. {problem}\n{self.text()}")
            time.sleep(0.2)

    def until_text(self, words: str) -> None:
        """Waits for words on the page."""
        self.until(lambda: words in self.text(), f"the page says {words!r}")

    def complaints(self) -> list[str]:
        """What the browser's console has against the page."""
        found: list[dict[str, str]] = self.driver.get_log("browser")
        return [entry["message"] for entry in found if entry["level"] == "SEVERE"]


@contextmanager
def browser(endpoint: str, *, size: str = "1400,1400", dark: bool = False) -> Generator[Page]:
    """A browser without a window on a screen."""
    options = Options()
    options.binary_location = CHROMIUM or ""
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--window-size={size}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        if dark:
            scheme = {"name": "prefers-color-scheme", "value": "dark"}
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        yield Page(driver, endpoint)
    finally:
        driver.quit()

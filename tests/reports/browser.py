"""Chromium without a window, for tests of pages: what it shows, says and asks the network for."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--force-device-scale-factor=1", "--hide-scrollbars"),
)


class Browser:
    """A browser that shows one page at a time, from a file."""

    def __init__(self, driver: Chrome, folder: Path) -> None:
        self.driver, self._folder = driver, folder

    def open(self, page: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Show a page's text; what earlier ones said and asked for is forgotten."""
        path = self._folder / "page.html"
        path.write_text(page, encoding="utf-8")
        self._command(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._command("Emulation.setEmulatedMedia", {"features": scheme})
        self.driver.get("about:blank")
        self.said(), self.asked_for()
        self.driver.get(path.as_uri())

    def said(self) -> list[str]:
        """What the page wrote to the console since it was last asked, errors included."""
        found: list[str] = [entry["message"] for entry in self._log("browser")]
        return found

    def asked_for(self) -> list[str]:
        """Addresses requested since it was last asked, the page's own file included."""
        messages = [json.loads(e["message"])["message"] for e in self._log("performance")]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]

    def all(self, selector: str) -> list[WebElement]:
        """The elements that a CSS selector finds, hidden ones too."""
        return self.driver.find_elements("css selector", selector)

    def one(self, selector: str) -> WebElement:
        """The only element that a CSS selector finds."""
        (found,) = self.all(selector)
        return found

    def shown(self, selector: str) -> list[str]:
        """The texts of the elements that are to be seen."""
        return [e.text for e in self.all(selector) if e.is_displayed()]

    def press(self, *keys: str) -> None:
        """Keys for whatever has the focus."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def point_at(self, element: WebElement) -> None:
        """Move the pointer to the middle of an element."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver, duration=0).move_to_element(element).perform()

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns."""
        return self.driver.execute_script(script, *arguments)

    def screenshot(self, name: str) -> Path:
        """A picture of the window, in $SCALOPS_SCREENSHOTS or the test's folder."""
        folder = Path(os.environ.get("SCALOPS_SCREENSHOTS") or self._folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.png"
        path.write_bytes(self.driver.get_screenshot_as_png())
        return path

    def _log(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.driver.execute("getLog", {"type": kind})["value"]
        return found

    def _command(self, name: str, parameters: dict[str, Any]) -> None:
        self.driver.execute_cdp_cmd(name, parameters)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests; skips where selenium, Chromium or its driver is missing."""
    pytest.importorskip("selenium")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver (Debian: chromium-driver)")
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    folder = tmp_path_factory.mktemp("browser")
    options = ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = Chrome(options=options, service=ChromeService(driver))
    try:
        yield Browser(opened, folder)
    finally:
        opened.quit()

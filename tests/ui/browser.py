"""The page in a real browser, and the server it comes from."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "a blue square moves up on a black background"
SEED = "18446744073709551557"  # JavaScript's numbers would make it 18446744073709552000
SECONDS = 240
_COMPLAINTS = {
    "the model was trained on at most 33 frames, the clip has 241; the video may fall apart",
    "the page opens once its libraries are loaded, in some 10 to 30 seconds",
}
VIDEO_HAS_DATA = """
    const video = document.querySelector('#clip');
    return video !== null && video.readyState >= 2 && video.videoWidth > 0;
"""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a page for the embedded model."""
    command = [sys.executable, "-m", "pyramid_seed", "ui", "--port", "0", "-o", str(folder)]
    command += ["--preset", "tiny"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as server:
        try:
            address = re.match(r"http://127\.0\.0\.1:\d+", server.stdout.readline())[0]
            with urlopen(address, timeout=SECONDS):  # the page is announced before it is loaded
                yield address
        finally:
            server.send_signal(signal.SIGINT)  # Ctrl+C, with the page still open
            _, complaints = server.communicate(timeout=SECONDS)
    assert server.returncode == 0
    assert set(complaints.splitlines()) <= _COMPLAINTS


class Browser:
    """The page in Chromium, by the ids of its parts."""

    def __init__(self, driver) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        self.driver = driver
        self._wait = WebDriverWait(driver, SECONDS, poll_frequency=0.05)

    def all(self, selector: str):
        from selenium.webdriver.common.by import By

        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def wait(self, condition):
        from selenium.common.exceptions import StaleElementReferenceException, TimeoutException

        def holds(_):
            try:
                return condition()
            except StaleElementReferenceException:  # the page has just put a new one in its place
                return False

        try:
            return self._wait.until(holds)
        except TimeoutException:
            shown = next((body.text for body in self.all("body")), "")
            pytest.fail(f"after {SECONDS} s the page does not show what was waited for, but:\n{shown}")

    def one(self, selector: str):
        return self.wait(lambda: next(iter(self.all(selector)), None))

    def script(self, code: str, *values):
        return self.driver.execute_script(code, *values)

    def text(self, selector: str) -> str:
        return self.wait(lambda: self.one(selector).text)

    def click(self, selector: str) -> None:
        def clicked() -> bool:
            element = self.one(selector)
            if not element.is_enabled():
                return False
            element.click()
            return True

        self.wait(clicked)

    def type(self, selector: str, text: str) -> None:
        from selenium.webdriver.common.keys import Keys

        def typed() -> bool:
            self.one(selector).send_keys(Keys.CONTROL, "a")
            self.one(selector).send_keys(text)
            return True

        self.wait(typed)

    def choose(self, dropdown: str, label: str) -> None:
        self.click(f"{dropdown} input")
        self.wait(lambda: self.all("[role=option]"))
        next(option for option in self.all("[role=option]") if label in option.text).click()

    def run(self) -> str:
        """Press Run, wait for a new clip that plays; returns its file's name."""
        before = self.files()
        self.click("#run")
        self.wait(lambda: self.files() not in ([], before) and self.script(VIDEO_HAS_DATA))
        return self.files()[0]

    def keys(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def size(self, width: int, height: int = 900) -> None:
        """Make the window's inside this large, in pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def prefer(self, **features: str) -> None:
        """Tell pages what a person prefers, such as `reduced_motion="reduce"`."""
        media = [{"name": f"prefers-{n.replace('_', '-')}", "value": v} for n, v in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})

    def files(self) -> list[str]:
        names = self.wait(lambda: (tuple(link.text for link in self.all("#facts a[download]")),))
        return list(names[0])


def started() -> Browser:
    """A new browser; its `driver` is to be quit."""
    programs = [shutil.which("chromium"), shutil.which("chromedriver")]
    assert all(programs), "these tests need a browser: apt-get install chromium chromium-driver"
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = programs[0]
    for argument in (
        "--headless=new",
        "--no-sandbox",  # containers run as root
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # the page must work without a network
        "--force-color-profile=srgb",
        "--hide-scrollbars",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=ChromeService(programs[1]))
    browser = Browser(driver)
    browser.size(1280)
    return browser

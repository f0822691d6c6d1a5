"""The page as a person meets it: a real server, a real browser, the embedded model.

pip install -e ".[browser]" && apt-get install chromium chromium-driver
pytest -m browser                                                 # a missing browser is a failure
PYRAMID_SEED_SCREENSHOT=docs/ui.png pytest -m browser             # makes the README's image again
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pyramid_seed.provenance.manifest import read_manifest

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "a blue square moves up on a black background"
SEED = "18446744073709551557"  # JavaScript's numbers would make it 18446744073709552000
GALLERY_PROMPTS = (
    "a red circle moves to the right on a white background",
    "a yellow triangle moves to the left on a grey background",
    "a green circle grows on a white background",
)
BEYOND_TRAINING = "the model was trained on at most 33 frames, the clip has 241; the video may fall apart"
SECONDS = 240
VIDEO_HAS_DATA = """
    const video = document.querySelector('#clip');
    return video !== null && video.readyState >= 2 && video.videoWidth > 0;
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("ui") / "clips"


@pytest.fixture(scope="module")
def address(folder) -> Iterator[str]:
    command = [
        sys.executable,
        "-m",
        "pyramid_seed",
        "ui",
        "--port",
        "0",
        "-o",
        str(folder),
        "--preset",
        "tiny",
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as server:
        try:
            yield re.match(r"http://127\.0\.0\.1:\d+", server.stdout.readline())[0]
        finally:
            server.send_signal(signal.SIGINT)  # Ctrl+C, with the page still open
            _, complaints = server.communicate(timeout=SECONDS)
    assert server.returncode == 0
    assert set(complaints.splitlines()) <= {BEYOND_TRAINING}


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

    def script(self, code: str):
        return self.driver.execute_script(code)

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

    def files(self) -> list[str]:
        names = self.wait(lambda: (tuple(link.text for link in self.all("#facts a[download]")),))
        return list(names[0])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
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
    size = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    yield Browser(driver)
    driver.quit()


@pytest.fixture
def page(browser, address) -> Browser:
    """A fresh page with prompt and seed filled in."""
    browser.driver.get(address)
    browser.wait(lambda: browser.one("#root-seed input, #root-seed textarea").get_property("value"))
    browser.type("#prompt textarea", PROMPT)
    browser.type("#root-seed input, #root-seed textarea", SEED)
    browser.wait(lambda: browser.one("#lock input").is_selected())  # a seed that was typed is kept
    return browser


def toast(page: Browser) -> str:
    """The text of an error, which is then closed."""
    text = page.text(".toast-body")
    page.click(".toast-close")
    page.wait(lambda: not page.all(".toast-body"))
    return text


def test_the_same_seed_gives_the_same_clip_again(page, folder):
    first = page.run()
    digest = page.text("#digest")
    assert page.text("#seed") == SEED
    manifest = read_manifest(folder / first)
    assert (manifest["seed"], manifest["prompt"]) == (SEED, PROMPT)
    assert manifest["digests"]["frames"] == digest

    second = page.run()
    assert second != first
    assert page.text("#digest") == digest
    assert {card.get_attribute("data-clip") for card in page.all("[data-clip]")} >= {first, second}


def test_the_dice_and_an_open_lock_give_other_seeds(page):
    seed = "#root-seed input, #root-seed textarea"
    page.click("#dice")
    page.wait(lambda: page.one(seed).get_property("value") != SEED)
    assert not page.one("#lock input").is_selected()
    drawn = page.one(seed).get_property("value")
    page.choose("#length", "1 frame")
    page.run()
    used = page.text("#seed")
    assert used != drawn
    assert page.one(seed).get_property("value") == used


def test_a_bad_size_is_refused_in_the_words_of_the_library(page):
    page.type("#height input", "60")
    page.click("#run")
    assert "height must be a multiple of 32, got 60; use 32 or 64" in toast(page)
    page.type("#height input", "4096")
    page.click("#run")
    assert "height must be at most 1280 on this server (--max-height), got 4096" in toast(page)
    page.type("#height input", "64")
    page.type("#root-seed input, #root-seed textarea", "<b>7</b>")
    page.click("#run")
    assert "seed must be a whole number in 0 .. 2**64 - 1, got '<b>7</b>'" in toast(page)


def test_a_running_job_is_stopped(page, folder):
    page.choose("#length", "241 frames")
    page.click("#run")
    page.wait(lambda: page.all("#stage .units img"))  # the preview grows: the first unit is there
    assert len(page.all("#stage .units .todo")) > 50
    page.wait(lambda: "Working: " in page.text("#queue"))
    page.click("#stop")
    headline = page.text("#outcome b")
    kept = read_manifest(folder / page.files()[0])["settings"]["num_frames"]
    assert headline == f"Stopped: the first {kept} of 241 frames were kept"
    assert ("may fall apart" in page.text("#facts")) == (kept > 33)
    assert page.wait(lambda: page.text("#queue") == "Ready")


def test_verify_extend_and_branch(page, folder):
    page.choose("#length", "5 frames")
    made = page.run()
    page.click("#verify")
    page.wait(lambda: page.text("#outcome b") == "MATCH")

    page.click("#extend")
    page.wait(lambda: page.files() not in ([], [made]))
    longer = page.files()[0]
    assert longer == made.replace(".mp4", "_9frames.mp4")

    page.click(f'[data-clip="{made}"]')
    page.wait(lambda: page.files() == [made])
    page.type("#branch-seed input, #branch-seed textarea", "7")
    page.click("#branch")
    page.wait(lambda: page.files() not in ([], [made]))
    branch = page.files()[0]
    assert branch == made.replace(".mp4", "_9frames_seed7.mp4")
    kept, other = (read_manifest(folder / name)["digests"]["units"] for name in (longer, branch))
    assert kept[:2] == other[:2]
    assert kept[2] != other[2]


def test_a_page_that_is_opened_again_watches_the_running_job(page):
    page.choose("#length", "241 frames")
    page.click("#run")
    page.wait(lambda: page.all("#progress .bar"))
    page.driver.refresh()
    page.wait(lambda: page.all("#progress .bar"))
    page.click("#stop")
    page.wait(lambda: page.all("#outcome"))
    page.wait(lambda: page.text("#queue") == "Ready")


def test_the_page_asks_nothing_of_other_hosts(page):
    page.driver.get_log("browser")  # what belongs to earlier pages
    page.run()
    errors = [entry for entry in page.driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []
    events = [json.loads(entry["message"])["message"] for entry in page.driver.get_log("performance")]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    hosts = {urlsplit(params["request"]["url"]).hostname for params in sent}
    assert hosts - {None} == {"127.0.0.1"}  # a data URL has no host


def test_the_page_fits_its_window(page):
    """Makes the README's image, if asked to."""
    if target := os.environ.get("PYRAMID_SEED_SCREENSHOT"):
        for prompt in GALLERY_PROMPTS:
            page.type("#prompt textarea", prompt)
            page.run()
        page.type("#prompt textarea", PROMPT)
    page.run()
    page.script(
        "const video = document.querySelector('#clip'); video.pause(); video.currentTime = 1; "
        "video.controls = false; document.activeElement.blur(); window.scrollTo(0, 0);"
    )
    page.wait(lambda: page.script("return !document.querySelector('#clip').seeking"))
    drawn = "return [...document.querySelectorAll('.cards video')].every(video => video.readyState >= 2)"
    page.wait(lambda: page.script(drawn))
    assert page.script("return document.documentElement.scrollWidth <= innerWidth")
    if target:
        page.driver.save_screenshot(str(ROOT / target))

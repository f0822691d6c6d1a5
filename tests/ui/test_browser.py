"""The page as a person meets it: a real server, a real browser, the embedded model.

pip install -e ".[browser]" && apt-get install chromium chromium-driver
pytest -m browser                                                 # a missing browser is a failure
PYRAMID_SEED_SCREENSHOT=docs/ui.png pytest -m browser             # makes the README's image again
"""

from __future__ import annotations

import json
import os
from urllib.parse import urlsplit

import pytest

from pyramid_seed.provenance.manifest import read_manifest
from tests.ui.browser import PROMPT, ROOT, SEED, Browser

pytestmark = pytest.mark.browser

GALLERY_PROMPTS = (
    "an orange star grows on a black background",
    "a blue triangle moves up on a grey background",
    "a purple star moves to the left on a white background",
)


def problem(page: Browser) -> str:
    """The text of an error."""
    return page.text("#problem [role=alert]")


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
    page.wait(lambda: "height must be a multiple of 32, got 60; use 32 or 64" in problem(page))
    page.type("#height input", "2048")
    page.click("#run")
    page.wait(lambda: "height must be at most 1280 on this server (--max-height), got 2048" in problem(page))
    page.type("#height input", "64")
    page.type("#root-seed input, #root-seed textarea", "<b>7</b>")
    page.click("#run")
    page.wait(lambda: "seed must be a whole number in 0 .. 2**64 - 1, got '<b>7</b>'" in problem(page))


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

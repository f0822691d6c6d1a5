"""The report as a person meets it, in a real browser.

pip install -e ".[browser]" && apt-get install chromium chromium-driver
pytest -m browser tests/explore
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from pyramid_seed.explore.findings import findings_of
from pyramid_seed.explore.measured import measured_clip
from pyramid_seed.explore.prompts import Prompt
from pyramid_seed.explore.report import write_report
from pyramid_seed.media.video import write_video

pytestmark = pytest.mark.browser

MANIFEST = {
    "file": {"scale": 2, "lossless": False},
    "digests": {"frames": "0" * 64},
    "geometry": {"spatial_factor": 8, "temporal_factor": 8, "patch_size": 2, "num_stages": 3},
}
SETTINGS = {"width": 64, "height": 64, "num_frames": 9, "model": "none"}
SEEDS = (10, 2, 2**63, 1, 5, 6, 7, 8)
STATE = (
    "return [...document.querySelectorAll('video')].map(v => [v.readyState, v.videoWidth, v.paused, v.error])"
)


def saved_clip(folder, prompt, seed, place):
    """A bar that is brighter with its place in the sweep, and moves; the last one is black."""
    frames = np.zeros((9, 64, 64, 3), np.uint8)
    for time, frame in enumerate(frames):
        frame[:, 8 + 2 * time : 24 + 2 * time] = 0 if place == len(SEEDS) - 1 else 60 + 20 * place
    path = folder / "clips" / f"{prompt.text}_{seed}.mp4"
    write_video(path, frames, 8, scale=2)
    return measured_clip(prompt, seed, path=path, manifest=MANIFEST)


@pytest.fixture(scope="module", params=[2**30, 1], ids=["embedded", "beside"])
def page(request, tmp_path_factory):
    """The page of two prompts, open in Chromium."""
    programs = [shutil.which("chromium"), shutil.which("chromedriver")]
    assert all(programs), "these tests need a browser: apt-get install chromium chromium-driver"
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    folder = tmp_path_factory.mktemp("sweep")
    clips = [saved_clip(folder, Prompt(p), seed, i) for p in ("b", "a") for i, seed in enumerate(SEEDS)]
    path = write_report(
        folder / "report",
        findings_of(clips),
        settings=SETTINGS,
        against=None,
        failed={},
        embedded_bytes=request.param,
    )
    options = ChromeOptions()
    options.binary_location = programs[0]
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=ChromeService(programs[1]))
    driver.set_window_size(1300, 1000)
    driver.get(path.as_uri())
    yield driver
    driver.quit()


def click(page, selector):
    page.execute_script("document.querySelector(arguments[0]).click()", selector)


def wait(page, condition):
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(page, 60, poll_frequency=0.05).until(lambda _: condition())


def column(page, index):
    rows = "document.querySelectorAll('#clips tbody tr')"
    return page.execute_script(f"return [...{rows}].map(row => row.cells[{index}].textContent.trim())")


def seeds_shown(page):
    figures = "document.querySelector('.clips').querySelectorAll('figure')"
    return page.execute_script(
        f"return [...{figures}].filter(f => f.offsetWidth).map(f => f.querySelector('b').textContent)"
    )


def test_all_clips_play(page):
    wait(page, lambda: all(ready >= 1 and width == 128 for ready, width, *_ in page.execute_script(STATE)))
    assert all(paused for _, _, paused, _ in page.execute_script(STATE))
    click(page, "#play")
    wait(page, lambda: all(ready >= 2 and not paused for ready, _, paused, _ in page.execute_script(STATE)))
    click(page, "#play")
    wait(page, lambda: all(paused for _, _, paused, _ in page.execute_script(STATE)))
    assert not [error for *_, error in page.execute_script(STATE) if error]


def test_the_table_sorts_numbers_and_text(page):
    head = "#clips th:nth-child({}) button"
    click(page, head.format(2))
    rising = [str(seed) for seed in sorted(SEEDS) for _ in "ab"]
    assert column(page, 1) == rising
    click(page, head.format(2))
    assert column(page, 1) == rising[::-1]
    click(page, head.format(1))
    assert column(page, 0) == ["a"] * 8 + ["b"] * 8
    marked = page.execute_script("return [...document.querySelectorAll('#clips th')].map(h => h.ariaSort)")
    assert marked == ["ascending"] + ["none"] * (len(marked) - 1)


def test_clips_are_ordered_by_a_measure(page):
    order = "const s = document.querySelector('#order'); s.value = arguments[0];"
    change = "s.dispatchEvent(new Event('change'))"
    given = [str(seed) for seed in SEEDS]
    page.execute_script(order + change, "si")
    by_contrast = [given[-1], *given[:-1]]
    assert seeds_shown(page) == by_contrast
    click(page, "#falling")
    assert seeds_shown(page) == by_contrast[::-1]
    click(page, "#falling")
    page.execute_script(order + change, "place")
    assert seeds_shown(page) == given


def test_outliers_alone(page):
    tree = json.loads((Path(urlsplit(page.current_url).path).parent / "measures.json").read_text())
    marked = [clip["seed"] for clip in tree["clips"] if clip["prompt"] == "b" and clip["outlier"]]
    assert str(SEEDS[-1]) in marked
    assert len(marked) < len(SEEDS)
    click(page, "#outliers")
    assert seeds_shown(page) == marked
    assert "9 of 9 frames are black" in page.page_source
    click(page, "#outliers")
    assert len(seeds_shown(page)) == len(SEEDS)


def test_a_seed_leads_to_its_clip(page):
    click(page, f"#clips a[href$='-{2**63}']")
    assert page.execute_script("return document.querySelector('figure:target b').textContent") == str(2**63)


def test_nothing_is_asked_of_a_network_and_nothing_is_wrong(page):
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert asked
    assert all(url.startswith(("file:", "data:")) for url in asked)

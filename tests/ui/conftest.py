"""Clips of a fraction of a second, a studio for them, and the page in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pyramid_seed.presets import Preset, load_preset
from pyramid_seed.ui.limits import Limits
from pyramid_seed.ui.studio import Studio
from tests.ui.browser import PROMPT, SEED, Browser, served, started


@pytest.fixture(scope="session")
def short() -> Preset:
    """The embedded model with one step a stage and two units, in files of twice the size."""
    return replace(
        load_preset("tiny"),
        name="short",
        num_frames=5,
        scale=2,
        num_inference_steps=(1, 1, 1),
        video_num_inference_steps=(1, 1, 1),
    )


@pytest.fixture
def studio(tmp_path: Path, short: Preset) -> Iterator[Studio]:
    studio = Studio(tmp_path / "clips", [short], Limits(max_frames=33, max_height=128, max_width=128))
    yield studio
    studio.queue.close()


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("ui") / "clips"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    browser = started()
    yield browser
    browser.driver.quit()


@pytest.fixture(scope="session")
def address(browser, folder) -> Iterator[str]:  # ends before the browser: with the page still open
    with served(folder) as address:
        yield address


@pytest.fixture
def page(browser, address) -> Browser:
    """A fresh page with prompt and seed filled in."""
    browser.driver.get(address)
    browser.wait(lambda: browser.one("#root-seed input, #root-seed textarea").get_property("value"))
    browser.type("#prompt textarea", PROMPT)
    browser.type("#root-seed input, #root-seed textarea", SEED)
    browser.wait(lambda: browser.one("#lock input").is_selected())  # a seed that was typed is kept
    return browser

"""What axe, a keyboard, a phone and a wish for calm ask of the page and of the report of a sweep."""

from __future__ import annotations

from importlib.resources import files

import pytest

from pyramid_seed import run_sweep
from pyramid_seed.provenance.manifest import read_manifest
from tests.ui.browser import VIDEO_HAS_DATA, Browser

pytestmark = pytest.mark.browser

TOO_SMALL = """
    const open = [...document.querySelectorAll('button, input, select, textarea, a, summary')]
        .filter(element => element.checkVisibility());
    const area = element => (element.closest('label') ?? element).getBoundingClientRect();
    return open.filter(element => area(element).height < 44).map(element => element.outerHTML.slice(0, 120));
"""
FOCUS = """
    const element = document.activeElement;
    const style = getComputedStyle(element);
    const part = element.closest('[id]:not([id^=component]):not([id^=range])');
    const isSeen = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;
    return [part?.id, isSeen ? '' : element.outerHTML.slice(0, 200), element === document.body];
"""


def violations(browser: Browser) -> list[str]:
    """What axe finds on the page that is open, and where."""
    browser.script((files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8"))
    browser.driver.set_script_timeout(120)
    found = browser.driver.execute_async_script("axe.run(document).then(arguments[0])")
    return [f"{rule['id']}: {[node['html'] for node in rule['nodes']]}" for rule in found["violations"]]


def is_narrow(browser: Browser) -> bool:
    return browser.script("return document.documentElement.scrollWidth <= innerWidth")


@pytest.fixture
def made(page) -> Browser:
    """The page with a clip of one frame on the stage."""
    if not page.all("[data-clip]"):
        page.choose("#length", "1 frame")
        page.run()
    card = page.one("[data-clip]")
    page.wait(lambda: not page.all("#progress .bar"))
    page.script("arguments[0].click()", card)
    page.wait(lambda: page.files())
    return page


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("sweep")
    settings = {"num_frames": 5, "num_inference_steps": 1, "video_num_inference_steps": 1, "device": "cpu"}
    for name, against in (("a", None), ("b", folder / "a")):
        prompts = ["a red circle grows", "a blue square moves up"]
        summary = run_sweep(prompts, folder / name, seeds=range(8), against=against, **settings)
    return summary.report.as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_the_page(made, scheme):
    made.prefer(color_scheme=scheme)
    for part in ("sampling", "first-frame", "manifest"):
        made.click(f"#{part} button")
    found = violations(made)
    made.type("#height input", "60")
    made.click("#run")
    made.wait(lambda: "use 32 or 64" in made.text("#problem [role=alert]"))
    made.click("#delete")
    made.wait(lambda: made.all("#keep"))
    found += violations(made)
    made.prefer(color_scheme="light")
    assert found == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_a_report(browser, report, scheme):
    browser.prefer(color_scheme=scheme)
    browser.driver.get(report)
    browser.script("for (const details of document.querySelectorAll('details')) details.open = true")
    found = violations(browser)
    browser.prefer(color_scheme="light")
    assert found == []


@pytest.mark.parametrize("width", [360, 390])
def test_the_page_and_a_report_fit_a_phone(made, report, width):
    made.size(width, 780)
    for part in ("sampling", "first-frame"):
        made.click(f"#{part} button")
    assert is_narrow(made)
    assert made.script(TOO_SMALL) == []
    made.driver.get(report)
    assert is_narrow(made)
    assert made.script(TOO_SMALL) == []
    made.size(1280)


def test_everything_is_done_with_keys(made, folder):
    """The form from field to field, a clip from the gallery, its deletion; the focus is seen and not lost."""
    from selenium.webdriver.common.keys import Keys

    made.script("document.querySelector('#prompt textarea').focus()")
    visited = []
    while not visited or visited[-1][0] != "run":
        assert len(visited) < 30, visited
        made.keys(Keys.TAB)
        visited.append(tuple(made.script(FOCUS)))
    ids = list(dict.fromkeys(name for name, *_ in visited))
    wanted = ["negative", "preset", "length", "height", "width", "sampling", "root-seed", "lock", "dice"]
    assert [name for name in ids if name in wanted] == wanted
    assert [unseen for _, unseen, is_body in visited if unseen and not is_body] == []

    made.type("#prompt textarea", "something else")
    name = made.one("[data-clip]").get_attribute("data-clip")
    made.script("document.querySelector('[data-clip]').focus()")
    made.keys(Keys.ENTER)
    manifest = read_manifest(folder / name)
    made.wait(lambda: made.one("#prompt textarea").get_property("value") == manifest["prompt"])
    assert made.one("#root-seed input, #root-seed textarea").get_property("value") == manifest["seed"]
    chosen = "return document.activeElement.matches('[data-clip][aria-current=true]')"
    made.wait(lambda: made.script(chosen))

    made.script("document.querySelector('#delete').focus()")
    made.keys(Keys.ENTER)
    made.wait(lambda: made.script("return document.activeElement.id") == "keep")
    made.keys(Keys.TAB, Keys.ENTER)
    made.wait(lambda: made.text("#outcome") == f"Deleted {name}")
    assert name not in [card.get_attribute("data-clip") for card in made.all("[data-clip]")]


def test_nothing_moves_for_those_who_want_calm(page):
    page.choose("#length", "5 frames")
    page.run()
    is_paused = "return document.querySelector('#clip').paused"
    page.wait(lambda: not page.script(is_paused))
    page.prefer(reduced_motion="reduce")
    page.driver.refresh()
    page.click("[data-clip]")
    page.wait(lambda: page.script(VIDEO_HAS_DATA))
    is_still = page.script(is_paused)
    page.prefer(reduced_motion="no-preference")
    assert is_still

"""The handlers of the page, called as gradio calls them."""

from __future__ import annotations

from dataclasses import replace

import lazy_loader
import pytest
from PIL import Image

from pyramid_seed import generate
from pyramid_seed.ui.jobs import Outcome
from pyramid_seed.ui.studio import Studio

# Slow to import, and every one of pytest's processes collects all tests.
gr = lazy_loader.load("gradio")
app = lazy_loader.load("pyramid_seed.ui.app")


@pytest.fixture
def page(studio):
    with gr.Blocks() as blocks:
        return app.Page(studio, blocks)


@pytest.fixture(scope="module")
def from_folder(quick):
    """A clip of a model in a folder, of which the manifest tells only the last name."""
    return generate("a red circle", seed=1, **{**quick, "num_frames": 1})


def test_an_error_in_a_job_is_shown_as_it_is_and_the_clip_stays(page, studio, from_folder):
    from_folder.save(studio.folder / "clip.mp4")
    changes = []
    with pytest.raises(gr.Error, match=r"the clip was made from a folder named .*--model FOLDER"):
        changes.extend(page.on_verify("clip.mp4"))
    assert changes[-1][page.clip] == "clip.mp4"
    assert 'src="/clips/clip.mp4"' in changes[-1][page.stage]
    assert page.jobs == {}


def test_the_folder_of_a_preset_is_where_its_clips_weights_are(from_folder, tmp_path):
    studio = Studio(tmp_path, [replace(from_folder.settings, name="mine")])
    from_folder.save(tmp_path / "clip.mp4")
    assert list(studio.verify("clip.mp4").views())[-1].outcome.headline == "MATCH"
    studio.queue.close()


def test_a_clip_that_went_away_is_an_error_for_the_page(page):
    with pytest.raises(gr.Error, match=r"there is no clip &#x27;gone\.mp4&#x27; in the output folder"):
        next(page.on_verify("gone.mp4"))


def test_after_an_error_of_the_page_the_next_job_can_be_started(page, studio):
    """Here the clip of a job went away before it could be shown."""
    job = studio.queue.submit("a boat", lambda _: Outcome("gone.mp4", "Made"))
    changes = []
    with pytest.raises(gr.Error, match=r"there is no clip &#x27;gone\.mp4&#x27; in the output folder"):
        changes.extend(page._follow(job, ""))
    seen = {name: value for each in changes for name, value in each.items()}
    assert seen[page.run].interactive
    assert not seen[page.stop].interactive
    assert seen[page.job_id] == seen[page.progress] == ""
    assert page.jobs == {}


def test_the_size_in_the_form_is_that_of_the_picture(page, studio, tmp_path):
    Image.effect_noise((96, 32), 80).convert("RGB").save(tmp_path / "a.png")
    of_picture, of_preset = {page.height: 32, page.width: 96}, {page.height: 64, page.width: 64}
    for image, size in ((str(tmp_path / "a.png"), of_picture), (None, of_preset)):
        assert page.on_image("short", image) == size
        assert page.on_preset("short", image).items() >= size.items()


def test_messages_are_text():
    assert app.message_of(ValueError("<img src=x>")).message == "&lt;img src=x&gt;"
    assert app.message_of(MemoryError()).message == "MemoryError"


def test_a_number_of_the_form_must_be_whole():
    for value in (None, 64.5):
        with pytest.raises(ValueError, match=rf"height must be a whole number, got {value}"):
            app.whole("height", value)
    assert app.whole("height", 64.0) == 64

"""The handlers of the page, called as gradio calls them."""

from __future__ import annotations

import re
from dataclasses import replace

import lazy_loader
import pytest
from PIL import Image

from pyramid_seed import generate
from pyramid_seed.ui import html
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


def last(changes) -> dict:
    """The last value of each component."""
    return {name: value for each in changes for name, value in each.items()}


def test_an_error_in_a_job_is_shown_as_it_is_and_the_clip_stays(page, studio, from_folder):
    from_folder.save(studio.folder / "clip.mp4")
    seen = last(page.on_verify("clip.mp4"))
    assert re.search(
        r'role="alert".*the clip was made from a folder named .*--model FOLDER', seen[page.problem]
    )
    assert seen[page.clip] == "clip.mp4"
    assert 'src="/clips/clip.mp4"' in seen[page.stage]
    assert page.jobs == {}


def test_the_folder_of_a_preset_is_where_its_clips_weights_are(from_folder, tmp_path):
    studio = Studio(tmp_path, [replace(from_folder.settings, name="mine")])
    from_folder.save(tmp_path / "clip.mp4")
    assert list(studio.verify("clip.mp4").views())[-1].outcome.headline == "MATCH"
    studio.queue.close()


GONE = "there is no clip &#39;gone.mp4&#39; in the output folder"


def test_an_error_stays_until_the_next_request(page):
    assert GONE in last(page.on_verify("gone.mp4"))[page.problem]
    assert GONE in page.on_delete("gone.mp4")[page.problem]
    assert page.on_preset("short", None)[page.problem] == ""
    assert next(page.on_verify("gone.mp4"))[page.problem] == ""


def test_after_an_error_of_the_page_the_next_job_can_be_started(page, studio):
    """Here the clip of a job went away before it could be shown."""
    job = studio.queue.submit("a boat", lambda _: Outcome("gone.mp4", "Made"))
    seen = last(app.shows_errors(app.Page._follow)(page, job, ""))
    assert GONE in seen[page.problem]
    assert seen[page.run].interactive
    assert not seen[page.stop].interactive
    assert seen[page.job_id] == seen[page.progress] == ""
    assert page.jobs == {}


@pytest.fixture
def made(studio, short):
    settings = {"num_frames": 1, "height": 96, "num_inference_steps": (1, 2, 1), "guidance_scale": 1.5}
    settings |= {"video_num_inference_steps": None, "negative_prompt": "blur"}
    clip = generate("a red circle", seed=2**64 - 1, preset=short, progress=False, **settings)
    return clip.save(studio.folder / "clip.mp4", keep_latents=True, sidecar=True)


def chosen(page, name: str):
    return page.on_select(gr.EventData(None, {"value": name}))


def test_choosing_a_clip_fills_the_form_and_running_it_makes_that_clip(page, studio, made):
    form = chosen(page, made.name)
    assert form[page.seed] == str(2**64 - 1)
    assert form[page.lock]
    texts = [form[field] for field in page.texts.values()]
    assert texts == ["blur", "1 2 1", "", "1.5", "1.5"]
    sizes = (form[page.length].value, form[page.height], form[page.width])
    values = [form[page.prompt], form[page.preset], *sizes, form[page.seed], form[page.lock]]
    values += [form[page.image], form[page.loras], form[page.clip], *texts]
    again = last(page.on_run(*values))[page.clip]
    assert again != made.name
    assert studio.manifest(again)["digests"] == studio.manifest(made.name)["digests"]


def test_a_clip_of_another_model_is_shown_but_not_filled_in(page, studio, from_folder):
    from_folder.save(studio.folder / "clip.mp4")
    form = chosen(page, "clip.mp4")
    assert "no preset of this page has the clip&#39;s model" in form[page.problem]
    assert form[page.clip] == "clip.mp4"
    assert page.prompt not in form


def test_deleting_names_its_files_and_removes_no_others(page, studio, made):
    other = studio.folder / "other.mp4"
    other.write_bytes(made.read_bytes())
    other.with_suffix(".json").write_text("[1]")  # of the same name, but no manifest
    asked = page.on_delete(made.name)[page.doubt_text]
    names = ["clip.mp4", "clip.latents.safetensors", "clip.json"]
    assert re.findall("<code>(.*?)</code>", asked) == names
    seen = page.on_erase(made.name)
    assert (seen[page.clip], seen[page.actions].visible) == ("", False)
    assert 'data-clip="other.mp4"' in seen[page.gallery]
    assert sorted(path.name for path in studio.folder.iterdir()) == ["other.json", "other.mp4"]
    page.on_erase("other.mp4")
    assert [path.name for path in studio.folder.iterdir()] == ["other.json"]


def test_nothing_outside_the_folder_is_deleted(page, studio, made):
    outside = made.rename(studio.folder.parent / "outside.mp4")
    (studio.folder / "link.mp4").symlink_to(outside)
    for name in ("../outside.mp4", "link.mp4", str(outside)):
        assert 'role="alert"' in page.on_erase(name)[page.problem], name
    assert outside.is_file()


def test_wrong_steps_are_refused_in_the_words_of_the_library(page):
    values = ["a circle", "short", 1, 64, 64, "1", True, None, [], "", "", "1 x", "", "1", ""]
    told = last(page.on_run(*values))[page.problem]
    assert "num_inference_steps must be a whole number of at least 1, or several, one per stage" in told


def test_the_size_in_the_form_is_that_of_the_picture(page, studio, tmp_path):
    Image.effect_noise((96, 32), 80).convert("RGB").save(tmp_path / "a.png")
    of_picture, of_preset = {page.height: 32, page.width: 96}, {page.height: 64, page.width: 64}
    for image, size in ((str(tmp_path / "a.png"), of_picture), (None, of_preset)):
        assert page.on_image("short", image) == {page.problem: "", **size}
        assert page.on_preset("short", image).items() >= size.items()


def test_messages_are_text():
    assert "&lt;img src=x&gt;" in html.problem(ValueError("<img src=x>"))
    assert "MemoryError" in html.problem(MemoryError())


def test_a_number_of_the_form_must_be_whole():
    for value in (None, 64.5):
        with pytest.raises(ValueError, match=rf"height must be a whole number, got {value}"):
            app.whole("height", value)
    assert app.whole("height", 64.0) == 64

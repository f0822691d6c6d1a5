"""What people wrote reaches the page as text, never as HTML."""

from __future__ import annotations

import json
import re
from html import unescape

from pyramid_seed import generate
from pyramid_seed.ui.gallery import Entry, entry_of
from pyramid_seed.ui.html import (
    cards,
    clip_stage,
    doubt,
    facts,
    gallery_title,
    live_stage,
    manifest_text,
    outcome,
    problem,
    progress,
    queue_line,
    unit_side,
)
from pyramid_seed.ui.jobs import JobQueue, Outcome, State, View

EVIL = "<img src=x onerror=alert(1)>\"'&\x1b[31m"


def test_nothing_that_people_wrote_is_html(short):
    manifest = generate("a", seed=1, preset=short, progress=False, num_frames=1).manifest | {"prompt": EVIL}
    name = "a'\"<b>.mp4"
    page = facts(name, manifest, Outcome(name, EVIL, details=((EVIL, EVIL),)))
    page += cards([entry_of(name, manifest)], "") + clip_stage(name, 1)
    page += manifest_text(manifest) + problem(EVIL) + doubt([name]) + gallery_title(EVIL)
    assert "<img" not in page
    assert "<b>.mp4" not in page
    assert "\x1b" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page


def test_seed_and_digest_can_be_copied(short):
    clip = generate("a red circle", seed=2**64 - 1, preset=short, progress=False, num_frames=1)
    page = facts("clip.mp4", clip.manifest)
    for value in (str(2**64 - 1), clip.digest):
        assert f'data-copy="{value}"' in page
        assert f">{value}</code>" in page


def test_a_manifest_is_shown_as_json_that_can_be_read(short):
    manifest = generate("a", seed=1, preset=short, progress=False, num_frames=1).manifest | {"prompt": EVIL}
    text = re.fullmatch(r"<pre [^>]*>(.*)</pre>", manifest_text(manifest), re.DOTALL)[1]
    assert json.loads(unescape(text))["prompt"] == EVIL
    assert "\n  &#34;seed&#34;: &#34;1&#34;" in text


def test_what_people_should_know_of_a_clip_is_shown(short):
    clip = generate("a red circle", seed=1, preset=short, progress=False, num_frames=1, height=32, width=32)
    (note,) = clip.notes
    assert note in facts("clip.mp4", clip.manifest)


def test_progress():
    views = {
        "Waiting, 2 ahead": View(ahead=2),
        "Loading the model": View(State.RUNNING),
        "Step 3 of 12": View(State.RUNNING, step=3, num_steps=12),
        "Step 4 of 12, about 9 s left": View(State.RUNNING, step=4, num_steps=12, seconds_left=8.1),
        "Step 5 of 12, about 2 min 1 s left": View(State.RUNNING, step=5, num_steps=12, seconds_left=120.5),
        "Finishing": View(State.RUNNING, step=12, num_steps=12),
    }
    assert [text for text, view in views.items() if f"<p>{text}</p>" not in progress(view)] == []
    assert 'style="width:25.0%"' in progress(views["Step 3 of 12"])


def test_the_preview_has_a_place_for_every_unit():
    page = live_stage(View(images=("data:a", "", "")))
    assert page.count("<img") == 1
    assert page.count('class="todo"') == 2


def test_all_units_fit_on_the_stage():
    offenders = []
    for num_units in range(201):
        side = unit_side(num_units)
        columns = (620 + 6) // (side + 6)
        rows = -(-num_units // columns)
        if rows * (side + 6) - 6 > 252 or not 8 <= side <= 150:
            offenders.append(num_units)
    assert offenders == []


def test_a_card_names_its_file_exactly_and_the_chosen_one_is_marked():
    """The page sends `data-clip` back, so no character of it may be written as an escape."""
    entries = [Entry("a\x01'.mp4", "a\nb", "1", 5, 0), Entry("b.mp4", "c", "2", 9, 1)]
    page = cards(entries, "b.mp4")
    assert 'data-clip="a\x01&#39;.mp4"' in page
    assert 'title="a\\nb"' in page
    assert 'data-clip="b.mp4" title="c" class="chosen" aria-current="true">' in page
    assert "9 frames, 1 branched" in page
    assert "No clips yet" in cards([], "")


def test_one_frame_does_not_loop():
    """A browser seeks back to its beginning without end; on a busy machine it is never shown as loaded."""
    assert " loop" in clip_stage("a.mp4", 5)
    assert " loop" not in clip_stage("a.mp4", 1)
    assert " loop" not in cards([Entry("a.mp4", "a", "1", 1, 0)], "")


def test_the_queue_line_says_what_runs():
    queue = JobQueue(max_waiting=1)
    assert "Ready" in queue_line(queue)
    seen: list[str] = []

    def work(job):
        seen.append(queue_line(queue))
        return Outcome("a.mp4", "done")

    list(queue.submit("“<b>”, seed 1", work).views())
    assert "Working: “&lt;b&gt;”, seed 1" in seen[0]
    assert "Ready" in queue_line(queue)
    queue.close()


def test_no_outcome_is_nothing():
    assert outcome(None) == ""

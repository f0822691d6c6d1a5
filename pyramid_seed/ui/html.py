"""The page's plain HTML pieces: `pieces.html.jinja`, with everything inserted escaped."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..pages import page_template
from ..provenance.show import describe
from ..texts import printable
from .gallery import GALLERY_SIZE, Entry
from .jobs import JobQueue, Outcome, State, View

MAX_UNIT_SIDE = 150
"""In pixels: the side of a unit's image in the preview."""

CLIPS = "/clips"
"""Where the server offers the files of the output folder."""


def _printable(value: object) -> object:
    """Text with its control characters escaped; HTML is left as it is."""
    return value if hasattr(value, "__html__") else printable(str(value))


_PIECES = page_template(Path(__file__).parent / "pieces.html.jinja", finalize=_printable).module


def _piece(name: str, *values: object) -> str:
    return str(getattr(_PIECES, name)(*values)).strip()


def clip_url(name: str) -> str:
    """The address of a clip in the output folder."""
    return f"{CLIPS}/{quote(name)}"


def queue_line(queue: JobQueue) -> str:
    """The state of the queue, for everyone who has the page open."""
    running = queue.running
    return _piece("queue_line", None if running is None else running.title, queue.num_waiting)


def problem(error: BaseException | str) -> str:
    """What did not work, in the words of the library."""
    return _piece("problem", str(error) or type(error).__name__)


def doubt(files: Sequence[str]) -> str:
    """The question whether to delete these files."""
    return _piece("doubt", files)


def gallery_title(folder: str) -> str:
    """The heading of the gallery, with what is in it."""
    return _piece("gallery_title", folder, GALLERY_SIZE)


def empty_stage() -> str:
    """The stage before there is a clip."""
    return _piece("empty_stage")


def live_stage(view: View) -> str:
    """The stage while a clip is made: an image of each finished unit."""
    return _piece("live_stage", view.images, unit_side(len(view.images)))


def unit_side(num_units: int) -> int:
    """Pixels of the largest squares of which this many fit on the stage, with 6 pixels between them."""
    width, height, gap = 620, 252, 6
    fitting = [
        min((width + gap) // columns, (height + gap) // -(-num_units // columns)) - gap
        for columns in range(1, num_units + 1)
    ]
    return min(max(fitting, default=MAX_UNIT_SIDE), MAX_UNIT_SIDE)


def progress(view: View) -> str:
    """The progress of a job."""
    share = view.step / view.num_steps if view.num_steps else 0
    if view.state is State.WAITING:
        text = f"Waiting, {view.ahead} ahead"
    elif not view.num_steps:
        text = "Loading the model"
    elif view.step < view.num_steps:
        text = f"Step {view.step} of {view.num_steps}{_left(view.seconds_left)}"
    else:
        text = "Finishing"
    return _piece("progress", share, text)


def _left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, seconds = divmod(math.ceil(seconds), 60)
    return f", about {minutes} min {seconds} s left" if minutes else f", about {seconds} s left"


def clip_stage(name: str, num_frames: int) -> str:
    """The stage with a finished clip."""
    return _piece("clip_stage", clip_url(name), num_frames)


def facts(name: str, manifest: Mapping[str, Any], job_outcome: Outcome | None = None) -> str:
    """Seed and digest for copying, how the last job on the clip ended, and how the clip was made."""
    keys = {"seed": manifest["seed"], "digest": manifest["digests"]["frames"]}
    fields = {"prompt", "negative", "branch", "clip", "model", "note"}
    rows = [(field, text) for field, text in describe(manifest) if field in fields]
    return _piece("facts", name, clip_url(name), keys, rows, job_outcome)


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """A manifest as indented JSON, in ASCII: no character of it can steer the page's text."""
    return _piece("manifest_text", json.dumps(manifest, indent=2))


def outcome(job_outcome: Outcome | None) -> str:
    """How a job ended."""
    return _piece("outcome", job_outcome)


def cards(entries: Iterable[Entry], chosen: str) -> str:
    """The gallery: small players, each with its prompt and seed."""
    return _piece("cards", [(entry, clip_url(entry.name)) for entry in entries], chosen)

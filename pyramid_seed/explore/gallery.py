"""`run_demo`: a small gallery of the embedded model, one page to look at and to send."""

from __future__ import annotations

import json
import shlex
from contextlib import closing
from pathlib import Path

from ..batch.journal import Journal
from ..batch.run import run_batch
from ..batch.summary import BatchSummary
from ..files import write_file
from ..pages import data_url, page_template
from ..version import __version__

PAGE_NAME, CLIPS, LIST_NAME = "index.html", "clips", "prompts.jsonl"
DEMO = (
    ("a red circle moves to the right on a white background", 19),
    ("a blue triangle moves to the left on a grey background", 3),
    ("an orange star grows on a black background", 7),
    ("a green triangle grows on a white background", 1),
    ("a purple star moves to the left on a white background", 5),
    ("a yellow square moves down on a grey background", 2),
    ("a red star moves up on a white background", 8),
    ("a blue square moves to the right on a black background", 4),
    ("a purple circle shrinks on a grey background", 6),
    ("an orange triangle moves quickly to the right on a black background", 9),
    ("a green square grows on a white background", 2),
    ("a large yellow circle shrinks slowly on a black background", 12),
)
"""Prompts and seeds of the gallery."""


def run_demo(
    folder: Path, *, preset: str = "tiny", device: str | None = None, progress: bool = True
) -> tuple[BatchSummary, Path | None]:
    """Make the clips of `DEMO` that are not in a folder yet, and a page that has them all inside it.

    Args:
        folder: for the clips and `index.html`.
        preset: a preset of the embedded model.
        device, progress: see `run_batch`.

    Returns:
        The outcome for the clips, and the page; None if a clip is missing.

    Raises:
        FileExistsError: the folder holds something else.
    """
    if folder.exists() and any(file.name not in (PAGE_NAME, CLIPS, LIST_NAME) for file in folder.iterdir()):
        raise FileExistsError(f"{folder} holds other things than the demo; name another folder with -o")
    folder.mkdir(parents=True, exist_ok=True)
    rows = (json.dumps({"prompt": prompt, "seed": seed}) + "\n" for prompt, seed in DEMO)
    write_file(folder / LIST_NAME, "".join(rows), overwrite=True)
    summary = run_batch(folder / LIST_NAME, folder / CLIPS, preset=preset, device=device, progress=progress)
    if summary.status:
        return summary, None
    with closing(Journal(folder / CLIPS).entries()) as recorded:
        entries = [entry for entry in recorded.values() if entry["file"] in summary.digests]
    made = {(entry["prompt"], int(entry["seed"])): entry["file"] for entry in entries}
    command = ["pyramid-seed", "generate", *([] if preset == "tiny" else ["--preset", preset])]
    clips = [
        {
            "prompt": prompt,
            "seed": seed,
            "digest": summary.digests[file],
            "source": data_url("video/mp4", (folder / CLIPS / file).read_bytes()),
            "command": shlex.join([*command, prompt, "--seed", str(seed)]),
        }
        for (prompt, seed), file in ((row, made[row]) for row in DEMO)
    ]
    page = page_template(Path(__file__).parent / "gallery.html.jinja")
    write_file(folder / PAGE_NAME, page.render(clips=clips, version=__version__), overwrite=True)
    return summary, folder / PAGE_NAME

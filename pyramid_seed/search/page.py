"""The page of a search: its tree with thumbnails and scores, who was dropped and why, and the winner."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..explore.measured import sample
from ..files import write_file
from ..media.contact_sheet import evenly_spaced
from ..media.frames import Frames
from ..media.video import write_video
from ..pages import data_url, page_template
from ..version import __version__
from .record import SearchRecord
from .rounds import exact_frames
from .tree import Decision, path_text
from .tree import Path as TreePath

_THUMBNAILS = 4
"""Frames that a candidate shows, evenly spaced."""


def write_page(
    path: Path,
    record: SearchRecord,
    rounds: Sequence[Decision],
    files: Mapping[TreePath, Path],
    winner: Path,
) -> None:
    """Write the page, one file that needs no other.

    Args:
        path: the page.
        record, rounds: the search.
        files: every candidate's clip.
        winner: the finished clip.
    """
    rows = {row.path: row for row in record.candidates}
    shown = [
        {
            "number": number,
            "num_units": decision.nodes[0].num_units,
            "margin": decision.margin,
            "candidates": [
                {"row": rows[path_text(node.path)], "picture": _thumbnails(exact_frames(files[node.path]))}
                for node in sorted(decision.nodes, key=lambda node: _place(rows[path_text(node.path)]))
            ],
        }
        for number, decision in enumerate(rounds, start=1)
    ]
    page = page_template(Path(__file__).parent / "page.html.jinja").render(
        record=record, rounds=shown, video=_video(record, winner), version=__version__
    )
    write_file(path, page, overwrite=True)


def _place(row: Any) -> tuple[bool, float]:
    """The best first, those without a score last."""
    return row.score is None, -(row.score or 0.0)


def _thumbnails(frames: Frames) -> str:
    """A few frames side by side, as the source of an image."""
    small = sample(frames)
    chosen = small[evenly_spaced(len(small), min(_THUMBNAILS, len(small)))]
    data = io.BytesIO()
    Image.fromarray(chosen.swapaxes(0, 1).reshape(chosen.shape[1], -1, 3)).save(data, "png")
    return data_url("image/png", data.getvalue())


def _video(record: SearchRecord, winner: Path) -> str:
    """The winner as browsers can play it, as the source of a video."""
    settings = record.settings.clip["settings"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "winner.mp4"
        write_video(file, exact_frames(winner), settings["fps"], scale=settings["scale"])
        return data_url("video/mp4", file.read_bytes())

"""The pieces of the page that are plain HTML. Everything that people wrote is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any
from urllib.parse import quote

from ..provenance.show import describe, printable
from .gallery import Entry
from .jobs import JobQueue, Outcome, State, View

MAX_UNIT_SIDE = 150
"""Pixels of a unit's picture in the preview."""

CLIPS = "/clips"
"""Where the server has the files of the output folder."""


def clip_url(name: str) -> str:
    """Address of a clip in the output folder."""
    return f"{CLIPS}/{quote(name)}"


def queue_line(queue: JobQueue) -> str:
    """What the queue does, for everybody who has the page open."""
    running = queue.running
    if running is None:
        return '<p id="queue" class="idle">Ready</p>'
    waiting = f", {queue.num_waiting} waiting" if queue.num_waiting else ""
    return f'<p id="queue" class="busy">Working: {_text(running.title)}{waiting}</p>'


def empty_stage() -> str:
    """Before there is a clip."""
    return '<div class="stage empty"><p>Say what to show, choose a seed, press Run.</p></div>'


def live_stage(view: View) -> str:
    """A clip in the making: a picture of each unit that is finished."""
    cells = "".join(
        f'<img alt="unit {unit}" src="{picture}">' if picture else '<span class="todo"></span>'
        for unit, picture in enumerate(view.pictures)
    )
    side = unit_side(len(view.pictures))
    return f'<div class="stage live"><div class="units" style="--side:{side}px">{cells}</div></div>'


def unit_side(num_units: int) -> int:
    """Pixels of the largest squares of which so many fit on the stage, with 6 pixels between them."""
    width, height, gap = 620, 252, 6
    fitting = [
        min((width + gap) // columns, (height + gap) // -(-num_units // columns)) - gap
        for columns in range(1, num_units + 1)
    ]
    return min(max(fitting, default=MAX_UNIT_SIDE), MAX_UNIT_SIDE)


def progress(view: View) -> str:
    """How far a job is."""
    share = view.step / view.num_steps if view.num_steps else 0
    if view.state is State.WAITING:
        text = f"Waiting, {view.ahead} ahead"
    elif not view.num_steps:
        text = "Loading the model"
    elif view.step < view.num_steps:
        text = f"Step {view.step} of {view.num_steps}"
    else:
        text = "Finishing"
    return f'<div class="bar"><i style="width:{100 * share:.1f}%"></i></div><p>{text}</p>'


def clip_stage(name: str) -> str:
    """A finished clip."""
    return (
        f'<div class="stage"><video id="clip" src="{clip_url(name)}" '
        "controls loop autoplay muted playsinline></video></div>"
    )


def facts(name: str, manifest: Mapping[str, Any], ended: Outcome | None = None) -> str:
    """Seed and digest to be copied, how the last job on the clip ended, and how the clip was made."""
    shown = {"prompt", "negative", "branch", "clip", "model"}
    lines = [(what, text) for what, text in describe(manifest) if what in shown]
    return (
        f"{outcome(ended)}<dl class='keys'>{_key('seed', manifest['seed'])}"
        f"{_key('digest', manifest['digests']['frames'])}</dl>"
        f"{_table(lines, file=_link(name))}"
    )


def outcome(ended: Outcome | None) -> str:
    """How a job ended."""
    if ended is None:
        return ""
    details = _table(ended.details) if ended.details else ""
    tone = "good" if ended.is_good else "bad"
    return f'<div id="outcome" class="{tone}"><b>{_text(ended.headline)}</b>{details}</div>'


def cards(entries: Iterable[Entry], chosen: str) -> str:
    """The gallery: small players, each with its prompt and seed."""
    found = "".join(_card(entry, entry.name == chosen) for entry in entries)
    return f'<div class="cards">{found}</div>' if found else '<p class="idle">No clips yet</p>'


def _card(entry: Entry, is_chosen: bool) -> str:
    branches = f", {entry.num_branches} branched" if entry.num_branches else ""
    return (
        f'<button type="button" data-clip="{escape(entry.name)}" class="{"chosen" if is_chosen else ""}" '
        f'title="{_text(entry.prompt)}"><video src="{clip_url(entry.name)}#t=0.001" preload="metadata" '
        f"muted loop playsinline></video><b>{_text(entry.prompt)}</b>"
        f"<small>seed {escape(entry.seed)}</small><small>{entry.num_frames} frames{branches}</small></button>"
    )


def _key(name: str, value: str) -> str:
    text = escape(value)
    return (
        f'<dt>{name}</dt><dd><code id="{name}">{text}</code>'
        f'<button type="button" data-copy="{text}" title="Copy the {name}">copy</button></dd>'
    )


def _link(name: str) -> str:
    return f'<a href="{clip_url(name)}" download>{escape(name)}</a>'


def _table(rows: Iterable[tuple[str, str]], file: str = "") -> str:
    """Rows of text; `file` is HTML."""
    cells = "".join(f"<tr><th>{_text(what)}</th><td>{_text(text)}</td></tr>" for what, text in rows)
    return f"<table>{cells}{f'<tr><th>file</th><td>{file}</td></tr>' if file else ''}</table>"


def _text(text: str) -> str:
    return escape(printable(text))

"""`pyramid-seed demo`."""

from __future__ import annotations

import argparse
import os
import sys

from ..run_options import RUN_OPTIONS
from .options import Commands, add_field, add_folder, add_quiet, say, say_start, tell_clips, tell_how_to_go_on


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "demo",
        help="a gallery of twelve clips, on one page",
        description="Make twelve clips of the embedded model and a page that shows them, and open the page. "
        "Clips that are in FOLDER are not made again.",
        epilog="example: pyramid-seed demo -o demo",
    )
    parser.set_defaults(run=run)
    add_folder(parser, "for index.html and clips/", "demo")
    parser.add_argument("--no-open", action="store_true", help="open no browser")
    parser.add_argument(
        "--preset", choices=("tiny", "tiny-fast"), default="tiny", help="tiny-fast takes half the time"
    )
    add_field(parser, RUN_OPTIONS["device"])
    add_quiet(parser)


def run(options: argparse.Namespace) -> int:
    """`pyramid-seed demo`."""
    say_start(options)

    import webbrowser

    from ..explore.gallery import run_demo

    summary, page = run_demo(
        options.output, preset=options.preset, device=options.device, progress=not options.quiet
    )
    if not summary.is_main:
        return summary.status
    tell_clips(summary, options)
    tell_how_to_go_on(summary)
    if page is not None:
        say("page", page)
        if not options.no_open and _has_screen():
            webbrowser.open(page.resolve().as_uri())
    return summary.status


def _has_screen() -> bool:
    """Whether a browser can show a page; without one, Linux would open a browser for text in the terminal."""
    names = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")
    return sys.platform != "linux" or any(os.environ.get(name) for name in names)

"""`pyramid-seed ui`."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress

from ..run_options import RUN_OPTIONS, RunOptions
from ..ui.limits import Limits
from .options import Commands, add_field, add_folder, add_lora_option, loras_from


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "ui",
        help="a local web page to make, look at, verify, extend and branch clips",
        description="Serve a web page on this machine: prompt, seed, live preview, and the clips in FOLDER. "
        "Needs the extra ui: pip install 'pyramid-seed[ui]'.",
        epilog="example: pyramid-seed ui -o clips",
    )
    parser.set_defaults(run=run)
    add_folder(parser, "where the clips are", "clips")
    parser.add_argument(
        "--preset",
        nargs="+",
        default=[],
        metavar="NAME",
        help="presets or .yaml files that the page offers; the first is selected "
        "(default: tiny, and all others)",
    )
    add_lora_option(parser, "LoRAs that the page offers for new clips")
    add_field(parser, RUN_OPTIONS["device"])
    serving = parser.add_argument_group("serving")
    serving.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="where to listen (default: 127.0.0.1, this machine only). WARNING: with any other address "
        "everybody who can reach this machine can use its page, and see and delete all clips in FOLDER; "
        "there is no password and no encryption",
    )
    serving.add_argument(
        "--port", type=int, default=7860, metavar="N", help="0 takes a free one (default: 7860)"
    )
    limits = parser.add_argument_group(
        "limits", "the largest clips and the longest queue that the page takes"
    )
    for limit, unit in {"frames": "N", "height": "PIXELS", "width": "PIXELS", "waiting": "N"}.items():
        what = "jobs behind the running one " if limit == "waiting" else ""
        limits.add_argument(
            f"--max-{limit}",
            type=int,
            default=getattr(Limits, f"max_{limit}"),
            metavar=unit,
            help=f"{what}(default: %(default)s)",
        )


def run(options: argparse.Namespace) -> int:
    """`pyramid-seed ui`."""
    from ..extras import check_extra
    from ..presets import list_presets, load_preset
    from ..ui.address import listen, loopback_names, url

    check_extra("ui", "gradio")
    names = options.preset or sorted(list_presets(), key=lambda name: (not name.startswith("tiny"), name))
    presets = [load_preset(name) for name in names]
    loras = loras_from(options)
    limits = Limits(options.max_frames, options.max_height, options.max_width, options.max_waiting)
    is_open = not loopback_names(options.host)
    with suppress(KeyboardInterrupt), listen(options.host, options.port) as listener:  # the way to end it
        if is_open:
            print(
                f"WARNING: listening on {options.host}: everybody who can reach this machine can use the "
                f"page, and see and delete all clips in {options.output}",
                file=sys.stderr,
            )
        folder = options.output.resolve()
        print(f"{url(options.host, listener)}  (clips in {folder}; Ctrl+C ends it)", flush=True)
        print("the page opens once its libraries are loaded, in some 10 to 30 seconds", file=sys.stderr)
        from ..ui.server import serve
        from ..ui.studio import Studio

        studio = Studio(options.output, presets, limits, RunOptions(device=options.device), loras)
        serve(studio, options.host, listener)
    return 0

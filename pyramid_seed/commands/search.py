"""`pyramid-seed search`."""

from __future__ import annotations

import argparse
from pathlib import Path

from .options import (
    Commands,
    add_folder,
    add_many_options,
    many_arguments,
    root_seed,
    say,
    say_start,
    tell_clips,
    tell_how_to_go_on,
)


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "search",
        usage="%(prog)s PROMPT --scorer S -o FOLDER [options]\n"
        "       %(prog)s --extend CLIP --num-frames N --scorer S -o FOLDER [options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="find the best seed, unit by unit, with a record that proves the choice",
        description="Try seeds, score the clips once they have as many units as --at says, drop all but the\n"
        "best, go on from those, and finish the winner. Run it again to continue. Needs the extra `report`.",
        epilog="examples:\n"
        '  pyramid-seed search "a red circle grows" --scorer=-flicker+0.5*motion --at 3 5 -o best\n'
        '  pyramid-seed search "a red circle grows" --scorer clip:openai/clip-vit-base-patch32 -o best\n'
        "  torchrun --nproc_per_node 2 -m pyramid_seed search prompts.txt --scorer sharpness -o best\n"
        "  pyramid-seed verify best/winner.mp4 --search best/search.json",
    )
    parser.set_defaults(run=run, height=None, width=None)
    parser.add_argument(
        "prompt",
        nargs="?",
        metavar="PROMPT",
        help="a prompt, or a list of prompts (.txt, .jsonl, .csv or .yaml), each searched in its own folder",
    )
    add_folder(parser, "the folder for winner.mp4, search.json, search.html and candidates/")
    parser.add_argument(
        "--scorer",
        required=True,
        metavar="S",
        help="a sum of measures such as sharpness or -flicker+0.5*motion (write --scorer=-flicker), "
        "clip:FOLDER_OR_HUB_ID, or module:function, called with frames and prompt; the highest score wins",
    )
    tree = parser.add_argument_group("the tree")
    tree.add_argument(
        "--width",
        dest="num_candidates",
        type=int,
        default=8,
        metavar="N",
        help="candidates of the first round (default: 8); the size of the clip is the preset's",
    )
    tree.add_argument(
        "--keep", type=int, metavar="N", help="survivors of a round, except the last (default: 2)"
    )
    tree.add_argument(
        "--branching", type=int, default=4, metavar="N", help="children of each survivor (default: 4)"
    )
    tree.add_argument(
        "--at",
        type=int,
        nargs="+",
        default=[],
        metavar="UNITS",
        help="numbers of units at which candidates are compared (default: half of the clip, once: best of N)",
    )
    tree.add_argument(
        "--seed", type=root_seed, metavar="N", help="root seed of the search (default: 0, or that of CLIP)"
    )
    start = parser.add_argument_group("the beginning")
    start.add_argument("--image", type=Path, metavar="FILE", help="an image to begin with, as in `generate`")
    start.add_argument(
        "--extend", type=Path, metavar="CLIP", help="a saved clip, which every candidate goes on from"
    )
    parser.add_argument("--lossless", action="store_true", help="a lossless winner.mp4")
    add_many_options(parser, without=("height", "width"))


def run(options: argparse.Namespace) -> int:
    """`pyramid-seed search`, on each process of a launch."""
    from ..explore.prompts import is_list, read_prompts

    arguments = many_arguments(options)
    if options.prompt is None and options.extend is None:
        raise ValueError("PROMPT is missing; give one, or a clip to go on from with --extend")
    say_start(options)

    from ..files import slug
    from ..search.run import run_search
    from ..texts import printable

    searches = [(options.prompt, options.image, options.output)]
    if options.prompt is not None and is_list(options.prompt):
        if options.image is not None or options.extend is not None:
            raise ValueError("a list names the images of its prompts, and takes no --image and no --extend")
        searches = [
            (prompt.text, prompt.image, options.output / f"{slug(prompt.text, 48)}_{prompt.key}")
            for prompt in read_prompts([Path(options.prompt)])
        ]
    for prompt, image, output in searches:
        summary = run_search(
            prompt,
            output,
            scorer=options.scorer,
            num_candidates=options.num_candidates,
            keep=options.keep,
            branching=options.branching,
            at=options.at,
            seed=options.seed,
            extend=options.extend,
            image=image,
            **arguments,
        )
        if not summary.batch.is_main:
            if summary.batch.status:
                return summary.batch.status
            continue
        if summary.record is None:
            tell_clips(summary.batch, options)
            tell_how_to_go_on(summary.batch)
            return summary.batch.status
        won = summary.record.winner
        say("prompt", printable(summary.record.settings.prompt))
        say("candidates", len(summary.record.candidates))
        say("winner", f"{won.path}, digest {won.frames}")
        say("file", summary.winner)
        say("record", output / "search.json")
        say("report", output / "search.html")
    return 0

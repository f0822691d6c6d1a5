"""`pyramid-seed batch`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from ..choices import ENGINES
from .options import (
    Commands,
    add_folder,
    add_list,
    add_lora_option,
    add_run_options,
    add_setting_options,
    many_arguments,
    root_seed,
    say,
    say_start,
    tell_clips,
    tell_gathered,
    tell_how_to_go_on,
)


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "batch",
        usage="%(prog)s LIST -o FOLDER [options]\n       %(prog)s --gather -o FOLDER [--check-files]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="make the clips of a list, on one process or many",
        description="Make the clips of a list that are not in FOLDER yet. Run it again to continue.",
        epilog="examples:\n  pyramid-seed batch prompts.txt -o clips\n"
        "  torchrun --nproc_per_node 2 scripts/generate_batch.py prompts.csv -o clips\n"
        "  pyramid-seed batch prompts.csv -o clips --part 3/8",
    )
    parser.set_defaults(run=lambda options: run(options, parser.get_default))
    add_list(parser, is_needed=False)
    add_folder(parser, "where clips, index.jsonl and logs go")
    parser.add_argument(
        "--seed",
        type=root_seed,
        nargs="+",
        default=[0],
        metavar="N",
        help="root seeds for rows without one; each gives one clip (default: 0)",
    )
    add_lora_option(parser, "LoRAs for rows that name none")
    parser.add_argument("--lossless", action="store_true", help="lossless files")
    parser.add_argument(
        "--keep-going", action="store_true", help="skip bad rows and make the others (exit status 1)"
    )
    parser.add_argument(
        "--check-files",
        action="store_true",
        help="read every existing clip to the last byte (default: only those whose size or modification time "
        "is not the recorded one)",
    )
    parser.add_argument(
        "--folders",
        action="store_true",
        help="put new clips into sub-folders named by the first two digits of their ids",
    )
    parts = parser.add_argument_group(
        "parts", "split a batch over processes that are not connected to each other"
    )
    parts.add_argument(
        "--part",
        metavar="I/N",
        help="make only the clips of part I (0 to N - 1); auto or auto/N: take I and N from the variables "
        "of a Slurm array job or a Kubernetes Indexed Job",
    )
    parts.add_argument(
        "--gather",
        action="store_true",
        help="sort the index of all parts, and list the parts to run again (exit status 1 if there are any)",
    )
    add_setting_options(parser)
    add_run_options(parser, many=True)
    parser.add_argument(
        "--processes-per-clip",
        type=int,
        default=1,
        metavar="K",
        help="K processes of the launch make each clip together, in the pieces that --shards sets; "
        "the clips are the same for any K (default: 1)",
    )
    group = parser.add_argument_group("Ray", "needs the extra `ray`")
    group.add_argument(
        "--engine",
        choices=ENGINES,
        default="launch",
        help="launch: this process, or those of torchrun or accelerate; ray: actors of a Ray cluster, one "
        "for each GPU, or for each core on CPUs (default: launch)",
    )
    group.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="address of the cluster; auto: the one running on this machine (default: RAY_ADDRESS, or one "
        "for this batch alone)",
    )
    group.add_argument(
        "--num-gpus-per-clip",
        type=float,
        metavar="X",
        help="GPUs of each actor, 1 or a fraction (default: 1)",
    )


def run(options: argparse.Namespace, default_of: Callable[[str], object]) -> int:
    """`pyramid-seed batch`, and `scripts/generate_batch.py` on each process of a launch."""
    if options.gather:
        return _gather(options, default_of)
    if options.prompts is None:
        raise ValueError("LIST is missing; name a list, or use --gather to collect finished parts")
    arguments = many_arguments(options)
    say_start(options)

    from ..batch.run import run_batch

    summary = run_batch(
        options.prompts,
        options.output,
        file_format=options.format,
        seeds=options.seed,
        keep_going=options.keep_going,
        check_files=options.check_files,
        folders=options.folders,
        processes_per_clip=options.processes_per_clip,
        part=options.part,
        engine=options.engine,
        address=options.address,
        num_gpus_per_clip=options.num_gpus_per_clip,
        **arguments,
    )
    if not summary.is_main:
        return summary.status
    tell_clips(summary, options)
    if options.part is None:
        say("index", options.output / "index.jsonl")
    tell_how_to_go_on(summary)
    return summary.status


def _gather(options: argparse.Namespace, default_of: Callable[[str], object]) -> int:
    """`pyramid-seed batch --gather`."""
    wanted = {"command", "run", "gather", "output", "check_files", "quiet", "given", "started"}
    given = [
        name for name, value in vars(options).items() if name not in wanted and value != default_of(name)
    ]
    if given:
        names = ", ".join("LIST" if name == "prompts" else f"--{name.replace('_', '-')}" for name in given)
        raise ValueError(
            f"--gather takes only -o and --check-files, since the parts know their list; leave out {names}"
        )

    from ..batch.gather import gather_parts

    summary = gather_parts(options.output, check_files=options.check_files)
    tell_gathered(summary)
    say("index", options.output / "index.jsonl")
    return summary.status

"""The command line: `pyramid-seed COMMAND`. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence

from .commands import (
    audit,
    batch,
    check,
    compare,
    demo,
    diff,
    encode,
    extend,
    fetch,
    generate,
    models,
    monitor,
    presets,
    record,
    regenerate,
    search,
    show,
    sign,
    sweep,
    ui,
    verify,
)
from .commands.process import reader_has_gone, standard_output, stop_signals
from .texts import printable_lines
from .version import __version__

_TOLD_ONLY = ("diff", "models", "presets", "show")
"""Commands that only print."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 1 the check failed, 2 an error."""
    # cuBLAS reads it when it starts; strict determinism needs it, and torch is not imported yet.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    parser = build_parser()
    options, unknown = parser.parse_known_args(arguments)
    options.given = list(sys.argv[1:] if arguments is None else arguments)
    # The system knows when this process began, but that may be the shell which it was. Python's own start is
    # hardly more than the processor time so far.
    options.started = time.monotonic() - (time.process_time() if arguments is None else 0)
    if unknown:
        is_prompt = options.command == "generate" and not unknown[0].startswith("-")
        advice = "; put the prompt into quotes" if is_prompt else ""
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{advice}")
    with standard_output() as output, stop_signals() as signals:
        status = _run(options, signals)
    if arguments is None:  # the process ends: looking for garbage among all that was imported takes a second
        gc.freeze()
    if output.error is not None:
        what = f"the output could not be written: {output.error}"
        print(f"pyramid-seed {options.command}: {what}", file=sys.stderr)
        return 2 if options.command in _TOLD_ONLY else status
    return status


def _run(options: argparse.Namespace, signals: Sequence[int]) -> int:
    """Run a command and print its errors; returns the exit status."""
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        if options.command not in _TOLD_ONLY:
            from .files import check_temporary_folder  # slow to import

            check_temporary_folder()
        status = run(options)
        sys.stdout.flush()
        return status
    except BrokenPipeError as error:
        if reader_has_gone():
            return 128 + signal.SIGPIPE
        print(f"pyramid-seed {options.command}: {error}", file=sys.stderr)
        return 2
    except (ValueError, TypeError, OSError, FloatingPointError, MemoryError) as error:
        print(printable_lines(f"pyramid-seed {options.command}: {error}"), file=sys.stderr)
        return 2
    except Exception:  # unforeseen; Python itself would exit with 1, a failed check
        traceback.print_exc()
        return 2
    except KeyboardInterrupt:
        print(f"pyramid-seed {options.command}: stopped; no file was left half-written", file=sys.stderr)
        return 128 + (signals[0] if signals else signal.SIGINT)


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="pyramid-seed",
        description="Text-to-video with Pyramid Flow and Helios: the same prompt and seed, the same clip.",
        epilog="`pyramid-seed COMMAND --help` describes one. Exit status: 0 done, 1 the check failed, "
        "2 an error.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    makers = generate, demo, batch, encode, sweep, monitor, search, extend, regenerate
    checkers = show, verify, sign, diff, compare, record, check
    for command in (*makers, *checkers, presets, fetch, models, audit, ui):
        command.add(commands)
    return parser

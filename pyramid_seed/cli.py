"""The command line: `pyramid-seed COMMAND`. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import argparse
import os
import select
import sys
import traceback
from collections.abc import Callable, Sequence

from .commands import batch, compare, diff, extend, generate, presets, show, sweep, ui, verify
from .version import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 1 the check failed, 2 an error."""
    # Read by cuBLAS when it starts; strict determinism needs it, and torch is not imported yet.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    parser = build_parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        is_prompt = options.command == "generate" and not unknown[0].startswith("-")
        advice = "; put the prompt into quotes" if is_prompt else ""
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{advice}")
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        status = run(options)
        sys.stdout.flush()
        return status
    except BrokenPipeError as error:
        if output_is_closed():
            return 141  # what a shell says of a program that SIGPIPE ended
        print(f"pyramid-seed {options.command}: {error}", file=sys.stderr)
        return 2
    except (ValueError, TypeError, OSError, FloatingPointError, MemoryError) as error:
        print(f"pyramid-seed {options.command}: {error}", file=sys.stderr)
        return 2
    except Exception:  # not foreseen; a traceback of Python's own would end with 1, a failed check
        traceback.print_exc()
        return 2
    except KeyboardInterrupt:
        print(f"pyramid-seed {options.command}: stopped; no file was left half-written", file=sys.stderr)
        return 130


def output_is_closed() -> bool:
    """Whether whoever read the standard output has gone (`| head`); nothing is written to it from then on."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    closed = any(event & select.POLLERR for _, event in poll.poll(0))
    if closed:  # Python flushes once more when it ends, and would complain of the same pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return closed


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="pyramid-seed",
        description="Text-to-video for Pyramid-Flow models: the same prompt and seed, the same clip.",
        epilog="`pyramid-seed COMMAND --help` says more about one. Exit status: 0 done, 1 the check failed, "
        "2 an error.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in (generate, batch, sweep, extend, show, verify, diff, compare, presets, ui):
        command.add(commands)
    return parser

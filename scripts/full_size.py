"""Units at the published sizes on a CPU: a checkpoint with random weights, loaded, run, decoded and saved.

    python scripts/full_size.py --family both --folder checkpoints

Both families at 384p with one step per stage, in bfloat16, from given embeddings: no weights are downloaded,
as what is shown is that the real sizes fit and what they take. The checkpoint has the original's layout; one
that was made before is used again. Each family runs in a fresh process. docs/performance.md has figures.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FAMILIES = ("miniflux", "sd3")


def build_parser() -> argparse.ArgumentParser:
    """All options."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--family", choices=(*FAMILIES, "both"), default="both", help="(default: both)")
    parser.add_argument("--folder", type=Path, help="of the checkpoints, kept (default: a temporary one)")
    parser.add_argument(
        "--size", choices=("tiny", "mid", "full"), default="full", help="of the models (default: full)"
    )
    parser.add_argument("--units", type=int, default=1, help="latent frames (default: 1)")
    parser.add_argument("--height", type=int, default=384, help="in pixels (default: 384)")
    parser.add_argument("--width", type=int, default=640, help="in pixels (default: 640)")
    parser.add_argument(
        "--stored",
        choices=("float32", "bfloat16"),
        default="float32",
        help="dtype of the files (default: float32, of which a tensor is read at twice its size)",
    )
    parser.add_argument(
        "--text-encoders", action="store_true", help="at their published sizes, too, T5-XXL in two shards"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the weights (default: 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--bars", action="store_true", help="PASS or FAIL; exit status 1 if one fails")
    return parser


def main() -> int:
    """Write, run, show; the exit status: 0 done, 1 a bar was missed, 2 it could not be done."""
    options = build_parser().parse_args()
    sys.path.insert(0, str(ROOT))  # this checkout, whatever is installed

    # Here, so that help and mistakes cost nothing.
    from benchmarks.full import measure
    from benchmarks.report import show, show_bars

    families = FAMILIES if options.family == "both" else (options.family,)
    try:
        with ExitStack() as stack:
            folder = options.folder
            if folder is None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="full-size-")))
            results = measure(options, families, folder)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"full_size.py: {error}", file=sys.stderr)
        return 2
    for result in results:
        show(result)
        print()
    if options.json is not None:
        told = [result.to_json() for result in results]
        options.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    if not options.bars:
        return 0
    for result in results:
        show_bars(result)
    return 0 if all(bar.passed for result in results for bar in result.bars) else 1


if __name__ == "__main__":
    sys.exit(main())

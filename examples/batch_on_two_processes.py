"""Two processes share a batch, and make the same files with the same digests as one process would.

    torchrun --nproc_per_node 2 examples/batch_on_two_processes.py clips

If you kill it and start it again, it continues where it stopped.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from pyramid_seed import run_batch

folder = Path(sys.argv[1])
with TemporaryDirectory() as scratch:
    prompts = Path(scratch) / "prompts.txt"
    prompts.write_text("a red circle moves to the right\na blue square grows\na green star shrinks\n")
    summary = run_batch(prompts, folder, seeds=[0, 1], preset="tiny-fast", num_processes=2)

if summary.is_main:
    print(f"{summary.made} made, {summary.found} there before")
    for name, digest in sorted(summary.digests.items()):
        print(digest[:16], name)
    assert not summary.failed
    assert not summary.missing

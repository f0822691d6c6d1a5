"""`pyramid-seed batch` as a script for launchers: accelerate launch scripts/generate_batch.py LIST -o FOLDER.

Every process of the launch runs this; they share the list. See docs/batch.md.
"""

import sys

from pyramid_seed.cli import main

if __name__ == "__main__":
    sys.exit(main(["batch", *sys.argv[1:]]))

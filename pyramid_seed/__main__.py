"""`python -m pyramid_seed` is `pyramid-seed`."""

from .cli import main

raise SystemExit(main())

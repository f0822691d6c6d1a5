"""pyramid_seed: the same prompt and seed always give the same clip.

The public names are imported when they are first used (they and their homes are in `__init__.pyi`), so that
`import pyramid_seed` and the command line's help cost nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

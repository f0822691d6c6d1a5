"""pyramid_seed: the same prompt and seed always give the same clip.

The public names are imported on first use (`__init__.pyi` lists them and where they come from), so that
`import pyramid_seed` and the command line's help cost nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

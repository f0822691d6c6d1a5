"""The models: transformers of both families, the causal video autoencoder.

The public names are imported when they are first used, so that `import pyramid_seed.models` costs nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""The models: the transformers of both families, and the causal video autoencoder.

The public names are imported on first use, so that `import pyramid_seed.models` costs nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

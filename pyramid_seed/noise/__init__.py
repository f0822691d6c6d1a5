"""The noise of a clip: keyed draws from one root seed (scheme v1), block noise, the ledger of draws."""

from ..seeds import check_root, root_from_entropy
from .block import block_noise
from .keys import SCHEME, NoiseKey, derive_seed
from .ledger import (
    LedgeredNoise,
    LedgerEntry,
    NoiseLedger,
    check_distinct,
    draws_of_clip,
    noise_digest,
)
from .pyramid import initial_pyramid
from .streams import (
    Branch,
    NoiseSource,
    NoiseStreams,
    RecordedNoise,
    root_from_generator,
)

__all__ = [
    "SCHEME",
    "Branch",
    "LedgerEntry",
    "LedgeredNoise",
    "NoiseKey",
    "NoiseLedger",
    "NoiseSource",
    "NoiseStreams",
    "RecordedNoise",
    "block_noise",
    "check_distinct",
    "check_root",
    "derive_seed",
    "draws_of_clip",
    "initial_pyramid",
    "noise_digest",
    "root_from_entropy",
    "root_from_generator",
]

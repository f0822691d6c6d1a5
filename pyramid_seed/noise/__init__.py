"""The noise of a clip: keyed draws from one root seed (schemes v1, v2), block noise, the ledger of draws."""

from ..seeds import check_root as check_root
from ..seeds import root_from_entropy as root_from_entropy
from .block import block_noise as block_noise
from .keys import IMAGE_KEYS as IMAGE_KEYS
from .keys import SCHEME as SCHEME
from .keys import SCHEMES as SCHEMES
from .keys import NoiseKey as NoiseKey
from .keys import derive_seed as derive_seed
from .keys import history_keys as history_keys
from .ledger import LedgeredNoise as LedgeredNoise
from .ledger import LedgerEntry as LedgerEntry
from .ledger import NoiseLedger as NoiseLedger
from .ledger import check_distinct as check_distinct
from .ledger import draws_of_clip as draws_of_clip
from .ledger import noise_digest as noise_digest
from .pyramid import initial_pyramid as initial_pyramid
from .streams import Branch as Branch
from .streams import NoiseSource as NoiseSource
from .streams import NoiseStreams as NoiseStreams
from .streams import RecordedNoise as RecordedNoise
from .streams import root_from_generator as root_from_generator
from .uniform import uniform as uniform

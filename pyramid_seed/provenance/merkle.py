"""One digest for a list, from which any part of it can be checked: the Merkle tree hash of RFC 6962, 2.1."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256


def merkle_root(leaves: Sequence[bytes]) -> str:
    """The root over leaves in their order, 64 hexadecimal digits; of no leaf the SHA-256 of nothing.

    A leaf is hashed after a byte 0, a node (the two hashes below it) after a byte 1, so neither can stand for
    the other. The left subtree has the largest power of two of leaves that leaves some to the right: none is
    repeated to fill the tree, so lists of different lengths have different roots.

    Args:
        leaves: such as digests, as bytes and not as their hexadecimal digits.
    """
    return (_tree_hash(leaves) if leaves else sha256().digest()).hex()


def _tree_hash(leaves: Sequence[bytes]) -> bytes:
    if len(leaves) == 1:
        return sha256(b"\0" + leaves[0]).digest()
    middle = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\1" + _tree_hash(leaves[:middle]) + _tree_hash(leaves[middle:])).digest()

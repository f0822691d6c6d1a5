"""The Merkle tree hash against RFC 6962's published vectors and its equations."""

from __future__ import annotations

from hashlib import sha256

import pytest

from pyramid_seed.provenance.merkle import merkle_root

# The eight entries, and the root over the first n of them, that implementations of RFC 6962 test with.
ENTRIES = [
    b"",
    bytes.fromhex("00"),
    bytes.fromhex("10"),
    bytes.fromhex("2021"),
    bytes.fromhex("3031"),
    bytes.fromhex("40414243"),
    bytes.fromhex("5051525354555657"),
    bytes.fromhex("606162636465666768696a6b6c6d6e6f"),
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


@pytest.mark.parametrize("count", range(9))
def test_published_roots(count):
    assert merkle_root(ENTRIES[:count]) == ROOTS[count]


def test_five_leaves_by_hand():
    """Unbalanced: four leaves to the left, one to the right."""

    def leaf(data: bytes) -> bytes:
        return sha256(b"\0" + data).digest()

    def node(left: bytes, right: bytes) -> bytes:
        return sha256(b"\1" + left + right).digest()

    a, b, c, d, e = (leaf(name) for name in (b"a", b"b", b"c", b"d", b"e"))
    expected = node(node(node(a, b), node(c, d)), e).hex()
    assert merkle_root([b"a", b"b", b"c", b"d", b"e"]) == expected


def test_a_repeated_last_leaf_is_another_list():
    """Trees that fill up with copies of the last leaf cannot tell these apart."""
    assert merkle_root(ENTRIES[:3]) != merkle_root([*ENTRIES[:3], ENTRIES[2]])


def test_a_leaf_cannot_stand_for_a_node():
    """The two hashes of a node, given as one leaf, are another tree."""
    left, right = (sha256(b"\0" + data).digest() for data in (b"a", b"b"))
    assert merkle_root([left + right]) != merkle_root([b"a", b"b"])


def test_order_counts():
    assert merkle_root(ENTRIES[:2]) != merkle_root(ENTRIES[1::-1])

"""Tiles and chunks: where they lie, how they are blended, what is remembered."""

from __future__ import annotations

import weakref
from contextvars import ContextVar
from functools import partial
from itertools import product

import pytest
import torch

from pyramid_seed.models.autoencoder_kl_causal_video import AutoencoderKLCausalVideo
from pyramid_seed.models.causal_video_blocks import CausalConv3d
from pyramid_seed.models.chunked import ChunkedRunner, TileGrid, Tiling, run_chunked, stitch
from pyramid_seed.pieces.workers import Workers
from tests.cases import check_cases


def spans(slices, total):
    return [(extent.start, min(extent.stop, total)) for extent in slices]


def test_no_tile_lies_inside_its_neighbour():
    cases = [
        (256, [(0, 256)]),
        (384, [(0, 256), (192, 384)]),
        (448, [(0, 256), (192, 448)]),
        (456, [(0, 256), (192, 448), (384, 456)]),
        # The tile from 576 on would lie wholly inside the one from 384 to 640.
        (640, [(0, 256), (192, 448), (384, 640)]),
        (8, [(0, 8)]),
    ]

    def rule(total, expected):
        rows = TileGrid((256, 256), (192, 192)).windows(8, total)
        assert len(rows) == 1
        assert spans((horizontal for _, horizontal in rows[0]), total) == expected

    check_cases(cases, rule)


def fade(before, after, extent, dim):
    """`after`, its first entries faded in from the last ones of `before`: entry by entry."""
    result = after.clone()
    for index in range(min(before.shape[dim], after.shape[dim], extent)):
        last = before.select(dim, before.shape[dim] - extent + index)
        mixed = last * (1 - index / extent) + after.select(dim, index) * (index / extent)
        result.select(dim, index).copy_(mixed)
    return result


def stitched_by_definition(rows, size, stride, height, width):
    """Down, then to the right; of each tile its first `stride` entries stay, of the last ones all."""
    overlap, blended = size - stride, []
    for row, tiles in enumerate(rows):
        blended.append([])
        for column, tile in enumerate(tiles):
            mixed = fade(blended[row - 1][column], tile, overlap, -2) if row else tile
            mixed = fade(blended[row][column - 1], mixed, overlap, -1) if column else mixed
            blended[row].append(mixed)
    bands = []
    for row, tiles in enumerate(blended):
        down = slice(None, None if row == len(blended) - 1 else stride)
        cut = [tile[..., down, :stride] for tile in tiles[:-1]]
        bands.append(torch.cat([*cut, tiles[-1][..., down, :]], dim=-1))
    image = torch.cat(bands, dim=-2)
    assert image.shape[-2:] == (height, width)
    return image


def test_tiles_are_blended_as_defined():
    def rule(stride, extent, size=8):
        height, width = extent
        grid = TileGrid((size, size), (stride, stride))
        generator = torch.Generator().manual_seed(0)
        rows = [
            [torch.randn(1, 2, 3, *extent, generator=generator)[..., down, right] for down, right in row]
            for row in grid.windows(height, width)
        ]
        expected = stitched_by_definition(rows, size, stride, height, width)
        stitched = stitch([[tile.clone() for tile in row] for row in rows], grid, height, width)
        torch.testing.assert_close(stitched, expected, rtol=0, atol=1e-6)

    check_cases(product([6, 4, 3, 8], [(8, 8), (13, 8), (17, 22), (20, 31)]), rule)


def test_equal_tiles_make_the_image():
    grid = TileGrid((8, 8), (6, 6))
    image = torch.randn(1, 1, 1, 20, 27)
    rows = [[image[..., down, right].clone() for down, right in row] for row in grid.windows(20, 27)]
    torch.testing.assert_close(stitch(rows, grid, 20, 27), image)


def test_sizes_of_the_output():
    assert Tiling(TileGrid((32, 32), (24, 24)), TileGrid((256, 256), (192, 192))).out_size(48, 80) == (
        384,
        640,
    )
    assert Tiling(TileGrid((256, 256), (192, 192)), TileGrid((32, 32), (24, 24))).out_size(384, 640) == (
        48,
        80,
    )


@pytest.fixture(scope="module")
def small() -> AutoencoderKLCausalVideo:
    torch.manual_seed(0)
    widths = dict.fromkeys(("encoder_block_out_channels", "decoder_block_out_channels"), (8, 16))
    layers = dict.fromkeys(("encoder_layers_per_block", "decoder_layers_per_block"), (1, 1))
    flags = ("spatial_down_sample", "temporal_down_sample", "spatial_up_sample", "temporal_up_sample")
    rates = dict.fromkeys(flags, (True, False))
    return AutoencoderKLCausalVideo(latent_channels=4, norm_num_groups=4, **widths, **layers, **rates).eval()


def chunks_and_decoder(small, z, tiled, slicing):
    """What `decode_chunks` gives, and a decoder made under the same switches, which are off again then."""
    small.disable_tiling()
    if tiled:
        small.enable_tiling(16, 16, 12, 12)
    small.use_slicing = slicing
    expected = list(small.decode_chunks(z))
    decode = small.chunk_decoder()
    small.disable_tiling()
    small.disable_slicing()
    return expected, decode


@torch.no_grad()
def test_a_decoder_that_is_given_chunks_gives_the_bits_of_decode_chunks(small):
    def rule(tiled, slicing):
        z = torch.randn(2, 4, 4, 12, 20)
        expected, decode = chunks_and_decoder(small, z, tiled, slicing)
        for index, chunk in enumerate(expected):
            assert torch.equal(decode(z[:, :, index : index + 1], is_last=index == 3), chunk)

    check_cases(product([False, True], [False, True]), rule)


@torch.no_grad()
def test_nothing_is_kept_after_the_last_chunk(small):
    decode = small.chunk_decoder()
    for index in range(3):
        decode(torch.randn(1, 4, 1, 4, 4), is_last=index == 2)
        held = [cache._frames for cache in decode._caches.values()]
        assert all(held) == (index < 2)


def test_a_clip_of_one_chunk_needs_no_cache():
    caches = []
    list(
        run_chunked(lambda x, cache: caches.append(cache) or x, torch.zeros(1, 1, 3, 2, 2), None, None, False)
    )
    ChunkedRunner(lambda x, cache: caches.append(cache) or x, None, False)(
        torch.zeros(1, 1, 1, 2, 2), is_last=True
    )
    assert caches == [None, None]


def test_gradients_pass_through_tiles(small):
    z = torch.randn(1, 4, 2, 12, 12, requires_grad=True)
    small.enable_tiling(16, 16, 12, 12)
    small.decode(z).sample.square().sum().backward()
    small.disable_tiling()
    assert torch.isfinite(z.grad).all()
    assert (z.grad != 0).all()


# ---- chunks that are decoded side by side


@torch.no_grad()
def decoded_side_by_side(decode, chunks, count):
    """Each in a piece of its own; those that come later begin first where there is room."""
    with Workers(count) as team:
        networks = [decode.next_chunk(team, is_last=index == len(chunks) - 1) for index in range(len(chunks))]
        made = [
            team.submit(partial(network, chunk), urgency=1)
            for network, chunk in zip(networks, chunks, strict=True)
        ]
        return [team.result(each) for each in made]


@torch.no_grad()
def test_chunks_side_by_side_have_the_bits_of_chunks_in_turn(small):
    def rule(tiled, slicing, length, count):
        z = torch.randn(2, 4, length, 12, 12)
        expected, decode = chunks_and_decoder(small, z, tiled, slicing)
        made = decoded_side_by_side(decode, z.split(1, dim=2), count)
        assert len(made) == length
        for chunk, frames in zip(expected, made, strict=True):
            assert torch.equal(frames, chunk)

    check_cases([(False, False, 4, 3), (True, False, 3, 3), (True, True, 3, 2), (True, True, 1, 2)], rule)


@torch.no_grad()
def test_a_chunk_begins_before_the_one_before_it_has_ended(small):
    """Or else nothing would be gained."""
    order, convolutions = [], []
    chunk_of = ContextVar("chunk_of")
    handles = [
        module.register_forward_hook(lambda *_: order.append(chunk_of.get()))
        for module in small.decoder.modules()
        if isinstance(module, CausalConv3d) and not convolutions.append(module)
    ]
    decode = small.chunk_decoder()
    # The first one waits in its last but one convolution until the second has begun.
    gate = convolutions[-2].register_forward_pre_hook(
        lambda *_: None if chunk_of.get() else team.wait_until(lambda: 1 in order)
    )
    try:
        with Workers(2) as team:
            made = []
            for index in range(2):
                chunk_of.set(index)
                network = decode.next_chunk(team, is_last=index == 1)
                made.append(team.submit(partial(network, torch.randn(1, 4, 1, 4, 4)), urgency=1 + index))
            for each in made:
                team.result(each)
    finally:
        for handle in (*handles, gate):
            handle.remove()
    assert order.index(1) < len(order) - 1 - order[::-1].index(0)


@torch.no_grad()
def test_what_a_chunk_kept_is_freed_by_the_next_one(small):
    """So memory does not grow with the clip, and after the last chunk nothing is left."""
    decode = small.chunk_decoder()
    small.enable_tiling(16, 16, 12, 12)
    tiled = small.chunk_decoder()
    small.disable_tiling()
    with Workers(1) as team:
        for decoder, size in ((decode, 4), (tiled, 12)):
            before, gone = None, []
            for index in range(4):
                network = decoder.next_chunk(team, is_last=index == 3)
                network(torch.randn(1, 4, 1, size, size))
                links = decoder._linked
                kept = [cache._frames for cache in links._caches.values()]
                assert all(kept) == (index < 3)
                assert any(kept) == (index < 3)
                assert links._before is None
                if before is not None:
                    assert not any(cache._frames for cache in before._caches.values())
                    gone.append(weakref.ref(before))
                before = links
            del network, links, before
            assert [link() for link in gone] == [None] * 3


def test_a_clip_of_one_chunk_keeps_nothing_side_by_side_either():
    caches = []
    runner = ChunkedRunner(lambda x, cache: caches.append(cache) or x, None, False)
    with Workers(2) as team:
        runner.next_chunk(team, is_last=True)(torch.zeros(1, 1, 1, 2, 2))
    assert caches == [None]
    assert runner._linked is None


@torch.no_grad()
def test_a_chunk_that_fails_leaves_no_other_waiting(small):
    def fails(*_):
        raise MemoryError("the reason")

    z = torch.randn(1, 4, 3, 4, 4)
    handle = small.decoder.conv_out.register_forward_pre_hook(fails)
    try:
        with pytest.raises(MemoryError, match="the reason"):
            decoded_side_by_side(small.chunk_decoder(), z.split(1, dim=2), 3)
    finally:
        handle.remove()

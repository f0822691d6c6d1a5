"""Units of an unfinished clip."""

from __future__ import annotations

import pytest
import torch

from pyramid_seed.batch.units import load_units, save_unit

STAGES = ((), ("a", "b", "c"), ("d", "e", "f"))
ORIGIN = {"key": "k", "packages": {"torch": "2"}}
IMAGE = "f" * 64
"""Digest of the image that unit 0 was encoded from."""


@pytest.fixture
def latents():
    return torch.randn((1, 4, 3, 8, 8), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folder(tmp_path, latents):
    for unit in range(3):
        save_unit(tmp_path, unit, latents[:, :, unit : unit + 1], STAGES[unit], ORIGIN)
    return tmp_path


def test_units_come_back_bit_for_bit(folder, latents):
    beginning, refusal = load_units(folder, 9, ORIGIN, IMAGE)
    assert torch.equal(beginning.latents, latents)
    assert beginning.stage_digests == STAGES
    assert refusal is None
    shorter = load_units(folder, 2, ORIGIN, IMAGE)[0]
    assert torch.equal(shorter.latents, latents[:, :, :2])
    assert shorter.stage_digests == STAGES[:2]
    assert load_units(folder, 0, ORIGIN, IMAGE) == (None, None)
    assert load_units(folder / "nothing", 3, ORIGIN, IMAGE) == (None, None)


def test_a_gap_ends_the_beginning(folder, latents):
    (folder / "unit-0001.safetensors").unlink()
    beginning, refusal = load_units(folder, 3, ORIGIN, IMAGE)
    assert torch.equal(beginning.latents, latents[:, :, :1])
    assert refusal is None


def test_half_a_file_is_refused(folder, latents):
    path = folder / "unit-0001.safetensors"
    whole = path.read_bytes()
    for length in (0, 5, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        beginning, refusal = load_units(folder, 3, ORIGIN, IMAGE)
        assert torch.equal(beginning.latents, latents[:, :, :1])
        assert "unit-0001" in refusal
        assert "damaged" in refusal


@pytest.mark.parametrize("find", [lambda data: len(data) - 3, lambda data: data.index(b'"a b c"') + 1])
def test_one_wrong_bit_is_refused(folder, latents, find):
    path = folder / "unit-0001.safetensors"
    data = bytearray(path.read_bytes())
    data[find(data)] ^= 2
    path.write_bytes(data)
    beginning, refusal = load_units(folder, 3, ORIGIN, IMAGE)
    assert torch.equal(beginning.latents, latents[:, :, :1])
    assert "not the ones that were written" in refusal


def test_another_units_file_is_refused(folder):
    (folder / "unit-0001.safetensors").replace(folder / "unit-0000.safetensors")
    assert load_units(folder, 3, ORIGIN, IMAGE)[0] is None


def test_another_origin_is_refused(folder):
    beginning, refusal = load_units(folder, 3, {**ORIGIN, "packages": {"torch": "3"}}, IMAGE)
    assert beginning is None
    assert "other versions" in refusal


def test_units_without_the_clips_image_are_refused(folder):
    """Unit 0 of a clip with an image is encoded, that of others made in stages: nothing can be both."""
    beginning, refusal = load_units(folder, 3, ORIGIN, None)
    assert beginning is None
    assert "only unit 0 of a clip with an image has no stages" in refusal
    assert load_units(folder, 3, ORIGIN, IMAGE, image_role="history")[0] is None
    save_unit(folder, 0, torch.zeros(1, 4, 1, 8, 8), ("a", "b", "c"), ORIGIN)
    assert load_units(folder, 3, ORIGIN, None)[0].image_digest is None
    assert load_units(folder, 3, ORIGIN, IMAGE)[0] is None
    assert load_units(folder, 3, ORIGIN, IMAGE, image_role="history")[0].image_digest == IMAGE

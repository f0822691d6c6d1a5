"""Past latents at the resolutions of the plan."""

from __future__ import annotations

import pytest
import torch

from pyramid_seed.geometry import history_plan
from pyramid_seed.pipelines.history import history_clips, latent_pyramid


def test_pyramid_levels_are_means_of_blocks():
    latents = torch.randn(2, 3, 2, 8, 12, generator=torch.Generator().manual_seed(0))
    coarse, middle, fine = latent_pyramid(latents, 3)
    assert torch.equal(fine, latents)
    for coarser, finer in ((coarse, middle), (middle, fine)):
        blocks = finer.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2))
        torch.testing.assert_close(coarser, blocks.mean(dim=(-3, -1)))


def test_one_stage_keeps_the_latents():
    latents = torch.randn(1, 2, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    assert latent_pyramid(latents, 1) == (latents,)


def test_the_first_unit_has_no_history():
    assert history_clips([], 0) == []


@pytest.mark.parametrize("num_stages", [1, 2, 3, 4])
@pytest.mark.parametrize("unit", [1, 2, 3, 6])
def test_clips_hold_the_frames_of_the_plan(num_stages, unit):
    """Each frame is filled with its index, so that the values say which frames a clip holds."""
    frames = [latent_pyramid(torch.full((1, 2, 1, 16, 8), float(u)), num_stages) for u in range(unit)]
    for stage in range(num_stages):
        clips = history_clips(frames, stage)
        plan = history_plan(unit, num_stages, stage)
        assert len(clips) == len(plan)
        seen = []
        for clip, planned in zip(clips, plan, strict=True):
            divisor = 2 ** (num_stages - 1 - planned.stage)
            assert clip.shape == (1, 2, planned.stop - planned.start, 16 // divisor, 8 // divisor)
            seen += clip[0, 0, :, 0, 0].tolist()
        assert seen == list(range(unit))
        assert plan[-1].stage == stage

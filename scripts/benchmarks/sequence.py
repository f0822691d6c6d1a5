"""How long the transformer's sequence is, from the geometry alone."""

from __future__ import annotations

from itertools import accumulate, pairwise

from pyramid_seed.geometry import PyramidGeometry, history_plan


def frame_tokens(
    geometry: PyramidGeometry, height: int, width: int, unit: int, stage: int
) -> tuple[int, ...]:
    """Video tokens of each latent frame that a step sees, the oldest first and the current one last."""

    def tokens_at(level: int) -> int:
        rows, columns = geometry.stage_size(height, width, level)
        return (rows // geometry.patch_size) * (columns // geometry.patch_size)

    history = [
        tokens_at(clip.stage)
        for clip in history_plan(unit, geometry.num_stages, stage)
        for _ in range(clip.stop - clip.start)
    ]
    return (*history, tokens_at(stage))


def attended_pairs(frames: tuple[int, ...], num_text: int) -> int:
    """(query, key) pairs that the block-causal rule allows: a frame sees text, older frames and itself.

    Text has the time of the first frame. With a dense mask, all pairs are computed: the square of the sum.
    """
    stops = list(accumulate(frames, initial=num_text))[1:]
    return sum((stop - start) * stop for start, stop in pairwise([0, *stops]))


def published_geometry() -> PyramidGeometry:
    """That of the published checkpoints."""
    return PyramidGeometry(spatial_factor=8, temporal_factor=8, patch_size=2, num_stages=3)

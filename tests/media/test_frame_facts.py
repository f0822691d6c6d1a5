"""Size and digests of frames that go by."""

from __future__ import annotations

import numpy as np

from pyramid_seed.geometry import PyramidGeometry
from pyramid_seed.media.frame_facts import FrameCounter, FrameFacts
from pyramid_seed.media.frames import frames_digest
from pyramid_seed.provenance.manifest import chunk_digests
from tests.cases import check_cases
from tests.media.clips import chunks, moving

GEOMETRY = PyramidGeometry(spatial_factor=8, temporal_factor=8, patch_size=2, num_stages=3)


def test_facts_are_those_of_all_frames():
    def rule(num_frames):
        frames = moving(num_frames)
        counter = FrameCounter()
        for chunk in chunks(frames):
            counter.add(np.asfortranarray(chunk))
        expected = FrameFacts(
            num_frames, 32, 48, frames_digest(frames), tuple(chunk_digests(frames, GEOMETRY))
        )
        assert counter.facts() == expected
        assert expected.size == {1: "1 frame", 9: "9 frames", 25: "25 frames"}[num_frames] + " of 32x48"

    check_cases([1, 9, 25], rule)

"""Size limits name the value, the limit and the option; lengths are those that the model can make."""

from __future__ import annotations

import pytest

from pyramid_seed.geometry import PyramidGeometry
from pyramid_seed.ui.limits import Limits, length_label, lengths
from tests.refusals import not_refused


def test_what_is_too_large_is_named():
    words = {
        (249, 64, 64): "num_frames must be at most 241 on this server (--max-frames), got 249",
        (17, 1281, 64): "height must be at most 1280 on this server (--max-height), got 1281",
        (17, 64, 9999): "width must be at most 1280 on this server (--max-width), got 9999",
    }
    assert not_refused(lambda size: Limits().check(*size), words) == {}


def test_the_largest_is_allowed():
    Limits(max_frames=17, max_height=64, max_width=128).check(17, 64, 128)


def test_limits_below_one_are_refused():
    with pytest.raises(ValueError, match="max_frames must be at least 1, got 0"):
        Limits(max_frames=0)


def test_lengths_are_all_that_the_geometry_allows():
    for factor in (1, 4, 8):
        geometry = PyramidGeometry(spatial_factor=8, temporal_factor=factor, patch_size=2, num_stages=3)
        accepted = not_refused(geometry.check_num_frames, dict.fromkeys(range(1, 34), "num_frames must be"))
        assert list(accepted) == lengths(geometry, Limits(max_frames=33)), factor


def test_labels():
    assert length_label(1, 24) == "1 frame"
    assert length_label(121, 24) == "121 frames · 5.0 s"

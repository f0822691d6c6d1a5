from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyramid_seed.geometry import ChunkGeometry, HistoryClip, LatentShape, PyramidGeometry, history_plan
from tests.cases import check_cases

PUBLISHED = PyramidGeometry(spatial_factor=8, temporal_factor=8, patch_size=2, num_stages=3)
HELIOS = ChunkGeometry(spatial_factor=8, temporal_factor=4, patch_size=2, num_stages=3, unit_frames=9)
FACTORS = {
    "spatial_factor": st.sampled_from([1, 2, 4, 8, 16]),
    "temporal_factor": st.integers(1, 9),
    "patch_size": st.integers(1, 4),
    "num_stages": st.integers(1, 5),
}
GEOMETRIES = st.one_of(
    st.builds(PyramidGeometry, **FACTORS), st.builds(ChunkGeometry, **FACTORS, unit_frames=st.integers(1, 9))
)
PLANS = st.tuples(st.integers(0, 40), st.integers(1, 6)).flatmap(
    lambda drawn: st.tuples(st.just(drawn[0]), st.just(drawn[1]), st.integers(0, drawn[1] - 1))
)


def numbers_after_use(message: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", message.rpartition("use ")[2])]


def test_published_checkpoints():
    assert PUBLISHED.size_multiple == 64
    assert PUBLISHED.latent_size(384, 640) == (48, 80)
    assert [PUBLISHED.stage_size(384, 640, stage) for stage in range(3)] == [(12, 20), (24, 40), (48, 80)]
    assert PUBLISHED.num_units(121) == 16
    assert PUBLISHED.num_frames(31) == 241


@given(GEOMETRIES, st.integers(1, 100))
def test_frame_counts_are_inverse(geometry, num_units):
    num_frames = geometry.num_frames(num_units)
    geometry.check_num_frames(num_frames)
    assert geometry.num_units(num_frames) == num_units


def test_the_units_of_the_published_checkpoints():
    assert [PUBLISHED.frames_of_unit(unit) for unit in range(3)] == [range(1), range(1, 9), range(9, 17)]
    assert PUBLISHED.frames_of_units(1) == [range(1)]
    assert PUBLISHED.frames_of_units(12) == [range(1), range(1, 9), range(9, 12)]
    for bad in (PUBLISHED.unit_of_frame, PUBLISHED.frames_of_unit):
        with pytest.raises(ValueError, match="must be at least 0, got -1"):
            bad(-1)
    with pytest.raises(ValueError, match="num_frames must be at least 1, got 0"):
        PUBLISHED.frames_of_units(0)


def test_the_units_of_helios():
    assert [HELIOS.frames_of_unit(unit) for unit in range(2)] == [range(33), range(33, 66)]
    assert list(HELIOS.good_num_frames(100)) == [33, 66, 99]
    assert list(PUBLISHED.good_num_frames(20)) == [1, 9, 17]
    assert HELIOS.latent_shape(16, 384, 640).stage(0).as_tuple() == (1, 16, 9, 12, 20)
    with pytest.raises(ValueError, match="num_frames must be a multiple of 33, got 97; use 66 or 99"):
        HELIOS.check_num_frames(97)


@given(GEOMETRIES, st.integers(1, 100))
def test_every_frame_is_made_by_one_unit(geometry, num_units):
    num_frames = geometry.num_frames(num_units)
    units = geometry.frames_of_units(num_frames)
    assert [frame for frames in units for frame in frames] == list(range(num_frames))
    assert units == [geometry.frames_of_unit(unit) for unit in range(num_units)]
    assert {geometry.unit_of_frame(frame) for frame in units[-1]} == {num_units - 1}


@given(GEOMETRIES, st.integers(1, 4), st.integers(1, 6), st.integers(1, 6))
def test_the_shape_of_latents_is_that_of_every_stage(geometry, channels, rows, columns):
    height, width = (count * geometry.size_multiple for count in (rows, columns))
    shape = geometry.latent_shape(channels, height, width)
    for stage in range(geometry.num_stages):
        size = geometry.stage_size(height, width, stage)
        assert shape.stage(stage).as_tuple() == (1, channels, geometry.frames_per_unit, *size)
        assert shape.stage(stage).stage(0) == shape.stage(0)
    assert shape.stage(geometry.num_stages - 1) == shape


def test_refused_shapes_of_latents():
    with pytest.raises(ValueError, match="latent width must be a multiple of 4, got 10; use 8 or 12"):
        LatentShape(16, 8, 10, num_stages=3)
    with pytest.raises(ValueError, match="channels must be at least 1, got 0"):
        LatentShape(0, 8, 8, num_stages=3)
    with pytest.raises(ValueError, match=r"stage must be in 0 .. 2, got 3; use 2"):
        LatentShape(16, 8, 8, num_stages=3).stage(3)


@given(GEOMETRIES, st.integers(-50, 500))
def test_refused_frame_counts_name_the_nearest_good_ones(geometry, num_frames):
    good = [geometry.num_frames(count) for count in range(1, 502)]
    if num_frames in good:
        geometry.check_num_frames(num_frames)
        return
    with pytest.raises(ValueError, match=f"got {num_frames}; use ") as refusal:
        geometry.check_num_frames(num_frames)
    below = [value for value in good if value < num_frames][-1:]
    above = [value for value in good if value > num_frames][:1]
    assert numbers_after_use(str(refusal.value)) == below + above


@given(GEOMETRIES, st.integers(-50, 3000))
def test_refused_sizes_name_the_nearest_good_ones(geometry, size):
    multiple = geometry.size_multiple
    if size > 0 and size % multiple == 0:
        geometry.check_size(size, multiple)
        return
    with pytest.raises(
        ValueError, match=f"width must be a multiple of {multiple}, got {size}; use "
    ) as refusal:
        geometry.check_size(multiple, size)
    below = [size // multiple * multiple] if size > multiple else []
    above = [max(size // multiple, 0) * multiple + multiple]
    assert numbers_after_use(str(refusal.value)) == below + above


@given(GEOMETRIES, st.integers(1, 6), st.integers(1, 6))
def test_every_stage_halves_the_next_and_holds_whole_patches(geometry, rows, columns):
    height, width = rows * geometry.size_multiple, columns * geometry.size_multiple
    last = geometry.num_stages - 1
    assert geometry.stage_size(height, width, last) == geometry.latent_size(height, width)
    assert geometry.stage_size(height, width, 0) == (
        rows * geometry.patch_size,
        columns * geometry.patch_size,
    )
    for stage in range(last):
        coarse = geometry.stage_size(height, width, stage)
        assert geometry.stage_size(height, width, stage + 1) == (2 * coarse[0], 2 * coarse[1])


def test_messages():
    cases = [
        (lambda: PUBLISHED.check_num_frames(30), "num_frames must be 8k + 1, got 30; use 25 or 33"),
        (lambda: PUBLISHED.check_num_frames(0), "num_frames must be 8k + 1, got 0; use 1"),
        (
            lambda: PyramidGeometry(8, 1, 2, 3).check_num_frames(0),
            "num_frames must be at least 1, got 0; use 1",
        ),
        (lambda: PUBLISHED.check_size(100, 64), "height must be a multiple of 64, got 100; use 64 or 128"),
        (lambda: PUBLISHED.check_size(64, 10), "width must be a multiple of 64, got 10; use 64"),
        (lambda: PUBLISHED.num_frames(0), "num_units must be at least 1, got 0; use 1"),
        (lambda: PUBLISHED.stage_size(64, 64, 3), "stage must be in 0 .. 2, got 3; use 2"),
        (lambda: PyramidGeometry(8, 8, 0, 3), "patch_size must be at least 1, got 0; use 1"),
        (lambda: history_plan(-1, 3, 0), "unit_index must be at least 0, got -1; use 0"),
        (lambda: history_plan(1, 3, -1), "stage must be in 0 .. 2, got -1; use 0"),
    ]

    def rule(call, message):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            call()

    check_cases(cases, rule)


def test_only_whole_numbers():
    def rule(value):
        for call in (
            lambda: PUBLISHED.check_size(value, 64),
            lambda: PUBLISHED.check_num_frames(value),
            lambda: PUBLISHED.num_frames(value),
            lambda: PUBLISHED.stage_size(64, 64, value),
            lambda: PyramidGeometry(8, 8, 2, value),
            lambda: history_plan(value, 3, 0),
        ):
            with pytest.raises(TypeError, match=r"must be an int, got"):
                call()

    check_cases([True, 64.0, "64", None], rule)


def test_history_of_the_published_checkpoints():
    assert [history_plan(0, 3, stage) for stage in range(3)] == [(), (), ()]
    assert [history_plan(1, 3, stage) for stage in range(3)] == [(HistoryClip(s, 0, 1),) for s in range(3)]
    assert history_plan(5, 3, 0) == (HistoryClip(0, 0, 4), HistoryClip(0, 4, 5))
    assert history_plan(5, 3, 1) == (HistoryClip(0, 0, 4), HistoryClip(1, 4, 5))
    assert history_plan(5, 3, 2) == (HistoryClip(0, 0, 3), HistoryClip(1, 3, 4), HistoryClip(2, 4, 5))


def walk_back(unit_index: int, stage: int) -> list[HistoryClip]:
    """The same plan told frame by frame, as the original implementation walks back from the newest one."""
    clips = [HistoryClip(stage, unit_index - 1, unit_index)] if unit_index else []
    oldest = unit_index - 1
    while oldest > 0:
        stage = max(stage - 1, 0)
        start = oldest - 1 if stage else 0
        clips.append(HistoryClip(stage, start, oldest))
        oldest = start
    return clips[::-1]


@given(PLANS)
def test_history_equals_the_walk_back(drawn):
    unit_index, num_stages, stage = drawn
    assert list(history_plan(unit_index, num_stages, stage)) == walk_back(unit_index, stage)


@given(PLANS)
def test_history_covers_each_past_frame_once_and_coarsens_with_age(drawn):
    unit_index, num_stages, stage = drawn
    plan = history_plan(unit_index, num_stages, stage)
    assert [frame for clip in plan for frame in range(clip.start, clip.stop)] == list(range(unit_index))
    for clip in plan:
        for frame in range(clip.start, clip.stop):
            assert clip.stage == max(0, stage - (unit_index - 1 - frame))
    assert len(plan) == min(unit_index, max(stage, 1) + 1)


@given(PLANS)
def test_history_of_a_unit_does_not_depend_on_finer_stages(drawn):
    unit_index, num_stages, stage = drawn
    assert history_plan(unit_index, num_stages + 1, stage) == history_plan(unit_index, num_stages, stage)

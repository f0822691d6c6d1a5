"""A clip that goes on from its first units is the clip made in one go, with all that is told of it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from pyramid_seed import api
from pyramid_seed.noise import NoiseKey, NoiseStreams
from pyramid_seed.pipelines.beginning import Beginning
from tests.pipelines.conftest import FAMILY_NEUTRAL

LATENTS = torch.zeros(1, 16, 1, 8, 8)
IMAGE = Image.new("RGB", (64, 64), (10, 200, 30))


def beginnings(output, num_units, *, image_digest=None):
    """The first units of every clip of an output, with all that it tells of them."""
    return [
        Beginning(
            output.latents[clip : clip + 1, :, :num_units],
            tuple(output.stage_digests[clip][:num_units]),
            output.text_digests[clip],
            image_digest,
        )
        for clip in range(len(output.latents))
    ]


def assert_same(one, other):
    assert torch.equal(one.latents, other.latents)
    assert np.array_equal(one.frames, other.frames)
    assert one.ledgers == other.ledgers
    assert one.stage_digests == other.stage_digests
    assert one.text_digests == other.text_digests
    assert one.seeds == other.seeds


@FAMILY_NEUTRAL
@pytest.mark.parametrize("num_units", [1, 2, 3])
def test_clips_go_on(make, known, forwards, num_units):
    prompts = ["a", "b"]
    settings = {"num_frames": 17, "output_type": "uint8"}
    whole = known(prompts, **settings)
    forwards.clear()
    units = []
    continued = make(
        prompts,
        beginning=beginnings(whole, num_units),
        callback_on_unit_end=lambda clip, unit, latents, stages: units.append((clip, unit)),
        **settings,
    )
    assert_same(continued, whole)
    assert units == [(clip, unit) for clip in range(2) for unit in range(num_units, 3)]
    assert len(forwards) == 2 * 3 * (3 - num_units)


@FAMILY_NEUTRAL
def test_one_clip_takes_the_value_or_a_list_of_it(make, known):
    whole = known()
    (beginning,) = beginnings(whole, 1)
    for given in (beginning, [beginning]):
        assert_same(make(beginning=given), whole)
    assert_same(make(beginning=[None]), whole)


@FAMILY_NEUTRAL
def test_a_clip_that_began_with_an_image(make):
    whole = make(image=IMAGE, num_frames=17)
    assert [len(digests) for digests in whole.stage_digests[0]] == [0, 3, 3]
    for given in ({"image_digest": "0" * 64}, {"image_digest": api.image_digest(IMAGE), "image": IMAGE}):
        known = beginnings(whole, 2, image_digest=given.pop("image_digest"))
        continued = make(num_frames=17, beginning=known, **given)
        assert_same(continued, whole)
    assert next(iter(continued.ledgers[0])).key == NoiseKey("posterior", 0, 0)


@FAMILY_NEUTRAL
def test_what_a_beginning_does_not_know(make, known):
    whole = known(num_frames=17)
    continued = make(num_frames=17, beginning=Beginning(whole.latents[:, :, :2]))
    assert torch.equal(continued.latents, whole.latents)
    assert continued.stage_digests == [[None, None, whole.stage_digests[0][2]]]
    assert continued.text_digests == whole.text_digests


@FAMILY_NEUTRAL
class TestTextDigests:
    """Those of the whole clip, whichever of its units were guided and whichever are made now."""

    FIRST_ONLY = {"guidance_scale": 3.0, "video_guidance_scale": 1.0}  # noqa: RUF012
    LATER_ONLY = {"guidance_scale": 1.0, "video_guidance_scale": 3.0}  # noqa: RUF012

    @pytest.fixture
    def encoded(self, pipe, monkeypatch):
        """The texts that are asked for."""
        texts = []
        original = pipe.remembered_text
        monkeypatch.setattr(
            pipe, "remembered_text", lambda text, *rest: texts.append(text) or original(text, *rest)
        )
        return texts

    def test_only_known_units_were_guided(self, make, encoded, forwards):
        settings = {"negative_prompt": "blurry", **self.FIRST_ONLY}
        whole = make(**settings)
        assert set(whole.text_digests[0]) == {"prompt", "negative_prompt"}
        encoded.clear()
        forwards.clear()
        assert_same(make(beginning=beginnings(whole, 1), **settings), whole)
        assert encoded == ["a red circle"]
        (beginning,) = beginnings(whole, 1)
        unknown = Beginning(beginning.latents, beginning.stage_digests)
        assert_same(make(beginning=unknown, **settings), whole)
        assert encoded == ["a red circle", "a red circle", "blurry"]
        assert forwards == [1] * 6

    def test_only_new_units_are_guided(self, make, known):
        whole = known(**self.LATER_ONLY)
        (beginning,) = beginnings(known(num_frames=1, **self.LATER_ONLY), 1)
        assert set(beginning.text_digests) == {"prompt"}
        assert_same(make(beginning=beginning, **self.LATER_ONLY), whole)

    def test_an_image_was_not_guided(self, make, encoded):
        whole = make(image=IMAGE, **self.FIRST_ONLY)
        assert set(whole.text_digests[0]) == {"prompt"}
        for image_digest in (None, "0" * 64):
            encoded.clear()
            make(beginning=Beginning(whole.latents[:, :, :1], image_digest=image_digest), **self.FIRST_ONLY)
            assert len(encoded) == (2 if image_digest is None else 1)

    def test_a_run_that_was_stopped_before_its_guided_units(self, pipe, make, known):
        def stop(*_):
            pipe._interrupt = True

        stopped = make(callback_on_unit_end=stop, **self.LATER_ONLY)
        assert_same(stopped, known(num_frames=1, **self.LATER_ONLY))


@FAMILY_NEUTRAL
class TestEncodedImages:
    """The unit of an image is told like any other, so that a run can be gone on with after it."""

    def test_it_is_told_first(self, make):
        units = []
        output = make(
            ["a", "b"],
            image=IMAGE,
            callback_on_unit_end=lambda clip, unit, latents, stages: units.append(
                (clip, unit, latents.clone(), stages)
            ),
        )
        assert [(clip, unit, len(stages)) for clip, unit, _, stages in units] == [
            (0, 0, 0), (0, 1, 3), (1, 0, 0), (1, 1, 3),
        ]  # fmt: skip
        for clip, unit, latents, _ in units:
            assert torch.equal(latents, output.latents[clip : clip + 1, :, unit : unit + 1])

    def test_the_run_can_be_stopped_there(self, pipe, make, forwards):
        def stop(*_):
            pipe._interrupt = True

        output = make(image=IMAGE, callback_on_unit_end=stop)
        assert output.interrupted
        assert forwards == []
        assert output.latents.shape[2] == 1
        assert [entry.key for entry in output.ledgers[0]] == [NoiseKey("posterior", 0, 0)]


@FAMILY_NEUTRAL
def test_a_run_that_goes_on_and_is_stopped(pipe, make, known):
    whole = known(num_frames=25)

    def stop(clip, unit, latents, stages):
        pipe._interrupt = unit == 2

    stopped = make(num_frames=25, beginning=beginnings(whole, 2), callback_on_unit_end=stop)
    assert_same(stopped, known(num_frames=17))


@FAMILY_NEUTRAL
def test_noise_of_known_units_is_drawn_again_for_the_ledger(make):
    """So a source that only has the rest is refused, before the transformer is asked."""
    streams = NoiseStreams(7)

    class Rest:
        def draw(self, key, shape):
            if key.unit == 0:
                raise ValueError(f"no draw {key}")
            return streams.draw(key, shape)

    with pytest.raises(ValueError, match="no draw initial/0/0"):
        make(seed=None, noise=Rest(), beginning=Beginning(LATENTS))


class TestRefusals:
    @pytest.mark.parametrize(
        ("latents", "message"),
        [
            (LATENTS[0], "must have shape \\(1, C, k, h, w\\), .* got \\(16, 1, 8, 8\\)"),
            (LATENTS[:, :, :0], "and at least one unit, got \\(1, 16, 0, 8, 8\\)"),
            (LATENTS.repeat(2, 1, 1, 1, 1), "one clip .* got \\(2, 16, 1, 8, 8\\)"),
            (LATENTS.int(), "must be floating point and finite"),
            (LATENTS * torch.nan, "must be floating point and finite"),
        ],
    )
    def test_latents(self, latents, message):
        with pytest.raises(ValueError, match=message):
            Beginning(latents)

    def test_no_latents(self):
        with pytest.raises(TypeError, match=r"latents of a beginning must be a torch.Tensor, got ndarray"):
            Beginning(LATENTS.numpy())

    def test_texts(self):
        with pytest.raises(ValueError, match="may hold prompt and negative_prompt, got words"):
            Beginning(LATENTS, text_digests={"words": ""})

    @pytest.mark.parametrize(
        ("digests", "image_digest", "message"),
        [
            ((), None, "must have one entry for each of its 1 unit, got 0; use None"),
            ((None, None), None, "must have one entry for each of its 1 unit, got 2"),
        ],
    )
    def test_what_contradicts_itself(self, digests, image_digest, message):
        with pytest.raises(ValueError, match=message):
            Beginning(LATENTS, digests, image_digest=image_digest)

    @pytest.mark.parametrize(
        ("digests", "image_digest", "message"),
        [
            (((),), None, "unit 0 of a beginning is an encoded image, .* got image_digest None and 0 stage"),
            ((("0" * 64,) * 3,), "0" * 64, "or has neither; got image_digest '000.* and 3 stage digests"),
        ],
    )
    def test_stages_of_an_image(self, make, digests, image_digest, message):
        with pytest.raises(ValueError, match=message):
            make(beginning=Beginning(LATENTS, digests, image_digest=image_digest))

    @pytest.mark.parametrize(
        ("digests", "message"),
        [
            (
                (("0" * 64,) * 3,),
                "of unit 0 of a beginning must be 3, the last one that of its latents, got 3",
            ),
            ((("0" * 64,),), "of unit 0 of a beginning must be 3, .* got 1"),
        ],
    )
    def test_stage_digests_of_other_latents(self, make, forwards, digests, message):
        with pytest.raises(ValueError, match=message):
            make(beginning=Beginning(LATENTS, digests))
        assert forwards == []

    def test_latents_of_another_size(self, make):
        for shape in ((1, 16, 3, 8, 8), (1, 4, 1, 8, 8), (1, 16, 1, 8, 16)):
            with pytest.raises(ValueError, match=r"must have shape \(1, 16, 1 .. 2, 8, 8\), got \(1, "):
                make(beginning=Beginning(torch.zeros(shape)))

    def test_one_for_each_clip(self, make):
        one, two = Beginning(LATENTS), Beginning(LATENTS.repeat(1, 1, 2, 1, 1))
        with pytest.raises(ValueError, match="a list with one entry for each of the 2 clips, got 1"):
            make(num_videos_per_prompt=2, beginning=one)
        for given, counts in (([one, two], "1, 2"), ([None, one], "0, 1")):
            with pytest.raises(ValueError, match=f"must have equally many units, got \\[{counts}\\]"):
                make(["a", "b"], beginning=given)
        with pytest.raises(TypeError, match="must be a Beginning, a list of them, or None, got tensor"):
            make(beginning=LATENTS)

    def test_not_with_another_image(self, make):
        for digest in (None, "0" * 64):
            with pytest.raises(
                ValueError, match=f"was made from, with image_digest {digest!r}, got one with"
            ):
                make(image=IMAGE, beginning=Beginning(LATENTS, image_digest=digest))


@FAMILY_NEUTRAL
def test_a_ledger_of_the_first_units(known):
    ledger = known(num_frames=17).ledgers[0]
    parts = [list(ledger.first_units(units)) for units in range(4)]
    assert [len(part) for part in parts] == [0, 3, 6, 9]
    assert all(longer[: len(shorter)] == shorter for shorter, longer in pairwise(parts))
    assert parts[3] == list(ledger)

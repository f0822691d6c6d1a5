"""Every refusal of a call: rule, value and what to use, before anything is computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from pyramid_seed.geometry import LatentShape
from pyramid_seed.noise import NoiseStreams, ledger
from pyramid_seed.pipelines.beginning import Beginning
from pyramid_seed.pipelines.denoise import Place, UnitSettings
from pyramid_seed.pipelines.first_frames import clip_size, first_frames
from pyramid_seed.pipelines.inputs import Request, steps_per_stage
from pyramid_seed.pipelines.noise_sources import noise_sources
from tests.cases import check_cases


def an_image(width=64, height=64):
    return Image.new("RGB", (width, height), (10, 200, 30))


CALLS = {
    "no prompt": ({"prompt": None}, "give a prompt or prompt_embeds"),
    "prompt of another type": ({"prompt": 3}, "prompt must be a str or a non-empty list of str, got 3"),
    "prompts, none": ({"prompt": []}, "prompt must be a str or a non-empty list of str, got \\[\\]"),
    "prompts, one no text": ({"prompt": ["a", 1]}, "prompt must be a str or a non-empty list of str"),
    "negative prompt": (
        {"negative_prompt": 3},
        "negative_prompt must be a str or a non-empty list of str, got 3",
    ),
    "negative prompts, one no text": (
        {"negative_prompt": [None]},
        "negative_prompt must be a str or a non-empty list of str, got \\[None\\]",
    ),
    "negative prompts, too few": (
        {"prompt": ["a", "b"], "negative_prompt": ["c"]},
        "negative_prompt must be a str or have one entry for each of the 2 prompts, got 1",
    ),
    "max_sequence_length, small": (
        {"max_sequence_length": 0},
        "max_sequence_length must be at least 1, got 0; use 1",
    ),
    "max_sequence_length, large": (
        {"max_sequence_length": 513},
        "max_sequence_length must be at most 512, got 513; use 512",
    ),
    "height": ({"height": 72}, "height must be a multiple of 64, got 72; use 64 or 128"),
    "width": ({"width": 32}, "width must be a multiple of 64, got 32; use 64"),
    "num_frames": ({"num_frames": 30}, "num_frames must be 8k \\+ 1, got 30; use 25 or 33"),
    "num_frames, none": ({"num_frames": 0}, "num_frames must be 8k \\+ 1, got 0; use 1"),
    "num_videos_per_prompt": (
        {"num_videos_per_prompt": 0},
        "num_videos_per_prompt must be at least 1, got 0; use 1",
    ),
    # What would take minutes or all memory before anything is said.
    "height, huge": ({"height": 2**40}, "height must be at most 8192, got 1099511627776; use 8192"),
    "width, huge": ({"width": 2**20}, "width must be at most 8192, got 1048576; use 8192"),
    "num_frames, huge": (
        {"num_frames": 40_000_001},
        "num_frames must be at most 100000, got 40000001; use 100000",
    ),
    "num_videos_per_prompt, huge": (
        {"num_videos_per_prompt": 10**9},
        "num_videos_per_prompt must be at most 10000, got 1000000000; use 10000",
    ),
    "steps, huge": (
        {"num_inference_steps": [1, 10**9, 1]},
        "num_inference_steps must be at most 10000, got 1000000000; use 10000",
    ),
    "steps, too few stages": (
        {"num_inference_steps": [1, 1]},
        "num_inference_steps must be an int or have one entry for each of the 3 stages, got 2 entries",
    ),
    "steps, none": (
        {"num_inference_steps": 0},
        "num_inference_steps must be at least 1, got 0; use 1",
    ),
    "steps, one none": (
        {"video_num_inference_steps": [1, 0, 1]},
        "video_num_inference_steps must be at least 1, got 0; use 1",
    ),
    "guidance": ({"guidance_scale": float("nan")}, "guidance_scale must be finite, got nan"),
    "video guidance": (
        {"video_guidance_scale": float("inf")},
        "video_guidance_scale must be finite, got inf",
    ),
    "guidance decay": ({"guidance_decay": float("nan")}, "guidance_decay must be finite, got nan"),
    "least guidance": ({"min_guidance_scale": float("nan")}, "min_guidance_scale must be finite, got nan"),
    "image of another size": (
        {"image": an_image(64, 128)},
        "image must have the clip's height and width 64 x 64, got 128 x 64; resize it first, e.g. "
        "image.resize\\(\\(64, 64\\)\\)",
    ),
    "image whose size does not fit": (
        {"image": an_image(100, 70), "height": None, "width": None},
        "image gives the clip its size of 70 x 100, but height must be a multiple of 64, got 70; "
        "use 64 or 128; resize it first",
    ),
    "a video": (
        {"video": np.zeros((9, 64, 64, 3), np.uint8)},
        "video must be None for this model: its clips can begin with an image, only those of Helios can",
    ),
    "images, too few": (
        {"prompt": ["a", "b", "c"], "image": [an_image(), an_image()]},
        "image must be one image or one for each of the 3 prompts, got 2",
    ),
    "image of bytes": (
        {"image": np.zeros((64, 64, 3), np.uint8)},
        "image must be a PIL image or floating point in \\[0, 1\\], got torch.uint8; divide by 255",
    ),
    "image out of range": (
        {"image": torch.full((3, 64, 64), 200.0)},
        "image must be in \\[0, 1\\], got values from 200 to 200",
    ),
    "image a little below 0": (
        {"image": torch.full((3, 64, 64), 0.5).index_fill(2, torch.tensor([7]), -0.001)},
        "image must be in \\[0, 1\\], got values from -0.001 to 0.5; scale it, and clamp",
    ),
    "image a little above 1": (
        {"image": [np.full((64, 64, 3), 1.001, np.float32)]},
        "image must be in \\[0, 1\\], got values from 1.001 to 1.001",
    ),
    "image with transparent pixels": (
        {"image": Image.new("RGBA", (64, 64), (1, 2, 3, 254))},
        "image has transparent pixels \\(the lowest alpha is 254, it must be 255\\); put it on a background",
    ),
    "image of 16 bits": (
        {"image": [Image.new("I;16", (64, 64))]},
        "image has pixels of more than 8 bits \\(Pillow's mode I;16\\); save it as 8-bit RGB first",
    ),
    "image not finite": ({"image": torch.full((3, 64, 64), torch.nan)}, "image must be in \\[0, 1\\], got"),
    "image with alpha": ({"image": torch.zeros(4, 64, 64)}, "image must have 3 channels, got 4"),
    "output type": (
        {"output_type": "gif"},
        "output_type must be one of np, pt, pil, uint8, latent, got 'gif'",
    ),
    "latents": (
        {"latents": torch.zeros(1, 16, 2, 8, 8)},
        "latents must be None: every unit and stage draws noise .* use seed= or generator=, or noise=",
    ),
    "callback tensors": (
        {"callback_on_step_end_tensor_inputs": ["noise"]},
        "callback_on_step_end_tensor_inputs must be one of latents, got 'noise'",
    ),
    "two seeds": (
        {"generator": torch.Generator()},
        "give only one of seed, generator and noise, got seed and generator",
    ),
    "three seeds": (
        {"generator": torch.Generator(), "noise": NoiseStreams(1)},
        "give only one of seed, generator and noise, got seed and generator and noise",
    ),
    "seed, negative": ({"seed": -1}, "seed must be in 0 .. 2\\*\\*64 - 1, got -1; use 0"),
    "seed, large": ({"seed": 2**64}, "seed must be in 0 .. 2\\*\\*64 - 1"),
    "seeds, too few": (
        {"prompt": ["a", "b"], "seed": [1]},
        "a list for seed must have one entry for each of the 2 clips",
    ),
    "seeds, one negative": (
        {"prompt": ["a", "b"], "seed": [1, -1]},
        "seed must be in 0 .. 2\\*\\*64 - 1, got -1",
    ),
    "generators, too few": (
        {"num_videos_per_prompt": 2, "seed": None, "generator": [torch.Generator()]},
        "a list for generator must have one entry for each of the 2 clips, got 1",
    ),
    "noise, too little": (
        {"num_videos_per_prompt": 2, "seed": None, "noise": NoiseStreams(1)},
        "noise must be a list with one source for each of the 2 clips",
    ),
    "noise device": ({"noise_device": "mps"}, "noise is drawn in float64, which MPS does not have"),
}
TYPES = {
    "height, float": ({"height": 64.0}, "height must be an int, got 64.0"),
    "num_frames, bool": ({"num_frames": True}, "num_frames must be an int, got True"),
    "max_sequence_length, bool": ({"max_sequence_length": True}, "max_sequence_length must be an int"),
    "max_sequence_length, float": ({"max_sequence_length": 8.0}, "max_sequence_length must be an int"),
    "steps, float": ({"num_inference_steps": 2.5}, "num_inference_steps must be an int, got 2.5"),
    "steps, bool": ({"num_inference_steps": True}, "num_inference_steps must be an int, got True"),
    "seed, float": ({"seed": 1.5}, "seed must be an int, got 1.5"),
    "generator": (
        {"seed": None, "generator": 5},
        "generator must be a torch.Generator or a list of them, got 5",
    ),
    "noise": ({"seed": None, "noise": torch.zeros(1)}, "noise must have a method draw"),
}


def test_value_errors(make, forwards):
    def rule(changes, message):
        with pytest.raises(ValueError, match=message):
            make(**changes)
        assert forwards == []

    check_cases(CALLS, rule)


def test_numbers_of_numpy_are_numbers(make):
    """In a call of the pipeline as in `generate`, on the command line and in lists."""
    numbers = {
        "height": 64,
        "width": 64,
        "num_frames": 9,
        "num_inference_steps": 1,
        "max_sequence_length": 16,
    }
    plain = make(**numbers)
    of_numpy = make(**{name: np.int64(value) for name, value in numbers.items()}, seed=np.uint64(7))
    assert torch.equal(of_numpy.latents, plain.latents)
    assert of_numpy.seeds == plain.seeds


def test_type_errors(make, forwards):
    def rule(changes, message):
        with pytest.raises(TypeError, match=message):
            make(**changes)
        assert forwards == []

    check_cases(TYPES, rule)


class TestEmbeddings:
    @pytest.fixture
    def given(self, pipe):
        return pipe.encode_prompt("a red circle", max_sequence_length=16).positive._asdict()

    @pytest.fixture
    def negative(self, pipe):
        embeddings = pipe.encode_prompt("", max_sequence_length=16).negative
        return {f"negative_{name}": values for name, values in embeddings._asdict().items()}

    def refused(self, make, forwards, message, **changes):
        with pytest.raises(ValueError, match=message):
            make(**changes)
        assert forwards == []

    def test_together_with_a_prompt(self, make, forwards, given, negative):
        self.refused(make, forwards, "give either prompt or prompt_embeds, not both", **given)
        self.refused(
            make,
            forwards,
            "give either negative_prompt or negative_prompt_embeds, not both",
            negative_prompt="a",
            **negative,
        )

    def test_incomplete(self, make, forwards, given):
        del given["pooled_prompt_embeds"]
        message = "prompt_embeds, prompt_attention_mask must come with pooled_prompt_embeds"
        self.refused(make, forwards, message, prompt=None, **given)

    def test_no_tensors_of_real_numbers(self, make, forwards, given, negative):
        message = "must be a tensor of real numbers for each prompt"
        for bad in (torch.tensor(1.0), [1.0], given["prompt_embeds"] * 1j):
            self.refused(
                make, forwards, f"^prompt_embeds {message}", prompt=None, **given | {"prompt_embeds": bad}
            )
            changes = negative | {"negative_prompt_embeds": bad}
            self.refused(make, forwards, f"negative_prompt_embeds {message}", prompt=None, **given, **changes)

    def test_shapes(self, make, forwards, given):
        for name, good in given.items():
            for bad in (torch.cat([good, good], dim=-1), good[0]):
                changes = {**given, name: bad}
                self.refused(make, forwards, f"{name} must have shape", prompt=None, **changes)

    def test_batch_sizes(self, make, forwards, given, negative):
        two = {name: values.repeat(2, *[1] * (values.ndim - 1)) for name, values in given.items()}
        three = {name: values.repeat(3, *[1] * (values.ndim - 1)) for name, values in negative.items()}
        changes = {**two, "pooled_prompt_embeds": given["pooled_prompt_embeds"]}
        self.refused(make, forwards, "pooled_prompt_embeds must have shape \\(2, ", prompt=None, **changes)
        message = "negative_prompt_embeds must have batch size 1 or 2, got 3"
        self.refused(make, forwards, message, prompt=None, **two, **three)

    def test_negative_of_another_length(self, make, forwards, negative):
        message = "negative_prompt_embeds must have shape \\(1, 20, "
        self.refused(make, forwards, message, max_sequence_length=20, **negative)


class TestReplacedLatents:
    """What a callback gives back is checked where it is given."""

    def test_shape(self, make):
        with pytest.raises(ValueError, match=r"latents of shape \(1, 16, 1, 2, 2\), got \(1, 16, 1, 8, 8\)"):
            make(callback_on_step_end=lambda *args: {"latents": torch.zeros(1, 16, 1, 8, 8)})

    def test_not_finite(self, make):
        with pytest.raises(ValueError, match="a callback must return finite latents"):
            make(
                callback_on_step_end=lambda pipe, step, timestep, kwargs: {
                    "latents": kwargs["latents"] * torch.nan
                }
            )


def test_steps_per_stage():
    assert steps_per_stage("steps", 4, 3) == (4, 4, 4)
    assert steps_per_stage("steps", [1, 2, 3], 3) == (1, 2, 3)
    assert steps_per_stage("steps", (5,), 1) == (5,)


def request(**changes):
    units = (UnitSettings((1, 2, 3), 3.0), UnitSettings((2, 1, 1), 1.0), UnitSettings((1, 1, 2), 0.0))
    values = {
        "num_prompts": 2,
        "num_videos_per_prompt": 3,
        "shape": LatentShape(16, 8, 8, num_stages=3),
        "units": units,
        "images": (),
        "image_role": "unit",
        "beginnings": (),
        "text_length": 8,
    }
    return Request(**{**values, **changes})


def test_steps_are_counted_through_the_whole_call():
    def rule(known):
        beginnings = (Beginning(torch.zeros(1, 16, known, 8, 8)),) * 6 if known else ()
        asked = request(beginnings=beginnings)
        assert asked.num_clips == 6
        assert asked.num_known_units == known
        places = [
            (clip, Place(unit, stage, step))
            for clip in range(6)
            for unit in range(known, 3)
            for stage, steps in enumerate(asked.units[unit].num_inference_steps)
            for step in range(steps)
        ]
        assert [asked.steps_before(clip, place) for clip, place in places] == list(range(asked.num_steps))
        last_of_each = [place for clip, place in places if clip == 0 and asked.ends_unit(place)]
        assert last_of_each == [Place(0, 2, 2), Place(1, 2, 0), Place(2, 2, 1)][known:]

    check_cases([0, 1, 2], rule)


def test_the_negative_prompt_is_needed_where_a_generated_unit_is_guided():
    assert request().is_guided
    assert not request(images=(torch.zeros(1, 3, 64, 64),) * 2).is_guided


def test_noise_sources():
    def roots(clips, each, **given):
        arguments = {"seed": None, "generator": None, "noise": None, **given}
        return [source.root for source in noise_sources(clips, each, noise_device="cpu", **arguments)]

    assert roots(4, 2, seed=10) == [10, 11, 10, 11]
    assert roots(3, 1, seed=[5, 6, 7]) == [5, 6, 7]
    drawn = torch.Generator().manual_seed(3)
    expected = [int(torch.randint(0, 2**63 - 1, (), generator=drawn)) for _ in range(3)]
    assert roots(3, 1, generator=torch.Generator().manual_seed(3)) == expected
    listed = [torch.Generator().manual_seed(3) for _ in range(3)]
    assert roots(3, 3, generator=listed) == [expected[0]] * 3
    assert len(set(roots(3, 3))) == 3
    given = [NoiseStreams(8), NoiseStreams(9)]
    assert roots(2, 1, noise=given) == [8, 9]
    assert roots(1, 1, noise=given[0]) == [8]


def test_images_of_every_kind_are_the_same():
    image = an_image()
    array = np.asarray(image, np.float32) / 255
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    expected = tensor[None] * 2 - 1
    for given in (image, array, tensor, tensor[None], [image], [array], [tensor]):
        (frame,) = first_frames(given, 1)
        assert torch.equal(frame, expected)
    frames = first_frames(image, 3)
    assert len(frames) == 3
    frames = first_frames([image, an_image()], 2)
    assert [frame.shape for frame in frames] == [(1, 3, 64, 64)] * 2


def test_an_image_is_turned_as_its_exif_says_and_opaque_alpha_is_dropped():
    values = np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8)
    upright = Image.fromarray(values)
    lying = upright.transpose(Image.Transpose.ROTATE_90)
    lying.getexif()[ExifTags.Base.Orientation] = 6  # to be turned back when shown
    (expected,) = first_frames(upright, 1)
    for given in (lying, upright.convert("RGBA"), [lying]):
        assert torch.equal(first_frames(given, 1)[0], expected)


def test_equal_noise_is_refused_before_anything_is_drawn(make, forwards, monkeypatch):
    """So few different seeds that the first unit is fine and a later one has a draw of the first again."""
    monkeypatch.setattr(ledger, "EFFECTIVE_SEEDS", 5)
    with pytest.raises(ValueError, match=r"seed 7 gives the draws .* and initial/1/0 the same noise"):
        make()
    assert forwards == []


def test_size_of_the_clip():
    tall = (torch.zeros(1, 3, 128, 64),)
    assert clip_size(None, None, ()) == (384, 640)
    assert clip_size(64, None, ()) == (64, 640)
    assert clip_size(None, None, tall) == (128, 64)
    assert clip_size(128, 64, tall) == (128, 64)

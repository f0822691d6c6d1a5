"""What a diffusers pipeline must do: the checks of diffusers' own pipeline tests, with tolerance 0, and more.

What this one promises besides, that a clip is a pure function of its seed, is tested in `tests/invariance`.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from dataclasses import astuple, replace
from itertools import pairwise, product
from pathlib import Path

import accelerate
import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from PIL import Image

from pyramid_seed.geometry import LatentShape
from pyramid_seed.noise import LedgeredNoise, NoiseKey, NoiseLedger, NoiseStreams, noise_digest
from pyramid_seed.pipelines import PyramidFlowPipeline, PyramidFlowPipelineOutput
from pyramid_seed.pipelines.beginning import Beginning
from pyramid_seed.pipelines.decode import encode_image
from pyramid_seed.pipelines.inputs import check_call
from pyramid_seed.pipelines.sampler import KnownLatents
from tests.cases import check_cases
from tests.other_environment import other_environment
from tests.pipelines.conftest import FAMILIES, FAMILY_NEUTRAL

ROOT = Path(__file__).parents[2]


def clips(output) -> list[torch.Tensor]:
    return list(output.latents.split(1))


def same(first, second) -> bool:
    """Bitwise, whatever the kind of output."""
    if isinstance(first, np.ndarray):
        return np.array_equal(first, second)
    return torch.equal(first, second)


def an_image(height=64, width=64) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


FRESH = """
import sys
from diffusers import DiffusionPipeline
settings, miniflux, sd3 = eval(sys.argv[1]), *sys.argv[2:]
try:
    DiffusionPipeline.from_pretrained(miniflux)
except ValueError as error:
    assert "Pass `trust_remote_code=True`" in str(error), error
else:
    raise AssertionError("code of a folder was run")
assert "pyramid_seed" not in sys.modules
pipe = DiffusionPipeline.from_pretrained(miniflux, trust_remote_code=True)
assert type(pipe).__module__.startswith("pyramid_seed."), type(pipe)

from pyramid_seed.noise import noise_digest
from pyramid_seed.pipelines import PyramidFlowPipeline
for each in (pipe, PyramidFlowPipeline.from_pretrained(sd3)):
    print(noise_digest(each("a red circle", seed=7, **settings).latents))
"""


@pytest.mark.slow
def test_a_fresh_process_finds_the_classes(load, small, tmp_path):
    """model_index.json names the modules of the components, so it must be enough to find them.

    That of the pipeline itself diffusers does not know, and nothing of ours has been imported. The process
    differs from this one in whatever must not change a clip.
    """
    digests = []
    for family in FAMILIES:
        load(family).save_pretrained(tmp_path / family)
        digests.append(noise_digest(load(family)("a red circle", seed=7, **small).latents))
    command = [sys.executable, "-c", FRESH, repr(small), *(str(tmp_path / family) for family in FAMILIES)]
    environment = other_environment() | {
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
        "PYTHONPATH": str(ROOT),
    }
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == digests


class TestSaveAndLoad:
    def test_a_saved_pipeline_has_the_same_parts(self, pipe, tmp_path):
        pipe.save_pretrained(tmp_path)
        loaded = PyramidFlowPipeline.from_pretrained(tmp_path)
        assert loaded.components.keys() == pipe.components.keys()
        index = json.loads((tmp_path / "model_index.json").read_text())
        assert index["_class_name"] == ["pipeline", "PyramidFlowPipeline"]
        assert index["transformer"][0].startswith("pyramid_seed.models.")
        for name in pipe._optional_components:
            assert (getattr(loaded, name) is None) == (getattr(pipe, name) is None)

    def test_variants(self, pipe, known, small, tmp_path):
        pipe.save_pretrained(tmp_path, variant="ours")
        loaded = PyramidFlowPipeline.from_pretrained(tmp_path, variant="ours")
        loaded.set_progress_bar_config(disable=True)
        assert same(loaded("a red circle", seed=7, **small).latents, known().latents)
        with pytest.raises((OSError, ValueError)):
            PyramidFlowPipeline.from_pretrained(tmp_path, variant="theirs")

    def test_from_pipe_and_components(self, pipe, known, small):
        parameters = set(inspect.signature(PyramidFlowPipeline.__init__).parameters) - {"self", "preset"}
        assert set(pipe.components) == parameters
        for other in (PyramidFlowPipeline(**pipe.components), PyramidFlowPipeline.from_pipe(pipe)):
            other.set_progress_bar_config(disable=True)
            assert same(other("a red circle", seed=7, **small).latents, known().latents)

    def test_text_and_the_rest_work_apart(self, pipe, known, small):
        text_names = {name for name in pipe.components if name.startswith(("text", "token"))}
        text = {name: part if name in text_names else None for name, part in pipe.components.items()}
        rest = {name: None if name in text_names else part for name, part in pipe.components.items()}
        text_pipe, rest_pipe = PyramidFlowPipeline(**text), PyramidFlowPipeline(**rest)
        rest_pipe.set_progress_bar_config(disable=True)
        with torch.no_grad():
            embeddings = text_pipe.encode_prompt("a red circle")._asdict()
        assert same(rest_pipe(**embeddings, **small, seed=7).latents, known().latents)


class TestSignature:
    def test_arguments_of_diffusers(self):
        parameters = inspect.signature(PyramidFlowPipeline.__call__).parameters
        required = {"prompt", "height", "width", "guidance_scale", "negative_prompt", "prompt_embeds"}
        required |= {"negative_prompt_embeds", "image", "num_inference_steps", "generator", "output_type"}
        required |= {"return_dict", "num_videos_per_prompt", "callback_on_step_end", "attention_kwargs"}
        required |= {"latents"}
        assert required <= set(parameters)
        assert all(
            p.default is not inspect.Parameter.empty for name, p in parameters.items() if name != "self"
        )

    @FAMILY_NEUTRAL
    def test_tuple_and_dict(self, make, known):
        frames = make(return_dict=False)
        assert isinstance(frames, tuple)
        assert len(frames) == 1
        output = known()
        assert same(frames[0], output.frames)
        assert same(output[0], output.frames)


class TestLifecycle:
    """The public steps of a call, as pipelines of diffusers have them."""

    @FAMILY_NEUTRAL
    def test_inputs_are_checked_without_a_call(self, pipe, forwards):
        request = pipe.check_inputs(["a", "b"], height=64, width=128, num_frames=17, num_videos_per_prompt=2)
        assert request.num_clips == 4
        assert request.shape.as_tuple() == (1, 16, 1, 8, 16)
        assert len(request.units) == 3
        with pytest.raises(ValueError, match=r"num_frames must be 8k \+ 1, got 30; use 25 or 33"):
            pipe.check_inputs("a", num_frames=30)
        with pytest.raises(ValueError, match="output_type must be one of"):
            pipe.check_inputs("a", output_type="gif")
        assert forwards == []

    def test_its_defaults_are_those_of_a_call(self):
        check = inspect.signature(check_call).parameters
        call = inspect.signature(PyramidFlowPipeline.__call__).parameters
        both = [name for name in check if name in call and check[name].default is not inspect.Parameter.empty]
        assert len(both) == 14
        assert [name for name in both if check[name].default != call[name].default] == []

    @FAMILY_NEUTRAL
    def test_known_latents_are_prepared(self, pipe, known):
        shape = LatentShape(16, 8, 8, num_stages=3)
        output, noise = known(), NoiseStreams(7)
        with torch.no_grad():
            assert pipe.prepare_latents(noise, shape) == KnownLatents()
            ledger = NoiseLedger()
            beginning = Beginning(output.latents[:, :, :1])
            first = pipe.prepare_latents(LedgeredNoise(noise, ledger), shape, beginning=beginning)
            assert same(first.units, output.latents[:, :, :1])
            assert ledger == output.ledgers[0].first_units(1)
            image = torch.rand(1, 3, 64, 64) * 2 - 1
            encoded = pipe.prepare_latents(noise, shape, image=image)
            assert same(encoded.units, encode_image(pipe.vae, image, noise))
            assert first.image is encoded.image is None


@FAMILY_NEUTRAL
class TestOutputs:
    def test_every_type_is_the_same_clip(self, make):
        by_type = {kind: make(output_type=kind) for kind in ("np", "pt", "pil", "uint8", "latent")}
        array, tensor = by_type["np"].frames, by_type["pt"].frames
        assert array.shape == (1, 9, 64, 64, 3)
        assert tensor.shape == (1, 9, 3, 64, 64)
        assert array.dtype == np.float32
        assert tensor.dtype == torch.float32
        assert array.min() >= 0
        assert array.max() <= 1
        assert same(tensor.permute(0, 1, 3, 4, 2).numpy(), array)
        pil = np.stack([np.asarray(frame) for frame in by_type["pil"].frames[0]])
        levels = by_type["uint8"].frames
        assert levels.dtype == np.uint8
        assert levels.shape == (1, 9, 64, 64, 3)
        assert np.abs(levels[0].astype(int) - pil.astype(int)).max() <= 1
        assert np.abs(levels / 255 - array).max() <= 0.5 / 255 + 1e-6
        assert same(by_type["latent"].frames, by_type["latent"].latents)
        assert all(same(output.latents, by_type["np"].latents) for output in by_type.values())
        assert by_type["np"].latents.dtype == torch.float32

    def test_lengths(self, pipe, make):
        def rule(num_frames):
            output = make(num_frames=num_frames, output_type="uint8")
            assert output.frames.shape == (1, num_frames, 64, 64, 3)
            assert output.latents.shape == (1, 16, pipe.geometry.num_units(num_frames), 8, 8)
            assert not output.interrupted

        check_cases([1, 9, 17], rule)

    def test_a_frame_that_is_not_square(self, make):
        assert make(height=64, width=128, num_frames=1, output_type="uint8").frames.shape == (
            1,
            1,
            64,
            128,
            3,
        )

    def test_images_of_every_kind_give_the_same_clip(self, make):
        image = an_image()
        array = np.asarray(image, np.float32) / 255
        tensor = torch.from_numpy(array).permute(2, 0, 1)
        kinds = (image, array, tensor, tensor.contiguous())
        given = [make(image=kind, num_frames=1).latents for kind in kinds]
        assert all(same(given[0], other) for other in given[1:])

    def test_image_to_video(self, pipe, make):
        """The image is unit 0, drawn from its posterior; the size is the image's."""
        image = an_image(64, 128)
        output = make(image=image, height=None, width=None, num_frames=17, output_type="uint8")
        assert output.frames.shape == (1, 17, 64, 128, 3)
        pixels = torch.from_numpy(np.asarray(image, np.float32) / 255).permute(2, 0, 1)[None] * 2 - 1
        with torch.no_grad():
            expected = encode_image(pipe.vae, pixels, NoiseStreams(7))
        assert same(output.latents[:, :, :1], expected)
        keys = [NoiseKey("posterior", 0, 0)]
        for unit in (1, 2):
            keys += [NoiseKey("initial", unit, 0), NoiseKey("renoise", unit, 1), NoiseKey("renoise", unit, 2)]
        assert [entry.key for entry in output.ledgers[0]] == keys

    def test_images_in_a_batch(self, make):
        images = [an_image(), Image.new("RGB", (64, 64), "red")]
        together = clips(make(["a", "b"], image=images, num_videos_per_prompt=2))
        alone = [
            clips(make(text, image=image, seed=seed))[0]
            for text, image in zip("ab", images, strict=True)
            for seed in (7, 8)
        ]
        assert all(same(one, other) for one, other in zip(together, alone, strict=True))

    def test_nothing_is_written_when_quiet(self, make, capfd):
        make()
        captured = capfd.readouterr()
        assert (captured.out, captured.err) == ("", "")

    def test_one_bar_over_all_steps(self, own_pipe, small, monkeypatch):
        bars = []
        make_bar = own_pipe.progress_bar

        def progress_bar(*args, **kwargs):
            bars.append(make_bar(*args, **kwargs))
            return bars[-1]

        monkeypatch.setattr(own_pipe, "progress_bar", progress_bar)
        own_pipe.set_progress_bar_config(disable=False, leave=False)
        own_pipe(["a", "b"], seed=1, **small | {"video_num_inference_steps": [1, 2, 1]})
        (bar,) = bars
        assert (bar.n, bar.total) == (2 * (3 + 4), 2 * (3 + 4))
        assert own_pipe.num_timesteps == bar.total


class TestBatch:
    @FAMILY_NEUTRAL
    def test_num_videos_per_prompt(self, make, known):
        """The videos of a prompt stand next to each other, and their root seeds count up."""
        output = make(["a red circle", "a"], num_videos_per_prompt=2, num_frames=1)
        assert output.seeds == [7, 8, 7, 8]
        pairs = product(("a red circle", "a"), (7, 8))
        alone = [known(prompt, seed=seed, num_frames=1) for prompt, seed in pairs]
        assert same(output.latents, torch.cat([output.latents for output in alone]))

    @FAMILY_NEUTRAL
    def test_negative_prompts(self, make):
        """One for all is one each; none is an empty one; they matter only where guided."""
        one = make(["a", "b"], negative_prompt="ugly", num_frames=1)
        assert same(one.latents, make(["a", "b"], negative_prompt=["ugly", "ugly"], num_frames=1).latents)
        mixed = make(["a", "b"], negative_prompt=["ugly", ""], num_frames=1)
        assert same(mixed.latents[0], one.latents[0])
        assert not same(mixed.latents[1], one.latents[1])
        assert same(mixed.latents[1], make("b", num_frames=1).latents[0])
        assert set(one.text_digests[0]) == {"prompt", "negative_prompt"}
        plain = make("a", guidance_scale=1.0, num_frames=1)
        unused = make("a", guidance_scale=0.0, negative_prompt="ugly", num_frames=1)
        assert same(plain.latents, unused.latents)
        assert set(plain.text_digests[0]) == {"prompt"}

    @FAMILY_NEUTRAL
    def test_guidance_runs_a_pair(self, make, forwards):
        make(guidance_scale=3.0, video_guidance_scale=1.0)
        assert forwards == [2, 2, 2, 1, 1, 1]

    @FAMILY_NEUTRAL
    def test_the_timestep_is_there_while_the_transformer_runs(self, own_pipe, small):
        seen, told = [], []
        own_pipe.transformer.register_forward_pre_hook(lambda *_: seen.append(own_pipe.current_timestep))
        assert own_pipe.current_timestep is None

        def note(pipe, step, timestep, kwargs):
            told.append(timestep)
            assert pipe.current_timestep == timestep

        own_pipe("a", seed=7, callback_on_step_end=note, **small)
        assert len(seen) == 6
        assert torch.equal(torch.stack(seen), torch.stack(told))
        assert own_pipe.current_timestep is None

    @FAMILY_NEUTRAL
    def test_guidance_decay(self, pipe, make):
        scales = []

        def note(pipe, step, timestep, kwargs):
            scales.append((pipe.current_place.unit, pipe.guidance_scale, pipe.do_classifier_free_guidance))

        make(
            num_frames=25,
            guidance_scale=4.0,
            guidance_decay=1.5,
            min_guidance_scale=1.0,
            callback_on_step_end=note,
        )
        expected = [(0, 4.0, True), (1, 2.5, True), (2, 1.0, False), (3, 1.0, False)]
        assert scales[::3] == expected

    @FAMILY_NEUTRAL
    def test_embeddings_in_place_of_text(self, pipe, make):
        with torch.no_grad():
            encoded = pipe.encode_prompt(["a", "b"], "ugly", max_sequence_length=20)
        both, two_negatives = encoded.positive._asdict(), {}
        for name, values in encoded.negative._asdict().items():
            two_negatives[f"negative_{name}"] = values
        one_negative = {name: values[:1] for name, values in two_negatives.items()}
        expected = make(["a", "b"], negative_prompt="ugly", max_sequence_length=20, num_frames=1).latents
        for negative in (one_negative, two_negatives, {"negative_prompt": "ugly"}):
            assert same(make(None, **both, **negative, num_frames=1).latents, expected)

    @FAMILY_NEUTRAL
    def test_the_suffix_is_appended_to_prompts_only(self, make):
        expected = make(["a, nice", "b, nice"], negative_prompt="ugly", num_frames=1)
        suffixed = make(["a", "b"], negative_prompt="ugly", prompt_suffix=", nice", num_frames=1)
        assert suffixed.text_digests == expected.text_digests
        assert same(suffixed.latents, expected.latents)


@FAMILY_NEUTRAL
class TestCallbacks:
    def test_steps_count_over_the_whole_call(self, pipe, make):
        told = []

        def note(pipeline, step, timestep, kwargs):
            assert pipeline is pipe
            assert set(kwargs) == {"latents"}
            assert kwargs["latents"].dtype == torch.float32
            told.append((step, float(timestep), *astuple(pipe.current_place)))

        make(["a", "b"], num_inference_steps=[1, 2, 1], callback_on_step_end=note)
        assert [row[0] for row in told] == list(range(pipe.num_timesteps))
        places = [
            (c, u, s, k)
            for c in range(2)
            for u in range(2)
            for s, n in enumerate([1, 2, 1])
            for k in range(n)
        ]
        assert [row[2:] for row in told] == places
        assert pipe.current_place is None
        assert all(later[1] < earlier[1] for earlier, later in pairwise(told[:4]))

    def test_no_tensors_when_none_are_asked_for(self, make):
        def note(pipeline, step, timestep, kwargs):
            assert kwargs == {}

        make(callback_on_step_end=note, callback_on_step_end_tensor_inputs=[])

    def test_latents_are_replaced(self, pipe, make, known):
        def zero_last(pipe, step, timestep, kwargs):
            if step == pipe.num_timesteps - 1:
                kwargs["latents"] = torch.zeros_like(kwargs["latents"])
            return kwargs

        changed, plain = make(callback_on_step_end=zero_last), known()
        assert changed.latents[:, :, 1].abs().sum() == 0
        assert same(changed.latents[:, :, :1], plain.latents[:, :, :1])

    def test_latents_in_another_dtype_go_on_in_float32(self, make):
        def halve(pipe, step, timestep, kwargs):
            return {"latents": kwargs["latents"].bfloat16()}

        assert make(callback_on_step_end=halve).latents.dtype == torch.float32

    def test_guidance_is_changed_for_the_rest_of_the_unit(self, own_pipe, small, forwards):
        def more(pipe, step, timestep, kwargs):
            pipe._guidance_scale += 1.0

        def off(pipe, step, timestep, kwargs):
            pipe._guidance_scale = 0.0

        own_pipe("a", seed=7, callback_on_step_end=more, **small | {"num_frames": 1})
        assert own_pipe.guidance_scale == small["guidance_scale"] + own_pipe.num_timesteps

        calls = []
        own_pipe.transformer.register_forward_pre_hook(lambda module, args: calls.append(args[0].shape[0]))
        own_pipe(["a", "b"], seed=7, callback_on_step_end=off, **small)
        assert calls == [2, 1, 1] * 4

    def test_guidance_cannot_begin_in_a_callback(self, make):
        def more(pipe, step, timestep, kwargs):
            pipe._guidance_scale = 5.0

        with pytest.raises(ValueError, match="cannot turn guidance on in a call that began without it"):
            make(guidance_scale=1.0, callback_on_step_end=more)

    def test_callback_objects(self, make):
        class Zero(PipelineCallback):
            tensor_inputs = ["latents"]  # noqa: RUF012

            def callback_fn(self, pipe, step, timestep, kwargs):
                return {"latents": torch.zeros_like(kwargs["latents"])}

        for callback in (
            Zero(cutoff_step_ratio=None, cutoff_step_index=0),
            MultiPipelineCallbacks([Zero(cutoff_step_ratio=None, cutoff_step_index=0)]),
        ):
            assert make(callback_on_step_end=callback).latents.abs().sum() == 0

    def test_units_are_told_as_they_are_made(self, make):
        told = []
        output = make(
            ["a", "b"], callback_on_unit_end=lambda *args: told.append((*args[:2], args[2].clone()))
        )
        assert [row[:2] for row in told] == [(0, 0), (0, 1), (1, 0), (1, 1)]
        for clip, unit, latents in told:
            assert same(latents, output.latents[clip : clip + 1, :, unit : unit + 1])

    def test_stages_are_told_with_their_unit(self, make):
        """What a callback puts in place of a stage's last latents is what the stage gave."""
        ends, told = {}, {}

        def halve(pipe, step, timestep, kwargs):
            place = pipe.current_place
            ends[place.clip, place.unit, place.stage] = noise_digest(kwargs["latents"] / 2)
            return {"latents": kwargs["latents"] / 2}

        def tell(clip, unit, latents, stage_digests):
            told[clip, unit] = stage_digests

        output = make(
            ["a", "b"], num_inference_steps=[2, 1, 2],
            callback_on_step_end=halve, callback_on_unit_end=tell,
        )  # fmt: skip
        assert len(ends) == 2 * 2 * 3
        for (clip, unit), digests in told.items():
            assert digests == output.stage_digests[clip][unit]
            assert digests == tuple(ends[clip, unit, stage] for stage in range(3))
            assert digests[-1] == noise_digest(output.latents[clip, :, unit])


@FAMILY_NEUTRAL
class TestInterrupt:
    def stop_at(self, clip, unit, stage):
        def stop(pipe, step, timestep, kwargs):
            pipe._interrupt = astuple(pipe.current_place)[:3] == (clip, unit, stage)

        return stop

    def test_finished_units_of_the_first_clip(self, make, known, forwards):
        whole = known(num_frames=17)
        forwards.clear()
        for stage, num_units in ((0, 1), (1, 1), (2, 2)):
            stopped = make(num_frames=17, output_type="uint8", callback_on_step_end=self.stop_at(0, 1, stage))
            assert stopped.interrupted
            assert stopped.frames.shape[1] == 8 * (num_units - 1) + 1
            assert same(stopped.latents, whole.latents[:, :, :num_units])
            assert stopped.stage_digests == [whole.stage_digests[0][:num_units]]
            assert stopped.ledgers == [whole.ledgers[0].first_units(num_units)]
            assert len(forwards) == 3 + stage + 1
            forwards.clear()

    def test_finished_clips(self, make, known):
        whole = known(["a", "b"])
        stopped = make(["a", "b"], callback_on_step_end=self.stop_at(1, 1, 0))
        assert same(stopped.latents, whole.latents[:1])
        assert (stopped.seeds, len(stopped.ledgers), len(stopped.text_digests)) == ([7], 1, 1)
        assert stopped.stage_digests == whole.stage_digests[:1]
        at_its_last_step = make(["a", "b", "c"], callback_on_step_end=self.stop_at(1, 1, 2))
        assert same(at_its_last_step.latents, whole.latents)

    def test_nothing_finished(self, make):
        with pytest.raises(RuntimeError, match="stopped before the first unit was finished"):
            make(callback_on_step_end=self.stop_at(0, 0, 1))

    def test_after_a_unit(self, pipe, make, forwards):
        def stop(clip, unit, latents, stage_digests):
            pipe._interrupt = True

        assert make(callback_on_unit_end=stop).latents.shape[2] == 1
        assert len(forwards) == 3

    def test_the_next_call_runs_through(self, make):
        with pytest.raises(RuntimeError):
            make(callback_on_step_end=self.stop_at(0, 0, 0))
        assert not make().interrupted


@FAMILY_NEUTRAL
class TestSeeds:
    def test_seed_is_the_root(self, make, known):
        output = make(seed=11)
        assert same(output.latents, make(seed=None, noise=NoiseStreams(11)).latents)
        assert same(output.latents, make(seed=[11]).latents)
        assert not same(output.latents, known().latents)
        streams, (ledger,) = NoiseStreams(11), output.ledgers
        keys = [NoiseKey("initial", 0, 0), NoiseKey("renoise", 0, 1), NoiseKey("renoise", 0, 2)]
        keys += [NoiseKey("initial", 1, 0), NoiseKey("renoise", 1, 1), NoiseKey("renoise", 1, 2)]
        assert [entry.key for entry in ledger] == keys
        for entry in ledger:
            assert entry.sha256 == noise_digest(streams.draw(entry.key, entry.shape))

    def test_generators_give_roots(self, make):
        generator = torch.Generator().manual_seed(3)
        roots = [int(torch.randint(0, 2**63 - 1, (), generator=generator)) for _ in range(2)]
        one = make(["a", "b"], seed=None, generator=torch.Generator().manual_seed(3), num_frames=1)
        assert one.seeds == roots
        assert same(one.latents, make(["a", "b"], seed=roots, num_frames=1).latents)
        listed = [torch.Generator().manual_seed(3) for _ in range(2)]
        assert make(["a", "b"], seed=None, generator=listed, num_frames=1).seeds == [roots[0]] * 2

    def test_roots_of_the_operating_system_are_told(self, make):
        output = make(["a", "b"], seed=None, num_frames=1)
        assert output.seeds[0] != output.seeds[1]
        assert same(output.latents, make(["a", "b"], seed=output.seeds, num_frames=1).latents)

    def test_seeds_of_noise_of_ones_own(self, make):
        class Own:
            def __init__(self):
                self.streams = NoiseStreams(5)

            def draw(self, key, shape):
                return self.streams.draw(key, shape)

        output = make(["a", "b"], seed=None, noise=[Own(), NoiseStreams(6)], num_frames=1)
        assert output.seeds == [None, 6]
        assert same(output.latents, make(["a", "b"], seed=[5, 6], num_frames=1).latents)

    def test_seeds_beyond_32_bits(self, make):
        """torch's CPU generator looks at 32 bits; the root counts whole."""
        one, beyond = (make(seed=seed, num_frames=1).latents for seed in (1, 2**32 + 1))
        assert not same(one, beyond)


@FAMILY_NEUTRAL
class TestPrefixes:
    def test_a_shorter_clip_of_an_image_is_the_beginning(self, make):
        settings = {"image": an_image(), "num_inference_steps": [1, 2, 1], "output_type": "uint8"}
        whole = make(num_frames=17, **settings)
        for num_frames, num_units in ((1, 1), (9, 2)):
            shorter = make(num_frames=num_frames, **settings)
            assert same(shorter.latents, whole.latents[:, :, :num_units])
            assert same(shorter.frames, whole.frames[:, :num_frames])


@FAMILY_NEUTRAL
class TestNotFinite:
    def test_a_poisoned_transformer(self, own_pipe, small):
        calls = []

        def poison(module, args, output):
            calls.append(1)
            return (output[0] * torch.nan, *output[1:]) if len(calls) == 8 else output

        own_pipe.transformer.register_forward_hook(poison)
        steps = {"num_inference_steps": [2, 1, 2], "video_num_inference_steps": [1, 2, 1]}
        with pytest.raises(FloatingPointError, match="not finite after unit 1, stage 1, step 1"):
            own_pipe("a", seed=7, **small | steps)

    def test_a_poisoned_weight(self, own_pipe, small):
        own_pipe.transformer.proj_out.weight.data[0, 0] = torch.nan
        with pytest.raises(FloatingPointError, match="unit 0, stage 0, step 0"):
            own_pipe("a", seed=7, **small)

    def test_a_poisoned_decoder(self, own_pipe, small):
        own_pipe.vae.decoder.conv_out.conv.weight.data[0, 0] = torch.nan
        with pytest.raises(FloatingPointError, match="latent frame 0 are not finite"):
            own_pipe("a", seed=7, **small | {"output_type": "np"})


class TestPrecision:
    def test_fp16_is_refused(self, own_pipe, small):
        own_pipe.to(torch.float16)
        with pytest.raises(ValueError, match="dtype must be bfloat16 or float32, got float16"):
            own_pipe("a", seed=7, **small)

    @FAMILY_NEUTRAL
    def test_bf16(self, pipe, known, small, tmp_path):
        pipe.save_pretrained(tmp_path)
        loaded = PyramidFlowPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
        assert loaded.transformer.dtype == torch.bfloat16
        assert loaded.transformer.time_text_embed.timestep_embedder.linear_1.weight.dtype == torch.float32
        moved = PyramidFlowPipeline.from_pretrained(tmp_path).to(torch.bfloat16)
        mixed = PyramidFlowPipeline.from_pretrained(
            tmp_path, dtype={"transformer": torch.bfloat16, "default": torch.float32}
        )
        for other, num_frames, output_type in (
            (loaded, small["num_frames"], "latent"),
            (moved, 1, "np"),
            (mixed, 1, "latent"),
        ):
            other.set_progress_bar_config(disable=True)
            exact = known(num_frames=num_frames)
            changes = {"num_frames": num_frames, "output_type": output_type}
            output = other("a red circle", seed=7, **small | changes)
            assert output.latents.dtype == torch.float32
            if output_type == "np":
                assert output.frames.dtype == np.float32
                assert np.isfinite(output.frames).all()
            assert output.ledgers == exact.ledgers
            difference = (output.latents - exact.latents).abs().mean() / exact.latents.abs().mean()
            assert 0 < difference < 0.1

    def test_layerwise_casting(self, own_pipe, small, known):
        own_pipe.transformer.enable_layerwise_casting(torch.bfloat16, torch.float32)
        output, exact = own_pipe("a red circle", seed=7, **small), known()
        difference = (output.latents - exact.latents).abs().mean() / exact.latents.abs().mean()
        assert 0 < difference < 0.1

    def test_to(self, own_pipe):
        own_pipe.to("cpu", torch.bfloat16)
        models = [part for part in own_pipe.components.values() if isinstance(part, torch.nn.Module)]
        assert all(model.dtype == torch.bfloat16 and model.device.type == "cpu" for model in models)
        own_pipe.to(torch.float32)
        assert all(model.dtype == torch.float32 for model in models)


class TestMemoryModes:
    """What saves memory changes no bit, with an image, too; the rest is in `tests/invariance`."""

    @FAMILY_NEUTRAL
    @pytest.mark.parametrize(
        "blocks", [pytest.param(None, id="leaves", marks=pytest.mark.slow), pytest.param(1, id="blocks")]
    )
    def test_group_offload(self, own_pipe, small, make, blocks):
        kind = "leaf_level" if blocks is None else "block_level"
        own_pipe.enable_group_offload(torch.device("cpu"), offload_type=kind, num_blocks_per_group=blocks)
        image = an_image()
        small["output_type"] = "uint8"
        expected = make(image=image, output_type="uint8").frames
        for _ in range(2):
            assert same(own_pipe("a red circle", image=image, seed=7, **small).frames, expected)

    def test_cpu_offload_needs_an_accelerator(self, own_pipe):
        def rule(mode):
            if torch.accelerator.is_available():
                pytest.skip("there is an accelerator")
            with pytest.raises(RuntimeError, match="requires accelerator"):
                getattr(own_pipe, f"enable_{mode}_cpu_offload")()

        check_cases(["model", "sequential"], rule)

    @pytest.mark.slow
    def test_offload_hooks_of_accelerate(self, own_pipe, small, make):
        """What sequential offload does to each model, with the CPU as the device: weights live elsewhere."""
        for part in own_pipe.components.values():
            if isinstance(part, torch.nn.Module):
                accelerate.cpu_offload(part, torch.device("cpu"), offload_buffers=len(part._parameters) > 0)
        assert own_pipe.transformer.proj_out.weight.device.type == "meta"
        image = an_image()
        small["output_type"] = "uint8"
        expected = make(image=image, output_type="uint8").frames
        for _ in range(2):
            assert same(own_pipe("a red circle", image=image, seed=7, **small).frames, expected)

    def test_every_model_is_in_the_offload_sequence(self, pipe):
        models = {name for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
        assert models <= set(pipe.model_cpu_offload_seq.split("->"))


CACHES = [
    FirstBlockCacheConfig(threshold=10.0),
    MagCacheConfig(num_inference_steps=2, mag_ratios=[1.0] * 2, threshold=1e9, retention_ratio=0.0),
    PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(0, 1000),
        current_timestep_callback=lambda: 500,
    ),
    TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=1),
]


# A cache hooks the blocks of a family or its attention; one of each for the other family.
FAMILIES_OF_CACHES = [
    pytest.param(
        family,
        config,
        id=f"{family}-{type(config).__name__}",
        marks=pytest.mark.slow if family == "sd3" and number % 2 else (),
    )
    for family in FAMILIES
    for number, config in enumerate(CACHES)
]


@pytest.mark.parametrize(("family", "config"), FAMILIES_OF_CACHES, indirect=["family"])
class TestStepCaches:
    def test_no_call_and_no_clip_leaks_into_another(self, family, own_pipe, small, config):
        small |= {"num_inference_steps": 2, "num_frames": 1}
        if isinstance(config, PyramidAttentionBroadcastConfig):  # as its documentation has it
            config = replace(config, current_timestep_callback=lambda: own_pipe.current_timestep)
        calls = []
        layer = own_pipe.transformer.transformer_blocks[1].attn.to_q
        layer.register_forward_hook(lambda *args: calls.append(1))
        plain = own_pipe("a", seed=7, **small)
        without = len(calls)
        own_pipe.transformer.enable_cache(config)
        calls.clear()
        first = own_pipe(["a", "b"], seed=7, **small)
        assert len(calls) < 2 * without
        assert not same(first.latents[:1], plain.latents)
        assert same(first.latents[1:], own_pipe("b", seed=7, **small).latents)

        stop = lambda pipe, *args: setattr(pipe, "_interrupt", True)  # noqa: E731
        with pytest.raises(RuntimeError):
            own_pipe("c", seed=8, callback_on_step_end=stop, **small)
        assert same(first.latents[:1], own_pipe("a", seed=7, **small).latents)
        own_pipe.transformer.disable_cache()
        assert same(plain.latents, own_pipe("a", seed=7, **small).latents)


def test_attention_backends_are_those_of_diffusers(own_pipe, small, known):
    own_pipe.transformer.set_attention_backend("native")
    assert same(own_pipe("a red circle", seed=7, **small).latents, known().latents)
    with pytest.raises(ValueError, match="backend"):
        own_pipe.transformer.set_attention_backend("no such backend")


def test_the_pipeline_is_one_of_diffusers(pipe):
    assert isinstance(pipe, diffusers.DiffusionPipeline)
    assert pipe.dtype == torch.float32
    assert pipe.geometry.size_multiple == 64


def test_an_output_does_not_flood_a_notebook():
    output = PyramidFlowPipelineOutput(
        frames=None,
        latents=torch.zeros(2, 16, 3, 8, 8),
        seeds=[1, 2],
        ledgers=[],
        text_digests=[],
        stage_digests=[],
    )
    assert repr(output) == "PyramidFlowPipelineOutput(seeds=[1, 2], latents=(2, 16, 3, 8, 8))"

"""The causal video autoencoder: equal to the reference, and the same whatever the memory mode."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from safetensors.torch import load_file

from pyramid_seed.checkpoints.original_configs import vae_config_from_original
from pyramid_seed.models.autoencoder_kl_causal_video import AutoencoderKLCausalVideo
from pyramid_seed.models.causal_video_blocks import TemporalCache
from tests.cases import check_cases

REFERENCE = Path(__file__).parents[1] / "reference"
FOLDER = REFERENCE / "miniflux-tiny" / "causal_video_vae"
ORIGINAL_CONFIG = json.loads((FOLDER / "config.json").read_text())

# A compression of 4x4x4 in two blocks, as the embedded model has it.
SMALL = {
    "latent_channels": 4,
    "encoder_block_out_channels": (8, 12),
    "decoder_block_out_channels": (8, 16),
    "encoder_layers_per_block": (1, 2),
    "decoder_layers_per_block": (2, 1),
    "spatial_down_sample": (True, True),
    "temporal_down_sample": (True, True),
    "spatial_up_sample": (True, True),
    "temporal_up_sample": (True, True),
    "norm_num_groups": 4,
}


@pytest.fixture(scope="module")
def weights():
    return load_file(FOLDER / "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module")
def vectors():
    return load_file(REFERENCE / "vae.safetensors")


@pytest.fixture
def vae(weights):
    model = AutoencoderKLCausalVideo(**vae_config_from_original(ORIGINAL_CONFIG))
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False)


@pytest.fixture
def small():
    torch.manual_seed(0)
    return AutoencoderKLCausalVideo(**SMALL).eval()


def moments(model, x):
    return model.encode(x).latent_dist.parameters


def assert_equals_reference(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


def state(model):
    """Everything that a module carries, apart from its parameters: names and values of plain attributes."""
    return {
        name: {
            key: value for key, value in vars(module).items() if not key.startswith("_") or "buffer" in key
        }
        for name, module in model.named_modules()
    }


class TestReference:
    """Numbers of the original implementation."""

    def test_full_size_names_and_shapes(self):
        with torch.device("meta"):
            model = AutoencoderKLCausalVideo()
        shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
        assert shapes == json.loads((REFERENCE / "state_dict_keys.json").read_text())["causal_video_vae"]
        assert model.spatial_compression_ratio == model.temporal_compression_ratio == 8

    def test_encode(self, vae, vectors):
        assert_equals_reference(moments(vae, vectors["video"]), vectors["encode.video.moments"])
        assert_equals_reference(moments(vae, vectors["image"]), vectors["encode.image.moments"])

    def test_encode_chunked(self, vae, vectors):
        vae.enable_temporal_chunking(1)
        assert_equals_reference(moments(vae, vectors["video"]), vectors["encode.video.chunked8.moments"])

    def test_encode_tiled(self, vae, vectors):
        vae.enable_tiling(32, 32, 24, 24)
        assert_equals_reference(moments(vae, vectors["video"]), vectors["encode.video.tiled32.moments"])

    def test_decode(self, vae, vectors):
        assert_equals_reference(vae.decode(vectors["latents"]).sample, vectors["decode.full"])
        assert_equals_reference(vae.decode(vectors["latents"][:, :, :1]).sample, vectors["decode.image"])

    def test_decode_chunked(self, vae, vectors):
        def rule(chunk_size):
            vae.enable_temporal_chunking(chunk_size)
            expected = vectors[f"decode.chunked{chunk_size}"]
            assert_equals_reference(vae.decode(vectors["latents"]).sample, expected)

        check_cases([1, 2], rule)

    def test_decode_tiled_and_chunked(self, vae, vectors):
        vae.enable_tiling(32, 32, 24, 24)
        vae.enable_temporal_chunking(1)
        assert_equals_reference(vae.decode(vectors["latents"]).sample, vectors["decode.tiled32.chunked1"])


class TestMemoryModes:
    def test_chunks_change_rounding_only(self, small):
        def rule(chunk_size):
            x = torch.randn(1, 3, 17, 16, 8)
            z = torch.randn(1, 4, 5, 4, 2)
            with torch.no_grad():
                whole = moments(small, x), small.decode(z).sample
                small.enable_temporal_chunking(chunk_size)
                torch.testing.assert_close(moments(small, x), whole[0], rtol=0, atol=1e-5)
                torch.testing.assert_close(small.decode(z).sample, whole[1], rtol=0, atol=1e-5)
                small.disable_temporal_chunking()
                assert torch.equal(small.decode(z).sample, whole[1])

        check_cases([1, 2, 3, 9], rule)

    def test_chunk_lengths(self, small):
        z = torch.randn(1, 4, 6, 2, 2)
        with torch.no_grad():
            assert [chunk.shape[2] for chunk in small.decode_chunks(z, 2)] == [1, 8, 8, 4]
            assert [chunk.shape[2] for chunk in small.decode_chunks(z, None)] == [21]

    @pytest.mark.parametrize("tiled", [False, True])
    def test_shorter_clip_is_bitwise_the_beginning(self, vae, vectors, tiled):
        if tiled:
            vae.enable_tiling(32, 32, 24, 24)
        vae.enable_temporal_chunking(1)
        z = torch.cat([vectors["latents"]] * 2, dim=2)[:, :, :3]
        whole = vae.decode(z).sample

        def rule(num_latent_frames):
            beginning = vae.decode(z[:, :, :num_latent_frames]).sample
            assert torch.equal(beginning, whole[:, :, : beginning.shape[2]])

        check_cases([1, 2], rule)

    def test_slicing_is_bitwise_one_sample_at_a_time(self, small):
        x, z = torch.randn(3, 3, 5, 8, 8), torch.randn(3, 4, 2, 4, 4)
        small.enable_slicing()
        small.enable_temporal_chunking()
        small.enable_tiling(8, 8, 4, 4)
        with torch.no_grad():
            batch = moments(small, x), small.decode(z).sample
            for i in range(3):
                assert torch.equal(batch[0][i : i + 1], moments(small, x[i : i + 1]))
                assert torch.equal(batch[1][i : i + 1], small.decode(z[i : i + 1]).sample)
            small.disable_slicing()
            torch.testing.assert_close(small.decode(z).sample, batch[1], rtol=0, atol=1e-5)

    def test_tiles_of_the_whole_image_change_nothing(self, small):
        z = torch.randn(1, 4, 2, 4, 4)
        with torch.no_grad():
            whole = small.decode(z).sample
            small.enable_tiling(16, 16, 12, 12)
            assert torch.equal(small.decode(z).sample, whole)
            small.enable_tiling(16, 8, 12, 4)
            assert small.decode(z).sample.shape == whole.shape
            assert not torch.equal(small.decode(z).sample, whole)
            small.disable_tiling()
            assert torch.equal(small.decode(z).sample, whole)

    @pytest.mark.parametrize("hooked", ["CausalConv3d", "CausalUpBlock", "CausalDecoder"])
    def test_cache_passes_through_offload_hooks(self, small, hooked):
        """accelerate's hooks rebuild the containers that they move; the cache must survive that."""
        z = torch.randn(1, 4, 3, 2, 2)
        with torch.no_grad():
            expected = torch.cat(list(small.decode_chunks(z)), dim=2)
            for module in list(small.modules()):
                if type(module).__name__ == hooked:
                    add_hook_to_module(module, AlignDevicesHook(execution_device="cpu", io_same_device=True))
            assert torch.equal(torch.cat(list(small.decode_chunks(z)), dim=2), expected)


class TestCacheBelongsToTheCall:
    def test_nothing_stays_in_the_module(self, small):
        before = state(small)
        small.enable_temporal_chunking()
        caches = []
        small.decoder.register_forward_pre_hook(lambda module, args: caches.append(weakref.ref(args[1])))
        small.encoder.register_forward_pre_hook(lambda module, args: caches.append(weakref.ref(args[1])))
        with torch.no_grad():
            small.encode(torch.randn(1, 3, 9, 8, 8))
            small.decode(torch.randn(1, 4, 3, 2, 2))
        gc.collect()
        assert len(caches) == 6
        assert all(cache() is None for cache in caches)
        small.disable_temporal_chunking()
        assert state(small) == before

    def test_nothing_stays_after_an_exception(self, small):
        z = torch.randn(1, 4, 3, 2, 2)
        with torch.no_grad():
            expected = list(small.decode_chunks(z))
            before = state(small)
            calls = []

            def fail_in_second_chunk(module, args):
                calls.append(weakref.ref(args[1]))
                if len(calls) == 2:
                    raise RuntimeError("out of memory")

            handle = small.decoder.up_blocks[1].register_forward_pre_hook(fail_in_second_chunk)
            with pytest.raises(RuntimeError, match="out of memory"):
                list(small.decode_chunks(z))
            handle.remove()
            gc.collect()
            assert all(cache() is None for cache in calls)
            assert state(small) == before
            assert all(map(torch.equal, small.decode_chunks(z), expected))

    def test_interleaved_decodes_do_not_disturb_each_other(self, small):
        a, b = torch.randn(1, 4, 4, 2, 2), torch.randn(1, 4, 3, 4, 2)
        with torch.no_grad():
            alone_a, alone_b = list(small.decode_chunks(a)), list(small.decode_chunks(b))
            dropped = small.decode_chunks(b)
            next(dropped)
            turns_a, turns_b = small.decode_chunks(a), small.decode_chunks(b)
            together = [(next(turns_a), next(turns_b)) for _ in range(3)]
            last = next(turns_a)
        assert all(torch.equal(x, y) for (x, _), y in zip(together, alone_a, strict=False))
        assert all(torch.equal(x, y) for (_, x), y in zip(together, alone_b, strict=True))
        assert torch.equal(last, alone_a[3])

    def test_a_kept_frame_does_not_keep_its_chunk(self):
        cache, module, chunk = TemporalCache(), torch.nn.Identity(), torch.zeros(1, 1, 100, 1, 1)
        cache.put(module, chunk[:, :, -2:])
        kept = cache.get(module)
        assert kept is not None
        assert kept.untyped_storage().nbytes() == 2 * 4


class TestCausality:
    def test_decoded_frames_depend_on_no_later_latent(self, small):
        z = torch.randn(1, 4, 3, 2, 2)
        changed = z.clone()
        changed[:, :, 2] += 1
        with torch.no_grad():
            x, y = small.decode(z).sample, small.decode(changed).sample
        torch.testing.assert_close(x[:, :, :5], y[:, :, :5], rtol=0, atol=1e-6)
        assert not torch.allclose(x[:, :, 5], y[:, :, 5])

    def test_posterior_of_the_first_frame_is_that_of_the_image(self, small):
        x = torch.randn(1, 3, 9, 8, 8)
        with torch.no_grad():
            image, clip = moments(small, x[:, :, :1]), moments(small, x)
        torch.testing.assert_close(image, clip[:, :, :1], rtol=0, atol=1e-5)


class TestLatentStatistics:
    def test_first_and_later_frames(self, small):
        z = torch.randn(2, 4, 3, 2, 2)
        normal = small.normalize_latents(z)
        torch.testing.assert_close(normal[:, :, :1], (z[:, :, :1] + 0.04) / 1.8726)
        torch.testing.assert_close(normal[:, :, 1:], (z[:, :, 1:] + 0.2343) / 3.0986)
        torch.testing.assert_close(small.denormalize_latents(normal), z)

    def test_a_slice_of_a_clip_is_treated_as_in_the_clip(self, small):
        z = torch.randn(1, 4, 4, 2, 2)
        for method in (small.normalize_latents, small.denormalize_latents):
            parts = [method(z[:, :, i : i + 2], first_frame_index=i) for i in (0, 2)]
            assert torch.equal(torch.cat(parts, dim=2), method(z))

    def test_statistics_come_from_the_config(self):
        model = AutoencoderKLCausalVideo(**SMALL, shift_factor=0.149, scaling_factor=1 / 1.8415)
        z = torch.randn(1, 4, 1, 2, 2)
        torch.testing.assert_close(model.normalize_latents(z), (z - 0.149) / 1.8415)

    def test_bfloat16_rounds_once(self, small):
        z = torch.randn(1, 4, 2, 2, 2).bfloat16()
        assert torch.equal(small.normalize_latents(z), small.normalize_latents(z.float()).bfloat16())

    def test_errors(self, small):
        with pytest.raises(ValueError, match="first_frame_index must be at least 0, got -1"):
            small.normalize_latents(torch.randn(1, 4, 1, 2, 2), first_frame_index=-1)
        with pytest.raises(ValueError, match=r"latents must have shape \(batch, 4, "):
            small.denormalize_latents(torch.randn(4, 1, 2, 2))


class TestTraining:
    def test_gradients_reach_every_parameter(self, small):
        small.train()
        x = torch.randn(2, 3, 9, 8, 8)
        generator = torch.Generator().manual_seed(1)
        small(x, sample_posterior=True, generator=generator).sample.square().mean().backward()
        for name, parameter in small.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name

    def test_gradient_checkpointing_and_chunks_give_the_same_gradients(self, small):
        x = torch.randn(1, 3, 9, 8, 8)

        def gradients():
            small.zero_grad()
            small(x).sample.square().mean().backward()
            return [parameter.grad for parameter in small.parameters()]

        expected = gradients()
        small.enable_gradient_checkpointing()
        assert all(map(torch.equal, gradients(), expected))
        small.enable_temporal_chunking()
        for actual, gradient in zip(gradients(), expected, strict=True):
            torch.testing.assert_close(actual, gradient, rtol=1e-4, atol=1e-5)

    def test_without_attention(self):
        model = AutoencoderKLCausalVideo(**SMALL, mid_block_add_attention=False)
        assert not [name for name in model.state_dict() if "attentions" in name]
        assert model(torch.randn(1, 3, 5, 8, 8)).sample.shape == (1, 3, 5, 8, 8)


class TestModel:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_dtype_and_shapes(self, small, dtype):
        small.to(dtype)
        small.enable_tiling(8, 8, 4, 4)
        small.enable_temporal_chunking()
        with torch.no_grad():
            posterior = small.encode(torch.randn(1, 3, 9, 12, 8, dtype=dtype)).latent_dist
            sample = small.decode(posterior.mode()).sample
        assert posterior.mode().shape == (1, 4, 3, 3, 2)
        assert sample.shape == (1, 3, 9, 12, 8)
        assert posterior.parameters.dtype == sample.dtype == dtype
        assert sample.isfinite().all()

    def test_tuples(self, small):
        x = torch.randn(1, 3, 1, 8, 8)
        with torch.no_grad():
            (posterior,) = small.encode(x, return_dict=False)
            (sample,) = small.decode(posterior.mode(), return_dict=False)
            assert torch.equal(sample, small(x, return_dict=False)[0])

    def test_save_and_load(self, small, tmp_path):
        small.save_pretrained(tmp_path)
        loaded = AutoencoderKLCausalVideo.from_pretrained(tmp_path)
        z = torch.randn(1, 4, 2, 2, 2)
        with torch.no_grad():
            assert torch.equal(loaded.decode(z).sample, small.decode(z).sample)
        assert (loaded.spatial_compression_ratio, loaded.temporal_compression_ratio) == (4, 4)

    def test_no_split_modules_exist(self, small):
        names = {type(module).__name__ for module in small.modules()}
        assert names >= set(AutoencoderKLCausalVideo._no_split_modules)


class TestErrors:
    def test_encode(self, small):
        cases = [
            ((1, 3, 8, 8, 8), r"num_frames must be 4k \+ 1, got 8; use 5 or 9"),
            ((1, 3, 5, 10, 8), "height must be a multiple of 4, got 10; use 8 or 12"),
            ((1, 3, 5, 8, 2), "width must be a multiple of 4, got 2; use 4"),
            ((1, 4, 5, 8, 8), r"x must have shape \(batch, 3, .* got \(1, 4, 5, 8, 8\)"),
            ((1, 3, 8, 8), r"x must have shape \(batch, 3, .* got \(1, 3, 8, 8\)"),
            ((1, 3, 0, 8, 8), r"x must have shape \(batch, 3, "),
        ]

        def rule(shape, message):
            with pytest.raises(ValueError, match=message):
                small.encode(torch.zeros(shape))

        check_cases(cases, rule)

    def test_decode(self, small):
        with pytest.raises(ValueError, match=r"z must have shape \(batch, 4, "):
            small.decode(torch.zeros(1, 16, 2, 2, 2))
        with pytest.raises(ValueError, match="chunk_size must be at least 1, got 0; use 1"):
            small.decode_chunks(torch.zeros(1, 4, 2, 2, 2), 0)

    def test_memory_modes(self, small):
        with pytest.raises(ValueError, match="num_latent_frames must be at least 1, got 0; use 1"):
            small.enable_temporal_chunking(0)
        with pytest.raises(ValueError, match="tile_sample_min_height must be a multiple of 4, got 30"):
            small.enable_tiling(30)
        with pytest.raises(
            ValueError, match="tile_sample_stride_width must be a multiple of 4, got 0; use 4"
        ):
            small.enable_tiling(32, 32, 16, 0)
        with pytest.raises(ValueError, match=r"tile_sample_stride_height must be at most .* 32, got 36"):
            small.enable_tiling(32, 32, 36, 16)
        assert not small.use_tiling
        assert small.tile_sample_min_height == 256

    def test_config(self):
        cases = [
            ({"encoder_layers_per_block": (1,)}, "one entry per block, got 1, 2, 2, 2 entries"),
            ({"decoder_layers_per_block": (0, 1)}, "decoder_layers_per_block must be at least 1"),
            ({"temporal_up_sample": (True, False)}, "got 2 temporal halvings and 1 doublings"),
        ]

        def rule(change, message):
            with pytest.raises(ValueError, match=message):
                AutoencoderKLCausalVideo(**(SMALL | change))

        check_cases(cases, rule)

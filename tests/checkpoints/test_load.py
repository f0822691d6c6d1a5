"""Checkpoints in the original's layout: loaded as they are, refused with the reason where not whole."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging
from safetensors.torch import load_file, save_file

import pyramid_seed.models
from pyramid_seed.checkpoints.load import default_dtype_kept, load_components
from pyramid_seed.checkpoints.source import read_source
from pyramid_seed.dtypes import check_dtype
from pyramid_seed.families.pyramid_flow import MINIFLUX
from pyramid_seed.loading import load_pipeline
from pyramid_seed.models import PyramidFluxTransformer3DModel, PyramidSD3Transformer3DModel
from pyramid_seed.models.autoencoder_kl_causal_video import AutoencoderKLCausalVideo
from pyramid_seed.schedulers import PyramidFlowMatchEulerDiscreteScheduler
from tests.cases import check_cases

REFERENCE = Path(__file__).parents[1] / "reference"
FAMILIES = ("miniflux", "sd3")
TRANSFORMER = "diffusion_transformer_384p"
WEIGHTS = "diffusion_pytorch_model.safetensors"


def load(path, *, dtype=torch.float32, **options):
    """The components of a checkpoint, by name."""
    return load_components(read_source(path, **options), dtype)


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request):
    source = read_source(REFERENCE / f"{request.param}-tiny")
    components = load_components(source)
    return SimpleNamespace(source=source, family=source.family.name, components=components, **components)


@pytest.fixture
def copy_of(tmp_path):
    """Copies a checkpoint of a family, to be damaged."""
    folders = (tmp_path / str(number) for number in count())
    return lambda family: Path(shutil.copytree(REFERENCE / f"{family}-tiny", next(folders) / family))


@pytest.fixture
def miniflux(copy_of):
    return copy_of("miniflux")


@pytest.fixture
def sd3(copy_of):
    return copy_of("sd3")


def edit_config(path, **changes):
    """Change keys of a config.json; None removes one."""
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def direct(family, part):
    return load_file(REFERENCE / f"{family}-tiny" / part / WEIGHTS)


def assert_same(state, expected):
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert state[name].dtype == tensor.dtype, name
        assert torch.equal(state[name], tensor), name


def files_of(folder):
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


# What is loaded


def test_weights_are_those_of_the_files_bit_for_bit(loaded):
    assert_same(loaded.transformer.state_dict(), direct(loaded.family, TRANSFORMER))
    assert_same(loaded.vae.state_dict(), direct(loaded.family, "causal_video_vae"))
    text = load_file(REFERENCE / f"{loaded.family}-tiny" / "text_encoder" / "model.safetensors")
    # transformers dropped this prefix from the names of CLIPTextModel, not from the files.
    mine = {name.removeprefix("text_model."): t for name, t in loaded.text_encoder.state_dict().items()}
    assert_same(mine, {name.removeprefix("text_model."): tensor for name, tensor in text.items()})


def test_components_of_each_family(loaded):
    classes = {name: type(module).__name__ for name, module in loaded.components.items()}
    common = {
        "scheduler": "PyramidFlowMatchEulerDiscreteScheduler",
        "vae": "AutoencoderKLCausalVideo",
        "tokenizer": "CLIPTokenizer",
    }
    assert (
        classes
        == {
            "miniflux": {
                **common,
                "transformer": "PyramidFluxTransformer3DModel",
                "text_encoder": "CLIPTextModel",
                "text_encoder_2": "T5EncoderModel",
                "tokenizer_2": "T5Tokenizer",
            },
            "sd3": {
                **common,
                "transformer": "PyramidSD3Transformer3DModel",
                "text_encoder": "CLIPTextModelWithProjection",
                "text_encoder_2": "CLIPTextModelWithProjection",
                "tokenizer_2": "CLIPTokenizer",
                "text_encoder_3": "T5EncoderModel",
                "tokenizer_3": "T5Tokenizer",
            },
        }[loaded.family]
    )
    for module in loaded.components.values():
        if isinstance(module, torch.nn.Module):
            assert not module.training
            assert {tensor.device.type for tensor in module.state_dict().values()} == {"cpu"}


def test_the_rest_follows_the_original(loaded):
    first = {"miniflux": (-0.04, 1 / 1.8726), "sd3": (0.1490, 1 / 1.8415)}[loaded.family]
    vae = loaded.vae.config
    assert (vae.shift_factor, vae.scaling_factor) == first
    assert (vae.video_shift_factor, vae.video_scaling_factor) == (-0.2343, 1 / 3.0986)
    assert loaded.transformer.config.patch_size == 2
    assert loaded.transformer.config.in_channels == vae.latent_channels == 16
    assert dict(loaded.scheduler.config) == dict(PyramidFlowMatchEulerDiscreteScheduler().config)
    assert loaded.scheduler.config.shift == 1.0
    assert loaded.source.transformer == TRANSFORMER
    assert all(word in loaded.source.description for word in (loaded.family, "384p", "original"))


def test_what_was_found_is_logged(caplog):
    logging.enable_propagation()
    logging.set_verbosity_info()
    try:
        source = read_source(REFERENCE / "miniflux-tiny")
        load_components(source)
    finally:
        logging.set_verbosity_warning()
        logging.disable_propagation()
    assert source.description in caplog.text


def test_bfloat16_keeps_the_modules_that_need_float32(loaded):
    half = SimpleNamespace(**load(REFERENCE / f"{loaded.family}-tiny", dtype=torch.bfloat16))
    kept = set(half.transformer._keep_in_fp32_modules)
    expected = {
        name: tensor if kept.intersection(name.split(".")) else tensor.to(torch.bfloat16)
        for name, tensor in direct(loaded.family, TRANSFORMER).items()
    }
    assert {tensor.dtype for tensor in expected.values()} == {torch.float32, torch.bfloat16}
    assert_same(half.transformer.state_dict(), expected)
    assert half.vae.dtype == half.text_encoder.dtype == half.text_encoder_2.dtype == torch.bfloat16


def test_the_files_may_be_replaced_while_the_model_lives(miniflux):
    transformer = load(miniflux)["transformer"]
    path = miniflux / TRANSFORMER / WEIGHTS
    with path.open("r+b") as file:
        file.write(b"\0" * path.stat().st_size)
    assert_same(transformer.state_dict(), direct("miniflux", TRANSFORMER))


def shard(folder):
    state = load_file(folder / WEIGHTS)
    names = sorted(state)
    halves = {"00001": names[::2], "00002": names[1::2]}
    weight_map = {}
    for number, mine in halves.items():
        file = f"diffusion_pytorch_model-{number}-of-00002.safetensors"
        save_file({name: state[name] for name in mine}, folder / file)
        weight_map |= dict.fromkeys(mine, file)
    (folder / WEIGHTS).unlink()
    index = folder / f"{WEIGHTS}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def test_sharded_weights(miniflux):
    shard(miniflux / TRANSFORMER)
    assert_same(load(miniflux)["transformer"].state_dict(), direct("miniflux", TRANSFORMER))


def test_an_incomplete_set_of_shards(miniflux):
    index = shard(miniflux / TRANSFORMER)
    (miniflux / TRANSFORMER / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match=rf"{TRANSFORMER} lacks diffusion_pytorch_model-00002-of-00002"):
        load(miniflux)
    index.write_text("{}")
    with pytest.raises(ValueError, match="must hold a weight_map"):
        load(miniflux)


# Variants


def test_variants(miniflux):
    shutil.copytree(miniflux / TRANSFORMER, miniflux / "diffusion_transformer_image")
    with pytest.raises(ValueError, match="has the variants 384p, image; name one"):
        load(miniflux)
    assert read_source(miniflux, variant="image").transformer == "diffusion_transformer_image"
    with pytest.raises(ValueError, match="has no variant '768p', it has 384p, image"):
        load(miniflux, variant="768p")
    with pytest.raises(ValueError, match="variant must be one of 384p, 768p, image, got '512p'"):
        load(miniflux, variant="512p")


# Dtypes


def test_fp16_is_refused_before_any_work():
    with pytest.raises(ValueError, match=r"fp16 overflows in this family's activations; use torch\.bfloat16"):
        load_pipeline("/nowhere", dtype=torch.float16)
    with pytest.raises(ValueError, match=r"got torch\.float64; use torch\.float32"):
        check_dtype(torch.float64)
    check_dtype(torch.float32)
    check_dtype(torch.bfloat16)


def test_a_failed_load_leaves_the_default_dtype(copy_of):
    def rule(part):
        miniflux = copy_of("miniflux")
        for path in (miniflux / part).glob("*.safetensors"):
            path.write_bytes(b"no tensors")
        with pytest.raises(ValueError, match=re.escape(str(miniflux / part))):
            load(miniflux, dtype=torch.bfloat16)
        assert torch.get_default_dtype() == torch.float32

    check_cases([TRANSFORMER, "causal_video_vae", "text_encoder", "text_encoder_2"], rule)


def test_default_dtype_kept():
    with default_dtype_kept():
        torch.set_default_dtype(torch.bfloat16)
    assert torch.get_default_dtype() == torch.float32


# Layouts and families


def test_layouts(miniflux, tmp_path):
    assert read_source(miniflux).layout == "original"
    load_pipeline(miniflux, device="cpu").save_pretrained(tmp_path / "saved")
    saved = read_source(tmp_path / "saved")
    assert (saved.layout, saved.family, saved.transformer) == ("diffusers", MINIFLUX, "transformer")
    with pytest.raises(ValueError, match=r"written by save_pretrained.*PyramidFlowPipeline\.from_pretrained"):
        load(tmp_path / "saved")


def test_a_saved_pipeline_of_another_model_is_refused(tmp_path):
    (tmp_path / "model_index.json").write_text('{"transformer": ["diffusers", "WanTransformer3DModel"]}')
    with pytest.raises(ValueError, match="HeliosTransformer3DModel, got 'WanTransformer3DModel'"):
        read_source(tmp_path)


def test_a_path_that_is_not_there():
    def rule(where):
        with pytest.raises(FileNotFoundError, match="neither a folder nor a hub id"):
            load(where)

    check_cases(["/no/such/folder", "./folder", "folder", Path("owner/name")], rule)


def test_a_single_file(tmp_path):
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    weights.touch()
    with pytest.raises(NotADirectoryError, match=f"a model is a folder .* got the file {weights}"):
        load(weights)


def test_a_folder_of_neither(tmp_path):
    with pytest.raises(ValueError, match="neither a folder that save_pretrained wrote") as error:
        read_source(tmp_path)
    message = str(error.value)
    for family, last in (("miniflux", "text_encoder_2"), ("sd3", "text_encoder_3")):
        assert re.search(rf"For {family} it lacks {TRANSFORMER}\|768p\|image/.*{last}/, tokenizer/", message)
        assert f"Expected layout of {family}" in message


def test_a_folder_without_a_transformer(miniflux):
    shutil.rmtree(miniflux / TRANSFORMER)
    with pytest.raises(ValueError, match=r"has no transformer\. For miniflux it lacks diffusion_tra"):
        load(miniflux)


def test_a_part_is_missing(copy_of):
    def rule(part):
        miniflux = copy_of("miniflux")
        shutil.rmtree(miniflux / part)
        with pytest.raises(
            ValueError, match=f"a miniflux checkpoint but lacks {part}/. Expected layout of min"
        ):
            load(miniflux)

    check_cases(["tokenizer_2", "text_encoder", "causal_video_vae", "text_encoder_2"], rule)


def test_an_sd3_folder_without_its_third_text_encoder(sd3):
    shutil.rmtree(sd3 / "text_encoder_3")
    shutil.rmtree(sd3 / "tokenizer_3")
    with pytest.raises(ValueError, match="is a sd3 checkpoint but lacks text_encoder_3/, tokenizer_3/"):
        load(sd3)


def test_parts_of_both_families(miniflux, sd3):
    shutil.copytree(sd3 / "text_encoder_3", miniflux / "text_encoder_3")
    with pytest.raises(ValueError, match="parts of both families") as error:
        load(miniflux)
    message = str(error.value)
    assert f"{TRANSFORMER} is of miniflux, text_encoder_2 is of miniflux, text_encoder_3 is of sd3" in message
    assert "For miniflux it lacks nothing" in message
    assert "(PyramidDiffusionMMDiT), text_encoder_2/, tokenizer_3/. Expected" in message


def test_a_transformer_of_another_kind(miniflux):
    edit_config(miniflux / TRANSFORMER / "config.json", _class_name="FluxTransformer2DModel")
    with pytest.raises(ValueError, match="or PyramidDiffusionMMDiT, got 'FluxTransformer2DModel'"):
        load(miniflux)


# Files


def test_a_file_is_missing(copy_of):
    cases = [
        (f"{TRANSFORMER}/config.json", f"{TRANSFORMER}/config.json is missing"),
        (f"{TRANSFORMER}/{WEIGHTS}", rf"{TRANSFORMER}/{WEIGHTS} is missing \(or "),
        ("causal_video_vae/config.json", "causal_video_vae/config.json is missing"),
        ("text_encoder/model.safetensors", "text_encoder/model.safetensors is missing"),
        ("tokenizer/merges.txt", "tokenizer must hold vocab.json and merges.txt .* merges.txt is missing"),
        ("tokenizer_2/spiece.model", "tokenizer_2 must hold spiece.model .*Expected layout of miniflux"),
    ]

    def rule(file, message):
        miniflux = copy_of("miniflux")
        (miniflux / file).unlink()
        with pytest.raises(ValueError, match=message):
            load(miniflux)

    check_cases(cases, rule)


def test_a_pickle_beside_safetensors_is_not_read(miniflux):
    (miniflux / TRANSFORMER / "diffusion_pytorch_model.bin").write_bytes(b"never read")
    load(miniflux)


def test_a_pickle_in_a_saved_folder_is_refused(tmp_path):
    (tmp_path / "vae").mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(
        ValueError, match=r"vae has its weights in a pickle \(vae/diffusion_pytorch_model\.bin\)"
    ):
        read_source(tmp_path)


# Configs


def test_a_config_that_our_transformers_do_not_implement(copy_of):
    cases = [
        ("miniflux", {"num_layers": None}, "must have num_layers"),
        ("miniflux", {"guidance_embeds": True}, "unknown key 'guidance_embeds'.*with value True"),
        ("miniflux", {"patch_size": 2}, "patch_size must be 1 .* got 2"),
        ("miniflux", {"in_channels": 66}, "in_channels must be a multiple of 4 .* got 66"),
        ("miniflux", {"axes_dims_rope": [4, 6, 8]}, "axes_dims_rope must add up to attention_head_dim 16"),
        ("sd3", {"pos_embed_type": "rope"}, "pos_embed_type must be 'sincos' .* got 'rope'"),
        ("sd3", {"qk_norm": None}, "must have qk_norm"),
        ("sd3", {"caption_projection_dim": 40}, "caption_projection_dim must be 48 .* got 40"),
    ]

    def rule(family, changes, message):
        folder = copy_of(family)
        edit_config(folder / TRANSFORMER / "config.json", **changes)
        path = re.escape(str(folder / TRANSFORMER / "config.json"))
        with pytest.raises(ValueError, match=f"{path}: .*{message}"):
            load(folder)

    check_cases(cases, rule)


def test_what_the_originals_loader_overrides_is_not_asked_for(sd3):
    overridden = ("use_t5_mask", "add_temp_pos_embed", "temp_pos_embed_type", "use_temporal_causal")
    edit_config(sd3 / TRANSFORMER / "config.json", **dict.fromkeys(overridden))
    edit_config(sd3 / "causal_video_vae" / "config.json", interpolate=True)
    load(sd3)


def test_a_vae_config_that_ours_does_not_implement(miniflux):
    edit_config(miniflux / "causal_video_vae" / "config.json", encoder_act_fn="gelu")
    with pytest.raises(ValueError, match=r"causal_video_vae/config\.json: encoder_act_fn must be 'silu'"):
        load(miniflux)


def test_a_config_that_is_no_config(miniflux):
    def rule(text, message):
        path = miniflux / TRANSFORMER / "config.json"
        path.write_text(text)
        with pytest.raises(ValueError, match=f"{re.escape(str(path))} {message}"):
            load(miniflux)

    check_cases([("{", "is not JSON"), ("[]", "must hold a JSON object, got list")], rule)


# Tensors


def test_tensors_must_be_exactly_those_of_the_model(miniflux):
    path = miniflux / TRANSFORMER / WEIGHTS
    state = load_file(path)
    del state["proj_out.bias"]
    state["guidance.weight"] = torch.zeros(2)
    state["x_embedder.bias"] = torch.zeros(3)
    save_file(state, path)
    with pytest.raises(ValueError, match=re.escape(f"{path} must hold exactly the 108 tensors")) as error:
        load(miniflux)
    assert str(error.value).endswith(
        "PyramidFluxTransformer3DModel has with the config.json beside it; 1 missing: proj_out.bias; "
        "1 unexpected: guidance.weight; 1 of another shape: x_embedder.bias (3,) instead of (48,)"
    )


def test_a_long_list_of_tensors_is_cut(miniflux):
    save_file({"a": torch.zeros(1)}, miniflux / "causal_video_vae" / WEIGHTS)
    with pytest.raises(ValueError, match=r"176 missing: (\S+, ){4}\S+ and 171 more; 1 unexpected: a"):
        load(miniflux)


def test_a_text_encoder_without_all_its_weights_is_not_filled_with_random_ones(miniflux):
    path = miniflux / "text_encoder" / "model.safetensors"
    state = load_file(path)
    del state["final_layer_norm.weight"]
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"must hold all weights of CLIPTextModel, missing: \S*final_layer"):
        load(miniflux)


def test_a_broken_tokenizer(miniflux):
    (miniflux / "tokenizer" / "vocab.json").write_text("not json")
    folder = re.escape(str(miniflux / "tokenizer"))
    with pytest.raises(ValueError, match=f"{folder} cannot be loaded as CLIPTokenizer"):
        load(miniflux)


# The package, and model_index.json


def test_the_package_imports_its_names_when_they_are_used():
    for name in pyramid_seed.models.__all__:
        assert getattr(pyramid_seed.models, name).__name__ == name
    assert dir(pyramid_seed.models) == sorted(pyramid_seed.models.__all__)
    with pytest.raises(AttributeError, match=r"No pyramid_seed\.models attribute absent"):
        pyramid_seed.models.absent  # noqa: B018
    command = "import pyramid_seed.models, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", command], cwd=Path(__file__).parents[2], check=True)


class Parts(DiffusionPipeline):
    """Nothing but components."""

    def __init__(
        self, transformer: torch.nn.Module, vae: AutoencoderKLCausalVideo, scheduler: torch.nn.Module
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, vae=vae, scheduler=scheduler)


@pytest.mark.slow
def test_every_module_that_model_index_names_is_imported_with_the_loader():
    # diffusers imports no module because a file names it: the caller must have done so.
    modules = {
        component.__module__
        for component in (
            PyramidFluxTransformer3DModel,
            PyramidSD3Transformer3DModel,
            AutoencoderKLCausalVideo,
            PyramidFlowMatchEulerDiscreteScheduler,
        )
    }
    command = f"import pyramid_seed.checkpoints.load, sys; sys.exit(not {modules!r} <= set(sys.modules))"
    subprocess.run([sys.executable, "-c", command], cwd=Path(__file__).parents[2], check=True)


def test_save_pretrained_and_from_pretrained_round_trip(loaded, tmp_path):
    Parts(loaded.transformer, loaded.vae, loaded.scheduler).save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    home = {"miniflux": "transformer_pyramid_flux", "sd3": "transformer_pyramid_sd3"}[loaded.family]
    # These names are a file format: folders that were saved hold them.
    assert index["transformer"] == [f"pyramid_seed.models.{home}", type(loaded.transformer).__name__]
    assert index["vae"] == ["pyramid_seed.models.autoencoder_kl_causal_video", "AutoencoderKLCausalVideo"]
    assert index["scheduler"] == [
        "pyramid_seed.schedulers.scheduling_pyramid_flow_match",
        "PyramidFlowMatchEulerDiscreteScheduler",
    ]
    again = Parts.from_pretrained(tmp_path)
    assert isinstance(again.transformer, (PyramidFluxTransformer3DModel, PyramidSD3Transformer3DModel))
    assert_same(again.transformer.state_dict(), loaded.transformer.state_dict())
    assert_same(again.vae.state_dict(), loaded.vae.state_dict())
    assert again.vae.config.shift_factor == loaded.vae.config.shift_factor

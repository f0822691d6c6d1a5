"""Put the trained parts of the embedded model together as one diffusers pipeline folder.

    python scripts/tiny/export.py --overwrite

Needs what the three training scripts wrote. Weights are float32, in safetensors. The folder appears whole or
not at all; a model card that lay in a replaced one (README.md and its pictures) is kept.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from training import WORK_FOLDER
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from pyramid_seed.files import replacing
from pyramid_seed.models.autoencoder_kl_causal_video import AutoencoderKLCausalVideo
from pyramid_seed.models.transformer_pyramid_flux import PyramidFluxTransformer3DModel
from pyramid_seed.pipelines import PyramidFlowPipeline
from pyramid_seed.schedulers import PyramidFlowMatchEulerDiscreteScheduler

SIZE_LIMIT = 40_000_000
"""Bytes that everything in the folder around the model may have."""


def assemble(text: Path, vae: Path, transformer: Path) -> PyramidFlowPipeline:
    """A pipeline of trained parts.

    Args:
        text: folder of `train_text.py`, with text_encoder, text_encoder_2, tokenizer and tokenizer_2.
        vae, transformer: folders that `save_pretrained` of the two models wrote.
    """
    return PyramidFlowPipeline(
        scheduler=PyramidFlowMatchEulerDiscreteScheduler(),
        vae=AutoencoderKLCausalVideo.from_pretrained(vae),
        transformer=PyramidFluxTransformer3DModel.from_pretrained(transformer),
        text_encoder=CLIPTextModel.from_pretrained(text / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(text / "tokenizer"),
        text_encoder_2=T5EncoderModel.from_pretrained(text / "text_encoder_2"),
        tokenizer_2=T5Tokenizer.from_pretrained(text / "tokenizer_2"),
    )


def export(pipeline: PyramidFlowPipeline, folder: Path, *, overwrite: bool = False) -> None:
    """Save a pipeline in diffusers' layout, whole or not at all.

    Raises:
        FileExistsError: `folder` exists and `overwrite` is false, or holds something else than a pipeline.
    """
    if overwrite and folder.exists() and any(folder.iterdir()) and not (folder / "model_index.json").exists():
        raise FileExistsError(f"{folder} exists and is not a pipeline folder; choose another one")
    with replacing(folder, overwrite=overwrite) as temporary:
        pipeline.save_pretrained(temporary, safe_serialization=True)
        for config in temporary.glob("*/config.json"):
            forget_origin(config)
        for part in (*folder.glob("README.md"), *folder.glob("*.png")):
            shutil.copy2(part, temporary / part.name)


def forget_origin(config: Path) -> None:
    """Take the folder of the training out of a config: it means nothing to anybody else."""
    values = json.loads(config.read_text())
    values.pop("_name_or_path", None)
    config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def size_of(folder: Path) -> int:
    """Bytes of all files under a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("assets/tiny"), help="folder to write")
    parser.add_argument("--text", type=Path, default=WORK_FOLDER / "text")
    parser.add_argument("--vae", type=Path, default=WORK_FOLDER / "vae" / "model")
    parser.add_argument("--transformer", type=Path, default=WORK_FOLDER / "transformer" / "model")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing pipeline folder")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    export(assemble(arguments.text, arguments.vae, arguments.transformer), out, overwrite=arguments.overwrite)
    model, everything = size_of(out), size_of(out.parent)
    print(f"{arguments.out}: {model / 1e6:.1f} MB")
    if everything > SIZE_LIMIT:
        print(f"{out.parent} has {everything / 1e6:.1f} MB, over its limit of {SIZE_LIMIT / 1e6:.0f} MB")


if __name__ == "__main__":
    main()

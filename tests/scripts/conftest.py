"""Parts of an embedded model that has hardly been trained, made once for all tests of the scripts.

The scripts are imported where they are needed: tests of the world and the recogniser do without torch.
"""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory):
    """What `train_text.py` writes after two steps on 400 captions."""
    from train_text import main as train_text

    folder = tmp_path_factory.mktemp("text")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sys, "argv", ["train_text.py", "--out", str(folder), "--captions", "400", "--steps", "2"]
        )
        train_text()
    return folder


@pytest.fixture(scope="session")
def untrained_pipeline(text_folder, tmp_path_factory):
    """The embedded model's pipeline with fresh weights, its output layer not zero."""
    import torch
    from export import assemble
    from train_transformer import build_transformer
    from train_vae import build_vae

    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    transformer = build_transformer()
    torch.nn.init.normal_(transformer.proj_out.weight, std=0.02)
    transformer.save_pretrained(folder / "transformer")
    build_vae().save_pretrained(folder / "vae")
    pipeline = assemble(text_folder, folder / "vae", folder / "transformer")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def exported(untrained_pipeline, tmp_path_factory):
    """What `export.py` makes of it; to be read only."""
    from export import export

    folder = tmp_path_factory.mktemp("assets") / "tiny"
    export(untrained_pipeline, folder)
    return folder

"""A call that is refused changes nothing of the one that runs."""

from __future__ import annotations

import sys
import threading

import pytest
import torch

from pyramid_seed.api import generate
from pyramid_seed.loading import load_pipeline
from pyramid_seed.pipelines import PyramidFlowPipeline
from tests.pipelines.conftest import FAMILY_NEUTRAL


def test_the_running_call_keeps_its_attention(quick):
    """While one thread makes two clips, another asks all the time, with the other path and a bar."""
    pipeline = load_pipeline(quick["model"], variant="384p", device="cpu")
    small = {**quick, "num_frames": 1, "pipeline": pipeline, "progress": False}
    expected = {
        path: generate("a", seed=1, attention=path, **small).digest for path in ("grouped", "reference")
    }
    refusals, is_done = [], threading.Event()

    def ask():
        while not is_done.is_set():
            try:
                generate("a", seed=1, attention="reference", **small)
            except RuntimeError as error:
                refusals.append(str(error))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    other = threading.Thread(target=ask)
    other.start()
    made = []
    try:
        while len(made) < 2:
            try:
                clip = generate("a", seed=1, **small)
            except RuntimeError as error:
                refusals.append(str(error))
            else:
                made.append((clip.manifest["attention"], clip.digest))
    finally:
        is_done.set()
        other.join()
        sys.setswitchinterval(before)
    assert made == [("grouped", expected["grouped"])] * 2
    assert refusals
    assert all("this pipeline is making a clip" in text for text in refusals)
    assert pipeline.transformer.attention_path == "grouped"


@FAMILY_NEUTRAL
def test_what_a_call_names_is_for_this_call_only(own_pipe, small, capfd):
    own_pipe.set_progress_bar_config(disable=False, delay=0, mininterval=0)
    output = own_pipe("a", seed=1, attention="reference", show_progress=False, **small)
    assert capfd.readouterr().err == ""
    assert (output.attention, own_pipe.transformer.attention_path) == ("reference", "grouped")
    assert own_pipe("a", seed=1, **small).attention == "grouped"
    assert "100 %" in capfd.readouterr().err


@FAMILY_NEUTRAL
def test_pipelines_that_share_a_model_take_turns(own_pipe, known, small):
    other = PyramidFlowPipeline(**own_pipe.components)
    refusals = []

    def ask(*_):
        with pytest.raises(RuntimeError, match="this pipeline is making a clip") as refusal:
            other("b", seed=2, attention="reference", **small)
        refusals.append(refusal)

    asked = own_pipe("a", seed=7, callback_on_unit_end=ask, **small)
    assert len(refusals) == 2
    assert torch.equal(known("a").latents, asked.latents)
    other("b", seed=2, **small)

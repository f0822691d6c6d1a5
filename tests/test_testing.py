"""The plugin of pytest, in a pytest inside this one: it passes, and it names what was planted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from pyramid_seed import Clip, generate, load_pipeline
from pyramid_seed.media.images import read_image
from pyramid_seed.noise import streams
from pyramid_seed.pipelines import PyramidFlowPipeline

TEST = """
from tests import test_testing

def test_style(clip_regression):
    clip_regression.check(test_testing.make())
"""

make: Callable[[], Clip]
"""The clip that the inner test makes."""


@pytest.fixture
def run(pytester) -> Callable[..., pytest.RunResult]:
    """Runs the inner test on a clip, in this process."""
    pytester.makepyfile(test_inner=TEST)

    def run_inner(clip_maker: Callable[[], Clip], *options: str) -> pytest.RunResult:
        global make  # noqa: PLW0603 - the inner test has no other way to it
        make = clip_maker
        return pytester.runpytest_inprocess("-p", "pyramid_seed.testing", *options)

    return run_inner


def test_a_record_is_written_when_asked_for_and_holds(run, made, pytester):
    missing = run(lambda: made)
    missing.assert_outcomes(failed=1)
    missing.stdout.fnmatch_lines(["*there is no record *test_style.json; write it: *--clip-regression-renew"])
    assert not (pytester.path / "test_inner").exists()
    renewed = run(lambda: made, "--clip-regression-renew")
    renewed.assert_outcomes(passed=1)
    renewed.stdout.fnmatch_lines(
        ["*= clip regression =*", "test_inner.py::test_style: test_style.json: written; was new"]
    )
    names = sorted(path.name for path in (pytester.path / "test_inner").iterdir())
    assert names == ["test_style.json", "test_style.png"]
    passed = run(lambda: made)
    passed.assert_outcomes(passed=1)
    passed.stdout.fnmatch_lines(["test_inner.py::test_style: test_style.json: the same, bit for bit"])
    other = replace(made, frame_facts=replace(made.frame_facts, digest="0" * 64))
    failed = run(lambda: other, "--basetemp=pictures")
    failed.assert_outcomes(failed=1)
    check_message_and_picture(failed, pytester, "frames, all frames: ")


def check_message_and_picture(failed: pytest.RunResult, pytester: pytest.Pytester, moved: str) -> None:
    text = failed.stdout.str()
    assert f"test_style.json: the first stage that moved is {moved}" in text
    (picture,) = (pytester.path / "pictures").rglob("test_style-moved.png")
    assert f"then, now, and the difference amplified: {picture}" in text
    assert read_image(picture).shape[0] == 3 * 64 + 2 * 2  # three rows


def test_several_clips_of_a_test_and_names_of_parameters(pytester, made):
    pytester.makepyfile(
        test_inner="""
        import pytest
        from tests import test_testing

        @pytest.mark.parametrize("prompt", ["a / b"])
        def test_style(prompt, clip_regression):
            clip_regression.check(test_testing.make())
            clip_regression.check(test_testing.make(), name="other", max_levels=3, max_mean=1)
        """
    )
    global make  # noqa: PLW0603
    make = lambda: made  # noqa: E731
    options = ["-p", "pyramid_seed.testing", "--clip-regression-renew"]
    pytester.runpytest_inprocess(*options).assert_outcomes(passed=1)
    names = sorted(path.name for path in (pytester.path / "test_inner").glob("*.json"))
    assert names == ["other.json", "test_style-a-b.json"]


# ---- a change planted in each part of a model


@pytest.fixture(scope="module")
def pipeline(quick) -> PyramidFlowPipeline:
    return load_pipeline(quick["model"], variant="384p", device="cpu")


@pytest.fixture(scope="module")
def clip(quick, pipeline) -> Callable[[], Clip]:
    settings = {name: value for name, value in quick.items() if name not in ("model", "variant")}
    return lambda: generate("a boat", seed=5, pipeline=pipeline, **settings)


@contextmanager
def changed(weight: torch.Tensor) -> Iterator[None]:
    before = weight.detach().clone()
    with torch.no_grad():
        weight *= 1.01
    yield
    with torch.no_grad():
        weight.copy_(before)


@contextmanager
def other_noise() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        derive = streams.derive_seed
        patch.setattr(streams, "derive_seed", lambda *key: derive(*key) ^ 1)
        yield


PLANTED = {
    "text": (
        lambda pipe: changed(pipe.text_encoder_2.encoder.block[0].layer[0].SelfAttention.q.weight),
        "text, embeddings of prompt: ",
    ),
    "noise": (lambda pipe: other_noise(), "noise, draw initial/0/0 of 1x16x1x8x8: "),
    "transformer": (
        lambda pipe: changed(next(pipe.transformer.transformer_blocks[0].parameters())),
        "unit, latents of stage 0 of unit 0: ",
    ),
    "VAE": (
        lambda pipe: changed(next(pipe.vae.decoder.parameters())),
        "decode, chunk 0 (frames 0 to 0): ",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("part", PLANTED)
def test_a_failure_names_the_stage_and_shows_it(run, clip, pipeline, pytester, part):
    plant, message = PLANTED[part]
    run(clip, "--clip-regression-renew").assert_outcomes(passed=1)
    with plant(pipeline):
        failed = run(clip, "--basetemp=pictures")
    failed.assert_outcomes(failed=1)
    check_message_and_picture(failed, pytester, message)

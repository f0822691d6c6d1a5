"""Whatever a function or a command line is given ends in work, or in an error of our own."""

from __future__ import annotations

import inspect
import io
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyramid_seed import (
    cli,
    encode_prompts,
    extend,
    generate,
    regenerate,
    run_batch,
    run_monitor,
    run_sweep,
    verify,
)
from pyramid_seed import shared_pipeline as shared_pipeline_module
from pyramid_seed.batch.encode import encode_list
from pyramid_seed.cli import build_parser, main
from pyramid_seed.presets import SETTINGS
from pyramid_seed.reproduce import Making
from pyramid_seed.shared_pipeline import shared_pipeline
from pyramid_seed.texts import printable_lines
from tests.cases import check_cases
from tests.inputs import OURS, bounded, check_ours, ends, odd, written

FIXTURES = Path(__file__).parent / "fixtures" / "version-0.1.0"
CLIP = FIXTURES / "clips" / "circle.mp4"


class Loaded(BaseException):
    """Arguments were taken: weights would be loaded now."""


@pytest.fixture
def loads(monkeypatch) -> None:
    """Nothing is loaded, and no hub is asked."""

    def load(*_, **__):
        raise Loaded

    shared_pipeline.clear()
    monkeypatch.setattr(shared_pipeline_module, "load_source", load)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder to work in, with something of every kind."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("a boat\n")
    (tmp_path / "list.jsonl").write_text('{"prompt": "a boat", "fps": 8}\n')
    (tmp_path / "own.yaml").write_text("num_frames: 9\n")
    (tmp_path / "clip.mp4").write_bytes(CLIP.read_bytes())
    (tmp_path / "frame.png").write_bytes((FIXTURES / "first_frame.png").read_bytes())
    (tmp_path / "empty").mkdir()
    return tmp_path


def left(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def clear(folder: Path, before: list[str]) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.relative_to(folder).as_posix() not in before:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


FUNCTIONS = {
    "generate": partial(generate, prompt="a boat", seed=1),
    "encode_prompts": partial(encode_prompts, prompts=["a boat"]),
    "encode_list": partial(encode_list, prompts="list.txt"),
    "run_batch": partial(run_batch, prompts="list.txt", output="out"),
    "run_sweep": partial(run_sweep, prompts=["a boat"], output="out"),
    "run_monitor": partial(run_monitor, prompts=["a boat"], output="out"),
    "verify": partial(verify, clip=CLIP),
    "verify, noise": partial(verify, clip=CLIP, noise_only=True),
    "regenerate": partial(regenerate, clip=CLIP),
    "extend": partial(extend, clip=CLIP, num_frames=33),
}


def arguments_of(function: partial) -> list[str]:
    names = [
        name
        for name, each in inspect.signature(function.func).parameters.items()
        if each.kind != each.VAR_KEYWORD
    ]
    more = Making.__annotations__ if "making" in inspect.signature(function.func).parameters else SETTINGS
    return [*names, *more]


@bounded(2)
@given(data=st.data(), name=st.sampled_from(list(FUNCTIONS)))
def test_arguments_of_functions(data, name, loads, folder):
    function = FUNCTIONS[name]
    arguments = data.draw(
        st.dictionaries(st.sampled_from(arguments_of(function)), odd, min_size=1, max_size=2)
    )
    before = left(folder)
    try:
        ends(lambda: function(**{"progress": False, **arguments}))
    except Loaded:
        pass
    else:
        assert left(folder) == before
    clear(folder, before)


COMMANDS = ["generate", "batch", "encode", "sweep", "monitor", "extend", "show", "verify", "diff", "compare"]
COMMANDS += ["presets"]
OPTIONS = {
    command: build_parser()._subparsers._group_actions[0].choices[command]._actions for command in COMMANDS
}
VALUES = [
    "", "-", "--", "a boat", "1", "0", "-1", "9", "33", "1e999", "nan", "0-3", "3-1", "1,2", "tiny",
    "cpu", "cuda:9", "a\0b", "\udc80", "x" * 300, "x" * 20_000, "list.txt", "list.jsonl", "own.yaml",
    "clip.mp4", "frame.png", "empty", "nothing", "nothing.mp4", "out", "out.mp4", "out.png", "out.gif",
    "out.safetensors", "empty/out.webp", ".", "..", "/", "/dev/null", "frame.png/x.mp4", "clip.mp4:2",
    "embedded:tiny", "embedded:../x", "txt", "strict", "free", "new/er/out.mp4", "new/er/out",
]  # fmt: skip


@st.composite
def command_lines(draw) -> list[str]:
    """A command with its positional arguments, and some of its options."""
    command = draw(st.sampled_from(COMMANDS))
    value = st.sampled_from(VALUES) | written
    line = [command]
    for action in OPTIONS[command]:
        if not action.option_strings:
            line.append(draw(st.sampled_from(["list.txt", "clip.mp4", "a boat", "list.jsonl"]) | value))
    options = [action for action in OPTIONS[command] if action.option_strings and action.dest != "help"]
    for action in draw(st.lists(st.sampled_from(options), max_size=4)) if options else []:
        line.append(action.option_strings[-1])
        if action.nargs != 0:
            line.append(draw(value))
    return line


@bounded(2)
@given(line=command_lines())
def test_command_lines(line, loads, folder, monkeypatch, capsys):
    def checked(text):
        check_ours(sys.exc_info()[1])
        # As standard error writes names that are not UTF-8; pytest's stand-in for it would raise.
        return printable_lines(text).encode(errors="backslashreplace").decode()

    monkeypatch.setattr(cli, "printable_lines", checked)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a boat\n")))
    before = left(folder)
    status = None
    try:
        status = main(line)
    except SystemExit as error:
        status = error.code
    except Loaded:
        pass
    told = capsys.readouterr().err
    assert "Traceback" not in told, told
    assert status in (None, 0, 1, 2)
    if status == 2:
        assert left(folder) == before, told
    clear(folder, before)


ODD = {
    "prompt": [b"a", 5, None, "a\udc80", "x" * 10_001],
    "seed": [1.5, "1", True, -1, 2**64, np.float64(3), b"1"],
    "branches": [5, "ab", [5], None],
    "preset": [1e308, b"tiny", "nothing", {}, ["tiny"]],
    "fit": ["squeeze", 5, b"crop", ["crop"]],
    "image": [["a"], 5, b"x", [], "not there.png", {}],
    "video": [["a"], 5, b"x", [], "not there.mp4", {}, np.zeros((9, 64, 64, 3), np.uint8)],
    "sink": [1e308, "a.mp4", object()],
    "on_step": [5, "print"],
    "on_unit": [1e308],
    "on_chunk": [[]],
    "guidance_scale": [b"7", "7", float("inf"), "\udc80"],
    "num_frames": [40_000_001, 17.0, "17"],
    "scale": [300, 0, None],
    "loras": [5, "a.safetensors"],
    "pipeline": ["tiny", 5],
    "beginning": [5, {}],
    "device": [5, b"cpu", b"\x80", 2**63, False, "nothing"],
    "noise_device": [5, b"cpu", "nothing"],
    "determinism": [[], 5, "loose", np.zeros(3)],
    "text_encoders": [{}, None],
    "workers": [0, 2.5, "two"],
    "prompt_embeds": [5, "a\0b"],
}


def test_arguments_of_odd_types_are_refused_before_anything_is_loaded(loads):
    def is_refused(name, value):
        with pytest.raises(OURS) as refusal:
            generate(**{"prompt": "a", name: value})
        check_ours(refusal.value)

    check_cases([(name, value) for name, values in ODD.items() for value in values], is_refused)

"""Measure how well the embedded model shows what a caption says.

    python scripts/tiny/evaluate.py                              # 200 held-out (caption, seed) pairs
    python scripts/tiny/evaluate.py --bars                       # exit status 1 below the bars
    python scripts/tiny/evaluate.py --num-frames 33 --bars       # also: colour and shape to the last frame
    python scripts/tiny/evaluate.py --continued --bars           # image-to-video from rendered first frames
    python scripts/tiny/evaluate.py --guidance-scale 2 3 --num-inference-steps 4 8      # a grid, also drawn
    python scripts/tiny/evaluate.py --reconstructed              # the VAE alone
    python scripts/tiny/evaluate.py --rendered                   # the recogniser alone

Colour, shape, motion, background, size and speed are read analytically from the pixels. The pairs are fixed
and never used in training. Writes the numbers as JSON and the clips as a contact sheet.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import world
from clips import pixels_of
from PIL import Image
from recognise import ATTRIBUTES, Recognition, edge_width, ground_error, recognise
from scoring import (
    NAMES,
    Frames,
    confusion,
    confusion_text,
    kept_in_place,
    kept_to_the_end,
    labelled_sheet,
    shares,
)
from training import WORK_FOLDER
from world import Example

from pyramid_seed.explore.plots import WIDTH, curve
from pyramid_seed.files import replacing
from pyramid_seed.media.video import write_image
from pyramid_seed.models.autoencoder_kl_causal_video import AutoencoderKLCausalVideo
from pyramid_seed.pipelines import PyramidFlowPipeline
from pyramid_seed.pipelines.decode import decode_chunks, to_uint8
from pyramid_seed.presets import Preset, load_preset

BARS: Mapping[str, Mapping[str, float]] = {
    "generated": {"background": 0.99, "colour": 0.99, "motion": 0.97, "shape": 0.95, "last_frame": 0.95},
    "continued": {
        "background": 0.99,
        "colour": 0.99,
        "motion": 0.97,
        "shape": 0.95,
        "last_frame": 0.95,
        "place": 0.95,
    },
    "reconstructed": {"all": 0.97, "psnr": 33.0},
    "rendered": {"all": 1.0, "size": 1.0, "speed": 1.0, "last_frame": 1.0, "place": 1.0},
}
"""Least share of right clips (least PSNR in dB) for each kind of source."""

PRESET_SETTINGS = (
    "height",
    "width",
    "num_frames",
    "num_inference_steps",
    "video_num_inference_steps",
    "guidance_scale",
    "video_guidance_scale",
    "guidance_decay",
    "min_guidance_scale",
    "negative_prompt",
    "prompt_suffix",
    "max_sequence_length",
)

Source = Callable[[Example], Frames]


@dataclass(frozen=True)
class Measured:
    """Clips of one source with what was recognised in them."""

    examples: tuple[Example, ...]
    clips: list[Frames]
    seen: list[Recognition]
    seconds_per_clip: float

    @property
    def scores(self) -> dict[str, float]:
        """See `scoring.shares`, and the shares of clips that keep what they show, and of those whose object
        is where the scene's is at first (which only a given picture can tell), the mean width of edges in
        pixels, the mean error of the last frame's ground in levels and the PSNR against the rendered scenes
        in dB."""
        pairs = list(zip(self.examples, self.clips, strict=True))
        grounds = [ground_error(clip[-1:], example.scene.background) for example, clip in pairs]
        widths = [width for clip in self.clips if (width := edge_width(clip)) is not None]
        return shares(self.examples, self.seen) | {
            "last_frame": float(np.mean([kept_to_the_end(example, clip) for example, clip in pairs])),
            "place": float(np.mean([kept_in_place(example, clip) for example, clip in pairs])),
            "edge_width": float(np.mean(widths)) if widths else float("nan"),
            "ground_error": float(np.mean(grounds)),
            "psnr": mean_psnr(pairs),
        }


def call_settings(preset: Preset) -> dict[str, Any]:
    """The arguments of a pipeline call that a preset sets, counts as lists."""
    chosen = {name: getattr(preset, name) for name in PRESET_SETTINGS}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in chosen.items()}


def generated(pipeline: PyramidFlowPipeline, settings: Mapping[str, Any]) -> Source:
    """Clips of a pipeline: the example's caption is the prompt and its seed the root seed."""

    def source(example: Example) -> Frames:
        output = pipeline(
            prompt=example.caption, seed=example.seed, output_type="uint8", return_dict=False, **settings
        )
        clip: Frames = output[0][0]
        return clip

    return source


def continued(pipeline: PyramidFlowPipeline, settings: Mapping[str, Any]) -> Source:
    """The same, as image-to-video from the scene's rendered first frame."""

    def source(example: Example) -> Frames:
        picture = Image.fromarray(world.render(example.scene, 1)[0])
        return generated(pipeline, {**settings, "image": picture})(example)

    return source


def reconstructed(vae: AutoencoderKLCausalVideo, num_frames: int) -> Source:
    """Rendered clips through encoder (the posterior's mode) and decoder, as the pipeline runs them."""

    @torch.no_grad()
    def source(example: Example) -> Frames:
        pixels = pixels_of(world.render(example.scene, num_frames))[None]
        latents = vae.normalize_latents(vae.encode(pixels).latent_dist.mode())
        decoded = torch.cat(list(decode_chunks(vae, latents)), dim=2)
        clip: Frames = to_uint8(decoded)[0].cpu().numpy()
        return clip

    return source


def rendered(num_frames: int) -> Source:
    """The world itself."""
    return lambda example: world.render(example.scene, num_frames)


def measure(source: Source, examples: tuple[Example, ...]) -> Measured:
    """Make and recognise a clip for every example, with a progress line on stderr."""
    started = time.perf_counter()
    clips = list(_counted((source(example) for example in examples), len(examples)))
    seconds = (time.perf_counter() - started) / len(examples)
    return Measured(examples, clips, [recognise(clip) for clip in clips], seconds)


def _counted(clips: Iterator[Frames], count: int) -> Iterator[Frames]:
    started = time.perf_counter()
    for done, clip in enumerate(clips, start=1):
        seconds = (time.perf_counter() - started) / done
        end = "\n" if done == count else ""
        print(f"\rclip {done} of {count}, {seconds:.1f} s each", end=end, file=sys.stderr, flush=True)
        yield clip


def mean_psnr(pairs: Iterable[tuple[Example, Frames]]) -> float:
    """PSNR in dB of all clips against the rendered ones (peak 255)."""
    errors = [
        np.mean((clip.astype(np.float64) - world.render(example.scene, len(clip))) ** 2)
        for example, clip in pairs
    ]
    return float(10 * np.log10(255**2 / max(float(np.mean(errors)), 1e-12)))


def below_bars(found: Mapping[str, float], bars: Mapping[str, float]) -> list[str]:
    """The names of the bars that are not reached."""
    return [name for name, bar in bars.items() if not found[name] >= bar]


def report(name: str, measured: Measured, scores: Mapping[str, float]) -> str:
    """Scores and confusion tables as text."""
    units = {"edge_width": "px", "ground_error": "levels", "psnr": "dB"}
    found = "  ".join(
        f"{key} {score:.1f} {units[key]}" if key in units else f"{key} {100 * score:.1f} %"
        for key, score in scores.items()
    )
    tables = [confusion_text(confusion(measured.examples, measured.seen, key), key) for key in NAMES]
    speed = f"{measured.seconds_per_clip:.1f} s a clip"
    return "\n\n".join([f"{name}: {len(measured.clips)} clips, {speed}\n{found}", *tables])


def as_json(
    name: str, settings: Mapping[str, Any], measured: Measured, scores: Mapping[str, float]
) -> dict[str, Any]:
    """Everything that was measured, as plain values."""
    return {
        "source": name,
        "settings": dict(settings),
        "scores": dict(scores),
        "seconds_per_clip": measured.seconds_per_clip,
        "confusion": {key: confusion(measured.examples, measured.seen, key).tolist() for key in NAMES},
        "clips": [
            {"seed": example.seed, "caption": example.caption, **asdict(each)}
            for example, each in zip(measured.examples, measured.seen, strict=True)
        ],
    }


def write_results(folder: Path, stem: str, result: Mapping[str, Any], measured: Measured) -> None:
    """Write `STEM.json` and the contact sheet `STEM.png`, replacing older ones."""
    with replacing(folder / f"{stem}.json", overwrite=True) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sheet = labelled_sheet(measured.examples, measured.seen, measured.clips)
    write_image(folder / f"{stem}.png", sheet, overwrite=True)


def guidance_of(result: Mapping[str, Any]) -> str:
    """Guidance of the first unit / of the later ones."""
    return "{guidance_scale:g}/{video_guidance_scale:g}".format(**result["settings"])


def steps_of(result: Mapping[str, Any]) -> str:
    """Steps of the stages."""
    return ",".join(map(str, result["settings"]["num_inference_steps"]))


def grid_table(results: Sequence[Mapping[str, Any]]) -> str:
    """One line a combination of guidance and steps."""
    shown = (*ATTRIBUTES, "all", "last_frame")
    lines = [
        f"{'guidance':>8}  {'steps':<10}" + "".join(f"{name:>11}" for name in (*shown, "ground", "edge", "s"))
    ]
    for result in results:
        scores = result["scores"]
        found = "".join(f"{100 * scores[name]:>11.0f}" for name in shown)
        found += f"{scores['ground_error']:>11.1f}{scores['edge_width']:>11.2f}"
        line = f"{guidance_of(result):>8}  {steps_of(result):<10}{found}{result['seconds_per_clip']:>11.2f}"
        lines.append(line)
    return "\n".join(lines)


def draw_grid(results: Sequence[Mapping[str, Any]], picture: Path) -> None:
    """Draw faithfulness, sharpness and cleanness of all runs against their steps, a line a guidance."""
    from matplotlib.figure import Figure

    kinds = (
        ("all", 100, "all four attributes\nright / %"),
        ("edge_width", 1, "edge width / pixels"),
        ("ground_error", 1, "error of the last\nframe's ground / levels"),
    )
    figure = Figure(figsize=(WIDTH, 2.9), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(kinds))
    by_work = sorted(results, key=lambda result: sum(result["settings"]["num_inference_steps"]))
    places = list(dict.fromkeys(map(steps_of, by_work)))
    for number, guidance in enumerate(dict.fromkeys(map(guidance_of, results))):
        line = [result for result in by_work if guidance_of(result) == guidance]
        x = [places.index(steps_of(result)) for result in line]
        for axes, (name, factor, label) in zip(panels, kinds, strict=True):
            y = [factor * result["scores"][name] for result in line]
            axes.plot(x, y, marker="os^Dv"[number % 5], label=guidance, **curve(number))
            axes.set(xlabel="steps of each stage", ylabel=label, xticks=range(len(places)))
            axes.set_xticklabels([uniform(place) for place in places])
            axes.grid(alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, title="guidance, first unit / later units", loc="outside upper center", ncols=5
    )
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, metadata={"Software": None})


def uniform(steps: str) -> str:
    """`8` for `8,8,8`; other steps as they are."""
    return steps.split(",")[0] if len(set(steps.split(","))) == 1 else steps


def steps_per_stage(text: str) -> list[int]:
    """`8` for every one of the three stages, or `8,8,4` for each."""
    counts = [int(count) for count in text.split(",")]
    return counts * 3 if len(counts) == 1 else counts


def runs_of(arguments: argparse.Namespace) -> Iterator[tuple[str, str, dict[str, Any], Source]]:
    """The runs that the arguments ask for: kind, name of the files, settings, source of clips."""
    settings = call_settings(load_preset(arguments.preset))
    if arguments.num_frames is not None:
        settings["num_frames"] = arguments.num_frames
    num_frames = settings["num_frames"]
    if arguments.rendered:
        yield "rendered", f"rendered-{num_frames}", {"num_frames": num_frames}, rendered(num_frames)
        return
    if arguments.reconstructed:
        vae = AutoencoderKLCausalVideo.from_pretrained(arguments.model, subfolder="vae").eval()
        stem = f"reconstructed-{num_frames}"
        yield "reconstructed", stem, {"num_frames": num_frames}, reconstructed(vae, num_frames)
        return
    pipeline = PyramidFlowPipeline.from_pretrained(arguments.model)
    pipeline.set_progress_bar_config(disable=True)
    scales, later_scales, counts = (
        given or [None]
        for given in (arguments.guidance_scale, arguments.video_guidance_scale, arguments.num_inference_steps)
    )
    for scale, later_scale, steps in product(scales, later_scales, counts):
        chosen = dict(settings)
        if scale is not None:
            chosen |= {"guidance_scale": scale, "video_guidance_scale": scale, "guidance_decay": None}
        if later_scale is not None:
            chosen |= {"video_guidance_scale": later_scale, "guidance_decay": None}
        if steps is not None:
            chosen |= {"num_inference_steps": steps, "video_num_inference_steps": steps}
        kind, made = ("continued", continued) if arguments.continued else ("generated", generated)
        stem = f"{kind}-{num_frames}"
        if len(scales) * len(later_scales) * len(counts) > 1:
            guidance = "{guidance_scale:g}-v{video_guidance_scale:g}".format(**chosen)
            stem += f"-g{guidance}-s{'.'.join(map(str, chosen['num_inference_steps']))}"
        yield kind, stem, chosen, made(pipeline, chosen)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=Path("assets/tiny"), help="pipeline folder")
    parser.add_argument("--preset", default="tiny", help="settings to generate with")
    parser.add_argument("--count", type=int, default=200, help="held-out pairs")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="leave the first N pairs out")
    parser.add_argument("--out", type=Path, default=WORK_FOLDER / "evaluation", help="folder to write to")
    parser.add_argument("--guidance-scale", type=float, nargs="+", help="instead of the preset's, all units")
    parser.add_argument("--video-guidance-scale", type=float, nargs="+", help="the same, of the later units")
    parser.add_argument(
        "--num-inference-steps", type=steps_per_stage, nargs="+", help="such as 8 or 8,8,4, all units"
    )
    parser.add_argument("--num-frames", type=int)
    parser.add_argument("--bars", action="store_true", help="say PASS or FAIL; exit status 1 for FAIL")
    sources = parser.add_mutually_exclusive_group()
    sources.add_argument("--continued", action="store_true", help="go on from rendered first frames")
    sources.add_argument("--rendered", action="store_true", help="score rendered clips instead")
    sources.add_argument("--reconstructed", action="store_true", help="score VAE reconstructions instead")
    arguments = parser.parse_args()
    if arguments.count < 1:
        parser.error(f"--count must be at least 1, got {arguments.count}")
    if arguments.first < 0:
        parser.error(f"--first must be at least 0, got {arguments.first}")
    examples = world.held_out_examples(arguments.first + arguments.count)[arguments.first :]

    results: list[dict[str, Any]] = []
    failed = False
    for kind, stem, settings, source in runs_of(arguments):
        measured = measure(source, examples)
        scores = measured.scores
        result = as_json(kind, settings, measured, scores)
        print(report(stem, measured, scores))
        write_results(arguments.out, stem, result, measured)
        results.append(result)
        if arguments.bars:
            missed = below_bars(scores, BARS[kind])
            failed |= bool(missed)
            print(f"\nFAIL: below the bar in {', '.join(missed)}" if missed else "\nPASS")
    if len(results) > 1:
        print("\n" + grid_table(results))
        draw_grid(results, arguments.out / "grid.png")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

"""The progress of a call, weighed by what its steps cost, so that the time left is honest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..geometry import PyramidGeometry, history_plan
from .denoise import Place
from .inputs import Request

_TOKENS_OF_A_STEP = 20
"""What a step takes besides its tokens, in tokens: then the time left of the embedded model's clip is right
on a CPU, with the decoding after each unit. It is nothing to larger models."""


class CallProgress:
    """Moves a bar over the steps of a call.

    Args:
        bar: of tqdm, over `request.num_steps`; it moves by more than 1 for a step that costs more.
        request: what is made.
        tokens_of_step: of (unit, stage): what a step costs there, see `ClipPipeline.tokens_of_step`.
    """

    def __init__(self, bar: Any, request: Request, tokens_of_step: Callable[[int, int], float]) -> None:
        self._bar = bar
        self._request = request
        self._stages: dict[tuple[int, int], tuple[float, float]] = {}  # what is done before, what a step is
        self._total = 0.0  # of a clip
        for unit in () if bar.disable else range(request.num_known_units, len(request.units)):
            is_guided = request.units[unit].guidance_scale > 1
            for stage, num_steps in enumerate(request.units[unit].num_inference_steps):
                cost = (1 + is_guided) * tokens_of_step(unit, stage) + _TOKENS_OF_A_STEP
                self._stages[unit, stage] = self._total, cost
                self._total += num_steps * cost

    def show(self, clip: int, place: Place) -> None:
        """Show that the step at this place of a clip is done."""
        if self._bar.disable:
            return
        request, bar = self._request, self._bar
        start, cost = self._stages[place.unit, place.stage]
        done = clip + (start + (place.step + 1) * cost) / self._total
        is_last = request.steps_before(clip, place) + 1 == request.num_steps
        bar.n = request.num_steps if is_last else request.num_steps * done / request.num_clips
        parts = {"clip": (clip, request.num_clips), "unit": (place.unit, len(request.units))}
        parts["stage"] = (place.stage, request.shape.num_stages)
        told = [f"{name} {index + 1}/{number}" for name, (index, number) in parts.items()]
        bar.set_postfix_str(", ".join(told[request.num_clips == 1 :]), refresh=False)
        bar.update(0)


def tokens_of_step(
    geometry: PyramidGeometry, height: int, width: int, unit: int, stage: int, num_text: int, hidden: int
) -> float:
    """What a step of Pyramid Flow costs, in tokens that attend to nothing.

    A layer multiplies each token by 12 hidden^2 weights, and takes 2 hidden products for each pair of a token
    and one that it attends to: text, older frames, its own frame.

    Args:
        geometry: the model's.
        height, width: of the unit's latents at the finest stage.
        unit, stage: where the step is.
        num_text: tokens of the text, which has the time of the first frame.
        hidden: width of the hidden states.
    """

    def tokens(level: int) -> int:
        divisor = geometry.patch_size * 2 ** (geometry.num_stages - 1 - level)
        return (height // divisor) * (width // divisor)

    clips = [
        (tokens(clip.stage), clip.stop - clip.start)
        for clip in history_plan(unit, geometry.num_stages, stage)
    ]
    clips.append((tokens(stage), 1))
    seen, pairs = num_text, num_text * (num_text + clips[0][0])
    for size, count in clips:
        pairs += size * (count * seen + size * count * (count + 1) // 2)
        seen += size * count
    return weighed(seen, pairs, hidden)


def weighed(tokens: int, pairs: int, hidden: int) -> float:
    """Tokens, and pairs of one and another that it attends to, in tokens that attend to nothing."""
    return tokens + pairs / (6 * hidden)

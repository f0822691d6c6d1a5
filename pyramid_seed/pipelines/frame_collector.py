"""Where the decoded frames of a call go: to a callback, the output, or both."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from diffusers.video_processor import VideoProcessor
from numpy.typing import NDArray

from .decode import UnitDecoder, has_offload_hooks, to_frames

OnFrames: TypeAlias = Callable[[int, int, NDArray[np.uint8]], None]
"""Called as (clip, chunk, frames) with frames (t, H, W, 3) uint8."""
MakeDecoder: TypeAlias = Callable[
    [Callable[[int, torch.Tensor], None], Callable[[torch.Tensor], torch.Tensor]], UnitDecoder
]
"""Makes the decoder of a clip from its `on_chunk` and its `convert`, see `ClipDecoder`."""


class FrameCollector:
    """The frames of a call.

    Units are decoded as they are finished; under hooks that bring one model at a time to the device, all are
    decoded after the last one.

    Args:
        vae: what decodes; None if no frames are requested.
        make_decoder: makes the decoder of a clip.
        output_type: the pipeline's argument.
        num_clips: the number of clips.
        on_frames: the pipeline's `callback_on_chunk_end`.
        frames_per_unit: latent frames of a unit.
    """

    def __init__(
        self,
        vae: torch.nn.Module | None,
        make_decoder: MakeDecoder,
        output_type: str,
        num_clips: int,
        on_frames: OnFrames | None,
        frames_per_unit: int,
    ) -> None:
        self._make_decoder = make_decoder
        self._frames_per_unit = frames_per_unit
        self._output_type = output_type
        self._on_frames = on_frames
        self._kept: list[list[Any]] = [[] for _ in range(num_clips)]
        self._is_decoded = output_type != "latent" or on_frames is not None
        self._is_late = vae is not None and has_offload_hooks(vae)

    def decoder(self, clip: int) -> UnitDecoder:
        """The decoder that takes the units of a clip as they are finished."""
        return self._decoder(clip) if self._is_decoded and not self._is_late else UnitDecoder()

    def collect(self, clips: list[torch.Tensor], processor: VideoProcessor) -> Any:
        """The `frames` of the pipeline's output, for the clips (1, C, t, h, w) that are kept."""
        if self._is_decoded and self._is_late:
            for index, clip in enumerate(clips):
                decoder = self._decoder(index)
                units = clip.split(self._frames_per_unit, dim=2)
                for unit, latents in enumerate(units, start=1):
                    decoder.put(latents, is_last=unit == len(units))
                decoder.finish()
        kept = self._kept[: len(clips)]
        if self._output_type == "latent":
            return torch.cat(clips)
        if self._output_type == "uint8":
            return _joined(kept)
        videos = torch.cat([torch.cat(chunks, dim=2) for chunks in kept])
        return processor.postprocess_video(videos, output_type=self._output_type)

    def _decoder(self, clip: int) -> UnitDecoder:
        kept, on_frames = self._kept[clip], self._on_frames

        if self._output_type in ("latent", "uint8"):
            is_kept = self._output_type == "uint8"

            def on_bytes(chunk: int, values: torch.Tensor) -> None:
                frames = values.numpy().copy()  # frames from CUDA lie in scarce pinned memory
                if is_kept:
                    kept.append(frames if on_frames is None else frames.copy())
                if on_frames is not None:
                    on_frames(clip, chunk, frames)

            return self._make_decoder(on_bytes, partial(to_frames, wait=False))

        def on_pixels(chunk: int, pixels: torch.Tensor) -> None:
            kept.append(pixels)
            if on_frames is not None:
                on_frames(clip, chunk, to_frames(pixels).numpy())

        return self._make_decoder(on_pixels, lambda pixels: pixels)


def _joined(clips: list[list[NDArray[np.uint8]]]) -> NDArray[np.uint8]:
    """The chunks (t, H, W, 3) of each clip as one array (B, T, H, W, 3)."""
    num_frames = sum(len(chunk) for chunk in clips[0])
    joined = np.empty((len(clips), num_frames, *clips[0][0].shape[1:]), np.uint8)
    for clip, chunks in zip(joined, clips, strict=True):
        np.concatenate(chunks, out=clip)
    return joined

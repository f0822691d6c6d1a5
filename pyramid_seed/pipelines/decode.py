"""Between latents and images: decode units as they are finished, and encode the first image."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache, partial

import torch
from diffusers.utils.torch_utils import get_module_execution_device

from ..models.autoencoder_kl_causal_video import AutoencoderKLCausalVideo
from ..noise import NoiseKey, NoiseSource
from ..pieces.workers import Workers
from ..private_apis import has_offload_hook
from .hooks import has_hooks
from .memory import contiguous_copy


class UnitDecoder:
    """Takes the units of one clip as they are finished; this base class leaves them undecoded."""

    def put(self, latents: torch.Tensor, *, is_last: bool = False) -> None:
        """Take the next unit."""

    def poll(self) -> None:
        """Pass on what is ready."""

    def finish(self) -> None:
        """Pass on everything that was put."""


class ClipDecoder(UnitDecoder):
    """Decodes a clip one latent frame at a time, while later ones are still being made.

    A chunk is always one latent frame, so that the frames of a clip are bitwise the beginning of a longer
    clip's, and memory does not grow with the clip.

    Decoding runs beside the next units, and the next call passes on what is ready: on CUDA in its own stream;
    on the CPU, with several workers, each chunk follows the one before it from convolution to convolution.
    Otherwise a chunk is decoded and passed on at once. The values are the same.

    Args:
        vae: the decoder.
        on_chunk: called as (chunk, values), in order, with the values that `convert` made.
        convert: makes values from pixels (1, 3, t, s H, s W), float32 in [-1, 1], on the VAE's device.
        workers: those that share the work; None: the caller does it all.
    """

    def __init__(
        self,
        vae: AutoencoderKLCausalVideo,
        on_chunk: Callable[[int, torch.Tensor], None],
        convert: Callable[[torch.Tensor], torch.Tensor] = lambda pixels: pixels,
        workers: Workers | None = None,
    ) -> None:
        self._vae = vae
        self._on_chunk = on_chunk
        self._convert = convert
        self._device = get_module_execution_device(vae)
        self._decode = vae.chunk_decoder()
        self._side = side_stream(self._device) if can_run_beside(vae, self._device) else None
        is_shared = workers is not None and workers.count > 1 and not has_hooks(vae)
        self._workers = workers if is_shared and self._device.type == "cpu" else None
        self._waiting: deque[_Decoded | Future[_Decoded]] = deque()
        self._num_put = 0

    def put(self, latents: torch.Tensor, *, is_last: bool = False) -> None:
        """Take the clip's next latent frame (1, C, 1, H, W), float32, normalised; pass on earlier ones.

        Raises:
            FloatingPointError: decoded values are not finite; the message names the latent frame.
        """
        index = self._num_put
        self._num_put += 1
        if self._workers is not None:
            network = self._decode.next_chunk(self._workers, is_last=is_last)
            run = partial(self._run, index, latents, network)
            self._waiting.append(self._workers.submit(run, urgency=1 + index))
            self.poll()
            return
        network = partial(self._decode, is_last=is_last)
        self.finish()
        if self._side is None:
            self._deliver(self._run(index, latents, network))
            return
        self._side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._side):
            if latents.is_cuda:
                latents.record_stream(self._side)
            self._waiting.append(self._run(index, latents, network))

    def poll(self) -> None:
        """Pass on what is ready; raises as `put` does."""
        while self._waiting and self._waiting[0].done():
            self._deliver(self._waiting.popleft())

    def finish(self) -> None:
        """Wait for everything that was put, and pass it on; raises as `put` does."""
        while self._waiting:
            self._deliver(self._waiting.popleft())

    def _run(
        self, index: int, latents: torch.Tensor, network: Callable[[torch.Tensor], torch.Tensor]
    ) -> _Decoded:
        raw = self._vae.denormalize_latents(latents.to(self._device), first_frame_index=index)
        pixels = network(contiguous_copy(raw.to(self._vae.dtype)))
        is_finite = torch.isfinite(pixels).all().to("cpu", non_blocking=pixels.is_cuda)
        values = self._convert(pixels.float().clamp(-1, 1))
        event = torch.cuda.current_stream(self._device).record_event() if pixels.is_cuda else None
        return _Decoded(index, values, is_finite, event)

    def _deliver(self, decoded: _Decoded | Future[_Decoded]) -> None:
        if isinstance(decoded, Future):
            assert self._workers is not None  # only workers return futures
            decoded = self._workers.result(decoded)
        if decoded.event is not None:
            decoded.event.synchronize()
            if decoded.values.is_cuda:
                decoded.values.record_stream(torch.cuda.current_stream(self._device))
        if not decoded.is_finite:
            raise FloatingPointError(f"decoded frames of latent frame {decoded.chunk} are not finite")
        self._on_chunk(decoded.chunk, decoded.values)


@dataclass(frozen=True)
class _Decoded:
    """A decoded latent frame; on CUDA, `event` marks where its stream has finished it."""

    chunk: int
    values: torch.Tensor
    is_finite: torch.Tensor
    event: torch.cuda.Event | None

    def done(self) -> bool:
        return self.event is None or self.event.query()


def can_run_beside(vae: AutoencoderKLCausalVideo, device: torch.device) -> bool:
    """Whether decoding may run in its own CUDA stream: weights that hooks move already have streams."""
    return device.type == "cuda" and not has_hooks(vae)


def has_offload_hooks(vae: torch.nn.Module) -> bool:
    """Whether hooks move the VAE to its device only for its own calls (model or sequential offload)."""
    return any(map(has_offload_hook, vae.modules()))


@cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream for decoding: always the same one, as the allocator keeps separate memory for each."""
    return torch.cuda.Stream(device)


def decode_chunks(vae: AutoencoderKLCausalVideo, latents: torch.Tensor) -> Iterator[torch.Tensor]:
    """Decode finished latents as `ClipDecoder` does.

    Args:
        latents: (1, C, T, H, W) float32, normalised.

    Yields:
        Pixels (1, 3, t, s H, s W) in [-1, 1], float32: 1 frame, then r frames per chunk.

    Raises:
        FloatingPointError: see `ClipDecoder`.
    """
    chunks: list[torch.Tensor] = []
    decoder = ClipDecoder(vae, lambda _, pixels: chunks.append(pixels))
    units = latents.split(1, dim=2)
    for unit in units:
        decoder.put(unit, is_last=unit is units[-1])
        decoder.finish()
        yield chunks.pop()


def to_uint8(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels (B, 3, T, H, W) in [-1, 1] to frames (B, T, H, W, 3) uint8, rounded to the nearest level."""
    levels = (pixels * 127.5 + 127.5).round().clamp(0, 255)
    return levels.to(torch.uint8).permute(0, 2, 3, 4, 1)


def to_frames(pixels: torch.Tensor, *, wait: bool = True) -> torch.Tensor:
    """Pixels (1, 3, t, H, W) in [-1, 1] to frames (t, H, W, 3) uint8 on the CPU, contiguous.

    Without `wait`, the copy from CUDA may still be in progress on the current stream on return.
    """
    return to_uint8(pixels)[0].contiguous().to("cpu", non_blocking=not wait and pixels.is_cuda)


def encode_image(vae: AutoencoderKLCausalVideo, image: torch.Tensor, noise: NoiseSource) -> torch.Tensor:
    """Latents of the first frame, sampled from the VAE's posterior with the draw ("posterior", 0, 0).

    Args:
        image: (1, 3, H, W) in [-1, 1].

    Returns:
        Normalised latents (1, C, 1, H/s, W/s), float32, on the VAE's device.
    """
    device = get_module_execution_device(vae)
    posterior = vae.encode(image.to(device, vae.dtype).unsqueeze(2)).latent_dist
    white = noise.draw(NoiseKey("posterior", 0, 0), tuple(posterior.mean.shape)).to(device)
    return vae.normalize_latents(posterior.mean.float() + posterior.std.float() * white)
